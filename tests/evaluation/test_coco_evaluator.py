import gc
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transformers_samdetr.evaluation import CocoEvaluator

from ..coco_by_hand import coco_by_hand, scattered

COCO_SAMPLE = Path(__file__).parents[3] / "shared" / "data" / "coco_cc_448" / "annotations" / "instances_val.json"


def through_corners(detections: list[dict]) -> list[dict]:
    """Boxes as they come back from x1 y1 x2 y2, which is how a model gives them."""
    for detection in detections:
        x, y, w, h = detection["bbox"]
        detection["corners"] = [x, y, x + w, y + h]
        detection["bbox"] = [x, y, x + w - x, y + h - y]
    return detections


def evaluate(ground_truth: dict, detections: list[dict], image_ids=None, **options) -> CocoEvaluator:
    """Our evaluator on COCO's form, images in the given order."""
    category_ids = sorted(category["id"] for category in ground_truth["categories"])
    label_of = {category_id: label for label, category_id in enumerate(category_ids)}
    evaluator = CocoEvaluator([f"class {category_id}" for category_id in category_ids], **options)
    for image_id in [image["id"] for image in ground_truth["images"]] if image_ids is None else image_ids:
        mine = [detection for detection in detections if detection["image_id"] == image_id]
        result = {
            "scores": torch.tensor([detection["score"] for detection in mine], dtype=torch.float64),
            "labels": torch.tensor([label_of[detection["category_id"]] for detection in mine], dtype=torch.int64),
            "boxes": torch.tensor([detection["corners"] for detection in mine], dtype=torch.float64).reshape(-1, 4),
        }
        annotations = [a for a in ground_truth["annotations"] if a["image_id"] == image_id]
        annotations = [{**a, "category_id": label_of[a["category_id"]]} for a in annotations]
        evaluator.add(image_id, result, annotations)
    return evaluator


def random_set(seed: int, strings: bool = False, with_area: bool = True, with_crowd: bool = True) -> dict:
    """Images with no, few and many objects; ids from 0; the last category never annotated."""
    rng = np.random.default_rng(seed)
    images = [f"im{index % 7}-{index}" if strings else index * 3 % 17 for index in range(10)]
    annotations = []
    for image_id in images:
        for _ in range(rng.integers(0, 5)):
            box = [float(v) for v in (*rng.uniform(0, 100, 2), *rng.uniform(2, 150, 2))]
            annotation = {"image_id": image_id, "category_id": int(rng.integers(0, 4)), "bbox": box}
            annotation |= {"area": box[2] * box[3] * rng.uniform(0.3, 1)} if with_area else {}
            annotation |= {"iscrowd": int(rng.random() < 0.2)} if with_crowd else {}
            annotations.append(annotation | {"id": len(annotations) + 1})
    return {
        "images": [{"id": image_id} for image_id in images],
        "annotations": annotations,
        "categories": [{"id": index, "name": f"class {index}"} for index in range(5)],
    }


def assert_equal_to_the_last_bit(evaluator: CocoEvaluator, by_hand) -> None:
    coco = evaluator.result().coco
    for name in ("precision", "recall", "scores"):
        assert np.array_equal(getattr(coco, name), by_hand.eval[name]), name
    if len(by_hand.stats):
        assert np.array_equal(coco.stats, by_hand.stats)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), strings=st.booleans(), with_area=st.booleans(), with_crowd=st.booleans())
def test_equals_cocoeval(seed, strings, with_area, with_crowd):
    truth = random_set(seed, strings, with_area, with_crowd)
    image_ids = [image["id"] for image in truth["images"]]
    detections = through_corners(scattered(truth["annotations"], image_ids, list(range(5)), seed))
    by_hand = coco_by_hand(truth, detections)
    evaluator = evaluate(truth, detections, image_ids[::-1])
    assert_equal_to_the_last_bit(evaluator, by_hand)
    metrics = evaluator.compute()
    assert metrics["AP/class 4"] == -1
    for label in range(4):
        precision = by_hand.eval["precision"][:, :, label, 0, 2]
        expected = 100 * precision[precision > -1].mean() if (precision > -1).any() else -1
        assert metrics[f"AP/class {label}"] == expected


