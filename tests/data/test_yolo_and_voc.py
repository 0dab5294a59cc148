import os
from pathlib import Path

import numpy as np
import pytest

from transformers_samdetr.data.load import load_detection_data

from ..detection_folders import SIZE, save_picture

LINE = "1 0.5 0.5 0.25 0.2"
BOX = [15, 12, 10, 6]  # of LINE in a picture of 40x30


def write_yolo(images: Path, labels: Path, names: list[str], line: str = LINE) -> None:
    for index, name in enumerate(names):
        save_picture(images / f"{name}.png", seed=index)
        labels.mkdir(parents=True, exist_ok=True)
        if index:  # the first has no objects, and so no file
            (labels / f"{name}.txt").write_text(line + "\n\n")


def ultralytics(folder: Path) -> None:
    for split, names in (("train", "abc"), ("val", "de")):
        write_yolo(folder / "images" / split, folder / "labels" / split, list(names))
    content = "path: .\ntrain: images/train\nval: images/val\ntest:\nnames:\n  0: cat\n  1: dog\n"
    (folder / "data.yaml").write_text(content)


def roboflow(folder: Path) -> None:
    for split, names in (("train", "abc"), ("valid", "de")):
        write_yolo(folder / split / "images", folder / split / "labels", list(names))
    content = "train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['cat', 'dog']\n"
    (folder / "data.yaml").write_text(content)


def lists_of_files(folder: Path) -> None:
    write_yolo(folder / "images", folder / "labels", list("abcde"))
    (folder / "labels" / "d.txt").unlink()
    (folder / "train.txt").write_text("".join(f"images/{name}.png\n" for name in "abc"))
    (folder / "val.txt").write_text("".join(f"./images/{name}.png\n" for name in "de"))
    (folder / "set.yml").write_text("train: train.txt\nval: [val.txt]\nnames: [cat, dog]\n")


def without_yaml(folder: Path) -> None:
    for split, names in (("train", "abc"), ("val", "de")):
        write_yolo(folder / "images" / split, folder / "labels" / split, list(names))
    (folder / "classes.txt").write_text("cat\ndog\n")


@pytest.mark.parametrize("layout", [ultralytics, roboflow, lists_of_files, without_yaml])
def test_layouts_of_yolo_folders(tmp_path, layout):
    layout(tmp_path)
    data = load_detection_data(tmp_path)
    assert data.names == ["cat", "dog"] and data.category_ids == [0, 1] and data.box_format == "cxcywh_normalised"
    assert len(data.train) == 3 and len(data.evaluation) == 2
    objects = [example["objects"] for example in [*data.train, *data.evaluation]]
    assert [one["category"] for one in objects] == [[], [1], [1], [], [1]]
    np.testing.assert_allclose(objects[1]["bbox"], [BOX], atol=1e-5)
    assert data.train[0]["image"].size == SIZE and sorted([*data.train["image_id"], *data.evaluation["image_id"]]) == [
        *range(5)
    ]


def test_a_yolo_folder_without_splits_and_polygons(tmp_path):
    polygon = "0 0.25 0.5 0.5 0.25 0.75 0.5 0.5 0.75"
    write_yolo(tmp_path / "images", tmp_path / "labels", list("abcdef"), polygon)
    (tmp_path / "classes.txt").write_text("cat\n")
    data = load_detection_data(tmp_path)
    assert len(data.train) == 5 and len(data.evaluation) == 1 and "1 of 6 images (" in data.describe()
    boxes = [box for example in data.train for box in example["objects"]["bbox"]]
    np.testing.assert_allclose(boxes, [[10, 7.5, 20, 15]] * len(boxes), atol=1e-4)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("7 0.5 0.5 0.2 0.2", r"b.txt, line 1: class 7 is none of the named \[0, 1\]"),
        ("1 0.5 0.5 0.2", "b.txt, line 1 .*give the class, an integer, and center x"),
        ("1 0.5 0.5 0.2 0.2 0.9 0.1 0.2", "line 1 .*corners of a polygon"),
        ("dog 0.5 0.5 0.2 0.2", "line 1 .*not numbers: give the class, an integer, and center x"),
        ("0.5 0.5 0.2 0.2 0.1", "line 1 .*the class, an integer"),
    ],
)
def test_mistakes_in_labels_are_named(tmp_path, line, message):
    write_yolo(tmp_path / "images", tmp_path / "labels", list("abc"), line)
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    with pytest.raises(ValueError, match=message):
        load_detection_data(tmp_path)


def test_mistakes_in_yaml_are_named(tmp_path):
    write_yolo(tmp_path / "images", tmp_path / "labels", list("abc"))
    with pytest.raises(ValueError, match="does not name the classes: add a data.yaml"):
        load_detection_data(tmp_path)
    (tmp_path / "data.yaml").write_text("train: pictures\nnames: [cat, dog]\n")
    with pytest.raises(ValueError, match="data.yaml names 'pictures' for train, which is not in "):
        load_detection_data(tmp_path)
    (tmp_path / "data.yaml").write_text("train: images\nnames: 2\n")
    with pytest.raises(ValueError, match="data.yaml has names=.2.: give a list"):
        load_detection_data(tmp_path / "data.yaml")


