"""Runs exported files of every format, and compares them with the model: boxes, scores and latency."""

import os
import statistics
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..modeling_sam_detr import SamDetrForObjectDetection
from ..post_processing import best_detections
from ..pretrained_model import SamDetrObjectDetectionOutput
from .formats import require
from .program import example_inputs

BOX_TOLERANCE = 1e-4
"""Allowed difference of a coordinate in float32, normalised by the picture."""
TIE = 1e-5
"""Detections whose scores differ by less may come in either order."""
Shape = tuple[int, int, int]
"""Batch size, height and width."""
CHECKED_SHAPES: tuple[Shape, ...] = ((1, 160, 128), (3, 203, 250))


Runner = Callable[[dict[str, Tensor]], dict[str, Tensor]]


class ExportedDetector(nn.Module):
    """An exported file in place of the model that it was made of, on the CPU.

    Args:
        path: the file or folder that `export_detector` has written.
        threads: of ONNX Runtime and OpenVINO, by default all cores. The other formats use PyTorch's threads.

    Raises:
        FileNotFoundError: the file does not exist.
        ImportError: the package that runs it is missing.
    """

    def __init__(self, path: str | Path, threads: int | None = None):
        super().__init__()
        self.anchor = nn.Parameter(torch.empty(0))  # on the CPU, for callers who look for the model's device
        path = Path(path)
        if not path.exists() or path.is_dir() and not (path / "model.xml").is_file():
            raise FileNotFoundError(f"No exported file: {path}")
        self.run: Runner
        if path.is_dir():
            self.run = _openvino_model(path / "model.xml", threads)
        else:
            self.run = _torch_program(path) if zipfile.is_zipfile(path) else _onnx_session(path, threads)

    def forward(
        self, pixel_values: Tensor, pixel_mask: Tensor | None = None, target_sizes: Tensor | None = None
    ) -> SamDetrObjectDetectionOutput | dict[str, Tensor]:
        """The file's outputs, as of the model, or its detections; see `ExportableDetector.forward`."""
        if pixel_mask is None:
            pixel_mask = torch.ones_like(pixel_values[:, 0], dtype=torch.int64)
        inputs = {"pixel_values": pixel_values, "pixel_mask": pixel_mask, "target_sizes": target_sizes}
        outputs = self.run({name: value for name, value in inputs.items() if value is not None})
        return SamDetrObjectDetectionOutput(**outputs) if "logits" in outputs else outputs