@pytest.mark.parametrize("limits", [(1, 2, 3), (10, 100, 300)])
def test_other_limits_of_detections(limits):
    truth = random_set(1)
    image_ids = [image["id"] for image in truth["images"]]
    detections = through_corners(sum((scattered(truth["annotations"], image_ids, [0, 1], s) for s in range(60)), []))
    evaluator = evaluate(truth, detections, max_detections=limits)
    by_hand = coco_by_hand(truth, detections, limits)
    assert_equal_to_the_last_bit(evaluator, by_hand)
    precision, recall = by_hand.eval["precision"][..., 0, 2], by_hand.eval["recall"][..., 0, 2]
    metrics = evaluator.compute()
    assert metrics["AP"] == 100 * precision[precision > -1].mean() > 0
    assert metrics[f"AR{limits[2]}"] == 100 * recall[recall > -1].mean()


def test_real_images_with_cocos_own_ids():
    if not COCO_SAMPLE.is_file():
        pytest.skip(f"no sample of COCO at {COCO_SAMPLE}")
    truth = json.loads(COCO_SAMPLE.read_text())
    category_ids = [category["id"] for category in truth["categories"]]
    assert max(category_ids) == 90 and any(annotation["iscrowd"] for annotation in truth["annotations"])
    image_ids = [image["id"] for image in truth["images"]]
    detections = through_corners(scattered(truth["annotations"], image_ids, category_ids, 0, size=448))
    by_hand = coco_by_hand(truth, detections)
    assert by_hand.stats[0] > 0.1
    assert_equal_to_the_last_bit(evaluate(truth, detections), by_hand)


@pytest.mark.parametrize("which", ["no detections", "no objects", "neither", "no images"])
def test_nothing_there(which):
    truth = random_set(2)
    image_ids = [image["id"] for image in truth["images"]]
    detections = through_corners(scattered(truth["annotations"], image_ids, [0, 1], 0))
    if which in ("no detections", "neither"):
        detections = []
    if which in ("no objects", "neither"):
        truth["annotations"] = []
    evaluator = evaluate(truth, detections, [] if which == "no images" else None)
    if which != "no images":
        assert_equal_to_the_last_bit(evaluator, coco_by_hand(truth, detections))
    expected = 0 if which == "no detections" else -1
    metrics = evaluator.compute()
    assert metrics["AP"] == metrics["AP50"] == metrics["VOC_AP50"] == expected
    assert set(evaluator.result().error_gains.values()) <= {0.0, 1.0}


def test_an_image_counts_once():
    truth = random_set(3)
    image_ids = [image["id"] for image in truth["images"]]
    detections = through_corners(scattered(truth["annotations"], image_ids, [0, 1, 2], 0))
    once, twice = evaluate(truth, detections), evaluate(truth, detections, image_ids + image_ids[:4])
    assert len(once) == len(twice) == len(image_ids) and once.compute() == twice.compute()


def test_memory_is_bounded():
    rng = np.random.default_rng(0)
    evaluator = CocoEvaluator([str(label) for label in range(80)])
    held = []
    tracemalloc.start()
    for image_id in range(30):
        corner = rng.uniform(0, 300, (100, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(1, 300, (100, 2))], axis=1)
        result = {"scores": np.float32(rng.random(100)), "labels": rng.integers(0, 80, 100), "boxes": np.float32(boxes)}
        evaluator.add(image_id, result, [{"bbox": [1, 2, 3, 4], "category_id": 0}] * 7)
        if image_id in (9, 29):
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    images = evaluator.images.values()
    nbytes = sum(array.nbytes for image in images for array in (*image.detections, *image.objects))
    assert nbytes == 30 * (100 * 24 + 7 * 45)
    # with what Python needs for the arrays; COCOeval by hand takes some 400 KB an image at its peak
    assert held[1] - held[0] < 20 * 4500
    assert all(len(pictures) <= 4 for pictures in evaluator.result().worst.values())


GOOD = {"scores": [0.5], "labels": [0], "boxes": [[0, 0, 2, 2]]}


