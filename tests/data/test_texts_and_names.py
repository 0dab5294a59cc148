"""Texts and file names as Windows, macOS and tools leave them, in each of the three layouts."""

import codecs
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from transformers_samdetr.data import full_check, load_detection_data
from transformers_samdetr.data.dataset_check import Severity
from transformers_samdetr.data.source_files import SetFiles, read_json_rows, read_text, read_yaml

from ..detection_folders import SIZE, save_picture
from .test_exports import BOXES, NAMES, coco, pictures, voc, write, yolo, yolo_line

TEXTS = (".json", ".txt", ".yaml", ".xml")


def coco_set(root: Path) -> None:
    coco(root / "annotations" / "instances_train.json", pictures(root / "images", 6))


def yolo_set(root: Path) -> None:
    yolo(root / "images", root / "labels", 6)
    write(root / "data.yaml", "train: images\nnames:\n  - cat\n  - dog\n")


def list_set(root: Path) -> None:
    yolo(root / "images", root / "labels", 6)
    write(root / "classes.txt", "cat\ndog\n")


def voc_set(root: Path) -> None:
    names = voc(root / "JPEGImages", root / "Annotations", 6)
    write(root / "ImageSets" / "Main" / "train.txt", "\n".join(Path(name).stem for name in names) + "\n")


def rewritten(root: Path, change) -> None:
    for path in [path for path in root.rglob("*") if path.suffix in TEXTS]:
        path.write_bytes(change(path.read_text()))


def renamed(root: Path, change) -> None:
    for path in [path for path in root.rglob("*.jpg")]:
        path.rename(path.with_name(change(path.name)))


def left_behind(root: Path) -> None:
    for path in [path for path in root.rglob("*") if path.is_file()]:
        (path.parent / f"._{path.name}").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        \xff\xfe")
    shutil.copytree(root, root / "__MACOSX" / root.name, ignore=lambda *_: ["__MACOSX"])
    (root / ".ipynb_checkpoints").mkdir()
    shutil.copy(next(root.rglob("p0.jpg")), root / ".ipynb_checkpoints" / "p0-checkpoint.jpg")


CHANGES = {
    "byte order mark": lambda root: rewritten(root, lambda text: text.encode("utf-8-sig")),
    "UTF-16": lambda root: rewritten(root, lambda text: codecs.BOM_UTF16_LE + text.encode("utf-16-le")),
    "CRLF": lambda root: rewritten(root, lambda text: text.replace("\n", "\r\n").encode()),
    "another case": lambda root: renamed(root, str.upper),
    "left behind": left_behind,
}


def loads_as_it_should(root: Path) -> None:
    data = load_detection_data(root)
    assert (len(data.train), len(data.evaluation), data.names) == (5, 1, list(NAMES))
    for example in (*data.train, *data.evaluation):
        label = example["objects"]["category"]
        assert len(label) == 1 and np.allclose(example["objects"]["bbox"], [BOXES[label[0]]], atol=0.01)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("build", [coco_set, yolo_set, list_set, voc_set])
def test_texts_and_names_of_other_systems(tmp_path, build, change):
    root = tmp_path / "my set [2] (new)"
    build(root)
    CHANGES[change](root)
    loads_as_it_should(root)


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_in_both_unicode_forms(tmp_path, forms):
    in_text, on_disk = (unicodedata.normalize(form, "Überführung é (1).jpg") for form in forms)
    for i in range(6):
        save_picture(tmp_path / "images" / f"{i} {on_disk}", seed=i)
    coco(tmp_path / "labels.json", [f"{i} {in_text}" for i in range(6)])
    loads_as_it_should(tmp_path)
    assert "were found by a name in another case or Unicode form" in load_detection_data(tmp_path).describe()


def test_a_near_name_is_offered(tmp_path):
    save_picture(tmp_path / "images" / "holiday-1.png")
    coco(tmp_path / "labels.json", ["holiday-1.jpg"])
    with pytest.raises(ValueError, match="for holiday-1.jpg there is images/holiday-1.png"):
        load_detection_data(tmp_path)


