"""What a user sees of a run: bars and the losses on a terminal, lines of text elsewhere."""

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

import psutil
import torch
from accelerate import Accelerator
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

TERMS = ("ce", "bbox", "giou")
REFRESH_SECONDS = 1.0
"""How often a terminal asks for losses, which waits for the device."""


class Display:
    """Shows a run of `epochs` times `steps` on the main process, a line `every` so many steps without a terminal."""

    def __init__(self, accelerator: Accelerator, epochs: int, steps: int, every: int, stream=None):
        quiet = not accelerator.is_main_process
        self.console = Console(file=stream or sys.stdout, highlight=False, soft_wrap=True, markup=False, quiet=quiet)
        self.on_terminal = self.console.is_terminal and not quiet
        self.device = accelerator.device
        self.epochs, self.steps, self.every = epochs, steps, every
        self.live: Live | None = None
        self.evaluation_seconds = 0.0  # of the last evaluation
        columns = BarColumn(bar_width=30), MofNCompleteColumn(), TimeElapsedColumn(), "{task.fields[left]}"
        self.bars = Progress("{task.description}", *columns, console=self.console, transient=True)

    def begin_epoch(self, epoch: int, step: int) -> None:
        """Starts the clock of an epoch, counted from 0, of which `step` steps are done."""
        self.begin, self.first_step, self.refreshed, self.images = time.perf_counter(), step, float("-inf"), 0
        self.epoch = epoch
        if self.on_terminal:
            title = f"Epoch {epoch + 1}/{self.epochs}"
            self.task = self.bars.add_task(title, total=self.steps, completed=step, left="")
            self.live = Live(self.bars, console=self.console, refresh_per_second=4, transient=True)
            self.live.start()

    def step(self, step: int, images: int, lr: float, losses: Callable[[], Mapping[str, float]]) -> None:
        """After `step` steps of the epoch, the last of `images` over all processes.

        `losses` gives the means of the epoch so far; called when they are shown, since it waits for the device.
        """
        self.images += images
        if not self.on_terminal and (self.console.quiet or step % self.every):
            return
        seconds = time.perf_counter() - self.begin
        epochs_left = self.epochs - self.epoch
        # from the mean time of this epoch's steps and that of the last evaluation
        left = (epochs_left * self.steps - step) * seconds / max(step - self.first_step, 1)
        left = timedelta(seconds=round(left + epochs_left * self.evaluation_seconds))
        memory = psutil.Process().memory_info().rss  # what this process holds now on a CPU
        if self.device.type == "cuda":  # the most that tensors took so far
            memory = torch.cuda.max_memory_allocated(self.device)
        speed = f"{self.images / max(seconds, 1e-9):.1f} images/s"
        note = f"{speed}  lr {lr:.2g}  memory {memory / 2**30:.1f} GiB"
        if self.on_terminal:
            self.bars.update(self.task, completed=step, left=f"ETA {left}")
            if seconds - self.refreshed >= REFRESH_SECONDS:
                self.refreshed = seconds
                self.live.update(Group(self.bars, note, loss_text(losses())))
        else:
            head = f"epoch {self.epoch + 1}/{self.epochs}  step {step}/{self.steps}  ETA {left}"
            self.console.print(f"{head}  {note}  {loss_text(losses())}")

    def end_epoch(self) -> None:
        """Takes the bars away, also after an error."""
        if self.live is not None:
            self.live.stop()
            self.bars.remove_task(self.task)
            self.live = None

    def evaluation(self, batches: Iterable) -> Iterable:
        """The batches of an evaluation, with a bar on a terminal."""
        if not self.on_terminal:
            yield from batches
            return
        with self.bars:
            task = self.bars.add_task(f"Evaluation {self.epoch + 1}/{self.epochs}", left="")
            yield from self.bars.track(batches, task_id=task)
            self.bars.remove_task(task)


def loss_text(losses: Mapping[str, float]) -> str:
    """The loss, the last decoder layer's terms, and each layer's sum, the last layer at the end; with coefficients.

    >>> loss_text({"loss": 3.0, "loss_ce": 1.0, "loss_ce_0": 2.0})
    'loss 3.000  ce 1.000  by layer 2.00 1.00'
    """
    earlier = sorted({int(name.rsplit("_", 1)[1]) for name in losses if name[-1:].isdigit()})
    layers = [f"_{layer}" for layer in earlier] + [""]
    sums = " ".join(f"{sum(losses.get(f'loss_{term}{layer}', 0.0) for term in TERMS):.2f}" for layer in layers)
    terms = "  ".join(f"{term} {losses[f'loss_{term}']:.3f}" for term in TERMS if f"loss_{term}" in losses)
    return f"{total_text(losses)}  {terms}  by layer {sums}"


def total_text(losses: Mapping[str, float]) -> str:
    """The whole loss, and how much of it belongs to denoising queries, which evaluation does not have."""
    denoising = [value for name, value in losses.items() if name.startswith("dn_")]
    share = f" ({sum(denoising):.3f} of it denoising)" if denoising else ""
    return f"loss {losses.get('loss', float('nan')):.3f}{share}"


@contextmanager
def stage(text: str, shown: bool = True, seconds: float = 3.0) -> Iterator[None]:
    """Says what is going on within: on a terminal while it lasts, elsewhere in a line if it takes some seconds."""
    if shown and Console().is_terminal:
        with Console().status(escape(text)):
            yield
        return
    timer = threading.Timer(seconds, lambda: shown and print(text, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
