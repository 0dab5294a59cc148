"""Trains one row on COCO, on all processes that a launcher has started, and writes its ledger entry.

PYTHONPATH=scripts accelerate launch --num_processes 8 -m experiments.coco_worker sam-detr-r50-12e --data COCO ...
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import PartialState

from transformers_samdetr.data.load import DetectionData, load_detection_data
from transformers_samdetr.training import Recipe, load_model_and_processor
from transformers_samdetr.training.process_group import start_processes

from .coco import COCO_RUNS, CocoRun, ledger_path
from .ledger import LEDGER, Ledger
from .models import make_peer, start_from_objects
from .worker import train_and_measure

SAVE_EVERY = 500
"""Optimizer steps between checkpoints."""


def setting(text: str) -> tuple[str, Any]:
    """`epochs=1` to `("epochs", 1)`; what is no JSON is a word, and `none` is None.

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
    """Trains a row from where it stands; the main process writes the entry. Returns the exit code."""
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
