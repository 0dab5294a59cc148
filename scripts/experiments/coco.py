"""The rows of the paper's tables with its own settings on COCO: a recipe each, what it costs, and how it is started."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from transformers_samdetr.training.paper_recipes import DC5_12E, PAPER_RECIPES, PP_12E, PUBLISHED, R50_12E, R50_50E
from transformers_samdetr.training.recipes import Recipe

from .ledger import Ledger
from .recipe_table import hours_for
from .runs import FREE_FIELDS
from .suites import Suite

PROCESSES = 8
"""Of the paper's runs: two pictures each, one with DC5."""


@dataclass(frozen=True)
class CocoRun:
    """A row at the paper's scale.

    Attributes:
        recipe: the paper's; of a peer those of ours beside it, with our optimizer.
        gflops: for an image, one multiply-add counted as one; the paper's, of the nearest row where it has none.
        peer: name of another library's detector, or None.
    """

    recipe: Recipe
    gflops: int
    peer: str | None = None

    @property
    def name(self) -> str:
        return self.recipe.name

    @property
    def hours(self) -> float:
        """Estimated for 8 GPUs of 80 GB; see docs/recipes.md for how, and how rough it is."""
        return hours_for(self.recipe.epochs, self.gflops)

    def identity(self, recipe: Recipe) -> dict[str, Any]:
        """What the ledger knows a run by; processes may be traded for accumulation."""
        free = (*FREE_FIELDS, "accumulation_steps")
        return {
            "setting": "coco",
            "peer": self.peer,
            "recipe": {name: value for name, value in asdict(recipe).items() if name not in free},
        }


def _rows() -> list[CocoRun]:
    dropout = {"dropout": 0.1}
    plain = {**dropout, "feature_reweighting": False}
    ablations = {
        "average": {**plain, "query_resampling": "average"},
        "max": {**plain, "query_resampling": "max"},
        "keypoint-1": {**plain, "num_keypoints": 1},
        "keypoints-8": plain,
        **{f"keypoint{'s' * (n > 1)}-{n}-rw": {**dropout, "num_keypoints": n} for n in (1, 2, 4, 8)},
        "image-range": {**dropout, "keypoint_search_range": "image"},
    }
    narrow = {"encoder_ffn_dim": 1024, "decoder_ffn_dim": 1024}
    rows = [CocoRun(recipe, PUBLISHED[name].gflops) for name, recipe in PAPER_RECIPES.items()]
    rows += [
        CocoRun(replace(R50_12E, name=f"{name}-r50-12e", model_overrides=fields), 107)
        for name, fields in ablations.items()
    ]
    rows += [
        CocoRun(replace(PP_12E, name="detr-pp-r50-12e", model_overrides={"query_resampling": "none"}), 203),
        CocoRun(replace(R50_12E, name="faster-rcnn-r50-12e"), 547, "faster-rcnn"),
        CocoRun(replace(R50_12E, name="conditional-detr-r50-12e"), 90, "conditional-detr"),
        CocoRun(replace(DC5_12E, name="dab-detr-r50-dc5-12e"), 216, "dab-detr"),
        CocoRun(replace(R50_12E, name="deformable-detr-r50-12e", model_overrides=narrow), 78, "deformable-detr"),
        CocoRun(replace(PP_12E, name="faster-rcnn-r50-fpn-12e"), 180, "faster-rcnn"),
        CocoRun(replace(PP_12E, name="deformable-detr-pp-r50-12e", model_overrides=narrow), 173, "deformable-detr"),
        CocoRun(replace(R50_50E, name="conditional-detr-r50-50e", model_overrides={}), 90, "conditional-detr"),
        CocoRun(replace(R50_50E, name="dab-detr-r50-50e", model_overrides={}), 94, "dab-detr"),
    ]
    return rows


COCO_RUNS: dict[str, CocoRun] = {row.name: row for row in _rows()}
"""All rows by the name of their recipe."""


def coco_runs(suite: Suite, variants: list[str] | None = None) -> list[CocoRun]:
    """The rows of a suite that can be run on COCO.

    Raises:
        ValueError: a variant is none of the suite's, or the suite has no such rows.
    """
    rows = [row for row in suite.rows if row.recipe is not None]
    if not rows:
        raise ValueError(f"The suite {suite.name!r} is not one of COCO: run it with --scale small.")
    known = {row.variant for row in rows}
    for name in variants or ():
        if name not in known:
            raise ValueError(f"{name!r} is no variant of {suite.name!r} on COCO, which has {', '.join(sorted(known))}.")
    return [COCO_RUNS[row.recipe] for row in rows if variants is None or row.variant in variants]


def ledger_path(ledger: Ledger, name: str, seed: int) -> Path:
    """Where the entry of a run on COCO is."""
    return ledger.folder / "coco" / f"{name}-seed{seed}.json"


def launch_command(
    run: CocoRun,
    data: str,
    output_dir: Path,
    ledger: Ledger,
    processes: int = PROCESSES,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> list[str]:
    """What trains a row: the same steps on fewer GPUs, by accumulation.

    Args:
        run: the row.
        data: a folder in COCO's layout, or a name on the Hub.
        output_dir: of all runs.
        ledger: gets the entry.
        processes: one a GPU; a divisor of 8.
        seed: of weights, order, augmentation and noise.
        settings: fields of the recipe to change.

    Raises:
        ValueError: the number of processes is no divisor of 8.
    """
    if processes < 1 or PROCESSES % processes:
        raise ValueError(f"processes={processes} is not possible: the paper's batches are made by 8, 4, 2 or 1.")
    command = ["accelerate", "launch", "--num_processes", str(processes), "-m", f"{__package__}.coco_worker", run.name]
    command += ["--data", data, "--output_dir", str(output_dir / "coco" / f"{run.name}-seed{seed}")]
    command += ["--ledger", str(ledger.folder), "--seed", str(seed)]
    command += ["--accumulation_steps", str(PROCESSES // processes)]
    words = [f"{name}={'none' if value is None else json.dumps(value)}" for name, value in (settings or {}).items()]
    return command + [word for pair in words for word in ("--set", pair)]
