"""Data sets: any annotation file gives data that can be checked, or an error that names the file and what is wrong."""

import functools
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from hypothesis import strategies as st

from transformers_samdetr.data import DetectionDataset, load_detection_data
from transformers_samdetr.data.check_page import write_check_page
from transformers_samdetr.data.coco import CocoFile
from transformers_samdetr.data.dataset_check import AnnotationTable, Findings, full_check, quick_check
from transformers_samdetr.data.load import load_detection_data as load
from transformers_samdetr.data.schema import detection_features
from transformers_samdetr.data.stream import DetectionStream

from ..detection_folders import SIZE, save_picture, write_coco
from ..fuzzing import JSON, PICTURES, changed, ends_well, fuzz, run_cases, tree

SECRET = "secret.png"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a picture that no set below it may have."""
    folder = tmp_path_factory.mktemp("place")
    save_picture(folder / SECRET, seed=99)
    return folder


def emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def can_be_used(data, is_closed: bool = True) -> None:
    """What a user does next neither crashes nor reads what is not the set's."""
    findings, tables, facts = full_check(data)
    write_check_page(os.devnull, data, findings, tables, facts)
    assert isinstance(findings, Findings) and isinstance(tables["train"], AnnotationTable)
    stored = [path for split in (data.train, data.evaluation) for path in split.data["image"].to_pylist()]
    paths = [(picture or {}).get("path") or "" for picture in stored]
    assert not is_closed or not any(SECRET in path for path in paths)
    assert len(data.names) == len(data.category_ids)


COCO = {
    "images": [
        {"id": 0, "file_name": "0.png", "width": SIZE[0], "height": SIZE[1]},
        {"id": 1, "file_name": "1.png", "width": SIZE[0], "height": SIZE[1]},
        {"id": 2, "file_name": "2.png"},
    ],
    "annotations": [
        {"id": 5, "image_id": 0, "category_id": 90, "bbox": [1, 2, 10.5, 4], "area": 42, "iscrowd": 0},
        {"id": 6, "image_id": 1, "category_id": 3, "bbox": [0, 0, 20, 20]},
    ],
    "categories": [{"id": 90, "name": "dog"}, {"id": 3, "name": "cat"}],
}
PATHS = ["../secret.png", "../../secret.png", "/etc/passwd", "0.png/../../secret.png", ".", "..", "", "x" * 300, "a\0b"]
PATHS += ["folder.png", "pipe.png", "loop.png", "away.png", "\udcff.png", "..\\secret.png", "~/x.png", "C:\\x.png"]


def paths_in(content: dict) -> st.SearchStrategy:
    """COCO with the name of its first picture replaced."""

    def renamed(path: str) -> dict:
        first, *others = content["images"]
        return {**content, "images": [{**first, "file_name": path}, *others]}

    return st.sampled_from(PATHS).map(renamed)


def coco_set(place: Path) -> Path:
    folder = emptied(place / "set")
    for index in range(3):
        save_picture(folder / f"{index}.png", seed=index)
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "away.png").symlink_to(folder / "0.png")
    return folder


@fuzz(many=600)
def test_coco(place, examples):
    folder = coco_set(place)
    before = tree(place)

    def check(content):
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        (folder / "labels.json").write_bytes(text)
        data = ends_well(lambda: load(folder / "labels.json"), "labels.json", "classes", "images")
        if data is not None:
            can_be_used(data)
        (folder / "labels.json").unlink()
        assert tree(place) == before

    contents = st.one_of(changed(COCO), changed(COCO), paths_in(COCO), JSON, st.binary(max_size=50))
    run_cases("COCO folders", contents, check, examples)


YAML_TEXTS = [
    "train: images\nnames: [cat, dog]\n",
    "path: .\ntrain: [images]\nval: images\nnames: {0: cat, 1: dog}\n",
    "train: ../secret.png\nnames: [cat]\n",
    "train: list.txt\nnames: [cat, dog]\n",
    "a: &a [1,1]\nb: &b [*a,*a]\nc: &c [*b,*b]\nd: &d [*c,*c]\ntrain: *d\nnames: *d\n",
    "a: &a {x: 1}\nb: &b {<<: [*a, *a]}\ntrain: images\nnames: {<<: *b}\n",
    "train: images\nnames: " + "[" * 1100,
    "train: images\nnames: !!python/object/apply:os.mkdir [ran]\n",
    "train: 2020-13-45\nnames: [a]\n",
]
YOLO = {"path": ".", "train": "images", "val": ["images"], "names": ["cat", "dog"]}
LINES = st.sampled_from(
    ["0 0.5 0.5 0.2 0.2", "1 0.1 0.1 0.9 0.1 0.5 0.9", "7 0.5 0.5 1 1", "0 nan 0.5 1 1", "inf 0 0 1 1", "1e300 0 0 1 1"]
    + ["0 1e308 1e308 1e308 1e308", "-1 0 0 1 1", "0.5 0 0 1 1", "cat 0 0 1 1", "0 0 0 1", "", "0 " + "0.1 " * 9999]
)


