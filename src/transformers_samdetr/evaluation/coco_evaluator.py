"""COCO average precision of a stream of images, from one process or many, in little memory."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from accelerate.utils import gather_object

from .inputs import ImageId, read_detections, read_objects
from .matching import DETECTION, OBJECT, match_image
from .result import EvaluationResult
from .worst_pictures import WorstPictures


class CocoEvaluator:
    """Matches the detections of each image as they come, and keeps 34 bytes of each.

    Args:
        names: class names in the order of the labels.
        max_detections: three rising limits of the detections of a class in an image, COCOeval's `maxDets`.
        worst: for each kind of error, so many of the worst pictures are kept with their boxes.

    Raises:
        ValueError: there are no names, or not three rising limits.

    >>> evaluator = CocoEvaluator(["cat", "dog"])
    >>> cat = {"scores": [0.9], "labels": [0], "boxes": [[10, 10, 30, 40]]}
    >>> evaluator.add(7, cat, [{"bbox": [10, 10, 20, 30], "category_id": 0}])
    >>> {name: round(value) for name, value in evaluator.compute().items() if name in ("AP", "AP50", "AP/dog")}
    {'AP': 100, 'AP50': 100, 'AP/dog': -1}
    """

    def __init__(self, names: Sequence[str], max_detections: Sequence[int] = (1, 10, 100), worst: int = 4):
        limits = tuple(max_detections)
        if not names:
            raise ValueError("names is empty: give the class names in the order of the labels.")
        if len(limits) != 3 or not 0 < limits[0] < limits[1] < limits[2] < 2**16:
            raise ValueError(f"max_detections={limits} must be three rising limits, such as (1, 10, 100).")
        self.names = list(names)
        self.max_detections = limits
        self.images: dict[ImageId, tuple[np.ndarray, np.ndarray]] = {}  # of DETECTION and OBJECT
        self.worst = WorstPictures(worst)

    def __len__(self) -> int:
        """Number of images so far."""
        return len(self.images)

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept of the images, without the worst pictures."""
        return sum(found.nbytes + truth.nbytes for found, truth in self.images.values())

    def add(
        self,
        image_id: ImageId,
        result: Mapping[str, Any],
        annotations: Sequence[Mapping[str, Any]],
        position: int | None = None,
    ) -> None:
        """Counts an image, once: the same id again changes nothing.

        Args:
            image_id: an integer or a string; all of one kind.
            result: `scores` `(D,)`, `labels` `(D,)` and `boxes` `(D, 4)`, x1, y1, x2, y2 in pixels of the original
                picture, as `post_process_object_detection` returns them with threshold 0.
            annotations: the image's COCO annotations, all of them, crowd regions too, with labels as `category_id`;
                `area` and `iscrowd` may be missing.
            position: index of the image in its set, for who wants to draw it.

        Raises:
            ValueError: something does not fit; the message names the image.
        """
        image_id = self._checked_id(image_id)
        if image_id in self.images:
            return
        detections = read_detections(image_id, result, len(self.names))
        objects = read_objects(image_id, annotations, len(self.names))
        found, truth, kept = match_image(detections, objects, self.max_detections[-1])
        self.images[image_id] = (found, truth)
        self.worst.add(image_id, position, found, truth, detections[kept].boxes, objects)

    def gather(self) -> None:
        """Gives every process the images of all, each once; collective under Accelerate, and nothing without it."""
        states = gather_object([(self.images, self.worst)])
        images = [item for others, _ in states for item in others.items()]
        self.images = {}
        for image_id, matches in images:
            self.images.setdefault(image_id, matches)
        self.worst = WorstPictures.merged([worst for _, worst in states])

    def compute(self) -> dict[str, float]:
        """AP and AR in percent, overall and of each class (`AP/name`); -1 where the set has no such object."""
        return self.result().metrics()

    def result(self) -> EvaluationResult:
        """All numbers of the images so far, which do not depend on the order in which they came."""
        ordered = [self.images[image_id] for image_id in sorted(self.images)]  # COCOeval's order too
        found = np.concatenate([found for found, _ in ordered] or [np.zeros(0, DETECTION)])
        truth = np.concatenate([truth for _, truth in ordered] or [np.zeros(0, OBJECT)])
        return EvaluationResult.of(found, truth, self.names, self.max_detections, len(self), self.worst)

    def _checked_id(self, image_id: ImageId) -> ImageId:
        image_id = image_id.item() if hasattr(image_id, "item") else image_id
        if not isinstance(image_id, (int, str)):
            raise ValueError(f"image_id={image_id!r} must be an integer or a string, not {type(image_id).__name__}.")
        first = next(iter(self.images), image_id)
        if isinstance(first, str) != isinstance(image_id, str):
            raise ValueError(f"image_id={image_id!r} and {first!r} are of different kinds: use integers or strings.")
        return image_id