@pytest.mark.parametrize(
    ("result", "annotations", "message"),
    [
        ({**GOOD, "scores": [float("nan")]}, [], "Image 7, detections: the score nan is not finite"),
        ({**GOOD, "labels": [2]}, [], "Image 7, detections: the label 2 must be from 0 to 1, for 2 classes"),
        ({**GOOD, "boxes": [[3, 0, 2, 2]]}, [], "negative side"),
        ({**GOOD, "scores": []}, [], "0 scores, 1 labels and 1 boxes"),
        ({"scores": [], "labels": []}, [], "'boxes' is missing"),
        (GOOD, [{"bbox": [0, 0, 1, 1]}], "Image 7, annotation 0 .* has no 'category_id'"),
        (GOOD, [{"bbox": [0, 0, 1], "category_id": 0}], "must have four numbers"),
        (GOOD, [{"bbox": [0, 0, 1, 1], "category_id": 2}], r"label 2, which is not in id2label \[0, 1\]: map category"),
        (GOOD, [{"bbox": [0, 0, 1, float("inf")], "category_id": 0}], "not finite"),
    ],
)
def test_what_does_not_fit_is_refused(result, annotations, message):
    evaluator = CocoEvaluator(["a", "b"])
    with pytest.raises(ValueError, match=message):
        evaluator.add(7, result, annotations)
    assert len(evaluator) == 0


def test_ids_and_limits_are_checked():
    evaluator = CocoEvaluator(["a"])
    evaluator.add("x", GOOD, [])
    with pytest.raises(ValueError, match="different kinds"):
        evaluator.add(1, GOOD, [])
    with pytest.raises(ValueError, match="integer or a string"):
        evaluator.add(1.5, GOOD, [])
    with pytest.raises(ValueError, match="three rising limits"):
        CocoEvaluator(["a"], max_detections=(100,))
    with pytest.raises(ValueError, match="names is empty"):
        CocoEvaluator([])


def voc_by_loops(truth: dict, detections: list[dict], category_id: int) -> float:
    """VOC's procedure, detection by detection over the whole set; -1 without objects."""
    objects = [a for a in truth["annotations"] if a["category_id"] == category_id]
    total = sum(not a["iscrowd"] for a in objects)
    if total == 0:
        return -1
    images = sorted(image["id"] for image in truth["images"])
    of_class = [detection for detection in detections if detection["category_id"] == category_id]
    mine = [detection for image_id in images for detection in of_class if detection["image_id"] == image_id]
    taken, verdicts = set(), []
    for detection in sorted(mine, key=lambda d: -d["score"]):
        here = [a for a in objects if a["image_id"] == detection["image_id"]]
        overlaps = [(overlap(detection["bbox"], a["bbox"]), -a["id"]) for a in here if not a["iscrowd"]]
        best, identity = max(overlaps, default=(0, 0))
        crowds = [overlap(detection["bbox"], a["bbox"], crowd=True) for a in here if a["iscrowd"]]
        if best >= 0.5:
            verdicts.append(identity not in taken)
            taken.add(identity)
        elif max(crowds, default=0) < 0.5:
            verdicts.append(False)
    area, right = 0.0, 0
    points = []
    for count, verdict in enumerate(verdicts, start=1):
        right += verdict
        points.append((right / total, right / count))
    for index, verdict in enumerate(verdicts):
        if verdict:
            area += max(precision for _, precision in points[index:]) / total
    return area


def overlap(box, other, crowd=False) -> float:
    width = min(box[0] + box[2], other[0] + other[2]) - max(box[0], other[0])
    height = min(box[1] + box[3], other[1] + other[3]) - max(box[1], other[1])
    common = max(width, 0) * max(height, 0)
    return common / (box[2] * box[3] if crowd else box[2] * box[3] + other[2] * other[3] - common)


@pytest.mark.parametrize("seed", range(5))
def test_voc_by_its_definition(seed):
    truth = random_set(seed)
    image_ids = [image["id"] for image in truth["images"]]
    detections = through_corners(scattered(truth["annotations"], image_ids, [0, 1, 2, 3], seed))
    expected = [voc_by_loops(truth, detections, category_id) for category_id in range(5)]
    assert evaluate(truth, detections).result().voc == pytest.approx(expected)
    assert expected[4] == -1 and max(expected) > 0.1
