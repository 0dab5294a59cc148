"""COCO and VOC average precision as a metric of 🤗 Evaluate, which copies this file: it imports no neighbour.

Images wait in an Arrow file on the disk, also those of other processes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import evaluate
import pyarrow as pa

from transformers_samdetr.evaluation import CocoEvaluator
from transformers_samdetr.evaluation.average_precision import mean_of_present

DESCRIPTION = """\
Average precision and recall of object detection as pycocotools' COCOeval computes them, as fractions, and the average
precision of Pascal VOC at IoU 0.5 (all points, 2010 and later).
"""

INPUTS = """
Args:
    predictions: one dict an image with `boxes`, x1, y1, x2, y2 in pixels, `scores` and `labels`, as the image
        processor's `post_process_object_detection` returns it (with threshold 0).
    references: one dict an image with `image_id`, an integer or a string, and `annotations`, COCO's: `bbox` (x, y,
        width, height in pixels), `category_id`, and, where there are any, `area` and `iscrowd`. An image that comes
        twice, on whatever process, counts once.
    id2label: optional names of the category ids. Without it the ids that occur are the classes.
    max_detections: three limits of the detections of a class in an image, COCOeval's `maxDets`.
Returns:
    AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl, VOC_AP50, and `AP/name` of each class; -1 where
    there is nothing to find.
Examples:
    >>> metric = evaluate.load("examples/coco_ap")
    >>> prediction = {"boxes": [[10, 10, 30, 40]], "scores": [0.9], "labels": [17]}
    >>> reference = {"image_id": 1, "annotations": [{"bbox": [10, 10, 20, 30], "category_id": 17}]}
    >>> metric.add(prediction=prediction, reference=reference)
    >>> round(metric.compute()["AP"], 3)
    1.0
"""

CITATION = "Tsung-Yi Lin et al.: Microsoft COCO, Common Objects in Context. ECCV 2014."


class CocoAP(evaluate.Metric):
    """See `DESCRIPTION` and `INPUTS`."""

    def _info(self) -> evaluate.MetricInfo:
        number, whole = datasets.Value("float64"), datasets.Value("int64")
        numbers, features = datasets.List(number), []
        prediction = {"boxes": datasets.List(numbers), "scores": numbers, "labels": datasets.List(whole)}
        annotations = datasets.List({"bbox": numbers, "category_id": whole, "area": number, "iscrowd": whole})
        for kind in ("string", "int64"):  # in this order: "007" is no number
            reference = {"image_id": datasets.Value(kind), "annotations": annotations}
            features.append(datasets.Features({"predictions": prediction, "references": reference}))
        urls = ["https://github.com/ppwwyyxx/cocoapi", "http://host.robots.ox.ac.uk/pascal/VOC/"]
        info = evaluate.MetricInfo(DESCRIPTION, CITATION, features, inputs_description=INPUTS, reference_urls=urls)
        # so that _compute gets the mapped file instead of all of it as Python lists; the constructor allows this only
        # with flat features, which its check for NumPy needs
        info.format = "arrow"
        return info

    def add(self, *, prediction: Mapping[str, Any], reference: Mapping[str, Any], **kwargs) -> None:
        """Adds one image."""
        self.add_batch(predictions=[prediction], references=[reference], **kwargs)

    def add_batch(
        self, *, predictions: Sequence[Mapping[str, Any]], references: Sequence[Mapping[str, Any]], **kwargs
    ) -> None:
        """Adds some images."""
        count = len(references)
        if len(predictions) != count:
            raise ValueError(f"{len(predictions)} predictions and {count} references: give one each an image.")
        self.writer_batch_size = 64  # so many images are collected before they are written to the disk
        found = [{key: _plain(one[key]) for key in ("boxes", "scores", "labels")} for one in predictions]
        truth, keys = [], ("category_id", "area", "iscrowd")
        for one in references:
            rows = [
                {"bbox": _plain(entry.get("bbox"))} | {key: _plain(entry.get(key), "item") for key in keys}
                for entry in one["annotations"]
            ]
            truth.append({"image_id": _plain(one["image_id"], "item"), "annotations": rows})
        if found:
            super().add_batch(predictions=found, references=truth, **kwargs)

    def _compute(
        self,
        predictions: pa.ChunkedArray,
        references: pa.ChunkedArray,
        id2label: Mapping[int, str] | None = None,
        max_detections: Sequence[int] = (1, 10, 100),
    ) -> dict[str, float]:
        category_ids = set(id2label or ())
        if id2label is None:
            for chunk in predictions.chunks:
                category_ids.update(chunk.field("labels").flatten().unique().to_pylist())
            for chunk in references.chunks:
                category_ids.update(chunk.field("annotations").flatten().field("category_id").unique().to_pylist())
        label_of = {category_id: label for label, category_id in enumerate(sorted(category_ids))}
        names = [str(category_id if id2label is None else id2label[category_id]) for category_id in label_of]
        evaluator = CocoEvaluator(names or ["nothing"], max_detections, worst=0)
        for prediction, reference in zip(predictions, references, strict=True):
            prediction, reference = prediction.as_py(), reference.as_py()
            unknown = {*prediction["labels"], *(one["category_id"] for one in reference["annotations"])} - set(label_of)
            if unknown:
                problem = f"the category ids {sorted(unknown)} are not in id2label, which has {sorted(label_of)[:20]}"
                raise ValueError(f"Image {reference['image_id']!r}: {problem}; add them.")
            prediction["labels"] = [label_of[category_id] for category_id in prediction["labels"]]
            annotations = [{**one, "category_id": label_of[one["category_id"]]} for one in reference["annotations"]]
            evaluator.add(reference["image_id"], prediction, annotations)
        result = evaluator.result()
        # COCOeval's own numbers rather than hundredths of percent, which may differ in the last bit
        metrics = dict(zip(result.stat_names(), result.coco.stats.tolist(), strict=True))
        metrics["VOC_AP50"] = mean_of_present(result.voc)
        of_class = result.coco.precision[..., 0, -1]  # (T, R, K): all areas, the highest limit
        return metrics | {f"AP/{name}": mean_of_present(of_class[:, :, label]) for label, name in enumerate(names)}


def _plain(values: Any, method: str = "tolist") -> Any:
    """Lists of Python, of arrays and tensors; with `item`, numbers."""
    return getattr(values, method)() if hasattr(values, method) else values