@fuzz(many=300)
def test_yolo(place, examples):
    folder = emptied(place / "set")
    for index in range(3):
        save_picture(folder / "images" / f"{index}.png", seed=index)
    (folder / "labels").mkdir()
    os.mkfifo(folder / "images" / "pipe.png")
    (folder / "list.txt").write_text("images/0.png\nimages/1.png\n../secret.png\n")
    before = tree(place)

    def check(case):
        content, labels = case
        (folder / "data.yaml").write_bytes(content.encode(errors="replace") if isinstance(content, str) else content)
        (folder / "labels" / "0.txt").write_bytes(labels)
        data = ends_well(lambda: load(folder), "data.yaml", "0.txt", "class", "images", str(folder))
        if data is not None:
            can_be_used(data, is_closed=False)  # YAML may name folders anywhere
        (folder / "data.yaml").unlink()
        (folder / "labels" / "0.txt").unlink()
        assert tree(place) == before and not Path("ran").exists()

    contents = st.one_of(
        st.sampled_from(YAML_TEXTS), changed(YOLO).map(json.dumps), st.binary(max_size=60), st.text(max_size=40)
    )
    labels = st.lists(LINES, max_size=3).map("\n".join).map(str.encode) | st.binary(max_size=30)
    run_cases("YOLO folders", st.tuples(contents, labels), check, examples)


XML = (
    "<annotation><filename>0.png</filename><size><width>40</width><height>30</height></size>"
    "<object><name>cat</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
    "</annotation>"
)
LAUGHS = (
    '<!DOCTYPE x [<!ENTITY a "ha">' + "".join(
        f'<!ENTITY {after} "{f"&{before};" * 10}">' for before, after in zip("abcdefgh", "bcdefghi", strict=True)
    )
    + "]>" + XML.replace("cat", "&i;")
)  # fmt: skip
XMLS = [
    LAUGHS,
    '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>' + XML.replace("cat", "&e;"),
    '<?xml version="1.0" encoding="no-such"?>' + XML,
    '<?xml version="1.0" encoding="utf-7"?>' + XML,
    "<a>" * 20000,
    XML.replace("0.png", "../secret.png"),
    XML.replace("0.png", "x" * 4000),
    XML.replace("cat", " "),
]
TEXTS = st.sampled_from(["", "nan", "inf", "-5", "1e400", "9" * 400, "x", "../../secret.png", "0", "1.5", " 7 "])


@st.composite
def xml_files(draw: st.DrawFn) -> bytes:
    kind = draw(st.sampled_from(["listed", "value", "cut", "bytes"]))
    if kind == "listed":
        return draw(st.sampled_from(XMLS)).encode()
    if kind == "value":
        old = draw(st.sampled_from([">0.png<", ">40<", ">30<", ">cat<", ">1<", ">2<", ">9<"]))
        return XML.replace(old, f">{draw(TEXTS)}<").encode()
    content = bytearray(XML.encode())
    place = draw(st.integers(0, len(content) - 1))
    if kind == "cut":
        del content[place : place + draw(st.integers(1, 40))]
    else:
        content[place : place + 3] = draw(st.binary(max_size=5))
    return bytes(content)


