"""Trains on digit scenes with and without aligner and denoising; measures matched queries after every epoch."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from transformers_samdetr.data import DetectionCollator, DetectionDataset
from transformers_samdetr.training import Trainer, TrainingHook, load_model_and_processor
from transformers_samdetr.training.log import LOG_FILE, read_log

from .definitions import DENOISING, DIGITS, Setting
from .matched_queries import (
    SPACES,
    Assignment,
    assign_queries,
    attention_in_boxes,
    changed_objects,
    instability,
    region_similarity,
)

SIGNS = replace(
    DIGITS,
    name="signs",
    # a constant rate: a decreasing one would stabilise the matching by itself
    recipe=replace(DIGITS.recipe, name="signs", epochs=8, schedule="step", drop_at=1.0),
)
"""The digit scenes and SAM-DETR of the ablations."""
PROBE = 100
"""Number of training scenes, from the first, on which matching and similarity are measured."""
RUNS: dict[str, Mapping[str, Any]] = {
    "keypoints": {},
    "keypoints-dn": DENOISING,
    "none": {"query_resampling": "none"},
}
"""Fields of the configuration in which each run differs: SAM-DETR, with denoising, and without aligner."""


class SignsProbe(TrainingHook):
    """Measures the model before training and after each epoch, on the same scenes in the same order.

    A trainer callback.

    Args:
        batches: the model's inputs, with `labels`.
    """

    def __init__(self, batches: Sequence[Mapping[str, Any]]):
        self.batches = batches
        self.measurements: list[dict[str, Any]] = []
        self._before: Assignment | None = None

    def measure(self, trainer: Trainer) -> None:
        """Adds a measurement: numbers by decoder layer."""
        model = trainer.accelerator.unwrap_model(trainer.model)
        assignment = assign_queries(model, self.batches)
        found: dict[str, Any] = {"epoch": trainer.progress.epoch}
        if self._before is not None:
            found["changed"] = _rounded(changed_objects(self._before, assignment))
            found["instability"] = _rounded(instability(self._before, assignment))
        self._before = assignment
        for space in SPACES:
            found[space] = self._means(("region", "image"), partial(region_similarity, model, space=space))
        found["boxes"] = self._means(("weight", "area"), partial(attention_in_boxes, model))
        self.measurements.append(found)

    def _means(self, names: Sequence[str], measure: Callable[[Mapping[str, Any]], Any]) -> dict[str, list[float]]:
        """Means over all objects, by decoder layer, of the named fields of a measurement."""
        parts = [measure(batch) for batch in self.batches]
        return {name: _rounded(torch.cat([getattr(part, name) for part in parts], dim=1).mean(1)) for name in names}

    def after_epoch(self, trainer: Trainer) -> None:
        """Measures."""
        self.measure(trainer)


@dataclass
class SignsRun:
    """One run.

    Attributes:
        name: one of `RUNS`.
        seed: of weights and order; the scenes are the same for all.
        scenes: how many there are for training (`train`) and AP (`evaluation`), and in `probe`.
        objects: number of objects on the probe's scenes.
        steps_per_epoch: optimizer steps.
        epochs: a measurement for each, the one before training first: `epoch`, `AP` in percent on other scenes, and by
            decoder layer `changed` and `instability` since the epoch before, of each space the similarity with
            `region` and `image`, and of attention to the objects' `boxes` the share of `weight` and of `area`.
        cpu_seconds: processor time of all of it.
    """

    name: str
    seed: int
    scenes: dict[str, int]
    objects: int
    steps_per_epoch: int
    epochs: list[dict[str, Any]]
    cpu_seconds: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def run_signs(
    name: str, seed: int, output_dir: str | Path, setting: Setting = SIGNS, probe_scenes: int = PROBE
) -> SignsRun:
    """Trains one of `RUNS` on digit scenes, measured after every epoch.

    Args:
        name: one of `RUNS`.
        seed: of weights and order.
        output_dir: for the log and the trained model.
        setting: scenes, what the models share, and how to train.
        probe_scenes: number of training scenes on which matching and similarity are measured.

    Raises:
        ValueError: there is no such run.
    """
    if name not in RUNS:
        raise ValueError(f"There is no run {name!r}. Choose one of: {', '.join(RUNS)}.")
    begin = time.process_time()
    recipe = replace(
        setting.recipe, name=f"{setting.name} {name}", seed=seed, model_overrides={**setting.fields, **RUNS[name]}
    )
    data = setting.load_data(None)
    model, processor = load_model_and_processor(recipe, data.names, train=data.train)
    examples = DetectionDataset(data.train.select(range(probe_scenes)))
    probe = SignsProbe(list(DataLoader(examples, batch_size=50, collate_fn=DetectionCollator(processor))))
    trainer = Trainer(model, processor, data.train, data.evaluation, recipe, output_dir, (probe,))
    probe.measure(trainer)
    trainer.train()
    for line, measurement in zip(read_log(Path(output_dir) / LOG_FILE), probe.measurements[1:], strict=True):
        measurement["AP"] = round(line["AP"], 3)
    return SignsRun(
        name=name,
        seed=seed,
        scenes={"train": len(data.train), "evaluation": len(data.evaluation), "probe": probe_scenes},
        objects=sum(len(labels["class_labels"]) for batch in probe.batches for labels in batch["labels"]),
        steps_per_epoch=trainer.order.steps_per_epoch,
        epochs=probe.measurements,
        cpu_seconds=round(time.process_time() - begin, 1),
    )


def _rounded(values: torch.Tensor) -> list[float]:
    return [round(value, 4) for value in values.tolist()]
