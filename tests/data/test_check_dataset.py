import argparse
import importlib.util
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from transformers_samdetr.commands.data_arguments import add_data_arguments, checked_data_from
from transformers_samdetr.data.dataset_check import Severity, full_check, quick_check
from transformers_samdetr.data.load import load_detection_data

from ..detection_folders import SIZE, write_coco

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "check_dataset.py"
SHARED = ROOT.parent / "shared" / "data"


@pytest.fixture
def folder(tmp_path):
    """Twelve pictures to train on, four to evaluate on, nothing wrong with them."""
    write_coco(tmp_path / "annotations" / "instances_train.json", tmp_path / "images", 12)
    write_coco(tmp_path / "annotations" / "instances_val.json", tmp_path / "images", 4, first_id=20)
    return tmp_path


def edit(folder: Path, change, split: str = "train") -> None:
    path = folder / "annotations" / f"instances_{split}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def set_box(index: int, box: list):
    def change(content: dict) -> None:
        content["annotations"][index]["bbox"] = box

    return change


def found(folder: Path) -> str:
    """What the full check found, and the fast one no less unless only the full one looks for it."""
    return str(full_check(load_detection_data(folder))[0])


def test_nothing_is_found_where_nothing_is_wrong(folder):
    edit(folder, lambda content: content["annotations"].extend({**a, "id": 900 + i, "bbox": [20, 5, 9, 9]} for i, a in
        enumerate(list(content["annotations"]))))  # fmt: skip
    edit(folder, lambda content: content["annotations"].pop(), "val")
    assert found(folder) == "note: evaluation: 1 of 4 pictures have no objects"


@pytest.mark.parametrize(
    ("box", "message"),
    [
        (
            [1, 2, -3, 4],
            r"error: train: 1 of 12 boxes have a negative width .* \(image 0: cat \[1, 2, -3, 4\]",
        ),
        ([float("nan"), 2, 3, 4], "error: train: 1 of 12 boxes are not finite"),
        ([1, 2, 0, 4], "error: train: 1 of 12 boxes have no area"),
        ([50, 2, 3, 4], r"error: train: 1 of 12 boxes lie outside of their picture altogether.*in 40x30"),
        ([30, 2, 15, 4], "error: train: 1 of 12 boxes leave their picture by more than 2 pixels"),
        ([30, 2, 11.5, 4], ""),
    ],
)
def test_wrong_boxes(folder, box, message):
    edit(folder, set_box(0, box))
    text = found(folder)
    assert re.search(message, text) and ("error" in text) == bool(message)
    data = load_detection_data(folder)
    assert bool(quick_check(data).of(Severity.ERROR)) == bool(message)
    if message:
        with pytest.raises(ValueError, match="cannot be trained on as it is:\n  error: train: 1 of 12"):
            quick_check(data).raise_errors(str(folder))


def test_shares_that_are_read_as_pixels(folder):
    def shrink(content: dict) -> None:
        for annotation in content["annotations"]:
            annotation["bbox"] = [0.2, 0.3, 0.4, 0.5]

    edit(folder, shrink)
    edit(folder, shrink, "val")
    assert "error: train: 12 of 12 boxes are of a pixel or less: are they shares of the picture?" in found(folder)
    assert "error" not in str(quick_check(load_detection_data(folder, box_format="xywh_normalised")).all[0])


def test_a_stray_box_among_many_is_a_warning(folder):
    extra = [{"id": 900 + i, "image_id": i % 12, "category_id": 3, "bbox": [i % 7, i % 5, 8, 9]} for i in range(100)]
    edit(folder, lambda content: content["annotations"].extend(extra))
    edit(folder, set_box(0, [50, 2, 3, 4]))
    assert "warning: train: 1 of 112 boxes lie outside" in found(folder) and "error" not in found(folder)


def test_objects_that_occur_twice(folder):
    edit(folder, lambda content: content["annotations"].append({**content["annotations"][3], "id": 999}))
    assert "warning: train: 1 of 13 objects are annotated twice, box and class (image 3: dog" in found(folder)


def test_unreadable_pictures(folder):
    path = folder / "images" / "4.png"
    path.write_bytes(path.read_bytes()[:200])
    assert re.search(r"error: train: 1 of 12 pictures cannot be read.*image 4 \(.*4.png\): ", found(folder))
    # training passes over it, and says so
    assert "warning: train: 1 of 12 pictures looked at cannot be read" in str(quick_check(load_detection_data(folder)))


def test_pictures_of_another_size(folder):
    Image.new("RGB", (80, 60)).save(folder / "images" / "4.png")
    assert "error: train: 1 of 12 pictures are of another size than annotated" in found(folder)
    assert "image 4" in found(folder) and "annotated 40x30, displayed 80x60" in found(folder)


def with_orientation(path: Path, orientation: int, size=SIZE) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    noise = np.random.default_rng(9).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, exif=exif)


