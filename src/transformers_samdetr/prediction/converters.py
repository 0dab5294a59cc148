"""Detections for `supervision`, for FiftyOne and for ByteTrack of the package `trackers`.

Where one of these is not installed, an ImportError names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_convert

if TYPE_CHECKING:
    import fiftyone
    import supervision

LOW_SCORE = 0.5
"""Share of the threshold down to which detections can continue a track, but not begin one."""


def to_supervision(detections: Mapping[str, Tensor], id2label: Mapping[int, str]) -> supervision.Detections:
    """Detections of a picture for annotators, trackers, zones and metrics of `supervision`.

    Args:
        detections: `scores` `(D,)`, `labels` `(D,)` and `boxes` `(D, 4)`, x1 y1 x2 y2 in pixels, as
            `post_process_object_detection` returns them with `target_sizes`.
        id2label: of the model's configuration; the names become `data["class_name"]`.
    """
    try:
        import supervision
    except ImportError as error:
        raise ImportError("to_supervision needs `pip install supervision`") from error
    return supervision.Detections.from_transformers(dict(detections), id2label=dict(id2label))


def to_fiftyone(
    detections: Mapping[str, Tensor], id2label: Mapping[int, str], size: tuple[int, int]
) -> fiftyone.Detections:
    """Detections of a picture, given as to `to_supervision`, as a field of a FiftyOne sample.

    `size` is height and width of the picture in pixels; boxes become x, y, width, height as shares of it, cut to it.
    """
    try:
        import fiftyone
    except ImportError as error:
        raise ImportError("to_fiftyone needs `pip install fiftyone`") from error
    columns = detections["scores"].tolist(), detections["labels"].tolist(), relative_boxes(detections["boxes"], size)
    found = [
        fiftyone.Detection(label=id2label[label], bounding_box=box, confidence=score)
        for score, label, box in zip(*columns, strict=True)
    ]
    return fiftyone.Detections(detections=found)


def relative_boxes(boxes: Tensor, size: tuple[int, int]) -> list[list[float]]:
    """`(D, 4)` boxes x1 y1 x2 y2 in pixels as lists of x, y, width, height, shares of a picture, within [0, 1].

    >>> relative_boxes(torch.tensor([[-5.0, 10, 50, 20]]), (40, 100))
    [[0.0, 0.25, 0.5, 0.25]]
    """
    scale = boxes.new_tensor([*size[::-1]] * 2).double().cpu()
    corners = box_convert((boxes.detach().double().cpu() / scale).clamp(0, 1), "xyxy", "xywh")
    return corners.tolist()


class ObjectTracker:
    """Gives the detections of successive frames of one video ids that stay with their objects.

    Args:
        threshold: score above which a detection begins a track; give `update` those above `LOW_SCORE` times that.
        lost_frames: frames after which an object that is not detected is given up.
    """

    def __init__(self, threshold: float, lost_frames: int = 30):
        try:
            from trackers import ByteTrackTracker
        except ImportError as error:
            raise ImportError("tracking needs `pip install 'transformers-samdetr[track]'`") from error
        self.threshold = threshold
        scores = {"track_activation_threshold": threshold, "high_conf_det_threshold": threshold}
        self._tracker = ByteTrackTracker(lost_track_buffer=lost_frames, minimum_consecutive_frames=1, **scores)

    def update(self, detections: dict[str, Tensor]) -> dict[str, Tensor]:
        """The detections of a frame that are above the threshold or continue a track, with their `track_ids`.

        Given are `scores` `(D,)`, descending, `labels` `(D,)` and `boxes` `(D, 4)`, x1, y1, x2, y2 in pixels. An object
        has the id -1 in the frame in which it is seen first: a track begins when it is seen again.
        """
        found = to_supervision(detections, dict.fromkeys(detections["labels"].tolist(), ""))
        found.data["index"] = np.arange(len(found))
        tracked = self._tracker.update(found)
        ids = torch.full((len(found),), -1)
        if len(tracked):
            ids[torch.from_numpy(tracked.data["index"])] = torch.from_numpy(tracked.tracker_id)
        kept = (ids >= 0) | (detections["scores"] > self.threshold)
        return {name: values[kept] for name, values in {**detections, "track_ids": ids}.items()}
