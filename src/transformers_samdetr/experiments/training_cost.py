"""What training costs each detector of a suite, measured in turn so that what else runs hits all alike.

Runs are made on several days and machines, and by earlier versions of the code; their own times cannot be compared.
"""

import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from ..benchmark.machine import describe_machine
from ..data.detection_data import DetectionData
from ..training import Trainer
from .ledger import Ledger
from .models import build_model
from .runs import Run
from .settings import Setting
from .suites import Suite
from .variants import REFERENCE
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


def measure_training_cost(
    suite: Suite, setting: Setting, ledger: Ledger, data: DetectionData, steps: int = STEPS
) -> Path:
    """Trains the variants of a suite, with the reference among them, a step of each in turn, and adds what it took.

    All have the same batches, those of the first epoch.

    Args:
        suite: gives the variants.
        setting: gives sizes and training.
        ledger: gets the ratios of medians to the reference's, and the machine.
        data: of the setting.
        steps: of each that count; a few before them do not.

    Raises:
        ValueError: an epoch has not so many steps.
    """
    variants = dict.fromkeys([REFERENCE, *(row.variant for row in suite.rows)])
    work, seconds, trainers = {}, {name: [] for name in variants}, {}
    side = setting.recipe.image_size
    with TemporaryDirectory() as folder:
        for name in variants:
            run = Run(setting.name, name, setting.learning_rates[0], 0)
            model, processor = build_model(run, data, ledger)
            work[name] = multiply_adds(model, side, side)
            output_dir = Path(folder) / name
            trainers[name] = Trainer(model, processor, data.train, data.evaluation, run.recipe(), output_dir)
            trainers[name].model.train()
        steps_an_epoch = trainers[REFERENCE].order.steps_per_epoch
        if steps_an_epoch < WARM_UP + steps:
            raise ValueError(f"An epoch of {setting.name} has {steps_an_epoch} steps: steps={steps} are too many.")
        windows = {name: trainer.windows() for name, trainer in trainers.items()}
        for turn in range(WARM_UP + steps):
            for name, trainer in trainers.items():
                begin = time.process_time()
                trainer.train_window(next(windows[name]))
                if turn >= WARM_UP:
                    seconds[name].append(time.process_time() - begin)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    path = training_cost_path(setting, ledger)
    costs = json.loads(path.read_text(encoding="utf-8"))["variants"] if path.is_file() else {}
    costs |= {
        name: {"ratio": round(median / medians[REFERENCE], 3), "multiply_adds": work[name]}
        for name, median in medians.items()
    }
    entry = {"variants": costs, "seconds": round(steps_an_epoch * medians[REFERENCE], 2), "steps": steps}
    return ledger.write(path, entry | {"machine": describe_machine(), "threads": torch.get_num_threads()})


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
