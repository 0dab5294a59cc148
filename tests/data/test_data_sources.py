import io
import json
import shutil
import tracemalloc
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
from datasets import Array2D, ClassLabel, Dataset, DatasetDict, Features, List, Value
from PIL import Image

from transformers_samdetr import SamDetrConfig
from transformers_samdetr.data import coco, source_files
from transformers_samdetr.data.dataset_check import AnnotationTable, quick_check
from transformers_samdetr.data.load import load_detection_data
from transformers_samdetr.data.schema import detection_features
from transformers_samdetr.data.stream import known_length
from transformers_samdetr.prediction.detector import own_category_ids
from transformers_samdetr.training import Recipe, load_model_and_processor

from ..detection_folders import SIZE, save_picture, write_coco

SHARED = Path(__file__).parents[3] / "shared" / "data"


def in_coco_style(folder: Path) -> None:
    write_coco(folder / "annotations" / "instances_train.json", folder / "images", 4)
    write_coco(folder / "annotations" / "instances_val.json", folder / "images", 2, first_id=4)


def as_coco_itself(folder: Path) -> None:
    """The same names in both folders of pictures, and files of other tasks, as in COCO's own archives."""
    write_coco(folder / "annotations" / "instances_train2017.json", folder / "train2017", 4)
    write_coco(folder / "annotations" / "instances_val2017.json", folder / "val2017", 2, first_id=4)
    (folder / "annotations" / "captions_val2017.json").write_text('{"info": {}, "images": [], "annotations": []}')


def in_roboflow_style(folder: Path) -> None:
    write_coco(folder / "train" / "_annotations.coco.json", folder / "train", 4)
    write_coco(folder / "valid" / "_annotations.coco.json", folder / "valid", 2, first_id=4)
    (folder / "README.roboflow.txt").write_text("exported")


def with_split_folders_within_images(folder: Path) -> None:
    write_coco(folder / "train.json", folder / "images" / "train", 4)
    write_coco(folder / "val.json", folder / "images" / "val", 2, first_id=4)


@pytest.mark.parametrize("layout", [in_coco_style, as_coco_itself, in_roboflow_style, with_split_folders_within_images])
def test_layouts_of_coco_folders(tmp_path, layout):
    layout(tmp_path)
    data = load_detection_data(tmp_path)
    assert len(data.train) == 4 and len(data.evaluation) == 2 and not data.notes
    assert data.names == ["cat", "dog"] and data.category_ids == [3, 90] and data.box_format == "xywh"
    for example in [*data.train, *data.evaluation]:
        assert example["objects"]["category"] == [example["image_id"] % 2]
        assert example["objects"]["bbox"] == [[1, 2, 10.5, 4]] and example["objects"]["area"] == [42]
        assert example["objects"]["id"] == [100 + example["image_id"]] and example["objects"]["iscrowd"] == [0]
        assert (example["width"], example["height"]) == SIZE == example["image"].size
    assert data.train.features == detection_features(["cat", "dog"])
    assert "4 training and 2 evaluation images, 2 classes, boxes xywh" in data.describe()
    # pictures are paths, not copies
    stored = data.train.data.column("image").to_pylist()
    assert all(image["bytes"] is None and Path(image["path"]).is_file() for image in stored)


