"""Objects followed through a video by ByteTrack, of the package `trackers`."""

import numpy as np
import torch
from torch import Tensor

from .converters import to_supervision

LOW_SCORE = 0.5
"""Share of the threshold down to which detections can continue a track, but not begin one."""


class ObjectTracker:
    """Gives the detections of successive frames of one video ids that stay with their objects.

    Args:
        threshold: score above which a detection begins a track; give `update` those above `LOW_SCORE` times that.
        lost_frames: frames after which an object that is not detected is given up.

    Raises:
        ImportError: `trackers` or `supervision` is not installed.
    """

    def __init__(self, threshold: float, lost_frames: int = 30):
        try:
            from trackers import ByteTrackTracker
        except ImportError as error:
            raise ImportError("tracking needs `pip install 'transformers-samdetr[track]'`") from error
        self._tracker = ByteTrackTracker(
            lost_track_buffer=lost_frames,
            track_activation_threshold=threshold,
            high_conf_det_threshold=threshold,
            minimum_consecutive_frames=1,
        )

    def update(self, detections: dict[str, Tensor]) -> dict[str, Tensor]:
        """Of a frame's `scores`, `labels` and `boxes` (x1, y1, x2, y2 in pixels) those of a track, with `track_ids`."""
        found = to_supervision(detections, dict.fromkeys(detections["labels"].tolist(), ""))
        found.data["index"] = np.arange(len(found))
        tracked = self._tracker.update(found)
        kept = tracked[tracked.tracker_id >= 0] if len(tracked) else tracked
        if not len(kept):
            return {name: values[:0] for name, values in detections.items()} | {"track_ids": torch.zeros(0).long()}
        order = np.argsort(kept.data["index"])  # by descending score, as they came
        index = torch.from_numpy(kept.data["index"][order])
        ids = torch.from_numpy(kept.tracker_id[order]).long()
        return {name: values[index] for name, values in detections.items()} | {"track_ids": ids}
