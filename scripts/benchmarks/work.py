"""One piece of work to be measured: which model does what, on how much, with which precision."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from transformers_samdetr.presets import PRESETS

PEERS = {
    "conditional-detr-r50": "ConditionalDetr",
    "deformable-detr-r50": "DeformableDetr",
    "dab-detr-r50": "DabDetr",
    "rt-detr-r50": "RTDetr",
}
"""What Transformers has beside us: our name for it, and the start of its class names."""
DEVICES = ("cpu", "cuda")
TASKS = ("inference", "training", "loss", "processor", "load")
DTYPES = ("float32", "bfloat16")
SIZE_DIVISOR = {"rt-detr-r50": 32}
"""Models whose feature pyramid only fits together on such sizes."""


@dataclass(frozen=True)
class Work:
    """Everything that a worker needs to know; two works that are equal cost the same.

    Attributes:
        model: a preset of ours, or a name in `PEERS`.
        task: `inference`; `training`, which is forward, loss and backward; `loss`, which is matching, loss and its
            backward on given predictions of six layers; `processor`, which is JPEG files to pixel values; `load`, which
            is import and `from_pretrained` in a new process.
        height, width: of the pixels, not padded. The processor has JPEGs of its own.
        batch_size: images.
        threads: of PyTorch.
        dtype: `bfloat16` is autocast.
        compiled: by `torch.compile`, on a GPU with CUDA graphs (`mode="reduce-overhead"`).
        objects: in each image, for `training` and `loss`.
        overrides: configuration fields that differ from the preset's, as pairs.
        device: of `inference`, `training` and `loss`; the threads then only feed it.
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

    def __post_init__(self) -> None:
        object.__setattr__(self, "overrides", tuple((str(name), value) for name, value in self.overrides))
        choices = (("model", (*PRESETS, *PEERS)), ("task", TASKS), ("dtype", DTYPES), ("device", DEVICES))
        for field, known in choices:
            if getattr(self, field) not in known:
                raise ValueError(f"{field}={getattr(self, field)!r} is unknown: choose one of {', '.join(known)}.")
        for field in ("height", "width", "batch_size", "threads", "objects"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)} must be at least 1.")

    @property
    def is_ours(self) -> bool:
        return self.model in PRESETS

    @property
    def pixel_size(self) -> tuple[int, int]:
        """Height and width of the tensor, rounded up where the model fits on no other."""
        divisor = SIZE_DIVISOR.get(self.model, 1)
        return -(-self.height // divisor) * divisor, -(-self.width // divisor) * divisor

    @property
    def label(self) -> str:
        """`sam-detr-r50 inference 800x1066 batch 1, 2 threads, float32`, with what else differs from the defaults."""
        place = {
            "inference": "{height}x{width} batch {batch_size}, ",
            "training": "{height}x{width} batch {batch_size}, {objects} objects, ",
            "loss": "batch {batch_size}, {objects} objects, ",
            "processor": "{batch_size} JPEGs, ",
            "load": "",
        }[self.task].format(**vars(self))
        compiled = ", compiled" if self.compiled else ""
        overrides = "".join(f", {name} {value}" for name, value in self.overrides)
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        runner = threads if self.device == "cpu" else self.device
        return f"{self.model} {self.task} {place}{runner}, {self.dtype}{compiled}{overrides}"

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)
