"""Where the names of boxes go: inside the picture, near their box, and never on another name."""

import numpy as np

GAP = 1
"""Pixels left free between two plates."""


class LabelPlates:
    """The plates placed so far on one picture.

    Args:
        width, height: of the picture, in pixels.

    >>> plates = LabelPlates(100, 60)
    >>> plates.place((10, 30, 60, 50), (40, 12))  # above the box
    (10, 18, 50, 30)
    >>> plates.place((10, 30, 60, 50), (40, 12))  # that place is taken: beside it
    (60, 30, 100, 42)
    """

    def __init__(self, width: int, height: int):
        self.width, self.height = width, height
        self.placed = np.zeros((0, 4), dtype=np.int64)  # x1, y1, x2, y2, half open

    def place(self, box: tuple[int, int, int, int], size: tuple[int, int]) -> tuple[int, int, int, int] | None:
        """Reserves the best free place for the name of a box.

        Args:
            box: x1, y1, x2, y2 in pixels, inside the picture.
            size: width and height of the plate, in pixels.

        Returns:
            x1, y1, x2, y2 of the plate, half open: touching the box where there is room, otherwise as near as there is;
            None where nothing is free.
        """
        if size[0] > self.width or size[1] > self.height:
            return None
        for corners in (self._touching(box, size), self._anywhere(box, size)):  # (N, 2) each, best first
            plates = np.concatenate([corners, corners + size], axis=1)  # (N, 4)
            free = np.flatnonzero(self._is_free(plates))
            if len(free):
                plate = plates[free[0]]
                self.placed = np.concatenate([self.placed, plate[None]])
                return tuple(plate.tolist())
        return None

    def _is_free(self, plates: np.ndarray) -> np.ndarray:
        """`(N,)`: inside the picture, and at least `GAP` from every placed plate."""
        inside = (plates[:, :2] >= 0).all(1) & (plates[:, 2] <= self.width) & (plates[:, 3] <= self.height)
        a, b = plates[:, None], self.placed[None]  # (N, 1, 4), (1, T, 4)
        apart = (a[..., :2] >= b[..., 2:] + GAP) | (b[..., :2] >= a[..., 2:] + GAP)  # (N, T, 2): in x, in y
        return inside & apart.any(-1).all(-1)

    def _touching(self, box: tuple[int, int, int, int], size: tuple[int, int]) -> np.ndarray:
        """`(N, 2)` top left corners of plates that touch the box from outside or lie in one of its corners."""
        (x1, y1, x2, y2), (width, height) = box, size
        roomy = (x2 - x1) * (y2 - y1) > 6 * width * height  # hides little of the object
        inside_top = [(x1, y1), (x2 - width, y1)]
        # a step down, for boxes that share their corner
        lower = [(x1, y1 + step * (height + GAP)) for step in range(1, 4) if y1 + (step + 1) * height < y2]
        corners = [(x1, y1 - height)]
        corners += inside_top[:1] if roomy else []
        corners += [(x2 - width, y1 - height), (x1, y2), (x2 - width, y2), (x2, y1), (x1 - width, y1)]
        slide = range(x1, x2 - width, max(1, height // 2))
        corners += [(x, y1 - height) for x in slide] + [(x, y2) for x in slide]
        corners += inside_top + lower + [(x1, y2 - height), (x2 - width, y2 - height)]
        corners = np.array(corners)
        corners[:, 0] = corners[:, 0].clip(0, self.width - width)
        return corners

    def _anywhere(self, box: tuple[int, int, int, int], size: tuple[int, int]) -> np.ndarray:
        """`(N, 2)` top left corners all over the picture, the nearest to the box's top left first."""
        width, height = size
        step = max(1, height // 2)
        x, y = np.meshgrid(np.arange(0, self.width - width + 1, step), np.arange(0, self.height - height + 1, step))
        corners = np.stack([x.ravel(), y.ravel()], axis=1)
        distance = np.abs(corners + (0, height) - np.array(box[:2])).sum(1)
        return corners[distance.argsort(kind="stable")]
