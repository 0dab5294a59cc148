"""Latency and training time of each detector of a setting, measured in turn so that other load affects all alike."""

import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.machine import describe_machine
from transformers_samdetr.data.load import DetectionData
from transformers_samdetr.training import Trainer

from .definitions import REFERENCE, VARIANTS, Setting, Suite
from .models import build_model
from .runs import Ledger, Run
from .worker import multiply_adds

ROUNDS = 20
"""Images of each detector for its latency."""
STEPS = 30
"""Steps of each detector for its training time."""
WARM_UP = 3
"""Rounds before them that do not count."""


def median_seconds(
    actions: Mapping[str, Callable[[], object]],
    rounds: int,
    warm_up: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Runs each action once a round and returns the median time of each.

    Args:
        actions: by name.
        rounds: number of timed rounds.
        warm_up: rounds before them.
        clock: returns seconds; `time.process_time` excludes other processes.

    Returns:
        The median of each, by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(warm_up + rounds):
        for name, action in actions.items():
            begin = clock()
            action()
            if turn >= warm_up:
                seconds[name].append(clock() - begin)
    return {name: statistics.median(values) for name, values in seconds.items()}


def latency_path(setting: Setting, ledger: Ledger) -> Path:
    """Where the latencies of a setting are kept: `SETTING/latency.json` in the ledger."""
    return ledger.folder / setting.name / "latency.json"


@torch.no_grad()
def measure_latency(
    suite: Suite, setting: Setting, ledger: Ledger, rounds: int = ROUNDS, names: list[str] | None = None
) -> Path:
    """Measures the latency of the reference and of a suite's variants, and adds it to the setting's file.

    Models are untrained: time does not depend on the weights, except for Faster R-CNN's non-maximum suppression.

    Args:
        suite: gives the variants.
        setting: gives sizes and picture.
        ledger: gets the ratios of medians to the reference's, and the machine.
        rounds: pictures of each, one at a time.
        names: class names; three by default, as few as the sets here have.
    """
    variants = dict.fromkeys([REFERENCE, *(row.variant for row in suite.rows)])
    rate, side = setting.learning_rates[0], setting.recipe.image_size
    classes = ClassNames(names or ["a", "b", "c"])
    # boxes of another set change no time
    models = {
        name: build_model(Run(setting.name, name, rate, 0), classes, ledger)[0].eval()
        for name in variants
        if VARIANTS[name].boxes_of is None
    }
    pixels = torch.zeros(1, 3, side, side)
    detections = {name: partial(model, pixel_values=pixels) for name, model in models.items()}
    medians = median_seconds(detections, rounds, WARM_UP)
    path = latency_path(setting, ledger)
    ratios = latency_ratios(setting, ledger) | {name: round(m / medians[REFERENCE], 3) for name, m in medians.items()}
    machine = describe_machine()
    entry = {"ratios": ratios, "milliseconds": round(1000 * medians[REFERENCE], 2), "machine": machine}
    ledger.write(path, entry | {"threads": torch.get_num_threads(), "rounds": rounds})
    return path


def latency_ratios(setting: Setting, ledger: Ledger) -> dict[str, float]:
    """Measured latencies by variant, divided by the reference's; none where nothing was measured."""
    path = latency_path(setting, ledger)
    return json.loads(path.read_text(encoding="utf-8"))["ratios"] if path.is_file() else {}


class ClassNames:
    """Stands in for data: class names without images, and so without boxes to start from."""

    train = None

    def __init__(self, names: list[str]):
        self.names, self.category_ids = names, list(range(len(names)))


@dataclass(frozen=True)
class TrainingCost:
    """Of a variant in a setting.

    Attributes:
        seconds: of processor time for the training of an epoch, loading and augmentation included.
        multiply_adds: of a forward of one picture.
    """

    seconds: float
    multiply_adds: int


def training_cost_path(setting: Setting, ledger: Ledger) -> Path:
    """Where the costs of a setting are kept: `SETTING/training_cost.json` in the ledger."""
    return ledger.folder / setting.name / "training_cost.json"


def measure_training_cost(setting: Setting, ledger: Ledger, data: DetectionData, steps: int = STEPS) -> Path:
    """Trains every variant that was run in a setting, a step of each in turn, and writes the median times.

    All take the batches of the first epoch. A new model's boxes are large unless they come from the training set, so
    RoIAlign takes a little longer than later in training.

    Args:
        setting: gives sizes and training.
        ledger: says which variants; gets the ratios of medians to the reference's, and the machine.
        data: of the setting.
        steps: timed steps of each variant.

    Raises:
        ValueError: an epoch has not so many steps.
    """
    work, trainers, side = {}, {}, setting.recipe.image_size
    variants = [name for name in VARIANTS if name == REFERENCE or ledger.seeds(setting.name, name)]
    with TemporaryDirectory() as folder:
        for name in variants:
            run = Run(setting.name, name, setting.learning_rates[0], 0)
            model, processor = build_model(run, data, ledger)
            work[name] = multiply_adds(model, side, side)
            output_dir = Path(folder) / name
            trainers[name] = Trainer(model, processor, data.train, data.evaluation, run.recipe(), output_dir)
            if trainers[name].order.steps_per_epoch < WARM_UP + steps:
                found = f"An epoch of {setting.name} has {trainers[name].order.steps_per_epoch} steps"
                raise ValueError(f"{found}: steps={steps} are too many.")
        step_makers = {name: _steps(trainer) for name, trainer in trainers.items()}
        medians = median_seconds(step_makers, steps, WARM_UP, time.process_time)
    costs = {
        name: {"ratio": round(median / medians[REFERENCE], 3), "multiply_adds": work[name]}
        for name, median in medians.items()
    }
    seconds = round(trainers[REFERENCE].order.steps_per_epoch * medians[REFERENCE], 2)
    entry = {"variants": costs, "seconds": seconds, "steps": steps, "threads": torch.get_num_threads()}
    return ledger.write(training_cost_path(setting, ledger), entry | {"machine": describe_machine()})


def _steps(trainer: Trainer) -> Callable[[], None]:
    """A function that makes the next training step of the first epoch, loading its batch included."""
    trainer.model.train()
    windows = trainer.windows()
    return lambda: trainer.train_window(next(windows))


def training_costs(setting: Setting, ledger: Ledger) -> dict[str, TrainingCost]:
    """Measured costs by variant; empty if nothing was measured."""
    path = training_cost_path(setting, ledger)
    if not path.is_file():
        return {}
    entry = json.loads(path.read_text(encoding="utf-8"))
    return {
        name: TrainingCost(entry["seconds"] * cost["ratio"], cost["multiply_adds"])
        for name, cost in entry["variants"].items()
    }