@fuzz(many=300)
def test_voc(place, examples):
    folder = emptied(place / "set")
    for index in range(3):
        save_picture(folder / "JPEGImages" / f"{index}.png", seed=index)
        (folder / "Annotations").mkdir(exist_ok=True)
        (folder / "Annotations" / f"{index}.xml").write_text(XML.replace("0.png", f"{index}.png"))
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    (place / "secret.xml").write_text(XML)
    before = tree(place)

    def check(case):
        content, listed = case
        (folder / "Annotations" / "0.xml").write_bytes(content)
        (folder / "ImageSets" / "Main" / "train.txt").write_bytes(listed)
        data = ends_well(lambda: load(folder), ".xml", "train.txt", "class", "images", str(folder))
        if data is not None:
            can_be_used(data)
        (folder / "Annotations" / "0.xml").write_text(XML)
        (folder / "ImageSets" / "Main" / "train.txt").unlink()
        assert tree(place) == before

    lists = st.sampled_from(["0\n1\n2\n", "0 1\n2 -1\n", "../../secret\n0\n", "/etc/passwd\n", "x" * 999, "a\0\n"])
    lists = lists.map(str.encode) | st.binary(max_size=20)
    run_cases("VOC folders", st.tuples(xml_files(), lists), check, examples)


ROWS = [
    {"image": "0.png", "image_id": 1, "width": 40, "height": 30, "objects": {"bbox": [[1.0, 2.0, 8.0, 9.0]],
     "category": [1], "area": [72.0], "iscrowd": [0], "id": [3]}},
    {"image": "1.png", "image_id": 2, "width": 40, "height": 30, "objects": {"bbox": [[5.0, 2.0, 18.0, 9.0]],
     "category": [0], "area": [10.0], "iscrowd": [1], "id": [4]}},
    {"image": "2.png", "image_id": 3, "width": 40, "height": 30, "objects": {"bbox": [], "category": [], "area": [],
     "iscrowd": [], "id": []}},
]  # fmt: skip


@fuzz(many=400)
def test_sets_of_the_datasets_library(place, examples):
    folder = emptied(place / "set")
    for index in range(3):
        save_picture(folder / f"{index}.png", seed=index)

    def check(case):
        rows, box_format = case
        try:
            table = pa.Table.from_pylist(rows)
            data = Dataset(table)
        except (pa.ArrowException, TypeError, ValueError, AttributeError, OverflowError, KeyError):
            return  # no such set can be made
        loaded = ends_well(
            lambda: load(data, box_format=box_format), "the given set", "image", "box", "categor", "column", "class"
        )
        if loaded is not None:
            can_be_used(loaded)

    rows = changed(ROWS).filter(lambda rows: isinstance(rows, list) and all(isinstance(row, dict) for row in rows))
    run_cases("datasets sets", st.tuples(rows, st.sampled_from(["coco", None, "yolo"])), check, examples)


@fuzz(many=100)
def test_damaged_files_of_the_datasets_library(place, examples):
    folder = emptied(place / "set")
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "whole.parquet")
    Dataset.from_list(ROWS).save_to_disk(folder / "saved")
    files = {name: (folder / name).read_bytes() for name in ("whole.parquet", "saved/state.json")}
    files["saved/dataset_info.json"] = (folder / "saved" / "dataset_info.json").read_bytes()

    def check(case):
        name, position, piece = case
        content = bytearray(files[name])
        position = position % len(content)
        content[position : position + 8] = piece
        source = folder / "damaged.parquet" if name.endswith("parquet") else folder / "damaged"
        if source.suffix:
            source.write_bytes(content)
        else:
            shutil.rmtree(source, ignore_errors=True)
            shutil.copytree(folder / "saved", source)
            (source / Path(name).name).write_bytes(content)
        loaded = ends_well(lambda: load(source, box_format="coco"), "damaged", "image", "column")
        if loaded is not None:
            can_be_used(loaded)

    cases = st.tuples(st.sampled_from(sorted(files)), st.integers(0, 10**6), st.binary(max_size=12))
    run_cases("damaged files of datasets", cases, check, examples)


@fuzz(many=300)
def test_pictures_of_a_set(place, examples):
    """The checks find every picture that training would stumble over, and training passes over it."""
    folder = emptied(place / "set")
    write_coco(folder / "labels.json", folder, count=3)

    def check(content):
        (folder / "1.png").write_bytes(content)
        data = load(folder)
        _, _, facts = full_check(data)
        for name, split in (("train", data.train), ("evaluation", data.evaluation)):
            good = [fact.error is None and fact.displayed_size == SIZE for fact in facts[name].values()]
            pictures = DetectionDataset(split)
            if any(good):
                assert all(image.size == SIZE for image, _ in (pictures[index] for index in range(len(good))))
                assert len(pictures.skipped) == good.count(False)
            else:
                ends_well(functools.partial(pictures.__getitem__, 0), "None of the pictures", expected=(RuntimeError,))

    run_cases("pictures of data sets", PICTURES, check, examples)


