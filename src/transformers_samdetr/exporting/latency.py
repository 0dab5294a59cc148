"""How long an exported file takes beside the model, in turn, so that what else the machine does hits both alike."""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from .. import SamDetrForObjectDetection
from ..post_processing import best_detections
from .program import example_inputs
from .run import ExportedDetector


@dataclass(frozen=True)
class Latency:
    """Seconds of one picture, each round of both, and the machine's load average before."""

    eager: list[float]
    exported: list[float]
    load: float

    @property
    def ratio(self) -> float:
        """Of the medians, exported over eager."""
        return statistics.median(self.exported) / statistics.median(self.eager)

    def __str__(self) -> str:
        eager, exported = (1000 * statistics.median(seconds) for seconds in (self.eager, self.exported))
        return (
            f"{exported:.0f} ms, PyTorch {eager:.0f} ms, ratio {self.ratio:.2f} "
            f"(medians of {len(self.eager)} rounds in turn, load {self.load:.1f})"
        )


@torch.no_grad()
def measure_latency(
    path: str | os.PathLike,
    model: str | os.PathLike,
    height: int,
    width: int,
    threads: int,
    rounds: int = 7,
    top_k: int | None = None,
) -> Latency:
    """Runs model and file in turn on one whole picture of random pixels, after one round that does not count.

    Args:
        path: the exported file.
        model: folder or Hub name.
        height, width: in pixels.
        threads: of both.
        rounds: how often.
        top_k: of a file that finds detections; then the model's time has that of finding them in it, too.
    """
    torch.set_num_threads(threads)
    exported, detector = ExportedDetector(path, threads), SamDetrForObjectDetection.from_pretrained(model).eval()
    inputs = example_inputs(detector.config.num_channels, 1, height, width)
    sizes = inputs.pop("target_sizes")

    def run_model():
        outputs = detector(**inputs)
        if top_k is not None:
            best_detections(outputs.logits, outputs.pred_boxes, top_k, sizes)

    def run_file():
        exported(**inputs, target_sizes=None if top_k is None else sizes)

    load = os.getloadavg()[0]
    run_model(), run_file()
    seconds = [(_seconds(run_model), _seconds(run_file)) for _ in range(rounds)]
    return Latency(*map(list, zip(*seconds, strict=True)), load)


def _seconds(call: Callable[[], None]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
