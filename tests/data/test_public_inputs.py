"""Inputs that people have brought to public threads, written anew: public_inputs.md has the thread of each."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from transformers_samdetr.data import load_detection_data

from ..detection_folders import SIZE
from .test_exports import BOXES, coco, pictures, voc, write, yolo, yolo_line

LOADS: dict = {}
REFUSED: dict = {}


def loads(build):
    LOADS[build.__name__] = build
    return build


def refused(pattern: str):
    def add(build):
        REFUSED[build.__name__] = build, pattern
        return build

    return add


def edit(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edited_coco(root: Path, change) -> None:
    coco(root / "labels.json", pictures(root, 6))
    edit(root / "labels.json", change)


def each(content: dict, key: str, **values) -> None:
    for row in content[key]:
        row.update({name: value(row) if callable(value) else value for name, value in values.items()})


@loads
def annotation_ids_start_anew_in_each_picture(root):
    edited_coco(root, lambda content: each(content, "annotations", id=1))


@loads
def paths_of_label_studio_with_a_project_folder(root):
    names = pictures(root / "images", 6)
    coco(root / "result.json", [f"images/1/{name}" for name in names], first=0)


@loads
def addresses_of_label_studio_local_files(root):
    names = pictures(root / "my set" / "day 1", 6)
    coco(root / "result.json", [f"/data/local-files/?d=my%20set/day%201/{name}" for name in names])


@loads
def backslashes_in_some_names(root):
    names = pictures(root / "label", 6)
    coco(
        root / "label" / "_annotations.json", [f"..\\label\\{name}" if i % 2 else name for i, name in enumerate(names)]
    )


@loads
def voc_names_without_suffix(root):
    voc(root / "images", root / "annotations", 6, with_suffix=False)


@loads
def image_ids_are_texts(root):
    def change(content):
        each(content, "images", id=lambda row: str(row["id"]))
        each(content, "annotations", image_id=lambda row: str(row["image_id"]))

    edited_coco(root, change)


@loads
def large_category_ids_and_polygons_alone(root):
    def polygon(row):
        x, y, w, h = BOXES[row["id"] % 2]
        return [[x, y, x + w, y, x + w, y + h, x, y + h]]

    def change(content):
        each(content, "categories", id=lambda row: row["id"] + 74673216)
        each(content, "annotations", category_id=lambda row: row["category_id"] + 74673216, segmentation=polygon)
        for row in content["annotations"]:
            del row["bbox"]

    edited_coco(root, change)


@loads
def no_iscrowd_and_no_area(root):
    edited_coco(root, lambda content: [row.pop("iscrowd") for row in content["annotations"]])


@loads
def yaml_with_the_name_of_the_downloaded_folder(root):
    for split in ("train", "valid"):
        yolo(root / split / "images", root / split / "labels", 3)
    write(
        root / "data.yaml",
        "train: project-1/train/images\nval: project-1/valid/images\ntest: ../test/images\nnames: [cat, dog]\n",
    )


@loads
def folders_image_and_label(root):
    yolo(root / "image" / "train", root / "label" / "train", 6)
    write(root / "data.yaml", "train: image/train\nnames: [cat, dog]\n")


@loads
def yaml_of_another_machine(root):
    yolo(root / "images" / "train", root / "labels" / "train", 3)
    yolo(root / "images" / "val", root / "labels" / "val", 3)
    write(root / "set.yaml", "train: D:\\a\\set\\images\\train\nval: D:\\a\\set\\images\\val\nnames: [cat, dog]\n")


@loads
def windows_list_of_pictures(root):
    yolo(root / "images", root / "labels", 6)
    write(root / "train.txt", "\r\n".join(f".\\images\\p{i}.jpg" for i in range(6)) + "\r\n")
    write(root / "data.yaml", "path: .\ntrain: train.txt\nnames: {0: cat, 1: dog}\n")


@loads
def spaces_and_tabs_between_the_numbers(root):
    yolo(root / "images", root / "labels", 6, lambda i: "  " + yolo_line(i).replace(" ", " \t ") + " \r\n\r\n")
    write(root / "classes.txt", "cat\r\ndog\r\n\r\n")


@loads
def polygons_of_labelbox_in_voc(root):
    voc(root, root, 6)
    for i, path in enumerate(sorted(root.glob("*.xml"))):
        x, y, w, h = BOXES[i % 2]
        points = ((x + 1, y + 1), (x + w, y + 1), (x + w, y + h), (x + 1, y + h))
        polygon = "".join(f"<x{n}>{px}</x{n}><y{n}>{py}</y{n}>" for n, (px, py) in enumerate(points, 1))
        path.write_text(re.sub("<bndbox>.*</bndbox>", f"<polygon>{polygon}</polygon>", path.read_text()))


@loads
def gb2312_declared_in_xml(root):
    voc(root / "images", root / "Annotations", 6)
    for path in (root / "Annotations").iterdir():
        text = path.read_text().replace("<folder/>", "<folder>图片</folder>")
        path.write_bytes(('<?xml version="1.0" encoding="gb2312"?>\n' + text).encode("gb2312"))


@refused("labels.json has no 'categories'")
def no_categories(root):
    edited_coco(root, lambda content: content.pop("categories"))


@refused("annotation 1 of image 1 has category_id 2, which is none of the file's")
def a_category_that_is_not_listed(root):
    edited_coco(root, lambda content: content["categories"].pop())


@refused("via_region_data.json is a VIA project; export the set as COCO")
def via_region_data(root):
    region = {"shape_attributes": {"name": "rect", "x": 1, "y": 1, "width": 5, "height": 5}, "region_attributes": {}}
    write(root / "via_region_data.json", {"p0.jpg123": {"filename": "p0.jpg", "size": 123, "regions": [region]}})
    pictures(root, 1)


@refused("images is .*: give a list")
def images_as_an_object(root):
    edited_coco(root, lambda content: content.update(images={"0": "p0.jpg"}))


@refused(r"train.txt lists 'images/p0.jpgimages/p1.jpg'")
def lines_without_their_ends(root):
    yolo(root / "images", root / "labels", 2)
    write(root / "train.txt", "images/p0.jpgimages/p1.jpg")
    write(root / "data.yaml", "train: train.txt\nnames: [cat, dog]\n")


@refused(r"names 'valid/images' for val, which is not in .*; there is val/images")
def valid_for_val(root):
    for split in ("train", "val"):
        yolo(root / split / "images", root / split / "labels", 3)
    write(root / "data.yaml", "train: train/images\nval: valid/images\nnames: [cat, dog]\n")


@refused("rs00001.json is a file of one picture")
def a_json_for_each_picture(root):
    write(root / "rs00001.json", {"frame": "rs00001", "imgHeight": 30, "imgWidth": 40, "objects": []})
    pictures(root, 1)


@refused("object 1 has no name")
def a_voc_object_without_name(root):
    voc(root, root, 2)
    for path in root.glob("*.xml"):
        path.write_text(path.read_text().replace("<name>cat</name>", ""))


@refused("is not valid XML: no element found")
def an_empty_xml(root):
    voc(root, root, 2)
    (root / "p0.xml").write_text("")


@pytest.mark.parametrize("name", LOADS)
def test_public_inputs_load(tmp_path, name):
    LOADS[name](tmp_path)
    data = load_detection_data(tmp_path)
    assert len(data.train) + len(data.evaluation) == 6 and data.names == ["cat", "dog"]
    for example in (*data.train, *data.evaluation):
        label = example["objects"]["category"][0]
        assert example["image"].size == SIZE and np.allclose(example["objects"]["bbox"], [BOXES[label]], atol=0.01)


@pytest.mark.parametrize("name", REFUSED)
def test_public_inputs_are_refused_with_a_remedy(tmp_path, name):
    build, pattern = REFUSED[name]
    build(tmp_path)
    with pytest.raises(ValueError, match=pattern):
        load_detection_data(tmp_path)


def test_each_input_has_its_thread():
    lines = (Path(__file__).parent / "public_inputs.md").read_text().splitlines()
    logged = [match[1] for line in lines if (match := re.match(r"\| `(\w+)` \| https://github.com/\S+/\d+", line))]
    assert sorted(logged) == sorted([*LOADS, *REFUSED]) and len(logged) >= 20
