"""How long each detector of a suite takes for a picture, measured in turn so that what else runs hits all alike."""

import json
from functools import partial
from pathlib import Path

import torch

from benchmarks.machine import describe_machine

from .in_turn import median_seconds
from .ledger import Ledger
from .models import build_model
from .runs import Run
from .settings import Setting
from .suites import Suite
from .variants import REFERENCE, VARIANTS

ROUNDS, WARM_UP = 20, 2


def latency_path(setting: Setting, ledger: Ledger) -> Path:
    """Where the latencies of a setting are kept: `SETTING/latency.json` in the ledger."""
    return ledger.folder / setting.name / "latency.json"


@torch.no_grad()
def measure_latency(
    suite: Suite, setting: Setting, ledger: Ledger, rounds: int = ROUNDS, names: list[str] | None = None
) -> Path:
    """Measures the variants of a suite, with the reference among them, and adds them to the setting's file.

    Weights are those at the start: time does not depend on them but for Faster R-CNN, whose boxes must be picked.

    Args:
        suite: gives the variants.
        setting: gives sizes and picture.
        ledger: gets the ratios of medians to the reference's, and the machine.
        rounds: pictures of each, one at a time.
        names: class names; three by default, as few as the sets here have.
    """
    variants = dict.fromkeys([REFERENCE, *(row.variant for row in suite.rows)])
    rate, side = setting.learning_rates[0], setting.recipe.image_size
    classes = _Classes(names or ["a", "b", "c"])
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


class _Classes:
    """What a model needs of its data; there are no boxes to start from, which changes no time."""

    train = None

    def __init__(self, names: list[str]):
        self.names, self.category_ids = names, list(range(len(names)))
