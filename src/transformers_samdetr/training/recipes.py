"""How to train: numbers, and nothing about architecture."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """The paper's optimizer (section 5.1) with room for small sets.

    Attributes:
        epochs: passes over the training set.
        batch_size: images of a step on each process.
        learning_rate: of everything but the backbone.
        backbone_learning_rate: of the feature extractor.
        weight_decay: AdamW's.
        clip_norm: largest norm of all gradients together.
        warmup: share of all steps in which the learning rate rises from 0.
        schedule: `"step"`, divided by 10 after `drop_at` of all steps, or `"cosine"`, down to 0.
        drop_at: share of all steps after which the step schedule drops.
        augment: random flips and crops.
        workers: processes that load data, for each training process.
        seed: of weights, order and augmentation.
        mixed_precision: `"no"`, `"bf16"` or `"fp16"`.
    """

    epochs: int = 12
    batch_size: int = 2
    learning_rate: float = 1e-4
    backbone_learning_rate: float = 1e-5
    weight_decay: float = 1e-4
    clip_norm: float = 0.1
    warmup: float = 0.0
    schedule: str = "step"
    drop_at: float = 10 / 12
    augment: bool = True
    workers: int = 0
    seed: int = 0
    mixed_precision: str = "no"

    def __post_init__(self):
        for field in ("epochs", "batch_size", "learning_rate", "clip_norm"):
            if not getattr(self, field) > 0:
                raise ValueError(f"{field}={getattr(self, field)!r} is not possible: it must be above 0.")
        if self.schedule not in ("step", "cosine"):
            raise ValueError(f"schedule={self.schedule!r} is not possible: choose 'step' or 'cosine'.")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup={self.warmup!r} is not possible: it is a share of all steps, in [0, 1).")


TINY = Recipe(
    epochs=12,
    batch_size=8,
    learning_rate=5e-4,
    backbone_learning_rate=1e-4,
    warmup=0.05,
    schedule="cosine",
)
"""For small sets and two CPU cores."""