def test_reading_and_checking_a_large_coco_file_holds_its_objects_about_twice(tmp_path, monkeypatch):
    """A set of COCO's size starts with the memory of its boxes: bounds in bytes an object, of which 57 are kept."""
    count, of_each = 3000, 7
    images = [{"id": i, "file_name": f"{i:012d}.jpg", "width": 64, "height": 48} for i in range(count)]
    annotations = [
        {"id": 9 * i, "image_id": i % count, "category_id": 1 + i % 80, "bbox": [1.5, 2.5, 3.5, i], "area": 3.5 * i}
        for i in range(count * of_each)
    ]
    categories = [{"id": i, "name": f"class {i}"} for i in range(1, 81)]
    (tmp_path / "images").mkdir()
    for image in images:
        (tmp_path / "images" / image["file_name"]).touch()
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "train.json").write_text(json.dumps(content))
    for module in (coco, source_files):
        monkeypatch.setattr(module, "PIECE", 2**16)
    load_detection_data(tmp_path)  # what is imported at the first use does not count
    tracemalloc.start()
    try:
        data = load_detection_data(tmp_path)
        of_reading, kept = tracemalloc.get_traced_memory()[1], pa.total_allocated_bytes()
        tracemalloc.reset_peak()
        quick_check(data)
        of_checking = tracemalloc.get_traced_memory()[1] + pa.default_memory_pool().bytes_allocated() - kept
    finally:
        tracemalloc.stop()
    assert of_reading / len(annotations) < 150 and of_checking / len(annotations) < 130
    picture = data.train.remove_columns("image")[1000]
    assert picture["objects"]["id"] == [9 * (picture["image_id"] + count * turn) for turn in range(of_each)]
    assert [box[3] for box in picture["objects"]["bbox"]] == [i // 9 for i in picture["objects"]["id"]]
    part = AnnotationTable.of(data.train.select(range(700, 900)))  # a slice, and a list of rows
    whole, chosen = (AnnotationTable.of(rows) for rows in (data.train, data.train.select([800, 5])))
    assert np.array_equal(part.boxes, whole.boxes[(whole.rows >= 700) & (whole.rows < 900)])
    assert np.array_equal(chosen.labels[chosen.rows == 0], whole.labels[whole.rows == 800])


@pytest.mark.parametrize("source", [".", "labels.json"])
def test_ten_photographs_and_a_json_are_enough(tmp_path, source):
    write_coco(tmp_path / "labels.json", tmp_path, count=10)
    data = load_detection_data(tmp_path / source)
    assert len(data.train) == 8 and len(data.evaluation) == 2
    assert "2 of 10 images (" in data.describe() and ".png) are held out" in data.describe()
    again = load_detection_data(tmp_path / source)
    assert data.evaluation["image_id"] == again.evaluation["image_id"] and data.fingerprint == again.fingerprint
    assert not set(data.evaluation["image_id"]) & set(data.train["image_id"])
    # training with any seed and later evaluations agree; a picture more leaves the others where they are
    assert list(load_detection_data(tmp_path, seed=5).evaluation["image_id"]) == list(data.evaluation["image_id"])
    write_coco(tmp_path / "labels.json", tmp_path, count=11)
    assert len(set(load_detection_data(tmp_path).evaluation["image_id"]) & set(data.evaluation["image_id"])) >= 1


def test_names_with_folders_and_sizes_left_out(tmp_path):
    content = write_coco(tmp_path / "result.json", tmp_path / "images", count=3)
    for image in content["images"]:
        image["file_name"] = f"..\\upload\\{image['file_name']}"
        del image["width"], image["height"]
    (tmp_path / "result.json").write_text(json.dumps(content))
    example = load_detection_data(tmp_path).train[0]
    assert (example["width"], example["height"]) == SIZE


def change(content: dict, what: str) -> None:
    if what == "no such image":
        content["annotations"][0]["image_id"] = 77
    elif what == "no such category":
        content["annotations"][1]["category_id"] = 5
    elif what == "no box":
        del content["annotations"][0]["bbox"]
    elif what == "no pictures":
        content["images"][0]["file_name"] = "lost.png"
    elif what == "an id twice":
        content["images"][0]["id"] = content["images"][1]["id"]
    elif what == "no key":
        del content["categories"]
    elif what == "two names":
        content["categories"][0]["name"] = content["categories"][1]["name"]


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no such image", r"annotation 100 of image 77: the file lists no such image"),
        ("no such category", r"annotation 101 of image 1 has category_id 5, which is none of the file's \[3, 90\]"),
        ("no box", r"annotation 100 of image 0 has bbox None: give \[x, y, width, height\]"),
        ("no pictures", r"1 of the 4 pictures in .*labels.json do not exist, such as lost.png; looked in"),
        ("an id twice", r"several images with the id 1"),
        ("no key", r"labels.json has no 'categories'"),
        ("two names", r"The classes \['cat'\] occur more than once"),
    ],
)
def test_mistakes_in_coco_files_are_named(tmp_path, what, message):
    content = write_coco(tmp_path / "labels.json", tmp_path)
    change(content, what)
    (tmp_path / "labels.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        load_detection_data(tmp_path)


def test_folders_that_hold_nothing_readable(tmp_path):
    with pytest.raises(ValueError, match="holds nothing: none of the layouts"):
        load_detection_data(tmp_path)
    with pytest.raises(ValueError, match="no data set at ./nowhere"):
        load_detection_data("./nowhere")
    write_coco(tmp_path / "a.json", tmp_path)
    shutil.copy(tmp_path / "a.json", tmp_path / "b.json")
    with pytest.raises(ValueError, match="b.json and .*a.json could both be"):
        load_detection_data(tmp_path)
    (tmp_path / "b.json").unlink()
    (tmp_path / "a.json").write_text('{"images": [')
    with pytest.raises(ValueError, match="a.json is not valid JSON"):
        load_detection_data(tmp_path)
    with pytest.raises(TypeError, match="source is of type list"):
        load_detection_data([1, 2])


def test_splits_can_be_chosen(tmp_path):
    in_roboflow_style(tmp_path)
    data = load_detection_data(tmp_path, train_split="valid", eval_split="train")
    assert len(data.train) == 2 and len(data.evaluation) == 4
    with pytest.raises(ValueError, match="no split 'test' for eval_split; it has train, valid"):
        load_detection_data(tmp_path, eval_split="test")


def test_the_fingerprint_is_of_the_content(tmp_path):
    in_coco_style(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    first = load_detection_data(tmp_path / "a").fingerprint
    assert load_detection_data(tmp_path / "b").fingerprint == first
    path = tmp_path / "b" / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    content["annotations"][3]["bbox"][0] += 0.5
    path.write_text(json.dumps(content))
    moved = load_detection_data(tmp_path / "b").fingerprint
    content["images"].pop()
    content["annotations"].pop()
    path.write_text(json.dumps(content))
    shorter = load_detection_data(tmp_path / "b").fingerprint
    assert len({first, moved, shorter}) == 3


# sets of the datasets library


def hub_rows(count: int = 30, box_format: str = "xyxy") -> list[dict]:
    rng = np.random.default_rng(0)
    rows = []
    for index in range(count):
        corners = np.sort(rng.uniform(0, 1, (2, 2)) * SIZE, axis=0)  # x1 y1, x2 y2
        corners[1] = np.minimum(corners[1] + 3, SIZE)
        box = corners.ravel() if box_format == "xyxy" else np.concatenate([corners[0], corners[1] - corners[0]])
        image = Image.fromarray(rng.integers(0, 255, (SIZE[1], SIZE[0], 3), dtype=np.uint8))
        rows.append({"image": image, "image_id": 100 + index, "corners": corners.ravel(), "box": box.tolist()})
    return rows


def hub_set(form: str) -> Dataset:
    """A set as there are some on the Hub, of the columns' names and nesting `form`."""
    rows = hub_rows()
    label, images = ClassLabel(names=["cat", "dog"]), datasets.Image()
    boxes = List(List(Value("float32"), length=4))
    if form == "struct of lists":
        features = {"image_id": Value("int64"), "image": images, "objects": {"bbox": boxes, "category": List(label)}}
        made = [{**row, "objects": {"bbox": [row["box"]], "category": [1]}} for row in rows]
    elif form == "list of structs":
        objects = List({"box": List(Value("float32")), "label": Value("string")})
        features = {"img": images, "objects": objects}
        made = [{"img": row["image"], "objects": [{"box": row["box"], "label": "dog"}]} for row in rows]
        made.append({"img": rows[0]["image"], "objects": [{"box": rows[0]["box"], "label": "cat"}]})
    else:
        features = {"id": Value("int64"), "picture": images, "bboxes": boxes, "labels": List(Value("int32"))}
        made = [{"id": row["image_id"], "picture": row["image"], "bboxes": [row["box"]], "labels": [7]} for row in rows]
    return Dataset.from_list([{key: row[key] for key in features} for row in made], features=Features(features))


@pytest.mark.parametrize(
    ("form", "names", "ids", "label"),
    [
        ("struct of lists", ["cat", "dog"], [0, 1], 1),
        ("list of structs", ["cat", "dog"], [0, 1], 1),
        ("top level", ["class 7"], [7], 0),
    ],
)
def test_columns_and_box_format_are_found(form, names, ids, label):
    data = load_detection_data(DatasetDict(train=hub_set(form), validation=hub_set(form)))
    assert data.names == names and data.category_ids == ids and data.box_format == "xyxy"
    assert "box format xyxy, detected on" in data.describe()
    for example, row in zip(data.train, hub_rows(), strict=False):
        x1, y1, x2, y2 = row["corners"]
        np.testing.assert_allclose(example["objects"]["bbox"][0], [x1, y1, x2 - x1, y2 - y1], atol=1e-4)
        assert example["objects"]["category"] == [label] and (example["width"], example["height"]) == SIZE
        assert np.array_equal(np.asarray(example["image"]), np.asarray(row["image"]))
    if form != "list of structs":
        assert list(data.train["image_id"]) == [row["image_id"] for row in hub_rows()]
    else:
        assert not set(data.train["image_id"]) & set(data.evaluation["image_id"])


SEPARATE = {
    "xmin ymin xmax ymax": "xyxy",
    "x_min y_min x_max y_max": "xyxy",
    "left top right bottom": "xyxy",
    "x1 y1 x2 y2": "xyxy",
    "bbox_x bbox_y bbox_width bbox_height": "xywh",
    "X Y Width Height": "xywh",
    "x_center y_center w h": "cxcywh",
}


def separate_columns(names: str, box_format: str, nesting: str) -> Dataset:
    rows = []
    for row in hub_rows():
        x1, y1, x2, y2 = row["corners"].tolist()
        sides = {"xyxy": (x1, y1, x2, y2), "xywh": (x1, y1, x2 - x1, y2 - y1)}
        sides["cxcywh"] = ((x1 + x2) / 2, (y1 + y2) / 2, *sides["xywh"][2:])
        objects = dict(zip(names.split(), sides[box_format], strict=True)) | {"label": "dog"}
        lists = {name: [value] for name, value in objects.items()}
        objects = {"lists": lists, "struct of lists": {"a": lists}, "list of structs": {"a": [objects]}}[nesting]
        rows.append({"image": row["image"], "width": SIZE[0], "height": SIZE[1]} | objects)
    return Dataset.from_list(rows, features=None).cast_column("image", datasets.Image())


@pytest.mark.parametrize("nesting", ["lists", "struct of lists", "list of structs"])
@pytest.mark.parametrize(("names", "box_format"), SEPARATE.items())
def test_boxes_in_four_columns(names, box_format, nesting):
    source = separate_columns(names, box_format, nesting)
    if nesting == "lists":
        source = source.remove_columns(["width", "height"])  # a set can have one column of a name
    data = load_detection_data(source)
    assert data.box_format == box_format and data.names == ["dog"] and f"box format {box_format}" in data.describe()
    rows = {str(row["corners"][0])[:6]: row for row in hub_rows()}
    for example in [*data.train, *data.evaluation]:
        x1, y1, x2, y2 = rows[str(example["objects"]["bbox"][0][0])[:6]]["corners"]
        np.testing.assert_allclose(example["objects"]["bbox"], [[x1, y1, x2 - x1, y2 - y1]], atol=1e-4)


def test_four_columns_that_do_not_make_boxes_are_named():
    rows = [{"image": "0.png", "width": 100, "height": 90, "label": ["cat"], "x1": [5.0], "y1": [6.0]}] * 5
    with pytest.raises(ValueError, match="looks like bbox or category. It has image, width, height, label, x1, y1"):
        load_detection_data(Dataset.from_list(rows))
    whole = [row | {"x2": [9.0], "y2": [9.0, 8.0]} for row in rows]
    with pytest.raises(ValueError, match=r"has for x1,y1,x2,y2 \[\[5.0\], .*: give a list, one for each object"):
        load_detection_data(Dataset.from_list(whole))
    single = [{"image": "0.png", "label": "cat", "x1": 5.0, "y1": 6.0, "x2": 9.0, "y2": 9.0}] * 5
    with pytest.raises(ValueError, match="has one object a row, with its box in x1, y1, x2, y2: make one row of each"):
        load_detection_data(Dataset.from_list(single))
    ambiguous = [row | {"x1": [5.0], "w": [9.0], "h": [9.0]} for row in rows]
    ambiguous = Dataset.from_list(ambiguous).rename_columns({"x1": "x", "y1": "y"})
    with pytest.raises(ValueError, match="could be xywh or cxcywh.*box_format="):
        load_detection_data(ambiguous)
    declared = load_detection_data(ambiguous, columns={"bbox": "x,y,w,h"}, box_format="xywh")
    assert declared.train["objects"][0]["bbox"] == [[5, 6, 9, 9]]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_tables_with_an_object_a_row(tmp_path, delimiter):
    lines = ["filename width height class xmin ymin xmax ymax"]
    for index in range(5):
        save_picture(tmp_path / "images" / f"{index}.png", seed=index)
        lines += [f"{index}.png 40 30 {name} 1 2 {11 + index} 20" for name in ("cat", "dog")[: index % 3]]
    lines += ["0.png 40 30    ", "3.png 40 30    "]  # without objects
    text = "\r\n".join(lines).replace(" ", delimiter)
    (tmp_path / "train_labels.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    (tmp_path / "test_labels.csv").write_text("\n".join(lines[:2]).replace(" ", delimiter))
    (tmp_path / "sample_submission.csv").write_text("image_id,PredictionString\n")
    data = load_detection_data(tmp_path)
    assert data.names == ["cat", "dog"] and len(data.train) == 5 and len(data.evaluation) == 1
    objects = {tuple(map(tuple, example["objects"]["bbox"])) for example in data.train}
    assert objects == {(), ((1, 2, 11, 18),), ((1, 2, 12, 18), (1, 2, 12, 18)), ((1, 2, 14, 18),)}
    assert len(load_detection_data(tmp_path / "train_labels.csv", eval_split=None).evaluation) == 1
    (tmp_path / "test_labels.csv").write_text("filename,class,xmin,ymin,xmax,ymax\n0.png,cat,1,2,x,4")
    with pytest.raises(
        ValueError, match="test_labels.csv, line 2 has .*'x', '4'.* for xmin, ymin, xmax, ymax: give four"
    ):
        load_detection_data(tmp_path)
    (tmp_path / "test_labels.csv").write_text("filename,class,xmin,ymin,xmax,ymax\n0.jpg,cat,1,2,3,4")
    with pytest.raises(ValueError, match="line 2 names '0.jpg', which is not in .*; for 0.jpg there is images/0.png"):
        load_detection_data(tmp_path)


TABLES_OF_KAGGLE = {
    "text": ("image_id,width,height,bbox,source", '{0},40,30,"[9.0, 6.0, 20.0, 12.0]",web', "xywh", "object"),
    "no class": ("image,xmin,ymin,xmax,ymax", "{0}.png,9,6,29,18", "xyxy", "object"),
    "name and id": ("image_id,class_name,class_id,x_min,y_min,x_max,y_max", "{0},cat,7,9,6,29,18", "xyxy", "cat"),
    "shares": ("ImageID,LabelName,XMin,XMax,YMin,YMax", "{0},cat,0.225,0.725,0.2,0.6", "xyxy_normalised", "cat"),
    "Make Sense": (
        "label_name,bbox_x,bbox_y,bbox_width,bbox_height,image_name,image_width,image_height",
        "cat,9,6,20,12,{0}.png,40,30",
        "xywh",
        "cat",
    ),
    "Make Sense, no header": ("", "cat,9,6,20,12,{0}.png,40,30", "xywh", "cat"),
    "keras-retinanet": ("", "images/{0}.png,9,6,29,18,cat", "xyxy", "cat"),
    "commas for points": ("filename;class;xmin;ymin;xmax;ymax", "{0}.png;cat;9,0;6,0;29,0;18,0", "xyxy", "cat"),
}
"""The header, a row, the format of the boxes and the class."""


@pytest.mark.parametrize("name", TABLES_OF_KAGGLE)
def test_tables_in_other_columns(tmp_path, name):
    header, row, box_format, label = TABLES_OF_KAGGLE[name]
    for index in range(5):
        save_picture(tmp_path / "images" / f"{index}.png", seed=index)
    lines = [header] * bool(header) + [row.format(index) for index in range(5)]
    (tmp_path / "annotations.csv").write_text("\n".join(lines))
    data = load_detection_data(tmp_path, box_format=box_format)
    assert data.names == [label] and len(data.train) == 4
    assert all(np.allclose(example["objects"]["bbox"], [[9, 6, 20, 12]]) for example in data.train)


@pytest.mark.parametrize("kind", ["binary", "large_binary", "struct"])
def test_pictures_as_other_libraries_store_them(tmp_path, kind):
    buffer = io.BytesIO()
    Image.new("RGB", SIZE).save(buffer, "PNG")
    objects = {"bbox": [[9.0, 6.0, 20.0, 12.0]], "category": [0]}
    content = {"bytes": buffer.getvalue(), "path": None} if kind == "struct" else buffer.getvalue()
    sets = Dataset.from_list([{"image": content, "objects": objects}] * 5)
    if kind != "struct":
        sets = sets.cast_column("image", Value(kind))
    data = load_detection_data(sets, box_format="xywh")
    assert data.train[0]["image"].size == SIZE and data.train[0]["objects"]["bbox"] == [[9, 6, 20, 12]]
    sets.to_parquet(tmp_path / "train.parquet")
    streamed = load_detection_data(
        DatasetDict(train=sets, test=sets), box_format="xywh", class_names=["cat"], streaming=True
    )
    assert next(iter(streamed.train))["width"] == SIZE[0]


def test_boxes_in_an_array_and_one_box_a_row():
    objects = {"bbox": [[9, 6, 20, 12]], "class_name": ["cat"]}
    named = Dataset.from_list([{"image": "0.png", "width": 40, "height": 30, "objects": objects}] * 5)
    assert load_detection_data(named, box_format="xywh").names == ["cat"]
    text = Value("string")
    features = Features({"image": text, "bboxes": Array2D((None, 4), "float32"), "labels": List(text)})
    row = {"image": "0.png", "bboxes": [[9.0, 6.0, 20.0, 12.0]], "labels": ["cat"]}
    with_size = features | {"width": Value("int32"), "height": Value("int32")}
    rows = [row | {"width": 40, "height": 30}] * 5
    data = load_detection_data(Dataset.from_list(rows, Features(with_size)), box_format="xywh")
    assert data.names == ["cat"] and data.train["objects"][0]["bbox"] == [[9, 6, 20, 12]]
    with pytest.raises(ValueError, match="one object a row, with its box in bbox: make one row of each picture"):
        load_detection_data(Dataset.from_list([{"image": "0.png", "bbox": [9, 6, 29, 18], "label": "cat"}] * 5))


def test_columns_and_format_can_be_declared():
    data = hub_set("top level").rename_columns({"bboxes": "a", "labels": "b"})
    with pytest.raises(ValueError, match="no column that looks like bbox or category. It has id, picture, a, b"):
        load_detection_data(data)
    columns = {"bbox": "a", "category": "b"}
    loaded = load_detection_data(data, columns=columns, box_format="pascal_voc", class_names={7: "dog", 9: "cat"})
    assert loaded.names == ["dog", "cat"] and loaded.category_ids == [7, 9] and "detected" not in loaded.describe()
    with pytest.raises(ValueError, match="no column 'objects' for bbox"):
        load_detection_data(data, columns={"bbox": "objects"})
    with pytest.raises(ValueError, match="columns has 'boxes', which is none of image, "):
        load_detection_data(data, columns={"boxes": "a"})
    with pytest.raises(ValueError, match=r"image 10[0-9].* has the category 7, which is none of the set's \[0, 1\]"):
        load_detection_data(data, columns=columns, class_names=["cat", "dog"])


def test_pictures_of_a_chosen_set_are_not_copied(tmp_path):
    hub_set("top level").save_to_disk(tmp_path / "set")
    data = load_detection_data(tmp_path / "set")
    assert len(data.train) == 24 and len(data.evaluation) == 6 and "6 of 30 images are held out" in data.describe()
    stored = datasets.load_from_disk(tmp_path / "set").shuffle(seed=3).filter(lambda row: row["id"] % 2 == 0)
    chosen = load_detection_data(DatasetDict(train=stored, test=stored))
    assert list(chosen.train["image_id"]) == list(stored["id"])
    row = {row["image_id"]: row for row in hub_rows()}[chosen.train[2]["image_id"]]
    assert np.array_equal(np.asarray(chosen.train[2]["image"]), np.asarray(row["image"]))
    np.testing.assert_allclose(chosen.train[2]["objects"]["bbox"][0][:2], row["corners"][:2], atol=1e-4)
    # the pictures are still those of the file, mapped into memory
    column = chosen.train.data.column("image").chunk(0).field("bytes").buffers()[2]
    original = datasets.load_from_disk(tmp_path / "set").data.column("picture").chunk(0).field("bytes").buffers()[2]
    assert column.size == original.size and not column.is_mutable
    assert any(str(tmp_path) in file["filename"] for file in chosen.train.cache_files)


def test_parquet_and_streams(tmp_path):
    data = hub_set("struct of lists")
    data.to_parquet(tmp_path / "train.parquet")
    data.select(range(5)).to_parquet(tmp_path / "validation.parquet")
    loaded = load_detection_data(tmp_path)
    stream = load_detection_data(tmp_path, streaming=True)
    assert len(loaded.train) == 30 and len(loaded.evaluation) == 5
    assert "a stream of 30 training and a stream of 5 evaluation images" in stream.describe()
    stored = loaded.train.cast_column("image", datasets.Image(decode=False))
    assert list(stream.train) == list(stored)
    assert stream.train.features["objects"] == loaded.train.features["objects"]
    assert known_length(load_detection_data(tmp_path, streaming=True, stream_length=7).train) == 7
    with pytest.raises(ValueError, match="none can be held out of a stream"):
        load_detection_data(tmp_path / "train.parquet", streaming=True)
    with pytest.raises(ValueError, match=r"a stream is not read through to collect them: give class_names="):
        sets = {name: hub_set("top level").to_iterable_dataset() for name in ("train", "test")}
        load_detection_data(sets)


def test_the_category_map_is_saved_with_the_model(tmp_path):
    in_coco_style(tmp_path / "data")
    data = load_detection_data(tmp_path / "data")
    model, _ = load_model_and_processor(Recipe(model="sam-detr-tiny", image_size=64), data.names, data.category_ids)
    model.config.save_pretrained(tmp_path / "model")
    config = SamDetrConfig.from_pretrained(tmp_path / "model")
    assert own_category_ids(config) == [3, 90] and config.id2label == {0: "cat", 1: "dog"}
    assert own_category_ids(SamDetrConfig(num_labels=3)) == [0, 1, 2]
    config.id2label = {0: "cat", 1: "dog", 2: "bird"}  # other classes than the ids are of
    assert own_category_ids(config) == [0, 1, 2]


@pytest.mark.parametrize(("name", "train", "evaluation"), [("bccd", 292, 72), ("cards", 296, 67)])
def test_real_photographs(name, train, evaluation):
    if not (SHARED / name).is_dir():
        pytest.skip(f"{SHARED / name}, a set of real photographs, is not here")
    data = load_detection_data(SHARED / name)
    assert (len(data.train), len(data.evaluation)) == (train, evaluation)
    assert data.train[0]["image"].size == (data.train[0]["width"], data.train[0]["height"])


def test_cocos_own_ids():
    folder = SHARED / "coco_cc_448"
    if not folder.is_dir():
        pytest.skip(f"{folder}, a sample of COCO, is not here")
    data = load_detection_data(folder)
    content = json.loads(next(folder.glob("annotations/*val*.json")).read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    assert data.category_ids == sorted(names) and len(names) == 80 and max(names) == 90
    assert [names[i] for i in data.category_ids] == data.names
    by_id = {annotation["id"]: annotation for annotation in content["annotations"]}
    for example in data.evaluation.remove_columns("image"):
        objects = example["objects"]
        for identity, label, crowd in zip(objects["id"], objects["category"], objects["iscrowd"], strict=True):
            assert data.category_ids[label] == by_id[identity]["category_id"]
            assert crowd == by_id[identity]["iscrowd"]