def test_of_two_pictures_that_fit_equally_none_is_taken(tmp_path):
    for folder in ("a", "b"):
        save_picture(tmp_path / folder / "P.jpg")
    files = SetFiles(tmp_path)
    assert files.find("p.jpg") is None and files.find("A/p.jpg") == "a/P.jpg" and files.find("../b/P.jpg") == "b/P.jpg"


@pytest.mark.parametrize("name", ["no", "yes", "on", "off", "y", "null", "1.0", "007", "1e3", "2024-01-01", "12:30:45"])
def test_yaml_keeps_names_as_they_are_written(tmp_path, name):
    write(tmp_path / "data.yaml", f"names: [{name}]\n")
    assert read_yaml(tmp_path / "data.yaml") == {"names": [name]}


def test_a_text_in_another_encoding_is_named(tmp_path):
    (tmp_path / "classes.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(ValueError, match="classes.txt is not UTF-8 text: .* Save it as UTF-8"):
        read_text(tmp_path / "classes.txt")
    (tmp_path / "data.yaml").write_bytes("names: [café]".encode("latin-1"))
    with pytest.raises(ValueError, match="data.yaml is not UTF-8 text: .* Save it as UTF-8"):
        read_yaml(tmp_path / "data.yaml")
    (tmp_path / "data.yaml").write_text("names: [cat]\ntrain:\timages\n")
    with pytest.raises(ValueError, match=r"not valid YAML: found character .* in line 2, column 7\. Correct it there"):
        read_yaml(tmp_path / "data.yaml")


@pytest.mark.parametrize("piece", [1, 3, 7, 1000])
def test_json_read_in_pieces(tmp_path, monkeypatch, piece):
    monkeypatch.setattr("transformers_samdetr.data.source_files.PIECE", piece)
    (tmp_path / "a.json").write_text(
        '\ufeff {"a": [1, 22 , {"é": "x, ]"}, []], "b": 12345, "c": "ü", "d": []}\n ', "utf-8"
    )
    rows = [("a", -1, []), *(("a", i, row) for i, row in enumerate([1, 22, {"é": "x, ]"}, []]))]
    rows += [("b", -1, 12345), ("c", -1, "ü"), ("d", -1, [])]
    assert list(read_json_rows(tmp_path / "a.json")) == rows


@pytest.mark.parametrize(
    "text", ["", "{", '{"a"}', '{"a": 1,}', '{"a": [1 2]}', '{"a": [1,]}', "{} {}", "{1: 2}", '{"a": nul}', '{"a": [1}']
)
def test_broken_json_is_named(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match="a.json is not valid JSON: .* at character"):
        list(read_json_rows(tmp_path / "a.json"))


@pytest.mark.parametrize(
    ("line", "more", "expected"),
    [
        (" 0.3 0.3 2 0.35 0.4 1", "kpt_shape: [2, 3]", "keypoints"),
        (" 0.3 0.3 0.35 0.4", "kpt_shape: [2, 2]", "keypoints"),
        (" 0.3 0.3 2 0.35 0.4 1", "", "keypoints"),
        (" 0.3 0.3 0.35 0.4", "", "error"),
        (" 0.91", "", "score"),
        (" 0.91 17", "", "track"),
    ],
)
def test_lines_of_more_than_a_box(tmp_path, line, more, expected):
    yolo(tmp_path / "images", tmp_path / "labels", 6, lambda i: yolo_line(i) + line)
    write(tmp_path / "data.yaml", f"train: images\nnames: [cat, dog]\n{more}\n")
    if expected == "error":
        with pytest.raises(ValueError, match=r"can be boxes with 2 keypoints as well as polygons: write `kpt_shape"):
            load_detection_data(tmp_path)
    else:
        loads_as_it_should(tmp_path)
        assert expected in load_detection_data(tmp_path).describe()


def test_a_voc_filename_of_another_picture(tmp_path):
    voc(tmp_path / "images", tmp_path / "annots", 6)
    path = tmp_path / "annots" / "p3.xml"
    path.write_text(path.read_text().replace("p3.jpg", "p0.jpg"))
    loads_as_it_should(tmp_path)
    data = load_detection_data(tmp_path)
    paths = {
        Path(path["path"]).name for split in (data.train, data.evaluation) for path in split.data["image"].to_pylist()
    }
    assert len(paths) == 6 and "1 XML files name another picture" in data.describe()


def test_voc_lists_with_spaces_and_sizes_of_zero(tmp_path):
    names = voc(tmp_path / "JPEGImages", tmp_path / "Annotations", 6, prefix="Screenshot 2020 ")
    for path in (tmp_path / "Annotations").iterdir():
        path.write_text(path.read_text().replace(f"<width>{SIZE[0]}", "<width>0"))
    write(tmp_path / "ImageSets/Main/train.txt", "\n".join(Path(name).stem for name in names[:4]))
    write(tmp_path / "ImageSets/Main/val.txt", "\n".join(f"{Path(name).stem}  1" for name in names[4:]))
    data = load_detection_data(tmp_path)
    assert (len(data.train), len(data.evaluation)) == (4, 2) and data.train[0]["width"] == SIZE[0]


def test_all_pictures_of_a_set_without_splits_can_be_evaluated(tmp_path):
    coco(tmp_path / "test" / "_annotations.coco.json", pictures(tmp_path / "test", 6))
    data = load_detection_data(tmp_path / "test", hold_out=False)
    assert (len(data.train), len(data.evaluation)) == (0, 6) and "held out" not in data.describe()
    coco(tmp_path / "train" / "_annotations.coco.json", pictures(tmp_path / "train", 3))
    data = load_detection_data(tmp_path, hold_out=False)
    assert (len(data.train), len(data.evaluation)) == (3, 6)
    data = load_detection_data(tmp_path, hold_out=False, eval_split="train")
    assert len(data.evaluation) == 3


def boards(root: Path, copies: int) -> None:
    """Photographs of one chess board with pieces on other fields, and its copies saved again."""
    rng = np.random.default_rng(0)
    noise = rng.integers(-12, 12, (320, 320, 3))
    board = 90 + 100 * (np.add.outer(np.arange(320) // 40, np.arange(320) // 40)[..., None] % 2) + noise
    for split in ("train", "valid"):
        files = []
        for i in range(6):
            picture = board.copy()
            for field in rng.choice(64, 8, replace=False):
                y, x = 40 * (field // 8) + 12, 40 * (field % 8) + 12
                picture[y : y + 16, x : x + 16] = (30, 20, 20)
            files.append(f"{split}{i}.png")
            (root / split).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(root / split / files[-1])
        for i in range(copies if split == "valid" else 0):
            Image.open(root / "train" / f"train{i}.png").save(root / split / f"copy{i}.jpg", quality=60)
            files.append(f"copy{i}.jpg")
        coco(root / split / "_annotations.coco.json", files)
        path = root / split / "_annotations.coco.json"
        path.write_text(path.read_text().replace('"width": 40, "height": 30', '"width": 320, "height": 320'))


@pytest.mark.parametrize("copies", [0, 3])
def test_one_board_with_moved_pieces_is_not_the_same_picture(tmp_path, copies):
    boards(tmp_path, copies)
    findings, _, _ = full_check(load_detection_data(tmp_path))
    assert not findings.of(Severity.ERROR)
    same = [finding.message for finding in findings.all if "same" in finding.message]
    assert len(same) == bool(copies)
    assert not copies or same[0].startswith(
        "3 of the training pictures look the same as one that is evaluated (so that"
    )


def test_many_equal_files_are_one_group(tmp_path):
    names = pictures(tmp_path / "images", 3)
    for i in range(3, 60):
        shutil.copy(tmp_path / "images" / names[i % 3], tmp_path / "images" / f"p{i}.jpg")
    coco(tmp_path / "labels.json", [f"p{i}.jpg" for i in range(60)])
    findings, _, _ = full_check(load_detection_data(tmp_path, hold_out=False))
    same = [finding for finding in findings.all if "same" in finding.message]
    assert [finding.message for finding in same] == ["60 pictures of one split are the same as another, in 3 groups"]
