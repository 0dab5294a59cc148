"""What a file's precision costs: its AP beside that of the model, on the same pictures."""

import os

from transformers import AutoImageProcessor

from .. import SamDetrForObjectDetection
from ..data.batch import DetectionDataset
from ..data.read import load_detection_data
from ..evaluation.detector import evaluate_detector, set_labels_of
from .run import ExportedDetector


def compare_average_precision(
    path: str | os.PathLike, model: str | os.PathLike, data: str, batch_size: int = 1
) -> dict[str, float]:
    """COCO's AP in percent of the evaluation pictures of a set.

    Args:
        path: the exported file, made without post-processing.
        model: folder or Hub name.
        data: as in `load_detection_data`.
        batch_size: pictures that are padded to one size.

    Returns:
        `exported` and `model`, and `images`, how many there are.

    Raises:
        ValueError: the set has classes that the model does not know.
    """
    source, processor = load_detection_data(data), AutoImageProcessor.from_pretrained(model)
    exported, detector = ExportedDetector(path), SamDetrForObjectDetection.from_pretrained(model)
    labels, dataset = set_labels_of(detector.config.id2label, source.names), DetectionDataset(source.evaluation)
    results = {
        name: evaluate_detector(runner, processor, dataset, source.names, batch_size, set_labels=labels).result()
        for name, runner in (("exported", exported), ("model", detector))
    }
    found = {name: result.metrics()["AP"] for name, result in results.items()}
    return {**found, "images": results["model"].num_images}
