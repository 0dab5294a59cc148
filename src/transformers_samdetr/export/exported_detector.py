"""Runs exported files of every format, and compares them with the model: boxes, scores and latency."""

import importlib.util
import json
import os
import statistics
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ..configuration_sam_detr import SamDetrConfig
from ..image_processing_sam_detr import SamDetrImageProcessor, best_detections
from ..modeling_sam_detr import SamDetrForObjectDetection
from ..pretrained_model import SamDetrObjectDetectionOutput
from .program import example_inputs

BOX_TOLERANCE = 1e-4
"""Allowed difference of a coordinate in float32, normalised by the picture."""
TIE = 1e-5
"""Detections whose scores differ by less may come in either order."""
Shape = tuple[int, int, int]
"""Batch size, height and width."""
CHECKED_SHAPES: tuple[Shape, ...] = ((1, 160, 128), (3, 203, 250))


EXTRAS = {"openvino": "openvino"}
"""Of packages that another extra than `export` brings."""


def require(*packages: str) -> None:
    """An ImportError that says how to install those of the packages that are missing."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        extra = ",".join(dict.fromkeys(EXTRAS.get(name, "export") for name in missing))
        raise ImportError(f'This format needs {", ".join(missing)}: pip install "transformers-samdetr[{extra}]"')


class OnnxEngine:
    """ONNX Runtime. An engine runs a file: tensors in, tensors out, by name."""

    def __init__(self, path: Path, threads: int | None):
        require("onnxruntime")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.add_session_config_entry("session.force_spinning_stop", "1")  # threads rest between two calls
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.names = [output.name for output in self.session.get_outputs()]

    def run(self, **inputs: Tensor) -> dict[str, Tensor]:
        arrays = self.session.run(self.names, {name: value.numpy() for name, value in inputs.items()})
        return {name: torch.from_numpy(array) for name, array in zip(self.names, arrays, strict=True)}


class OpenVinoEngine:
    """OpenVINO, in float32: CPUs with bfloat16 would round everything to it."""

    def __init__(self, path: Path, threads: int | None):
        require("openvino")
        import openvino

        settings = {"INFERENCE_PRECISION_HINT": "f32"} | ({"INFERENCE_NUM_THREADS": threads} if threads else {})
        self.compiled = openvino.Core().compile_model(path / "model.xml", "CPU", settings)

    def run(self, **inputs: Tensor) -> dict[str, Tensor]:
        found = self.compiled({name: value.numpy() for name, value in inputs.items()})
        return {output.get_any_name(): torch.from_numpy(found[output].copy()) for output in self.compiled.outputs}


class TorchEngine:
    """A `torch.export` program or AOTInductor's machine code, with PyTorch's threads."""

    def __init__(self, path: Path, threads: int | None):
        with zipfile.ZipFile(path) as archive:
            is_compiled = any("/aotinductor/" in name for name in archive.namelist())
        self.run = torch._inductor.aoti_load_package(str(path)) if is_compiled else torch.export.load(path).module()


def is_exported(path: str | os.PathLike) -> bool:
    """Whether this is a file or folder that `export_detector` writes, by its name."""
    return Path(path).suffix in (".onnx", ".pt2") or (Path(path) / "model.xml").is_file()


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
        kind = OpenVinoEngine if path.is_dir() else TorchEngine if zipfile.is_zipfile(path) else OnnxEngine
        self.engine, self.about = kind(path, threads), path.with_name(f"{path.name}.json")

    @property
    def device(self) -> torch.device:
        return self.anchor.device

    def description(self) -> tuple[SamDetrConfig, SamDetrImageProcessor]:
        """Classes and threshold in a configuration, and the image processor, of `PATH.json` beside the file.

        Raises:
            ValueError: it is missing, or the file was exported without an image processor or with `postprocess`.
        """
        if not self.about.is_file():
            raise ValueError(f"{self.about} is missing: it has the classes and the sizes of an exported file.")
        about = json.loads(self.about.read_text(encoding="utf-8"))
        if about.get("top_k") is not None or "image_processor" not in about:
            what = "without an image processor" if about.get("top_k") is None else "with --postprocess"
            raise ValueError(f"{self.about} describes a file that was exported {what}: export it otherwise.")
        labels = {int(label): name for label, name in about["id2label"].items()}
        extra = {name: about.get(name) for name in ("detection_threshold", "category_ids")}
        return SamDetrConfig(id2label=labels, **extra), SamDetrImageProcessor.from_dict(about["image_processor"])

    def forward(
        self, pixel_values: Tensor, pixel_mask: Tensor | None = None, target_sizes: Tensor | None = None
    ) -> SamDetrObjectDetectionOutput | dict[str, Tensor]:
        """The file's outputs, as of the model, or its detections; see `ExportableDetector.forward`."""
        if pixel_mask is None:
            pixel_mask = torch.ones_like(pixel_values[:, 0], dtype=torch.int64)
        sizes = {} if target_sizes is None else {"target_sizes": target_sizes}
        outputs = self.engine.run(pixel_values=pixel_values, pixel_mask=pixel_mask, **sizes)
        return SamDetrObjectDetectionOutput(**outputs) if "logits" in outputs else outputs


