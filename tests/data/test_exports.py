"""Exports of Roboflow, CVAT, Label Studio and FiftyOne in every detection format that they offer.

Each is written here as the tool lays it out, with one set of pictures and boxes. Layouts of COCO, YOLO and VOC have to
load with these boxes; every other format has to be refused with an error that names a format to export instead.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from transformers_samdetr.data import load_detection_data

from ..detection_folders import SIZE, save_picture

WIDTH, HEIGHT = SIZE
NAMES = ("cat", "dog")
BOXES = ((4.0, 3.0, 20.0, 12.0), (10.0, 6.0, 8.0, 15.0))
"""(x, y, width, height) of the object of even and odd pictures, in pixels; a cat and a dog."""
SPLITS = {"train": 4, "valid": 2}


def pictures(folder: Path, count: int, prefix: str = "p", suffix: str = ".jpg") -> list[str]:
    names = [f"{prefix}{i}{suffix}" for i in range(count)]
    for i, name in enumerate(names):
        save_picture(folder / name, seed=i + len(str(folder)))
    return names


def write(path: Path, content: str | dict | list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def coco(path: Path, files: list[str], first: int = 1, placeholder: bool = False, **more) -> None:
    categories = [{"id": first + i, "name": name, "supercategory": "pets"} for i, name in enumerate(NAMES)]
    if placeholder:
        categories.insert(0, {"id": first - 1, "name": "pets", "supercategory": "none"})
    write(
        path,
        {
            "info": {"description": "x" * 5000},
            "licenses": [],
            "categories": categories,
            "images": [{"id": i, "file_name": file, "width": WIDTH, "height": HEIGHT} for i, file in enumerate(files)],
            "annotations": [
                {"id": i, "image_id": i, "category_id": first + i % 2, "bbox": BOXES[i % 2], "iscrowd": 0, **more}
                for i in range(len(files))
            ],
        },
    )


def yolo_line(i: int) -> str:
    x, y, w, h = BOXES[i % 2]
    return f"{i % 2} {(x + w / 2) / WIDTH:.6f} {(y + h / 2) / HEIGHT:.6f} {w / WIDTH:.6f} {h / HEIGHT:.6f}"


def corners(i: int) -> str:
    x, y, w, h = BOXES[i % 2]
    points = ((x, y), (x + w, y), (x + w, y + h), (x, y + h))
    return f"{i % 2} " + " ".join(f"{px / WIDTH:.6f} {py / HEIGHT:.6f}" for px, py in points)


def yolo(images: Path, labels: Path, count: int, line: Callable[[int], str] = yolo_line, prefix: str = "p") -> None:
    for i, name in enumerate(pictures(images, count, prefix)):
        write(labels / f"{Path(name).stem}.txt", line(i) + "\n")


def voc(images: Path, annotations: Path, count: int, prefix: str = "p", with_suffix: bool = True) -> list[str]:
    names = pictures(images, count, prefix)
    for i, name in enumerate(names):
        x, y, w, h = BOXES[i % 2]
        file = name if with_suffix else Path(name).stem
        write(
            annotations / f"{Path(name).stem}.xml",
            f"<annotation><folder/><filename>{file}</filename><size><width>{WIDTH}</width><height>{HEIGHT}</height>"
            f"<depth>3</depth></size><object><name>{NAMES[i % 2]}</name><occluded>0</occluded><bndbox>"
            f"<xmin>{x + 1}</xmin><xmax>{x + w}</xmax><ymin>{y + 1}</ymin><ymax>{y + h}</ymax></bndbox></object>"
            "</annotation>",
        )
    return names


# Roboflow


def roboflow_coco(root: Path) -> None:
    for split, count in SPLITS.items():
        coco(
            root / split / "_annotations.coco.json", pictures(root / split, count, f"{split}_jpg.rf."), placeholder=True
        )
    write(root / "README.roboflow.txt", "pets - v1\nhttps://example.com\n")


def roboflow_yolo(root: Path, line: Callable[[int], str] = yolo_line, more: str = "") -> None:
    for split, count in SPLITS.items():
        yolo(root / split / "images", root / split / "labels", count, line, split)
    write(
        root / "data.yaml",
        f"train: ../train/images\nval: ../valid/images\ntest: ../test/images\n{more}\nnc: 2\nnames: ['cat', 'dog']\n",
    )


def roboflow_darknet(root: Path) -> None:
    for split, count in SPLITS.items():
        yolo(root / split, root / split, count, prefix=split)
        write(root / split / "_darknet.labels", "cat\ndog\n")


def roboflow_voc(root: Path) -> None:
    for split, count in SPLITS.items():
        voc(root / split, root / split, count, split)


def roboflow_csv(root: Path) -> None:
    for split, count in SPLITS.items():
        lines = ["filename,width,height,class,xmin,ymin,xmax,ymax"]
        for i, name in enumerate(pictures(root / split, count, split)):
            x, y, w, h = BOXES[i % 2]
            lines.append(f"{name},{WIDTH},{HEIGHT},{NAMES[i % 2]},{x:g},{y:g},{x + w:g},{y + h:g}")
        write(root / split / "_annotations.csv", "\n".join(lines))


def roboflow_other(name: str, content: str | dict | list) -> Callable[[Path], None]:
    def build(root: Path) -> None:
        for split, count in SPLITS.items():
            pictures(root / split, count)
            write(root / split / name, content)

    return build


# CVAT


def cvat_coco(root: Path, kind: str = "instances") -> None:
    coco(root / "annotations" / f"{kind}_default.json", pictures(root / "images" / "default", 6))


def cvat_coco_subsets(root: Path) -> None:
    for subset in ("Train", "Validation"):
        coco(root / "annotations" / f"instances_{subset}.json", pictures(root / "images" / subset, 3))


def cvat_yolo(root: Path) -> None:
    yolo(root / "obj_train_data", root / "obj_train_data", 6)
    write(root / "obj.names", "cat\ndog\n")
    write(root / "obj.data", "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n")
    write(root / "train.txt", "\n".join(f"data/obj_train_data/p{i}.jpg" for i in range(6)))


def cvat_ultralytics(root: Path, line: Callable[[int], str] = yolo_line, more: str = "") -> None:
    yolo(root / "images" / "train", root / "labels" / "train", 6, line)
    write(root / "data.yaml", f"path: .\ntrain: train.txt\n{more}names:\n  0: cat\n  1: dog\n")
    write(root / "train.txt", "\n".join(f"data/images/train/p{i}.jpg" for i in range(6)))


def cvat_voc(root: Path) -> None:
    names = voc(root / "JPEGImages", root / "Annotations", 6)
    write(root / "ImageSets" / "Main" / "default.txt", "\n".join(Path(name).stem for name in names))
    write(root / "labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:1,1,1::\n")


def cvat_datumaro(root: Path) -> None:
    items = [{"id": "p0", "annotations": [], "image": {"path": "p0.jpg"}}]
    write(root / "annotations" / "default.json", {"info": {}, "categories": {"label": {"labels": []}}, "items": items})
    pictures(root / "images" / "default", 2)


def cvat_xml(root: Path) -> None:
    pictures(root / "images", 2)
    box = '<box label="cat" xtl="4" ytl="3" xbr="24" ybr="15"/>'
    image = f'<image id="0" name="p0.jpg" width="40" height="30">{box}</image>'
    write(root / "annotations.xml", f"<annotations><version>1.1</version>{image}</annotations>")


def labels_of_words(root: Path) -> None:
    for name in pictures(root / "data", 2):
        write(root / "labels" / f"{Path(name).stem}.txt", "cat 0.0 0 0.0 4 3 24 15 0 0 0 0 0 0 0\n")


# Label Studio


def studio_coco(root: Path) -> None:
    names = pictures(root / "images", 6, "3f2a91c0-p")
    upload = [f"..\\..\\label-studio\\data\\media\\upload\\1\\{name}" for name in names]
    coco(root / "result.json", upload, first=0, ignore=0, segmentation=[])


def studio_yolo(root: Path, line: Callable[[int], str] = yolo_line) -> None:
    yolo(root / "images", root / "labels", 6, line)
    write(root / "classes.txt", "cat\ndog\n")
    write(root / "notes.json", {"categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}], "info": {}})


def studio_voc(root: Path) -> None:
    voc(root / "images", root / "Annotations", 6, with_suffix=False)


def studio_tasks(root: Path) -> None:
    pictures(root, 2)
    write(root / "project-1.json", [{"id": 1, "data": {"image": "/data/upload/1/p0.jpg"}, "annotations": []}])


# FiftyOne


def fiftyone_coco(root: Path) -> None:
    coco(root / "labels.json", pictures(root / "data", 6))


def fiftyone_coco_splits(root: Path) -> None:
    for split in ("train", "val"):
        coco(root / split / "labels.json", pictures(root / split / "data", 3))


def fiftyone_yolo4(root: Path) -> None:
    yolo(root / "data", root / "data", 6)
    write(root / "obj.names", "cat\ndog\n")
    write(root / "images.txt", "\n".join(f"data/p{i}.jpg" for i in range(6)))


def fiftyone_yolo5(root: Path) -> None:
    for split in ("train", "val"):
        yolo(root / "images" / split, root / "labels" / split, 3, prefix=split)
    write(
        root / "dataset.yaml",
        "names:\n  0: cat\n  1: dog\npath: /home/me/set\ntrain: ./images/train/\nval: ./images/val/\n",
    )


def fiftyone_voc(root: Path) -> None:
    voc(root / "data", root / "labels", 6)


def fiftyone_own(root: Path) -> None:
    pictures(root / "data", 2)
    write(root / "metadata.json", {"name": "set", "default_classes": []})
    write(root / "samples.json", {"samples": [{"filepath": "data/p0.jpg"}]})


def fiftyone_detections(root: Path) -> None:
    pictures(root / "data", 2)
    write(root / "labels.json", {"classes": ["cat"], "labels": {"p0": [{"label": 0, "bounding_box": [0, 0, 1, 1]}]}})


READ = {
    "Roboflow COCO": (roboflow_coco, 4, 2),
    "Roboflow YOLO v5, v7, v8, v9, v11": (roboflow_yolo, 4, 2),
    "Roboflow YOLO oriented boxes": (lambda root: roboflow_yolo(root, corners), 4, 2),
    "Roboflow YOLO keypoints": (
        lambda root: roboflow_yolo(root, lambda i: yolo_line(i) + " 0.3 0.3 2 0.3 0.4 2", "kpt_shape: [2, 3]"),
        4,
        2,
    ),
    "Roboflow YOLO Darknet": (roboflow_darknet, 4, 2),
    "Roboflow Pascal VOC": (roboflow_voc, 4, 2),
    "Roboflow TensorFlow CSV": (roboflow_csv, 4, 2),
    "CVAT COCO": (cvat_coco, 5, 1),
    "CVAT COCO keypoints": (lambda root: cvat_coco(root, "person_keypoints"), 5, 1),
    "CVAT COCO by subsets": (cvat_coco_subsets, 3, 3),
    "CVAT YOLO 1.1": (cvat_yolo, 5, 1),
    "CVAT Ultralytics YOLO detection": (cvat_ultralytics, 5, 1),
    "CVAT Ultralytics YOLO oriented boxes": (lambda root: cvat_ultralytics(root, corners), 5, 1),
    "CVAT Ultralytics YOLO pose": (
        lambda root: cvat_ultralytics(root, lambda i: yolo_line(i) + " 0.3 0.3 0.35 0.4", "kpt_shape: [2, 2]\n"),
        5,
        1,
    ),
    "CVAT Pascal VOC": (cvat_voc, 5, 1),
    "Label Studio COCO": (studio_coco, 5, 1),
    "Label Studio YOLO": (studio_yolo, 5, 1),
    "Label Studio YOLO oriented boxes": (lambda root: studio_yolo(root, corners), 5, 1),
    "Label Studio Pascal VOC": (studio_voc, 5, 1),
    "FiftyOne COCODetectionDataset": (fiftyone_coco, 5, 1),
    "FiftyOne COCODetectionDataset by splits": (fiftyone_coco_splits, 3, 3),
    "FiftyOne YOLOv4Dataset": (fiftyone_yolo4, 5, 1),
    "FiftyOne YOLOv5Dataset": (fiftyone_yolo5, 3, 3),
    "FiftyOne VOCDetectionDataset": (fiftyone_voc, 5, 1),
}
CREATE_ML = [{"image": "p0.jpg", "annotations": [{"label": "cat", "coordinates": {"x": 1, "y": 1}}]}]
REFUSED = {
    "Roboflow CreateML": (roboflow_other("_annotations.createml.json", CREATE_ML), "CreateML"),
    "a CSV without objects": (roboflow_other("_annotations.csv", "filename,width,height,class\n"), "a table"),
    "Roboflow TFRecord": (roboflow_other("pets.tfrecord", "x"), "TFRecord"),
    "Roboflow PaliGemma, OpenAI, Florence-2": (
        roboflow_other("_annotations.train.jsonl", '{"image": "p0.jpg"}'),
        "jsonl",
    ),
    "CVAT Datumaro": (cvat_datumaro, "Datumaro"),
    "CVAT for images": (cvat_xml, "CVAT's own XML"),
    "CVAT KITTI, FiftyOne KITTIDetectionDataset": (labels_of_words, "KITTI"),
    "Label Studio JSON, JSON-MIN": (studio_tasks, "Label Studio"),
    "Label Studio CSV, TSV": (roboflow_other("project-1.csv", "image,id,label\n"), "a table"),
    "FiftyOne FiftyOneDataset": (fiftyone_own, "FiftyOne"),
    "FiftyOne FiftyOneImageDetectionDataset": (fiftyone_detections, "FiftyOne"),
    "FiftyOne CVATImageDataset": (cvat_xml, "CVAT's own XML"),
    "FiftyOne TFObjectDetectionDataset": (roboflow_other("tf.records", "x"), "TFRecord"),
    "FiftyOne BDDDataset": (roboflow_other("labels.json", [{"name": "p0.jpg", "labels": []}]), "BDD"),
}


@pytest.mark.parametrize("name", READ)
def test_exports_load(tmp_path, name):
    build, train, evaluation = READ[name]
    build(tmp_path)
    data = load_detection_data(tmp_path)
    assert (len(data.train), len(data.evaluation), data.names) == (train, evaluation, list(NAMES))
    for split in (data.train, data.evaluation):
        for example in split:
            objects = example["objects"]
            assert example["image"].size == SIZE == (example["width"], example["height"])
            assert len(objects["category"]) == 1
            assert np.allclose(objects["bbox"], [BOXES[objects["category"][0]]], atol=0.01)


@pytest.mark.parametrize("name", REFUSED)
def test_other_exports_are_refused_by_name(tmp_path, name):
    build, kind = REFUSED[name]
    build(tmp_path)
    with pytest.raises(ValueError, match=r"(?s)Passed over.*") as error:
        load_detection_data(tmp_path)
    message = str(error.value)
    assert kind in message and "Export the set as COCO, YOLO or PASCAL VOC" in message
