r"""Fine-tunes a SAM-DETR, or trains one of the paper's.

    samdetr-train --data digits --output_dir outputs/digits
    samdetr-train --data FOLDER --model sam-detr-tiny --epochs 24 --image_size 384 --output_dir outputs/mine
    accelerate launch --num_processes 8 -m transformers_samdetr.commands.train \
        --recipe sam-detr-r50-12e --data COCO --output_dir outputs/r50

`--data` is `digits`, a folder of any layout in docs/data.md, or a Hub name; `--model` a preset, a folder or a Hub name.
Every field of a recipe can be overridden; docs/recipes.md has all recipes.
"""

import argparse
import inspect
import json
import re
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from types import NoneType
from typing import get_args, get_type_hints

from ..presets import PRESETS
from ..training import RECIPES, Recipe
from ..training.recipes import PEER_TIMEOUT
from .data_arguments import add_data_arguments, checked_data_from
from .messages import CommandParser, check_model, none_or

GROUPS = {
    "model": ("model", "model_overrides", "backbone_weights", "initial_boxes", "image_size", "freeze_backbone"),
    "pictures": ("augmentation", "sampling", "class_weights", "shuffle_buffer", "max_corrupt"),
    "hardware": ("mixed_precision", "gradient_checkpointing", "compile", "workers", "evaluation_batch_size"),
    "saving and logging": ("keep", "metric", "trackers", "log_steps", "name"),
}
"""Fields of `Recipe` in the groups of --help; the others are in the group of the schedule."""


def parse(description: str | None = __doc__) -> tuple[argparse.Namespace, Recipe]:
    """The command's own arguments, and the recipe with its overrides; mistakes end the process."""
    parser = CommandParser(description, usage="%(prog)s --output_dir FOLDER [--data DATA] [--model MODEL] [options]")
    parser.checks["model"] = partial(check_model, presets=PRESETS)
    add_data_arguments(parser)
    streams = parser.add_argument_group("streams")
    streamed = "read --data (a Hub name, parquet, arrow) while it is used, for sets larger than the disk"
    streams.add_argument("--streaming", action="store_true", help=streamed)
    length = "training pictures of an epoch; default: what the set says"
    streams.add_argument("--stream_length", type=int, metavar="N", help=length)
    parser.add_argument("--ignore_data_errors", action="store_true", help="train although the check found errors")
    recipes = sorted(RECIPES)
    parser.add_argument("--recipe", default="tiny", choices=recipes, metavar="RECIPE", help="see docs/recipes.md")
    parser.add_argument("--output_dir", required=True, help="for the model, the log and the checkpoints")
    groups = {title: parser.add_argument_group(title) for title in ("model", "schedule", *list(GROUPS)[1:])}
    group_of = {name: groups[title] for title, names in GROUPS.items() for name in names}
    hints = get_type_hints(Recipe)
    for name, meaning in described_fields().items():
        hint = hints[name]
        kind = next((kind for kind in (bool, int, float, str) if hint in (kind, kind | None)), json_object)
        options = {"action": argparse.BooleanOptionalAction} if kind is bool else {"type": kind}
        if NoneType in get_args(hint):
            options["type"] = none_or(kind)
        group = group_of.get(name, groups["schedule"])
        group.add_argument(f"--{name}", default=argparse.SUPPRESS, help=meaning, **options)
    saving = groups["saving and logging"]
    resume = "a checkpoint's folder, or 'auto': the newest good one of --output_dir, or a fresh start without one"
    saving.add_argument("--resume", nargs="?", const="auto", help=resume)
    saving.add_argument("--save_every", type=int, default=500, help="optimizer steps between checkpoints; 0: epochs")
    saving.add_argument("--keep_checkpoints", type=int, default=2, help="newest that are kept, beside the best")
    timeout = "seconds in training until a silent process counts as lost; default: %(default)g"
    groups["hardware"].add_argument("--peer_timeout", type=float, default=PEER_TIMEOUT, help=timeout)
    args = parser.parse_args()
    overrides = {field.name: getattr(args, field.name) for field in fields(Recipe) if hasattr(args, field.name)}
    try:
        recipe = replace(RECIPES[args.recipe], **overrides)
    except ValueError as error:
        parser.error(str(error))
    folder = Path(args.output_dir)
    if folder.is_file():
        parser.error(f"--output_dir {folder} is a file: give a folder")
    if args.resume is None and any(folder.glob("checkpoints/step-*")):
        parser.error(f"{folder} holds checkpoints of an earlier run: add --resume, or give another --output_dir")
    if args.resume not in (None, "auto") and not Path(args.resume).is_dir():
        parser.error(f"--resume {args.resume} is no folder of a checkpoint: give one, or --resume alone for the newest")
    args.parser = parser
    return args, recipe


