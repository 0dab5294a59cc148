r"""Fine-tunes a SAM-DETR, or trains one of the paper's.

    samdetr-train --data digits --output_dir outputs/digits
    samdetr-train --data FOLDER --model sam-detr-tiny --epochs 24 --image_size 384 --output_dir outputs/mine
    accelerate launch --num_processes 8 -m transformers_samdetr.commands.train \
        --recipe sam-detr-r50-12e --data COCO --output_dir outputs/r50

`--data` is `digits`, a folder of any layout in docs/data.md, or a Hub name; `--model` a preset, a folder or a Hub name.
Every field of a recipe can be overridden; docs/recipes.md has all recipes.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from types import NoneType
from typing import get_args, get_type_hints

from ..training import RECIPES, Checkpointing, Recipe, Trainer, load_model_and_processor
from ..training.interruption import (
    LostProcess,
    explain_lost_process,
    how_to_go_on,
    on_stop_signal,
    stop_at_once_on_interrupt,
)
from ..training.process_group import PEER_TIMEOUT, start_processes
from .data_arguments import add_data_arguments, add_streaming_arguments, checked_data_from


def optional(kind: type) -> Callable[[str], object]:
    """Reads a value that may be `none`."""
    return lambda word: None if word.lower() == "none" else kind(word)


def parse(description: str | None = __doc__) -> tuple[argparse.Namespace, Recipe]:
    """The command's own arguments, and the recipe with its overrides."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_arguments(parser)
    add_streaming_arguments(parser)
    parser.add_argument("--output_dir", required=True)
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        help="a checkpoint's folder, or 'auto': the newest good one of --output_dir, or a fresh start without one",
    )
    parser.add_argument("--save_every", type=int, default=500, help="optimizer steps between checkpoints; 0: epochs")
    parser.add_argument("--keep_checkpoints", type=int, default=2, help="newest that are kept, beside the best")
    parser.add_argument(
        "--peer_timeout",
        type=float,
        default=PEER_TIMEOUT,
        help="seconds in training until a silent process counts as lost; default: %(default)g",
    )
    parser.add_argument("--recipe", default="tiny", choices=sorted(RECIPES), metavar="RECIPE")
    for name, hint in get_type_hints(Recipe).items():
        kind = next((kind for kind in (bool, int, float, str) if hint in (kind, kind | None)), json.loads)
        if NoneType in get_args(hint):
            kind = optional(kind)
        options = {"action": argparse.BooleanOptionalAction} if kind is bool else {"type": kind}
        parser.add_argument(f"--{name}", default=argparse.SUPPRESS, **options)
    args = parser.parse_args()
    overrides = {field.name: getattr(args, field.name) for field in fields(Recipe) if hasattr(args, field.name)}
    return args, replace(RECIPES[args.recipe], **overrides)


def main(description: str | None = __doc__) -> None:
    args, recipe = parse(description)
    state = start_processes()
    if state.num_processes > 1:
        state.print(f"{state.num_processes} processes train together, on {state.device.type}", flush=True)
    with stop_at_once_on_interrupt(args.output_dir):
        train(args, recipe)


def train(args: argparse.Namespace, recipe: Recipe) -> None:
    """What the arguments ask for; leaves the process with a code of its own where it was stopped."""
    data = checked_data_from(args, seed=recipe.seed)
    model, processor = load_model_and_processor(recipe, data.names, data.category_ids, data.train)
    saving = Checkpointing(data.fingerprint, args.save_every, args.keep_checkpoints)
    trainer = Trainer(
        model, processor, data.train, data.evaluation, recipe, args.output_dir, (saving,), args.peer_timeout
    )
    with on_stop_signal(trainer.request_stop) as received:
        try:
            with explain_lost_process(args.output_dir):
                saving.start(trainer, args.resume)
                metrics = trainer.train()
        except LostProcess as error:
            # here, since a launcher ends this process too, and outside its SIGTERM would come before the words
            print(f"{error}\n({error.__cause__})", file=sys.stderr, flush=True)
            sys.exit(1)
    if trainer.stopped:
        trainer.accelerator.print(f"Stopped as asked, and saved. {how_to_go_on(args.output_dir)}", flush=True)
        sys.exit(received.exit_code)
    values = "  ".join(f"{name} {metrics[name]:.1f}" for name in ("AP", "AP50", "AP75"))
    trainer.accelerator.print(f"COCO AP on the evaluation set: {values}")


if __name__ == "__main__":
    main()
