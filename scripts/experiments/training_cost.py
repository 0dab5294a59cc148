"""What training costs each detector in a setting, measured in turn so that what else runs hits all alike.

Runs are made on several days and machines, and by earlier versions of the code; their own times cannot be compared.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.machine import describe_machine
from transformers_samdetr.data.load import DetectionData
from transformers_samdetr.training import Trainer

from .in_turn import median_seconds
from .ledger import Ledger
from .models import build_model
from .runs import Run
from .settings import Setting
from .variants import REFERENCE, VARIANTS
from .work_count import multiply_adds

STEPS, WARM_UP = 30, 3


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
    """Trains what was run in a setting, a step of each variant in turn, and writes down what it took.

    All have the same batches, those of the first epoch. Boxes of a new model are large unless they are the set's, and
    RoIAlign takes a little longer then than it does later on.

    Args:
        setting: gives sizes and training.
        ledger: says which variants; gets the ratios of medians to the reference's, and the machine.
        data: of the setting.
        steps: of each that count; a few before them do not.

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
            _check_steps(steps, trainers[name].order.steps_per_epoch, setting)
        step_makers = {name: _steps(trainer) for name, trainer in trainers.items()}
        medians = median_seconds(step_makers, steps, WARM_UP, time.process_time)
    costs = {
        name: {"ratio": round(median / medians[REFERENCE], 3), "multiply_adds": work[name]}
        for name, median in medians.items()
    }
    seconds = round(trainers[REFERENCE].order.steps_per_epoch * medians[REFERENCE], 2)
    entry = {"variants": costs, "seconds": seconds, "steps": steps, "threads": torch.get_num_threads()}
    return ledger.write(training_cost_path(setting, ledger), entry | {"machine": describe_machine()})


def _check_steps(steps: int, steps_an_epoch: int, setting: Setting):
    if steps_an_epoch < WARM_UP + steps:
        raise ValueError(f"An epoch of {setting.name} has {steps_an_epoch} steps: steps={steps} are too many.")


def _steps(trainer: Trainer) -> Callable[[], None]:
    """What makes the next step of the first epoch, its batch included."""
    trainer.model.train()
    windows = trainer.windows()
    return lambda: trainer.train_window(next(windows))


def training_costs(setting: Setting, ledger: Ledger) -> dict[str, TrainingCost]:
    """Measured costs by variant; none where nothing was measured."""
    path = training_cost_path(setting, ledger)
    if not path.is_file():
        return {}
    entry = json.loads(path.read_text(encoding="utf-8"))
    return {
        name: TrainingCost(entry["seconds"] * cost["ratio"], cost["multiply_adds"])
        for name, cost in entry["variants"].items()
    }