def test_a_folder_in_a_folder_and_scores_in_some_lines(tmp_path):
    folder = tmp_path / "archive" / "set" / "set"
    write_yolo(folder / "images", folder / "labels", list("abc"))
    (folder / "data.yaml").write_text("train: images\nnames: [cat, dog]\n")
    expected = load_detection_data(tmp_path).train["objects"]
    label = folder / "labels" / "b.txt"
    label.write_text("".join(f"{line} 0.87\n" for line in label.read_text().splitlines() if line))
    data = load_detection_data(tmp_path)
    assert "a score" in data.describe() and data.train["objects"][:] == expected[:]


@pytest.mark.parametrize("up", ["", "../"])
def test_pictures_in_folders_far_apart_are_found_and_nothing_else_is_read(tmp_path, monkeypatch, up):
    train, val = tmp_path / "disk1" / "a" / "images", tmp_path / "disk2" / "b" / "val"
    write_yolo(train / "day 1", train.parent / "labels" / "day 1", list("abc"))
    write_yolo(val, val, list("de"))
    for folder in (tmp_path, train.parent, val.parent):
        write_yolo(folder / "private", folder / "private", list("xyz"))
    (tmp_path / "set").mkdir()
    above = up or f"{tmp_path}/"
    content = f"train: {above}disk1/a/images/day 1\nval: {above}disk2/b/val\nnames: [cat, dog]\n"
    (tmp_path / "set" / "data.yaml").write_text(content)
    listed, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(os.path.realpath(path)) or scandir(path))
    data = load_detection_data(tmp_path / "set")
    assert len(data.train) == 3 and len(data.evaluation) == 2 and not any("private" in path for path in listed)
    assert [len(example["objects"]["bbox"]) for example in [*data.train, *data.evaluation]] == [0, 1, 1, 0, 1]
    assert {path for path in listed if Path(path).is_dir()} == set(
        map(str, (tmp_path / "set", train / "day 1", train.parent / "labels" / "day 1", val))
    )
    (tmp_path / "set" / "data.yaml").write_text("train: /\nnames: [cat, dog]\n")
    with pytest.raises(ValueError, match="names '/', the whole disk: give the folder of the pictures"):
        load_detection_data(tmp_path / "set")


# VOC


def voc_xml(name: str, objects: list[tuple[str, tuple]], size: bool = True, suffix: str = ".png") -> str:
    boxes = "".join(
        f"<object><name>{label}</name><difficult>1</difficult><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
        f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox><part><name>head</name><bndbox><xmin>1</xmin></bndbox></part></object>"
        for label, (x1, y1, x2, y2) in objects
    )
    sides = f"<size><width>{SIZE[0]}</width><height>{SIZE[1]}</height><depth>3</depth></size>" if size else ""
    return f"<annotation><filename>{name}{suffix}</filename>{sides}{boxes}</annotation>"


def write_voc(xml: Path, images: Path, names: str, box=(1, 11, 20, 30), **options) -> None:
    xml.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        save_picture(images / f"{name}.png", seed=index)
        (xml / f"{name}.xml").write_text(voc_xml(name, [("dog" if index % 2 else "cat", box)], **options))


def test_vocs_own_layout(tmp_path):
    root = tmp_path / "VOCdevkit" / "VOC2012"
    write_voc(root / "Annotations", root / "JPEGImages", "abcde")
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for split, names in (("train", "abc"), ("val", "de"), ("trainval", "abcde"), ("dog_train", "a")):
        (lists / f"{split}.txt").write_text("".join(f"{name}  1\n" for name in names))
    data = load_detection_data(tmp_path)
    assert data.names == ["cat", "dog"] and data.category_ids == [0, 1] and data.box_format == "xyxy"
    assert len(data.train) == 3 and len(data.evaluation) == 2
    # pixels 1 to 20 and 11 to 30, both ends included
    assert data.train[1]["objects"]["bbox"] == [[0, 10, 20, 20]] and data.train[1]["objects"]["category"] == [1]
    assert "pixels counted from 1" in data.describe() and data.train[0]["objects"]["iscrowd"] == [0]
    (lists / "val.txt").write_text("z\n")
    with pytest.raises(ValueError, match="val.txt lists 'z', but there is no .*z.xml"):
        load_detection_data(tmp_path)


def test_xml_files_beside_pictures(tmp_path):
    write_voc(tmp_path / "train", tmp_path / "train", "abc", box=(0, 2, 20.5, 30), size=False)
    write_voc(tmp_path / "valid", tmp_path / "valid", "de", box=(3, 2, 20, 30), suffix=".jpg")
    data = load_detection_data(tmp_path)
    assert len(data.train) == 3 and len(data.evaluation) == 2 and "pixels counted from 0" in data.describe()
    assert data.train[0]["objects"]["bbox"] == [[0, 2, 20.5, 28]] and data.train[0]["width"] == SIZE[0]
    assert load_detection_data(tmp_path / "train").notes[1].startswith("no split for evaluation, so 1 of 3")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation><object>", "a.xml is not valid XML"),
        ("<annotation><object><name>cat</name></object></annotation>", "a.xml: object 1 needs a bndbox with numbers"),
        (voc_xml("a", [("", (1, 1, 5, 5))]), "a.xml: object 1 has no name"),
        (voc_xml("a", []), "hold no objects"),
    ],
)
def test_mistakes_in_xml_files_are_named(tmp_path, text, message):
    save_picture(tmp_path / "a.png")
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_detection_data(tmp_path)


def test_a_missing_picture_is_named(tmp_path):
    (tmp_path / "a.xml").write_text(voc_xml("a", [("cat", (1, 1, 5, 5))]))
    with pytest.raises(ValueError, match="a.xml belongs to a.png, and no picture in"):
        load_detection_data(tmp_path)
