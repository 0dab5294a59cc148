"""Which works to compare: a grid over models, tasks, sizes and settings, and single axes along which cost grows."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .measure import Measurement
from .work import PEERS, Work

SIZES = ((480, 640), (640, 853), (800, 1066), (1000, 1333))
"""Heights and widths with the proportions of most photographs."""
MODELS = ("sam-detr-r50", "sam-detr-r50-dc5-smca", "sam-detr-pp-r50-smca", *PEERS)


@dataclass(frozen=True)
class Grid:
    """All combinations of its values; the models are what is compared at each of them."""

    models: tuple[str, ...] = MODELS
    tasks: tuple[str, ...] = ("inference",)
    sizes: tuple[tuple[int, int], ...] = ((480, 640),)
    batch_sizes: tuple[int, ...] = (1,)
    threads: tuple[int, ...] = (2,)
    dtypes: tuple[str, ...] = ("float32",)
    compiled: tuple[bool, ...] = (False,)
    device: str = "cpu"

    def groups(self) -> list[list[Work]]:
        """Works to interleave, one list for each combination of everything but the model."""
        combinations = itertools.product(
            self.tasks, self.sizes, self.batch_sizes, self.threads, self.dtypes, self.compiled
        )
        return [
            [
                Work(model, task, *size, batch_size, threads, dtype, compiled, device=self.device)
                for model in self.models
            ]
            for task, size, batch_size, threads, dtype, compiled in combinations
        ]


GRIDS = {
    "quick": Grid(models=("sam-detr-r50", "sam-detr-pp-r50-smca", *PEERS)),
    "full": Grid(
        tasks=("inference", "training"),
        sizes=SIZES,
        batch_sizes=(1, 2, 8),
        threads=(1, 2),
        dtypes=("float32", "bfloat16"),
        compiled=(False, True),
    ),
    "gpu": Grid(
        models=("sam-detr-r50", "sam-detr-r50-smca", "sam-detr-r50-dc5-smca", "sam-detr-pp-r50-smca", *PEERS),
        tasks=("inference", "training"),
        sizes=((800, 1066),),
        batch_sizes=(1, 4),
        dtypes=("float32", "bfloat16"),
        device="cuda",
    ),
}


@dataclass
class Axis:
    """How the cost of one model grows with one number.

    Attributes:
        name: of the number.
        unit: what is counted, for the table.
        values: of the number, one for each work.
        works: differ in nothing else.
        measurements: filled in by whoever measures.
    """

    name: str
    unit: str
    values: Sequence[int]
    works: Sequence[Work]
    measurements: list[Measurement] = field(default_factory=list)

    @property
    def exponent(self) -> float | None:
        """Slope of log time over log number by least squares: 1 is in proportion, 0 is free. None without figures."""
        points = [
            (math.log(value), math.log(entry.median))
            for value, entry in zip(self.values, self.measurements, strict=True)
            if entry.error is None
        ]
        if len(points) < 2:
            return None
        mean_x, mean_y = (sum(column) / len(points) for column in zip(*points, strict=True))
        spread = sum((x - mean_x) ** 2 for x, _ in points)
        return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "unit": self.unit,
            "values": list(self.values),
            "measurements": [entry.to_dict() for entry in self.measurements],
            "exponent": self.exponent,
        }


def growth_axes(model: str, threads: int = 2) -> list[Axis]:
    """Pixels, queries, keypoints (inference at 800x1066 unless the pixels vary) and objects (matcher and loss)."""
    base = Work(model, threads=threads)
    queries, keypoints, objects = (100, 300, 900), (1, 2, 4, 8), (10, 30, 100, 300)
    return [
        Axis(
            "pixels",
            "pixels of the image",
            [height * width for height, width in SIZES],
            [replace(base, height=height, width=width) for height, width in SIZES],
        ),
        Axis("queries", "queries", queries, [replace(base, overrides=(("num_queries", n),)) for n in queries]),
        Axis(
            "keypoints",
            "keypoints of a query",
            keypoints,
            [replace(base, overrides=(("num_keypoints", n),)) for n in keypoints],
        ),
        Axis("objects", "objects of an image", objects, [replace(base, task="loss", objects=n) for n in objects]),
    ]
