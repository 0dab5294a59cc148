"""The paper's rows on COCO: their recipes and costs, how they are launched, and the worker that trains one.

PYTHONPATH=scripts accelerate launch --num_processes 8 -m experiments.coco sam-detr-r50-12e --data COCO ...
"""

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from accelerate import PartialState

from benchmarks.machine import worker_environment
from transformers_samdetr.data.load import DetectionData, load_detection_data
from transformers_samdetr.training import Recipe, load_model_and_processor
from transformers_samdetr.training.interruption import EXIT_INTERRUPTED, EXIT_REQUEUE
from transformers_samdetr.training.processes import start_processes
from transformers_samdetr.training.recipes import DC5_12E, PAPER_RECIPES, PP_12E, R50_12E, R50_50E

from .definitions import Suite
from .models import make_peer, start_from_objects
from .published import PUBLISHED
from .recipes_page import hours_for
from .runs import FREE_FIELDS, LEDGER, Ledger
from .worker import train_and_measure

PROCESSES = 8
"""GPUs of the paper's runs, with two images each (one with DC5)."""


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
    """The command that trains a row; fewer GPUs take the same steps by accumulating gradients.

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
        raise ValueError(f"processes={processes} must be 8, 4, 2 or 1, so that batches have the paper's size.")
    command = ["accelerate", "launch", "--num_processes", str(processes), "-m", "experiments.coco", run.name]
    command += ["--data", data, "--output_dir", str(output_dir / "coco" / f"{run.name}-seed{seed}")]
    command += ["--ledger", str(ledger.folder), "--seed", str(seed)]
    command += ["--accumulation_steps", str(PROCESSES // processes)]
    words = [f"{name}={'none' if value is None else json.dumps(value)}" for name, value in (settings or {}).items()]
    return command + [word for pair in words for word in ("--set", pair)]


def make_coco_runs(
    runs: Sequence[CocoRun],
    data: str | None,
    output_dir: Path,
    ledger: Ledger,
    processes: int = PROCESSES,
    seeds: Sequence[int] = (0,),
    settings: Mapping[str, Any] | None = None,
    dry_run: bool = False,
    say: Callable[[str], None] = print,
) -> int:
    """Runs the rows that are not in the ledger, one after another; a failed run does not stop the others.

    Args:
        runs: of a suite.
        data: a folder in COCO's layout, or a name on the Hub; may be left out of a dry run.
        output_dir, ledger, processes, settings: as in `launch_command`.
        seeds: each row is run with all of them.
        dry_run: says the commands and starts none.
        say: takes a line for the user.

    Returns:
        The exit code: 0, 1 if any run failed, or that of a run that was told to stop.

    Raises:
        ValueError: there is no data to train on.
    """
    if data is None and not dry_run:
        raise ValueError("Runs on COCO need --data FOLDER; --dry_run prints the commands without it.")
    failed, total = [], 0.0
    for seed in seeds:
        for run in runs:
            if ledger_path(ledger, run.name, seed).is_file():
                say(f"{run.name}, seed {seed}: in the ledger")
                continue
            command = launch_command(run, data or "COCO", output_dir, ledger, processes, seed, settings)
            hours = run.hours * PROCESSES / processes
            total += hours
            say(f"{run.name}, seed {seed}: about {hours:.1f} hours on {processes} GPUs of 80 GB")
            say(f"  PYTHONPATH=scripts {shlex.join(command)}")
            if dry_run:
                continue
            # the same program, also where the environment's scripts are not on the path
            launcher = [sys.executable, "-m", "accelerate.commands.launch"]
            code = subprocess.run([*launcher, *command[2:]], env=worker_environment()).returncode
            if code in (EXIT_REQUEUE, EXIT_INTERRUPTED):
                return code
            if code:
                failed.append(f"{run.name}, seed {seed}: exit code {code}")
    say(f"About {total:.0f} hours in all; docs/recipes.md says how they are estimated, within a factor of 2.")
    for line in failed:
        say(f"Failed: {line}")
    return 1 if failed else 0


SAVE_EVERY = 500
"""Optimizer steps between checkpoints."""


def setting(text: str) -> tuple[str, Any]:
    """Parses `epochs=1` to `("epochs", 1)`: values are JSON or words, and `none` is None.

    >>> setting("epochs=1"), setting("mixed_precision=bf16"), setting("backbone_weights=none")
    (('epochs', 1), ('mixed_precision', 'bf16'), ('backbone_weights', None))
    """
    name, separator, value = text.partition("=")
    if not separator or name not in Recipe.__dataclass_fields__:
        raise argparse.ArgumentTypeError(f"{text!r} must be FIELD=VALUE with a field of a recipe, such as epochs=1")
    if value.lower() == "none":
        return name, None
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def train_row(run: CocoRun, recipe: Recipe, data: DetectionData, ledger: Ledger, folder: Path) -> int:
    """Trains or resumes a row; the main process writes the ledger entry. Returns the exit code."""
    model, processor = load_model_and_processor(recipe, data.names, data.category_ids, data.train)
    if run.peer is not None:
        model = make_peer(run.peer, model.config, recipe)
        start_from_objects(model, recipe, data)
    code, measured = train_and_measure(model, processor, data, recipe, folder, SAVE_EVERY)
    if code == 0 and PartialState().is_main_process:
        ledger.write(ledger_path(ledger, run.name, recipe.seed), {"identity": run.identity(recipe), **measured})
    return code


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=COCO_RUNS, metavar="NAME")
    parser.add_argument("--data", required=True)
    parser.add_argument("--output_dir", type=Path, required=True, help="of this run alone")
    parser.add_argument("--ledger", type=Path, default=LEDGER)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--accumulation_steps", type=int, default=1)
    parser.add_argument("--set", type=setting, action="append", default=[], metavar="FIELD=VALUE")
    args = parser.parse_args(arguments)
    run = COCO_RUNS[args.name]
    fields = {"seed": args.seed, "accumulation_steps": args.accumulation_steps} | dict(args.set)
    state = start_processes()
    with state.local_main_process_first():  # so that one process fills the caches of the others
        data = load_detection_data(args.data)
    sys.exit(train_row(run, replace(run.recipe, **fields), data, Ledger(args.ledger), args.output_dir))


if __name__ == "__main__":
    main()
