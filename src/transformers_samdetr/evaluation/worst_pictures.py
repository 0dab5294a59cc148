"""The pictures on which a model errs most, with what is needed to draw them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .errors import ERROR_KINDS, ErrorKinds
from .inputs import ImageId, Objects

SHOWN = 8
"""Errors of a kind that are drawn on a picture."""


@dataclass(frozen=True)
class Picture:
    """Everything that was found and annotated on an image.

    Attributes:
        image_id: of the image.
        position: its index in the set, where that is known.
        cost: summed scores of the `SHOWN` highest errors of the kind, or for missed objects their number.
        found: `(D,)` of `DETECTION`.
        boxes: `(D, 4)` x, y, width, height in pixels.
        truth: `(G,)` of `OBJECT`.
        objects: boxes and crowds of the objects.
    """

    image_id: ImageId
    position: int | None
    cost: float
    found: np.ndarray
    boxes: np.ndarray
    truth: np.ndarray
    objects: Objects


@dataclass
class WorstPictures:
    """For each kind of error the `count` pictures of the highest cost, the lower id first among equals."""

    count: int
    of_kind: dict[ErrorKinds, list[Picture]] = field(default_factory=lambda: {kind: [] for kind in ERROR_KINDS})

    def add(
        self,
        image_id: ImageId,
        position: int | None,
        found: np.ndarray,
        truth: np.ndarray,
        boxes: np.ndarray,
        objects: Objects,
    ) -> None:
        """Considers an image; see `Picture` for the arguments."""
        if self.count == 0:
            return
        for kind in ERROR_KINDS:
            if kind == ErrorKinds.MISSED:
                cost = float(np.count_nonzero(truth["missed"]))
            else:
                cost = float(np.sort(found["score"][found["error"] == kind])[-SHOWN:].sum())
            if cost > 0:
                self._keep(kind, [Picture(image_id, position, cost, found, boxes, truth, objects)])

    @classmethod
    def merged(cls, parts: Sequence["WorstPictures"]) -> "WorstPictures":
        """The worst of several, each picture once."""
        merged = cls(parts[0].count)
        for part in parts:
            for kind, pictures in part.of_kind.items():
                merged._keep(kind, pictures)
        return merged

    def _keep(self, kind: ErrorKinds, pictures: list[Picture]) -> None:
        by_id = {picture.image_id: picture for picture in [*pictures, *self.of_kind[kind]]}
        ordered = sorted(by_id.values(), key=lambda picture: (-picture.cost, picture.image_id))
        self.of_kind[kind] = ordered[: self.count]