# what was found, one by one


def one_picture_set(folder: Path, **changes) -> Path:
    content = write_coco(folder / "labels.json", folder, count=3)
    content["images"][0] |= changes.pop("image", {})
    content["annotations"][0] |= changes.pop("annotation", {})
    (folder / "labels.json").write_text(json.dumps(content | changes))
    return folder


@pytest.mark.parametrize("name", ["../secret.png", "../../secret.png", "a/../../secret.png", "..\\secret.png"])
def test_a_name_that_leads_out_of_the_set_is_not_followed(tmp_path, name):
    save_picture(tmp_path / SECRET)
    folder = one_picture_set(tmp_path / "set", image={"file_name": name})
    with pytest.raises(ValueError, match="1 of the 3 pictures in .*labels.json do not exist"):
        load_detection_data(folder)
    with pytest.raises(ValueError, match="1 of the 3 pictures in .*labels.json do not exist"):
        load_detection_data(folder / "labels.json")
    one_picture_set(tmp_path / "set", image={"file_name": str(tmp_path / SECRET)})
    with pytest.raises(ValueError, match="1 of the 3 pictures"):
        load_detection_data(folder)


def test_a_name_that_stays_in_the_set_is_followed(tmp_path):
    content = write_coco(tmp_path / "annotations" / "labels.json", tmp_path / "pictures", count=3)
    for image in content["images"]:
        image["file_name"] = "../pictures/" + image["file_name"]
    (tmp_path / "annotations" / "labels.json").write_text(json.dumps(content))
    for source in (tmp_path, tmp_path / "annotations" / "labels.json"):
        assert len(load_detection_data(source).train) == 2
    content["images"][0]["file_name"] = str(tmp_path / "pictures" / "0.png")
    (tmp_path / "annotations" / "labels.json").write_text(json.dumps(content))
    assert len(load_detection_data(tmp_path).train) == 2


