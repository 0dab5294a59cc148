"""What is measured: one piece of work, grids of works to compare, and axes along which cost grows."""

import dataclasses
import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from transformers_samdetr.presets import PRESETS

PEERS = {
    "conditional-detr-r50": "ConditionalDetr",
    "deformable-detr-r50": "DeformableDetr",
    "dab-detr-r50": "DabDetr",
    "rt-detr-r50": "RTDetr",
    "d-fine-l": "DFine",
}
"""Detectors of Transformers: our name, and the start of their class names."""
DEVICES = ("cpu", "cuda")
TASKS = ("inference", "training", "step", "pictures", "loss", "processor", "load")
DTYPES = ("float32", "bfloat16")
SIZE_DIVISOR = {"rt-detr-r50": 32, "d-fine-l": 32}
"""Models whose feature pyramid needs sizes that are divisible by this."""


@dataclass(frozen=True)
class Work:
    """A piece of work for a benchmark worker; equal works cost the same.

    Attributes:
        model: a preset of ours, or a name in `PEERS`.
        task: `inference`; `training`, which is forward, loss and backward; `step`, which is that with labels from the
            host and an optimizer; `pictures`, which is JPEG files to boxes; `loss`, which is matching, loss and its
            backward on given predictions of six layers; `processor`, which is JPEG files to pixel values; `load`, which
            is import and `from_pretrained` in a new process.
        height, width: of the input in pixels, without padding; unused by `pictures` and `processor`.
        batch_size: images.
        threads: PyTorch threads.
        dtype: `bfloat16` runs in autocast.
        compiled: uses `torch.compile`.
        objects: in each image, for `training`, `step` and `loss`.
        overrides: configuration fields that differ from the preset's, as pairs.
        device: of everything but `processor` and `load`.
        graphs: inference is captured as a CUDA graph, which each repetition replays.
    """

    model: str
    task: str = "inference"
    height: int = 800
    width: int = 1066
    batch_size: int = 1
    threads: int = 2
    dtype: str = "float32"
    compiled: bool = False
    objects: int = 7
    overrides: tuple[tuple[str, Any], ...] = ()
    device: str = "cpu"
    graphs: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "overrides", tuple((str(name), value) for name, value in self.overrides))
        choices = (("model", (*PRESETS, *PEERS)), ("task", TASKS), ("dtype", DTYPES), ("device", DEVICES))
        for name, known in choices:
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown: choose one of {', '.join(known)}.")
        for name in ("height", "width", "batch_size", "threads", "objects"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.graphs and (self.task, self.device) != ("inference", "cuda"):
            raise ValueError(f"graphs=True must be for inference on cuda, not for {self.task} on {self.device}.")

    @property
    def is_ours(self) -> bool:
        return self.model in PRESETS

    @property
    def pixel_size(self) -> tuple[int, int]:
        """Height and width of the tensor, rounded up to the model's `SIZE_DIVISOR`."""
        divisor = SIZE_DIVISOR.get(self.model, 1)
        return -(-self.height // divisor) * divisor, -(-self.width // divisor) * divisor

    @property
    def label(self) -> str:
        """`sam-detr-r50 inference 800x1066 batch 1, 2 threads, float32`, and what differs from the defaults."""
        place = {
            "inference": "{height}x{width} batch {batch_size}, ",
            "training": "{height}x{width} batch {batch_size}, {objects} objects, ",
            "step": "{height}x{width} batch {batch_size}, {objects} objects, ",
            "pictures": "{batch_size} JPEGs, ",
            "loss": "batch {batch_size}, {objects} objects, ",
            "processor": "{batch_size} JPEGs, ",
            "load": "",
        }[self.task].format(**vars(self))
        compiled = (", compiled" if self.compiled else "") + (", graphs" if self.graphs else "")
        overrides = "".join(f", {name} {value}" for name, value in self.overrides)
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        runner = threads if self.device == "cpu" else self.device
        return f"{self.model} {self.task} {place}{runner}, {self.dtype}{compiled}{overrides}"

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass
class Measurement:
    """Time and memory of one work.

    Attributes:
        work: the work.
        seconds: of each repetition after the first ones.
        first_seconds: of the first repetition, compilation included.
        peak_bytes: peak memory of the process above the same process with everything imported but no model.
        error: the reason if the work failed, or None.
        counts: what `benchmarks.gpu_worker.host_share` found, or None.
    """

    work: Work
    seconds: list[float] = field(default_factory=list)
    first_seconds: float | None = None
    peak_bytes: int | None = None
    error: str | None = None
    counts: dict[str, float] | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile of the repetitions."""
        if len(self.seconds) < 2:
            return self.seconds[0], self.seconds[0]
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return low, high

    def to_dict(self) -> dict[str, Any]:
        figures = {"median": self.median, "quartiles": self.quartiles} if self.seconds else {}
        return {**vars(self), "work": self.work.to_dict(), "label": self.work.label, **figures}


SIZES = ((480, 640), (640, 853), (800, 1066), (1000, 1333))
"""Heights and widths with the proportions of most photographs."""
MODELS = ("sam-detr-r50", "sam-detr-r50-dc5-smca", "sam-detr-pp-r50-smca", *PEERS)


@dataclass(frozen=True)
class Grid:
    """All combinations of its values; at each of them the models are compared."""

    models: tuple[str, ...] = MODELS
    tasks: tuple[str, ...] = ("inference",)
    sizes: tuple[tuple[int, int], ...] = ((480, 640),)
    batch_sizes: tuple[int, ...] = (1,)
    threads: tuple[int, ...] = (2,)
    dtypes: tuple[str, ...] = ("float32",)
    compiled: tuple[bool, ...] = (False,)

    def groups(self) -> list[list[Work]]:
        """Works to interleave: a list of all models for each combination of the other values."""
        combinations = itertools.product(
            self.tasks, self.sizes, self.batch_sizes, self.threads, self.dtypes, self.compiled
        )
        return [
            [Work(model, task, *size, batch_size, threads, dtype, compiled) for model in self.models]
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
}


@dataclass
class Axis:
    """How the time of one model grows with one number.

    Attributes:
        name: of the number.
        unit: of the number, for the table.
        values: of the number, one for each work.
        works: which differ only in this number.
        measurements: of the works, set by the caller.
    """

    name: str
    unit: str
    values: Sequence[int]
    works: Sequence[Work]
    measurements: list[Measurement] = field(default_factory=list)

    @property
    def exponent(self) -> float | None:
        """Slope of log time over log number by least squares: 1 is proportional, 0 constant; None without figures."""
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