def _onnx_session(path: Path, threads: int | None) -> Runner:
    require("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.add_session_config_entry("session.force_spinning_stop", "1")  # threads rest between two calls
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        arrays = session.run(names, {name: value.numpy() for name, value in inputs.items()})
        return {name: torch.from_numpy(array) for name, array in zip(names, arrays, strict=True)}

    return run


def _openvino_model(path: Path, threads: int | None) -> Runner:
    require("openvino")
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32"}  # CPUs with bfloat16 would round everything to it
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    compiled = openvino.Core().compile_model(path, "CPU", settings)

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        found = compiled({name: value.numpy() for name, value in inputs.items()})
        return {output.get_any_name(): torch.from_numpy(found[output].copy()) for output in compiled.outputs}

    return run


def _torch_program(path: Path) -> Runner:
    with zipfile.ZipFile(path) as archive:
        is_compiled = any("/aotinductor/" in name for name in archive.namelist())
    if is_compiled:
        module = torch._inductor.aoti_load_package(str(path))
    else:
        module = torch.export.load(path).module()
    return lambda inputs: module(**inputs)


@dataclass(frozen=True)
class Difference:
    """How far a file is from its model, over all compared boxes.

    Attributes:
        largest, mean: of the coordinates' differences, normalised by the picture.
        scores: the largest difference of a score.
        off: number of boxes with a coordinate that differs by more than `BOX_TOLERANCE`.
        labels: number of boxes with another label; detections with tied scores are left out.
        count: number of boxes.
    """

    largest: float
    mean: float
    scores: float
    off: int
    labels: int
    count: int

    def __str__(self) -> str:
        return (
            f"{self.count} boxes differ by up to {self.largest:.1e} of the picture, on average by {self.mean:.1e}, "
            f"{self.off} by more than {BOX_TOLERANCE:g}; scores by up to {self.scores:.1e}; {self.labels} other labels"
        )


@torch.no_grad()
def compare(
    exported: ExportedDetector,
    model: SamDetrForObjectDetection,
    shapes: Sequence[Shape] = CHECKED_SHAPES,
    top_k: int | None = None,
    seed: int = 1,
) -> Difference:
    """Runs file and model on random padded batches.

    Args:
        exported: with the outputs of the model, or with `top_k` detections.
        model: in evaluation mode, on the CPU.
        shapes: of the batches.
        seed: of the pictures.
    """
    boxes_off, scores_off, labels_off = [], [], []
    for shape in shapes:
        inputs = example_inputs(model.config.num_channels, *shape, seed=seed)
        sizes = inputs.pop("target_sizes")
        expected = model(**inputs)
        if top_k is None:
            found = exported(**inputs)
            boxes_off.append((found.pred_boxes - expected.pred_boxes).abs().amax(-1))
            scores_off.append((found.logits.sigmoid() - expected.logits.sigmoid()).abs())
            labels_off.append(_decided(expected.logits) & (found.logits.argmax(-1) != expected.logits.argmax(-1)))
            continue
        found = exported(**inputs, target_sizes=sizes)
        scores, labels, boxes = best_detections(expected.logits, expected.pred_boxes, top_k, sizes)
        clear = _clear(scores)
        pixels = sizes.flip(-1).repeat(1, 2)[:, None]  # (B, 1, 4): W H W H
        boxes_off.append(((found["boxes"] - boxes) / pixels).abs().amax(-1)[clear])
        scores_off.append((found["scores"] - scores).abs())
        labels_off.append((found["labels"] != labels) & clear)
    boxes, scores, labels = (
        torch.cat([part.flatten() for part in parts]) for parts in (boxes_off, scores_off, labels_off)
    )
    return Difference(
        largest=boxes.max().item(),
        mean=boxes.mean().item(),
        scores=scores.max().item(),
        off=int((~(boxes <= BOX_TOLERANCE)).sum()),  # NaN counts as off
        labels=int(labels.sum()),
        count=len(boxes),
    )


def _decided(logits: Tensor) -> Tensor:
    """`(B, Q)`: whether the best label of a query leads the next by more than a tie."""
    if logits.shape[-1] == 1:
        return torch.ones_like(logits[..., 0], dtype=torch.bool)
    first, second = logits.sigmoid().topk(2, dim=-1).values.unbind(-1)
    return first - second > TIE


def _clear(scores: Tensor) -> Tensor:
    """`(B, D)`: whether a detection's place is its own, scores being in descending order; the last one's never is."""
    gaps = scores[:, :-1] - scores[:, 1:] > TIE
    edge = gaps.new_ones(len(gaps), 1)
    return torch.cat([edge, gaps], dim=1) & torch.cat([gaps, ~edge], dim=1)


@torch.no_grad()
def measure_latency(
    path: str | os.PathLike,
    model: str | os.PathLike,
    height: int,
    width: int,
    threads: int,
    rounds: int = 7,
    top_k: int | None = None,
) -> tuple[float, float]:
    """Median seconds of file and model on a picture of random pixels, run in turn after a warm-up.

    Args:
        path: the exported file.
        model: folder or Hub name.
        height, width: in pixels.
        threads: of both.
        rounds: number of runs of each.
        top_k: of a file with post-processing; the model's time then includes its post-processing.
    """
    torch.set_num_threads(threads)
    exported, detector = ExportedDetector(path, threads), SamDetrForObjectDetection.from_pretrained(model).eval()
    inputs = example_inputs(detector.config.num_channels, 1, height, width)
    sizes = inputs.pop("target_sizes")
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds + 1):
        start = time.perf_counter()
        exported(**inputs, target_sizes=None if top_k is None else sizes)
        between = time.perf_counter()
        outputs = detector(**inputs)
        if top_k is not None:
            best_detections(outputs.logits, outputs.pred_boxes, top_k, sizes)
        seconds[0].append(between - start)
        seconds[1].append(time.perf_counter() - between)
    return statistics.median(seconds[0][1:]), statistics.median(seconds[1][1:])