def test_a_link_in_the_set_is_followed_but_not_to_a_device(tmp_path):
    folder = one_picture_set(tmp_path / "set")
    (folder / "0.png").rename(tmp_path / "elsewhere.png")
    (folder / "0.png").symlink_to(tmp_path / "elsewhere.png")
    assert len(load_detection_data(folder).train) == 2
    (folder / "0.png").unlink()
    (folder / "0.png").symlink_to("/dev/zero")
    with pytest.raises(ValueError, match="1 of the 3 pictures in .* do not exist, such as 0.png"):
        load_detection_data(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": {}}, r"labels.json: images is \{\}: give a list"),
        ({"images": [3]}, r"labels.json: images\[0\] is 3: give an object"),
        ({"categories": [{"id": [1], "name": "x"}]}, r"categories\[0\] has the id \[1\]: give an integer or a text"),
        ({"categories": [{"id": 1, "name": None}]}, r"categories\[0\] has the name None: give a text"),
        ({"image": {"file_name": 7}}, r"images\[0\] has the file_name 7"),
        ({"image": {"width": "wide"}}, "image 0 has the width 'wide': give its pixels"),
        ({"image": {"width": 10**12}}, "image 0 has the width 1000000000000"),
        ({"image": {"id": 10**30}}, r"images\[0\] has the id 10000"),
        ({"annotation": {"category_id": {}}}, r"annotation 100 of image 0 has category_id \{\}"),
        ({"annotation": {"image_id": [0]}}, r"annotation 100 of image \[0\]: the file lists no such image"),
        ({"annotation": {"bbox": 5}}, "annotation 100 of image 0 has the box 5, which is not four numbers"),
        ({"annotation": {"bbox": [1, 2, None, 4]}}, r"has the box \[1, 2, None, 4\], which is not four numbers"),
        ({"annotation": {"bbox": [1, 2, 10**400, 4]}}, "which is not four numbers"),
        ({"annotation": {"area": "large"}}, "image 0 .*has the area 'large': give square pixels"),
        ({"annotation": {"area": float("nan")}}, "image 0 .*has the area nan"),
        ({"annotation": {"iscrowd": "no"}}, "image 0 .*has iscrowd 'no': give 0"),
        ({"categories": [{"id": 3, "name": "cat"}, {"id": "9", "name": "b"}], "annotations": []}, "ids of both kinds"),
    ],
)
def test_wrong_values_are_named(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        load_detection_data(one_picture_set(tmp_path, **change))


@pytest.mark.parametrize("content", [b"[]", b"3", b"\xff\xfe", b"[" * 100000, b'{"images": ' + b"9" * 5000 + b"}"])
def test_json_that_is_no_coco(tmp_path, content):
    (tmp_path / "labels.json").write_bytes(content)
    with pytest.raises(ValueError, match="labels.json (is not|holds)"):
        CocoFile(tmp_path / "labels.json")


def test_an_annotation_without_its_own_id_keeps_a_number(tmp_path):
    data = load_detection_data(one_picture_set(tmp_path, annotation={"id": 10**30}))
    ids = {
        example["image_id"]: example["objects"]["id"] for split in (data.train, data.evaluation) for example in split
    }
    assert ids == {0: [0], 1: [101], 2: [102]}


def test_yaml_neither_runs_nor_grows(tmp_path):
    save_picture(tmp_path / "images" / "0.png")
    for text in YAML_TEXTS[5:]:
        (tmp_path / "data.yaml").write_text(text)
        with pytest.raises(ValueError, match="data.yaml"):
            load_detection_data(tmp_path / "data.yaml")
    levels = "".join(
        f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefghij", "bcdefghijk", strict=True)
    )
    (tmp_path / "data.yaml").write_text(f"a: &a [x]\n{levels}train: images\nnames: *k\n")
    with pytest.raises(ValueError, match="data.yaml (is not valid YAML|has names=)"):
        load_detection_data(tmp_path / "data.yaml")


def test_xml_neither_reads_files_nor_grows(tmp_path):
    save_picture(tmp_path / "0.png")
    for text in XMLS[:5]:
        (tmp_path / "0.xml").write_text(text)
        with pytest.raises(ValueError, match="0.xml is not valid XML"):
            load_detection_data(tmp_path)


def test_file_names_that_are_no_utf8_are_named(tmp_path):
    save_picture(tmp_path / "images" / "0.png")
    save_picture(tmp_path / "images" / "1.png")
    os.rename(tmp_path / "images" / "0.png", os.fsencode(tmp_path / "images") + b"/\xff.png")
    (tmp_path / "data.yaml").write_text("train: images\nnames: [cat]\n")
    with pytest.raises(ValueError, match="udcff.png' is not UTF-8: rename the file"):
        load_detection_data(tmp_path)


def test_null_in_a_set_is_named():
    features = Features({"image": Value("string"), "width": Value("int32"), "height": Value("int32"), "objects": {
        "bbox": List(List(Value("float32"))), "category": List(ClassLabel(names=["cat"]))}})  # fmt: skip
    rows = [{"image": "0.png", "width": None, "height": 30, "objects": {"bbox": [[1, 2, 3, 4]], "category": [0]}}] * 3
    with pytest.raises(ValueError, match=r"image None \(0.png\) has the width None|image None has the width None"):
        load_detection_data(Dataset.from_list(rows, features=features), box_format="coco")


@pytest.mark.parametrize("streaming", [False, True])
def test_a_row_without_a_picture_is_an_unusable_one(tmp_path, streaming):
    save_picture(tmp_path / "0.png")
    objects = {"bbox": [[1.0, 2.0, 8.0, 9.0]], "category": ["cat"]}
    rows = [{"image": path, "width": SIZE[0], "height": SIZE[1], "objects": objects}
            for path in (str(tmp_path / "0.png"), None)]  # fmt: skip
    data = Dataset.from_list(rows)
    splits = {"train": data, "test": data}
    loaded = load(DatasetDict(splits), box_format="coco", class_names={"cat": "cat"}, streaming=streaming)
    assert "1 of 2 pictures looked at cannot be read" in str(quick_check(loaded))
    if streaming:
        stream = DetectionStream(loaded.train)
        assert [image.size for image, _ in stream] == [SIZE] and len(stream.unusable) == 1
    else:
        pictures = DetectionDataset(loaded.train)
        assert [pictures[index][0].size for index in range(2)] == [SIZE, SIZE] and len(pictures.skipped) == 1


def test_the_schema_holds_what_is_checked():
    """Bounds of `plain_values` are those of the columns."""
    features = detection_features(["cat"])
    assert features["width"].dtype == "int32" and features["image_id"].dtype == "int64"
    assert np.iinfo(np.int32).max == 2**31 - 1
