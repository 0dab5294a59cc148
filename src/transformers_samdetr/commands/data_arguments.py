"""The options of commands that say which data to read."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .messages import named

if TYPE_CHECKING:
    from ..data import DetectionData


def add_data_arguments(parser: argparse.ArgumentParser, required: bool = False) -> None:
    """Adds `--data` and what belongs to it, for `data_from`; `--data` is `digits` unless it is required."""
    group = parser.add_argument_group("data")
    kinds = "'digits', a folder (COCO, YOLO, VOC, CSV, parquet, save_to_disk), or a Hub name"
    default = {"required": True} if required else {"default": "digits"}
    group.add_argument("--data", help=kinds if required else f"{kinds}; default: digits", **default)
    group.add_argument("--train_split", help="default: train")
    group.add_argument("--eval_split", help="default: validation, val or test; without one, a fifth is held out")
    columns = "where a set has what, as bbox=objects.box"
    group.add_argument("--columns", nargs="+", type=named(str), metavar="NAME=COLUMN", help=columns)
    group.add_argument("--box_format", help="such as xywh, xyxy or yolo; default: of the layout, or found on a sample")
    group.add_argument("--class_names", nargs="+", help="for a set that does not name its classes, from id 0")


def data_from(args: argparse.Namespace, seed: int = 0) -> DetectionData:
    """What `load_detection_data` makes of the arguments; `seed` chooses the digit scenes."""
    from ..data import load_detection_data

    names = ("train_split", "eval_split", "box_format", "class_names", "streaming", "stream_length")
    given = {name: value for name in names if (value := getattr(args, name, None)) is not None}
    return load_detection_data(args.data, columns=dict(args.columns) if args.columns else None, seed=seed, **given)


def checked_data_from(args: argparse.Namespace, seed: int = 0) -> DetectionData:
    """`data_from`, checked by `quick_check`; the main process prints what it is and what was found.

    Raises:
        ValueError: the data cannot be read, or cannot be trained on as they are.
    """
    from accelerate import PartialState

    from ..data import quick_check
    from ..data.schema import return_free_memory
    from ..training.display import stage

    state = PartialState()
    with stage(f"Reading the annotations of {args.data} …", state.is_main_process):
        with state.local_main_process_first():  # so that one process fills the caches of the others
            data = data_from(args, seed)
        return_free_memory()
        findings = quick_check(data)
    if not getattr(args, "ignore_data_errors", False):
        try:
            findings.raise_errors(data.source)
        except ValueError as error:
            raise ValueError(f"{error} To train in spite of it, add --ignore_data_errors.") from error
    if state.is_main_process:  # state.print would print on each machine
        print(data.describe(), *(f"  {finding}" for finding in findings.all), sep="\n", flush=True)
    return data