@pytest.mark.parametrize(
    ("orientation", "stored", "message"),
    [
        (6, SIZE, "error: train: 1 of 12 pictures were annotated without their EXIF rotation"),
        (6, SIZE[::-1], ""),  # annotated as displayed
        (3, SIZE, "warning: train: 1 of 12 pictures are turned by EXIF, and their size does not tell"),
        (1, SIZE, ""),
    ],
)
def test_labels_against_exif_rotation(folder, orientation, stored, message):
    with_orientation(folder / "images" / "4.png", orientation, stored)
    assert message in found(folder) and ("EXIF" in found(folder)) == bool(message)


def test_duplicates_and_leaks(folder):
    shutil.copy(folder / "images" / "1.png", folder / "images" / "2.png")
    text = found(folder)
    assert (
        "warning: 2 pictures of one split are the same as another, in 1 group (image 1 (" in text
        and "error" not in text
    )
    # saved again with other bytes
    Image.open(folder / "images" / "5.png").save(folder / "images" / "21.png", compress_level=1)
    assert (folder / "images" / "5.png").read_bytes() != (folder / "images" / "21.png").read_bytes()
    assert re.search(r"error: 1 of the training pictures is evaluated too.*image 5 .* = image 21 ", found(folder))
    Image.open(folder / "images" / "5.png").save(folder / "images" / "21.png", format="JPEG", quality=95, subsampling=0)
    text = found(folder)
    assert "error" not in text
    assert re.search(
        r"warning: 1 of the training pictures looks the same as one .*, with a certainty of at least", text
    )


def test_classes_and_ids(folder):
    edit(folder, lambda content: content["annotations"].__setitem__(slice(None), content["annotations"][::2]))
    text = found(folder)
    assert "warning: 1 of 2 classes are evaluated but have no training object (dog)" in text
    assert "note: train: 6 of 12 pictures have no objects" in text
    assert "note: 1 of 2 classes have fewer than 10 training objects (cat 6)" in text
    edit(folder, lambda content: content["annotations"].clear())
    assert "error: train: no picture has an object" in found(folder)


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the script; its exit code, what it printed, and its errors."""
    spec = importlib.util.spec_from_file_location("check_dataset_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["check_dataset.py", *arguments])
        try:
            code = module.main()
        except SystemExit as error:
            code = error.code
        return code, *capsys.readouterr()

    return call


def test_the_script(folder, tmp_path, run):
    code, printed, _ = run("--data", str(folder))
    assert code == 0 and "12 training and 4 evaluation images, 2 classes, boxes xywh" in printed
    path = folder / "images" / "4.png"
    path.write_bytes(b"no picture")
    page = tmp_path / "pages" / "check.html"
    code, printed, _ = run("--data", str(folder), "--report", str(page), "--augmented", "paper", "--image_size", "64")
    assert code == 1 and "error: train: 1 of 12 pictures cannot be read" in printed and str(page) in printed
    text = page.read_text()
    assert "1 error: not ready to train" in text and "http://" not in text and "https://" not in text
    # what was found, augmented ones in four versions (one of six cannot be read), and samples of both splits
    assert text.count('<img src="data:image/jpeg;base64,') == 1 + 5 * 4 + 8 + 4 and "epoch 2: " in text
    code, _, errors = run("--data", str(folder / "images"))
    assert code == 2 and "none of the layouts" in errors
    assert run("--augmented")[0] == 2


def test_training_checks_by_itself(folder, capsys):
    parser = argparse.ArgumentParser()
    add_data_arguments(parser)
    data = checked_data_from(parser.parse_args(["--data", str(folder), "--eval_split", "val"]))
    assert len(data.train) == 12
    printed = capsys.readouterr().out
    assert "12 training and 4 evaluation images" in printed and "  note: 2 of 2 classes have fewer than 10" in printed
    edit(folder, set_box(0, [1, 2, -3, 4]))
    with pytest.raises(ValueError, match="negative width or height"):
        checked_data_from(parser.parse_args(["--data", str(folder)]))
    with pytest.raises(SystemExit):
        parser.parse_args(["--columns", "bbox"])
    assert parser.parse_args(["--columns", "bbox=a.b", "image=c"]).columns == [("bbox", "a.b"), ("image", "c")]


@pytest.mark.parametrize("name", ["bccd", "cards", "coco_cc_448"])
def test_real_sets(name):
    if not (SHARED / name).is_dir():
        pytest.skip(f"{SHARED / name}, a set of real photographs, is not here")
    findings, tables, facts = full_check(load_detection_data(SHARED / name))
    assert not findings.of(Severity.ERROR) and all(fact.error is None for fact in facts["train"].values())
    pairs = [finding for finding in findings.all if "look the same" in finding.message]
    assert len(pairs) == (name == "cards")  # cam_image1.jpg and cam_image54.jpg are one photograph
    assert len(tables["train"].image_ids) == len(facts["train"])
