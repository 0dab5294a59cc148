"""COCOeval called by hand, on whole sets and with pycocotools' own loading, for comparison."""

import contextlib
import copy
import io

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def coco_by_hand(ground_truth: dict, detections: list[dict], max_detections=(1, 10, 100)) -> COCOeval:
    """COCOeval after evaluation and accumulation; `area` and `iscrowd` are filled in as they must be for it."""
    ground_truth = copy.deepcopy(ground_truth)
    for annotation in ground_truth["annotations"]:
        annotation.setdefault("iscrowd", 0)
        annotation.setdefault("area", annotation["bbox"][2] * annotation["bbox"][3])
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = ground_truth
        coco.createIndex()
        if detections:
            results = coco.loadRes(copy.deepcopy(detections))
        else:
            results = COCO()
            results.dataset = {**ground_truth, "annotations": []}
            results.createIndex()
        evaluation = COCOeval(coco, results, "bbox")
        evaluation.params.maxDets = list(max_detections)
        evaluation.evaluate()
        evaluation.accumulate()
        if tuple(max_detections) == (1, 10, 100):
            evaluation.summarize()
    return evaluation


def scattered(annotations: list[dict], image_ids: list, category_ids: list[int], seed: int, size=200.0) -> list[dict]:
    """Detections for the annotations: near, far, of wrong classes, doubled, missing, with many equal scores."""
    rng = np.random.default_rng(seed)
    found = []
    for annotation in annotations:
        for _ in range(rng.integers(0, 4)):
            x, y, w, h = annotation["bbox"]
            shift = rng.normal(0, rng.choice([0.02, 0.15, 0.5]), 4)
            box = [x + shift[0] * w, y + shift[1] * h, w * np.exp(shift[2]), h * np.exp(shift[3])]
            category = annotation["category_id"] if rng.random() < 0.8 else int(rng.choice(category_ids))
            found.append((annotation["image_id"], category, box, rng.integers(0, 20) / 20 + 0.01))
    for image_id in image_ids:
        for _ in range(rng.integers(0, 5)):
            box = [*rng.uniform(0, size / 2, 2), *rng.uniform(1, size / 2, 2)]
            found.append((image_id, int(rng.choice(category_ids)), box, rng.integers(0, 20) / 20 + 0.01))
    keys = ("image_id", "category_id", "bbox", "score")
    return [dict(zip(keys, [*row[:2], [float(v) for v in row[2]], float(row[3])], strict=True)) for row in found]
