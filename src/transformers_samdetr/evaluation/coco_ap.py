"""COCO average precision with pycocotools, fed batch by batch."""

import contextlib
import io

import numpy as np
from datasets import Dataset
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


class CocoEvaluator:
    """Collects detections and compares them with the annotations of a set.

    Category ids are label + 1 and annotation ids start at 1 inside, because COCOeval takes 0 for "nothing".
    """

    def __init__(self, data: Dataset, names: list[str]):
        self.names = names
        self.ground_truth = _quiet_coco(_as_coco(data, names))
        self.detections: dict[int, list[dict]] = {}

    def add(self, image_ids: list[int], results: list[dict]) -> None:
        """Adds the detections of some images; an image that comes twice counts once.

        Args:
            image_ids: ids of the images.
            results: for each `scores` `(T,)`, `labels` `(T,)` and `boxes` `(T, 4)`, x1 y1 x2 y2 in pixels of the
                original picture, as `post_process_object_detection` returns them.
        """
        for image_id, result in zip(image_ids, results, strict=True):
            boxes = result["boxes"].double().cpu().numpy()
            boxes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
            self.detections[image_id] = [
                {"image_id": image_id, "category_id": int(label) + 1, "bbox": box.tolist(), "score": float(score)}
                for score, label, box in zip(result["scores"].cpu(), result["labels"].cpu(), boxes, strict=True)
            ]

    def compute(self) -> dict[str, float]:
        """AP and AR in percent, overall and by class (`AP/name`); -1 where the set has no such object."""
        found = [detection for image_id in sorted(self.detections) for detection in self.detections[image_id]]
        with contextlib.redirect_stdout(io.StringIO()):
            # loadRes refuses an empty list; one detection of no score on no object leaves AP at 0
            results = self.ground_truth.loadRes(found) if found else COCO()
            if not found:
                results.dataset = {**self.ground_truth.dataset, "annotations": []}
                results.createIndex()
            evaluation = COCOeval(self.ground_truth, results, "bbox")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        table = {name: _percent(value) for name, value in zip(METRICS, evaluation.stats, strict=True)}
        precision = evaluation.eval["precision"][
            :, :, :, 0, 2
        ]  # thresholds, recalls, classes; all areas, 100 a picture
        for index, name in enumerate(self.names):
            values = precision[:, :, index]
            table[f"AP/{name}"] = _percent(values[values > -1].mean() if (values > -1).any() else -1)
        return table


def _percent(value: float) -> float:
    return float(value) * 100 if value >= 0 else -1.0


def _as_coco(data: Dataset, names: list[str]) -> dict:
    """The set's annotations in COCO's form, read without decoding a picture."""
    table = data.select_columns(["image_id", "width", "height", "objects"])
    images, annotations = [], []
    for example in table:
        images.append({"id": example["image_id"], "width": example["width"], "height": example["height"]})
        objects = example["objects"]
        for area, box, label, crowd in zip(
            *(objects[key] for key in ("area", "bbox", "category", "iscrowd")), strict=True
        ):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": example["image_id"],
                    "category_id": label + 1,
                    "bbox": box,
                    "area": area,
                    "iscrowd": crowd,
                }
            )
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(names)]
    return {"images": images, "annotations": annotations, "categories": categories, "info": {}}


def _quiet_coco(content: dict) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = content
        coco.createIndex()
    return coco
