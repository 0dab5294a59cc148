"""AP of one detector run in several ways, on the same pictures."""

from collections.abc import Callable, Mapping
from typing import Any

from transformers import AutoConfig, AutoImageProcessor

from ..data.dataset import DetectionDataset
from ..data.load import load_detection_data
from .detector import evaluate_detector, set_labels_of


def compare_average_precision(
    runners: Mapping[str, Callable[..., Any]], model: str, data: str, batch_size: int = 1
) -> dict[str, float]:
    """COCO's AP in percent on the evaluation pictures of a set.

    Args:
        runners: by name, what `evaluate_detector` takes; with the labels of `model`.
        model: folder or Hub name; its image processor and labels are those of all.
        data: as in `load_detection_data`.
        batch_size: pictures that are padded to one size.

    Returns:
        AP by name, and `images`, how many there are.

    Raises:
        ValueError: the set has classes that the model does not know.
    """
    source, processor = load_detection_data(data), AutoImageProcessor.from_pretrained(model)
    labels = set_labels_of(AutoConfig.from_pretrained(model).id2label, source.names)
    dataset = DetectionDataset(source.evaluation)
    results = {
        name: evaluate_detector(runner, processor, dataset, source.names, batch_size, set_labels=labels).result()
        for name, runner in runners.items()
    }
    found = {name: result.metrics()["AP"] for name, result in results.items()}
    return {**found, "images": next(iter(results.values())).num_images}
