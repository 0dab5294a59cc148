"""Pictures of a stream that turn out to be unusable: named, counted once each, and limited."""

import logging
from collections.abc import Mapping
from typing import Any

import torch

from .examples import NO_PICTURE, picture_name

logger = logging.getLogger(__name__)


class UnusablePictures:
    """Counts by image id, in memory that a process shares with its workers.

    Args:
        most: so many different pictures may be unusable.
    """

    def __init__(self, most: int):
        self.most = most
        self._ids = torch.zeros(most + 1, dtype=torch.int64).share_memory_()
        self._count = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        """Number of different pictures so far."""
        return int(self._count)

    def add(self, example: Mapping[str, Any], error: Exception) -> None:
        """Names a picture in the log, unless it was before.

        Args:
            example: in the schema of `detection_features`, the picture as `{"path", "bytes"}`.
            error: why it cannot be used.

        Raises:
            RuntimeError: these are too many.
        """
        count = len(self)
        if example["image_id"] in self._ids[:count].tolist():
            return
        self._ids[min(count, self.most)] = example["image_id"]
        self._count += 1
        name = picture_name(example["image_id"], example["image"] or NO_PICTURE)
        if len(self) > self.most:
            raise RuntimeError(
                f"{len(self)} pictures cannot be used, more than max_corrupt={self.most}. The last: {name}: {error} "
                "Remove them from the set, or raise max_corrupt."
            ) from error
        logger.warning("Skipped %s (%d of at most %d): %s", name, len(self), self.most, error)