@dataclass(frozen=True)
class Difference:
    """How far a file is from its model, over all compared boxes."""

    largest: float  # of the coordinates' differences, normalised by the picture
    mean: float
    scores: float  # the largest difference of a score
    off: int  # boxes with a coordinate that differs by more than `BOX_TOLERANCE`
    labels: int  # boxes with another label; detections with tied scores are left out
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
    """Runs a file, with the model's outputs or with `top_k` detections, and its model on random padded batches."""
    parts = []
    for shape in shapes:
        inputs = example_inputs(model.config.num_channels, *shape, seed=seed)
        sizes = inputs.pop("target_sizes")
        expected, found = model(**inputs), exported(**inputs, target_sizes=None if top_k is None else sizes)
        if top_k is None:
            boxes = (found.pred_boxes - expected.pred_boxes).abs().amax(-1)
            scores = (found.logits.sigmoid() - expected.logits.sigmoid()).abs()
            best = expected.logits.sigmoid().topk(min(2, scores.shape[-1]), dim=-1).values
            decided = best[..., 0] - best[..., -1] > TIE
            labels = decided & (found.logits.argmax(-1) != expected.logits.argmax(-1))
        else:
            best_scores, best_labels, best_boxes = best_detections(expected.logits, expected.pred_boxes, top_k, sizes)
            gaps = best_scores[:, :-1] - best_scores[:, 1:] > TIE  # a detection's place is its own between two
            clear = pad(gaps, (1, 0), value=True) & pad(gaps, (0, 1), value=False)
            pixels = sizes.flip(-1).repeat(1, 2)[:, None]  # (B, 1, 4): W H W H
            boxes = ((found["boxes"] - best_boxes) / pixels).abs().amax(-1)[clear]
            scores = (found["scores"] - best_scores).abs()
            labels = (found["labels"] != best_labels) & clear
        parts.append((boxes.flatten(), scores.flatten(), labels.flatten()))
    boxes, scores, labels = map(torch.cat, zip(*parts, strict=True))
    return Difference(
        largest=boxes.max().item(),
        mean=boxes.mean().item(),
        scores=scores.max().item(),
        off=int((~(boxes <= BOX_TOLERANCE)).sum()),  # NaN counts as off
        labels=int(labels.sum()),
        count=len(boxes),
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
) -> tuple[float, float]:
    """Median seconds of a file and its model, by folder or Hub name, on a picture of random pixels, after a warm-up.

    Both run in turn with so many threads, `rounds` times. `top_k` is of a file with post-processing; the model's time
    then includes its own.
    """
    torch.set_num_threads(threads)
    exported, detector = ExportedDetector(path, threads), SamDetrForObjectDetection.from_pretrained(model).eval()
    inputs = example_inputs(detector.config.num_channels, 1, height, width)
    sizes = inputs.pop("target_sizes")
    times = []
    for _ in range(rounds + 1):
        times.append([time.perf_counter()])
        exported(**inputs, target_sizes=None if top_k is None else sizes)
        times[-1].append(time.perf_counter())
        outputs = detector(**inputs)
        if top_k is not None:
            best_detections(outputs.logits, outputs.pred_boxes, top_k, sizes)
        times[-1].append(time.perf_counter())
    seconds = [(between - start, end - between) for start, between, end in times[1:]]
    return tuple(statistics.median(of_one) for of_one in zip(*seconds, strict=True))
