"""A few photographs learned by heart, which a correct detector can do and a broken one cannot.

AP up to IoU 0.95 on the training images needs features that differ by place, boxes refined to a few percent of their
size, classes, and one query for each object.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn

from transformers_samdetr.data import DetectionCollator, DetectionData, DetectionDataset
from transformers_samdetr.modeling_sam_detr import SamDetrForObjectDetection
from transformers_samdetr.operations import is_frozen_batch_norm, reference_operations
from transformers_samdetr.training import Recipe, Trainer, TrainingHook, load_model_and_processor
from transformers_samdetr.training.log import LOG_FILE, read_log

VARIANTS: dict[str, Mapping[str, Any]] = {
    "single-scale": {"model": "sam-detr-r50"},
    "smca": {"model": "sam-detr-r50-smca"},
    "dc5": {"model": "sam-detr-r50-dc5"},
    "multi-scale": {"model": "sam-detr-pp-r50"},
    "dn": {"model": "sam-detr-pp-r50-dn"},
}
"""The paper's models whose parts differ, as fields of a `Recipe`."""

OVERFIT = Recipe(
    name="overfit",
    # fewer layers than the paper's 6 + 6: each layer makes initial queries more alike, which takes time to unlearn
    model_overrides={"num_queries": 12, "encoder_layers": 2, "decoder_layers": 3},
    image_size=96,
    epochs=20,
    batch_size=8,
    evaluation_batch_size=8,
    learning_rate=4e-4,
    backbone_learning_rate=1e-4,
    weight_decay=0.0,
    warmup=0.05,
    schedule="cosine",
    augmentation="none",
    trackers="none",
)
"""Random weights and no regularisation; at most 400 steps."""

PASSES = 20
"""Repetitions of each photograph in an epoch of `OVERFIT`, after which AP is measured."""
ENOUGH = 95.0
"""AP in percent at which the photographs count as learned."""


def set_norm_statistics(model: SamDetrForObjectDetection, pixel_values: Tensor) -> None:
    """Sets mean and variance of the backbone's frozen batch norms to those of a batch, in order of depth.

    Frozen at mean 0 and variance 1 they normalise nothing: after fifty random layers the features of any two images are
    nearly equal. Pretrained backbones bring statistics.

    Args:
        model: changed in place; its mode is restored.
        pixel_values: `(B, channels, height, width)`, as the image processor makes them, without padding.
    """
    extractor = model.model.backbone.feature_extractor

    def measure(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        variance, mean = torch.var_mean(inputs[0].detach(), dim=(0, 2, 3), correction=0)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)

    hooks = [norm.register_forward_pre_hook(measure) for norm in extractor.modules() if is_frozen_batch_norm(norm)]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), reference_operations():  # otherwise convolutions apply the norms
            extractor(pixel_values)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()


class _StopWhenLearned(TrainingHook):
    """Ends a run whose last AP is `ENOUGH`; a hook of the trainer's."""

    def after_epoch(self, trainer: Trainer) -> None:
        """Asks to stop, which the next step does."""
        if trainer.progress.best_value is not None and trainer.progress.best_value >= ENOUGH:
            trainer.request_stop()


@dataclass
class Overfit:
    """The learning curve of a variant.

    Attributes:
        variant: one of `VARIANTS`.
        seed: of weights and order.
        photographs: their ids.
        objects: number of objects on them.
        parameters: number of trained parameters.
        steps: optimizer steps after which AP was measured.
        AP: COCO AP in percent on the photographs themselves, after each of these.
        cpu_seconds: processor time of all of it.
    """

    variant: str
    seed: int
    photographs: list[int]
    objects: int
    parameters: int
    steps: list[int]
    AP: list[float]
    cpu_seconds: float

    @property
    def reached_after(self) -> int | None:
        """Steps after which AP was `ENOUGH` for the first time, None if it never was."""
        return next((step for step, ap in zip(self.steps, self.AP, strict=True) if ap >= ENOUGH), None)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def choose_photographs(data: Dataset, count: int = 8, most: int = 5, smallest: float = 0.1) -> Dataset:
    """The first images of a set that have few objects, all large enough for small input sizes.

    Args:
        data: in the schema of `detection_features`.
        count: number of pictures.
        most: objects of a picture, of which it has at least one; a picture with a crowd is left out.
        smallest: shorter side of any box, as a share of the picture's own side.

    Raises:
        ValueError: the set has fewer such pictures.
    """

    def is_fit(example: Mapping[str, Any]) -> bool:
        objects = example["objects"]
        shares = [min(w / example["width"], h / example["height"]) for _, _, w, h in objects["bbox"]]
        return 0 < len(shares) <= most and min(shares) >= smallest and not any(objects["iscrowd"])

    rows = [row for row, example in enumerate(data.remove_columns("image")) if is_fit(example)]
    if len(rows) < count:
        raise ValueError(
            f"count={count} is too many: {len(rows)} images have 1 to {most} objects, none below {smallest:g} of "
            "the picture's side. Ask for fewer, or change most or smallest."
        )
    return data.select(rows[:count])


def overfit(
    variant: str,
    data: DetectionData,
    output_dir: str | Path,
    seed: int = 0,
    recipe: Recipe = OVERFIT,
    passes: int = PASSES,
) -> Overfit:
    """Trains a variant on a few photographs until it has learned them, and measures it on the same ones.

    The frozen batch norms of the random backbone get the photographs' statistics first, see `norm_statistics`.

    Args:
        variant: one of `VARIANTS`.
        data: where the photographs are chosen from, see `choose_photographs`; its classes are the model's.
        output_dir: for the log and the trained model.
        seed: of weights and order.
        recipe: how to train; the variant says which model.
        passes: how often each photograph comes in an epoch.

    Raises:
        ValueError: there is no such variant, or the set has too few such photographs.
    """
    if variant not in VARIANTS:
        raise ValueError(f"There is no variant {variant!r}. Choose one of: {', '.join(VARIANTS)}.")
    photographs = choose_photographs(data.train)
    recipe = replace(recipe, seed=seed, name=f"overfit {variant}", **VARIANTS[variant])
    begin = time.process_time()
    model, processor = load_model_and_processor(recipe, data.names, data.category_ids, photographs)
    examples = DetectionDataset(photographs)
    batch = DetectionCollator(processor)([examples[row] for row in range(len(examples))])
    set_norm_statistics(model, batch["pixel_values"])
    repeated = photographs.select(list(range(len(photographs))) * passes)
    trainer = Trainer(model, processor, repeated, photographs, recipe, output_dir, (_StopWhenLearned(),))
    trainer.train()
    lines = read_log(Path(output_dir) / LOG_FILE)
    return Overfit(
        variant=variant,
        seed=seed,
        photographs=list(photographs["image_id"]),
        objects=sum(len(objects["id"]) for objects in photographs["objects"]),
        parameters=lines[-1]["parameters"],
        steps=[line["epoch"] * trainer.order.steps_per_epoch for line in lines],
        AP=[line["AP"] for line in lines],
        cpu_seconds=round(time.process_time() - begin, 1),
    )