def json_object(text: str) -> dict:
    try:
        return dict(json.loads(text))
    except (TypeError, ValueError):
        remedy = """give a JSON object in quotes, such as '{"num_queries": 100}'"""
        raise argparse.ArgumentTypeError(f"{text!r}: {remedy}") from None


def described_fields() -> dict[str, str]:
    """The fields of `Recipe` and the first sentence about each in its docstring."""
    text = inspect.getdoc(Recipe).split("Attributes:\n")[1]
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", text, flags=re.MULTILINE)
    sentences = {name: re.split(r"(?<=[^.])\. |\.$", " ".join(entry.split()))[0] for name, entry in entries}
    return {field.name: re.sub('[`"]', "", sentences[field.name]).replace("%", "%%") for field in fields(Recipe)}


def main(description: str | None = __doc__) -> None:
    args, recipe = parse(description)
    with args.parser.plain_messages():
        from ..training.interruption import stop_at_once_on_interrupt
        from ..training.processes import start_processes

        state = start_processes()
        say = partial(print, flush=True) if state.is_main_process else lambda text: None  # of all machines' processes
        if state.num_processes > 1:
            say(f"{state.num_processes} processes train together, on {state.device.type}")
        with stop_at_once_on_interrupt(args.output_dir):
            train(args, recipe, say)


def train(args: argparse.Namespace, recipe: Recipe, say: Callable[[str], None]) -> None:
    """What the arguments ask for; leaves the process with a code of its own where it was stopped."""
    from accelerate import PartialState

    from ..training import Checkpointing, Trainer, load_model_and_processor
    from ..training.display import stage
    from ..training.interruption import LostProcess, explain_lost_process, how_to_go_on, on_stop_signal

    data = checked_data_from(args, seed=recipe.seed)
    saving = Checkpointing(data.fingerprint, args.save_every, args.keep_checkpoints)
    with stage(f"Preparing the model {recipe.model} …", PartialState().is_main_process):
        model, processor = load_model_and_processor(recipe, data.names, data.category_ids, data.train)
        model.config.data_fingerprint = data.fingerprint  # so that evaluation knows which pictures were held out
        sets = data.train, data.evaluation
        trainer = Trainer(model, processor, *sets, recipe, args.output_dir, (saving,), args.peer_timeout)
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
        say(f"Stopped as asked, and saved. {how_to_go_on(args.output_dir)}")
        sys.exit(received.exit_code)
    values = "  ".join(f"{name} {metrics[name]:.1f}" for name in ("AP", "AP50", "AP75"))
    say(f"COCO AP on the evaluation set: {values}")
    progress = trainer.progress
    if recipe.keep == "best" and progress.best_epoch < progress.epoch:
        say(f"Kept is the model of epoch {progress.best_epoch}, with {recipe.metric} {progress.best_value:.1f}")
    score = json.loads((Path(args.output_dir) / "config.json").read_text(encoding="utf-8"))["detection_threshold"]
    score = "" if score is None else f"; detections count from a score of {score:.2f}, where F1 is highest"
    say(f"The model lies in {args.output_dir}{score}. Next:")
    say(f"  samdetr-predict PICTURES --model {args.output_dir} --output_dir FOLDER")


if __name__ == "__main__":
    main()
