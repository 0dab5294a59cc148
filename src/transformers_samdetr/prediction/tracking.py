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
        self.threshold = threshold
        self._tracker = ByteTrackTracker(
            lost_track_buffer=lost_frames,
            track_activation_threshold=threshold,
            high_conf_det_threshold=threshold,
            minimum_consecutive_frames=1,
        )

    def update(self, detections: dict[str, Tensor]) -> dict[str, Tensor]:
        """The detections of a frame that are above the threshold or continue a track, with their `track_ids`.

        An object has the id -1 in the frame in which it is seen first: a track begins when it is seen again.

        Args:
            detections: `scores` `(D,)`, descending, `labels` `(D,)` and `boxes` `(D, 4)`, x1, y1, x2, y2 in pixels.
        """
        found = to_supervision(detections, dict.fromkeys(detections["labels"].tolist(), ""))
        found.data["index"] = np.arange(len(found))
        tracked = self._tracker.update(found)
        ids = torch.full((len(found),), -1)
        if len(tracked):
            ids[torch.from_numpy(tracked.data["index"])] = torch.from_numpy(tracked.tracker_id)
        kept = (ids >= 0) | (detections["scores"] > self.threshold)
        return {name: values[kept] for name, values in {**detections, "track_ids": ids}.items()}
