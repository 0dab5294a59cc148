"""Trains one run in a process of its own and writes its ledger entry.

PYTHONPATH=scripts python -m experiments.worker digits sam-detr 0.001 0 --output_dir outputs/experiments
"""

import argparse
import copy
import fcntl
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers.image_processing_utils import BaseImageProcessor

from benchmarks.machine import describe_machine
from benchmarks.profiles import UNCOUNTED
from transformers_samdetr.data.load import DetectionData
from transformers_samdetr.training import Checkpointing, Recipe, Trainer
from transformers_samdetr.training.interruption import on_stop_signal
from transformers_samdetr.training.log import LOG_FILE, read_log

from .models import build_model, reference_boxes
from .runs import LEDGER, Ledger, Run


class TrainingClock:
    """Counts the processor time of each epoch's training, all threads, without evaluation and saving.

    A trainer callback; it must come before `Checkpointing`, which saves its state, so that a resumed run continues.

    Attributes:
        seconds: of each finished epoch, and of the running one so far.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = [0.0]
        self._mark = time.process_time()

    def start(self, trainer: Any) -> None:
        """Joins the trainer's checkpoints; call it right before `Checkpointing.start`."""
        trainer.accelerator.register_for_checkpointing(self)

    def begin(self) -> None:
        """Starts counting; call it right before `train`."""
        self._mark = time.process_time()

    def after_step(self, trainer: Any) -> None:
        """Counts the step; a new epoch begins with its first step."""
        now = time.process_time()
        while len(self.seconds) <= trainer.progress.epoch:
            self.seconds.append(0.0)
        self.seconds[trainer.progress.epoch] += now - self._mark
        self._mark = now

    def after_epoch(self, trainer: Any) -> None:
        """Leaves out the evaluation."""
        self._mark = time.process_time()

    def when_stopped(self, trainer: Any) -> None:
        """Counts the step after which the run stops; within an evaluation there is none."""
        if trainer.progress.step < trainer.order.steps_per_epoch:
            self.after_step(trainer)

    def state_dict(self) -> dict[str, list[float]]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state: dict[str, list[float]]) -> None:
        self.seconds = list(state["seconds"])


LOCK_FILE = "lock"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Locks the folder until the end of the block; a process that dies releases it.

    Raises:
        RuntimeError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(
                f"{folder} is in use: another process trains this run. Wait for it, or stop it."
            ) from None
        yield


def count_trained(model: nn.Module) -> int:
    """Parameters that get a gradient."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


@torch.no_grad()
def multiply_adds(model: nn.Module, height: int, width: int) -> int:
    """Multiply-adds of matrix products, convolutions and attention in one inference.

    Sampling, RoIAlign, norms and activations count 0, as usual.

    Args:
        model: not changed.
        height, width: of the one picture, in pixels.
    """
    # of a copy: the counter fails on parameters with requires_grad under no_grad
    still = copy.deepcopy(model).eval().requires_grad_(False)
    pixels = torch.zeros(1, 3, height, width, device=next(model.parameters()).device)
    with FlopCounterMode(display=False, custom_mapping=UNCOUNTED) as counter:
        still(pixel_values=pixels)
    return counter.get_total_flops() // 2


PAPER_SIZE = {"height": 800, "width": 1066}
"""Image size for the multiply-adds if the processor keeps the aspect ratio."""


def train_run(run: Run, data: DetectionData, ledger: Ledger, folder: Path) -> int:
    """Trains a run to its end, resuming it if it was interrupted, and writes it into the ledger.

    Args:
        run: not in the ledger yet.
        data: of its setting.
        ledger: gets the entry.
        folder: of this run alone: checkpoints while it runs, log and model at its end.

    Returns:
        The exit code: 0, or the code of a run that was stopped and has saved a checkpoint.
    """
    model, processor = build_model(run, data, ledger)
    code, measured = train_and_measure(model, processor, data, run.recipe(), folder)
    if code == 0:
        boxes = {"reference_boxes": reference_boxes(model)} if run.gives_boxes else {}
        ledger.write(ledger.path(run), {"identity": run.identity(), **measured, **boxes})
        shutil.rmtree(folder / "checkpoints")
    return code


def train_and_measure(
    model: nn.Module,
    processor: BaseImageProcessor,
    data: DetectionData,
    recipe: Recipe,
    folder: Path,
    every: int = 0,
) -> tuple[int, dict[str, Any]]:
    """Trains a model and returns the ledger entry without its identity.

    Args:
        model: the initial model, used if the folder has no checkpoint.
        processor: of the model.
        data: for training and evaluation.
        recipe: how it is trained.
        folder: of this run alone.
        every: optimizer steps between checkpoints; 0: one an epoch.

    Returns:
        The exit code, and the measurements, empty if the run was stopped.
    """
    work = {
        "parameters": count_trained(model),
        "multiply_adds": multiply_adds(model, *(processor.size.get(side) or PAPER_SIZE[side] for side in PAPER_SIZE)),
    }
    clock, saving = TrainingClock(), Checkpointing(data.fingerprint, every)
    trainer = Trainer(model, processor, data.train, data.evaluation, recipe, folder, (clock, saving))
    clock.start(trainer)
    saving.start(trainer, "auto")
    with on_stop_signal(trainer.request_stop) as received:
        clock.begin()
        trainer.train()
    if trainer.stopped:
        return received.exit_code, {}
    machine = describe_machine()
    software = machine.pop("versions")
    machine.pop("load")  # of this moment alone
    counts = {"training images": len(data.train), "evaluation images": len(data.evaluation), "classes": len(data.names)}
    lines = read_log(folder / LOG_FILE)
    return 0, {
        "data": {"fingerprint": data.fingerprint, **counts},
        "software": software,
        "machine": {**machine, "threads": torch.get_num_threads()},
        **work,
        "epochs": [_epoch(line, seconds) for line, seconds in zip(lines, clock.seconds, strict=True)],
    }


def _epoch(line: dict[str, Any], cpu_seconds: float) -> dict[str, Any]:
    """A line of the log without constants and without the losses of earlier layers."""
    kept = {
        name: value
        for name, value in line.items()
        if name not in ("variant", "parameters") and not name[-1:].isdigit() or name in ("AP50", "AP75")
    }
    return {**kept, "cpu_seconds": round(cpu_seconds, 3)}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("setting")
    parser.add_argument("variant")
    parser.add_argument("learning_rate", type=float)
    parser.add_argument("seed", type=int)
    parser.add_argument("--ledger", type=Path, default=LEDGER)
    parser.add_argument("--output_dir", type=Path, required=True, help="of all runs; each has a folder in it")
    parser.add_argument("--data_dir", type=Path, help="folder with the real sets")
    args = parser.parse_args(arguments)
    run = Run(args.setting, args.variant, args.learning_rate, args.seed)
    with alone_in(args.output_dir / run.name):
        data = run.parts[0].load_data(args.data_dir)
        code = train_run(run, data, Ledger(args.ledger), args.output_dir / run.name)
    sys.exit(code)


if __name__ == "__main__":
    main()
