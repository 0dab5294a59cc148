"""A saved model to one file that runs without this package, checked against the model before it is left."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from .. import SamDetrForObjectDetection, SamDetrImageProcessor
from .check import Difference, compare
from .onnx_file import DEFAULT_OPSET, OPSETS, quantize, require_onnx, write_onnx
from .program import ExportableDetector, capture
from .run import ExportedDetector
from .torch_files import require_compiler, write_package, write_program

PRECISIONS = {
    "onnx": ("float32", "float16", "int8"),
    "torch_export": ("float32", "float16", "bfloat16"),
    "aot": ("float32", "bfloat16"),
}
"""By format. ONNX Runtime has no bfloat16 on processors, and 8 bits in a way of its own."""
FORMATS = tuple(PRECISIONS)
SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2", "aot": ".pt2"}
ALLOWED_OFF = 0.01
"""Share of the boxes that may differ by more than `BOX_TOLERANCE` in float32: RoIAlign jumps where a sample lies on the
edge of a map, or the number of samples changes, and rounding carries one over now and then."""
ALLOWED_MEAN = 0.03
"""Of the difference in other precisions, in shares of the picture: what they cost is for the AP to say."""


class ExportError(ValueError):
    """A setting that is not possible, or a file that does not compute what the model does."""


@dataclass(frozen=True)
class Export:
    """What `export_detector` has written: the file, and how far it is from the model on random pictures."""

    path: Path
    difference: Difference


def export_detector(
    model: str | os.PathLike,
    output: str | os.PathLike,
    format: str = "onnx",
    precision: str = "float32",
    postprocess: bool = False,
    top_k: int = 100,
    opset: int = DEFAULT_OPSET,
    overwrite: bool = False,
) -> Export:
    """Writes one file for every batch and size, with inputs and outputs as `ExportableDetector.forward` names them.

    The file is run on random padded batches and compared with the model; one that is off is not left.

    Args:
        model: folder or Hub name.
        output: the file, `.onnx` or `.pt2`.
        format: `onnx`; `torch_export`, a program for `torch.export.load`; `aot`, machine code for
            `torch._inductor.aoti_load_package`, which needs a C++ compiler now and this kind of processor later.
        precision: one of `PRECISIONS` of the format; `int8` rounds linear layers alone.
        postprocess: whether the file finds detections, in pixels, instead of giving logits and normalised boxes.
        top_k: so many of them for each picture.
        opset: of ONNX.
        overwrite: whether a file that is there may be replaced.

    Raises:
        ExportError: a setting is not possible, or the file computes something else; the message says which.
        FileExistsError: `output` is there.
        ImportError: a package that ONNX files need is missing.
    """
    output = Path(output)
    _check_settings(output, format, precision, top_k, opset)
    if output.exists() and not overwrite:
        raise FileExistsError(f"{output} exists: choose another output, or overwrite it.")
    detector = SamDetrForObjectDetection.from_pretrained(model, dtype=torch.float32).eval()
    top_k = min(top_k, detector.config.num_queries * detector.config.num_labels) if postprocess else None
    output.parent.mkdir(parents=True, exist_ok=True)
    with _partial(output) as partial:
        _write(detector, partial, format, precision, top_k, opset, describe(detector, _processor(model)))
        difference = compare(ExportedDetector(partial), detector, top_k=top_k)
        _judge(difference, precision)
        os.replace(partial, output)
    return Export(output, difference)


def _check_settings(output: Path, format: str, precision: str, top_k: int, opset: int):
    if format not in FORMATS:
        raise ExportError(f"format={format!r} is unknown: choose one of {', '.join(FORMATS)}.")
    if precision not in PRECISIONS[format]:
        raise ExportError(
            f"precision={precision!r} is not possible with format={format!r}: choose one of "
            f"{', '.join(PRECISIONS[format])}."
        )
    if output.suffix != SUFFIXES[format]:
        raise ExportError(f"output={str(output)!r} does not fit format={format!r}: end it in {SUFFIXES[format]}.")
    if top_k < 1:
        raise ExportError(f"top_k={top_k} must be at least 1.")
    if format == "onnx":
        if opset not in OPSETS:
            raise ExportError(f"opset={opset} is not possible: choose one from {OPSETS[0]} to {OPSETS[-1]}.")
        require_onnx()
    if format == "aot":
        require_compiler()


@contextlib.contextmanager
def _partial(output: Path) -> Iterator[Path]:
    """A file beside the output, which is gone in the end."""
    partial = output.with_name(f".{output.stem}.partial{output.suffix}")
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def describe(detector: SamDetrForObjectDetection, processor: SamDetrImageProcessor | None) -> dict[str, str]:
    """What it takes to feed a file and to name what it finds, as JSON, for the file to carry along."""
    metadata = {"id2label": json.dumps(detector.config.id2label, ensure_ascii=False)}
    return metadata if processor is None else {**metadata, "image_processor": processor.to_json_string()}


def _processor(model: str | os.PathLike) -> SamDetrImageProcessor | None:
    try:
        return SamDetrImageProcessor.from_pretrained(model)
    except OSError:  # a model may be saved without it
        return None


def _write(
    detector: SamDetrForObjectDetection,
    path: Path,
    format: str,
    precision: str,
    top_k: int | None,
    opset: int,
    metadata: dict[str, str],
):
    exportable = ExportableDetector(detector, top_k)
    if precision in ("float16", "bfloat16"):
        exportable.to(getattr(torch, precision))
    program = capture(exportable)
    if format == "torch_export":
        write_program(program, path, metadata)
    elif format == "aot":
        write_package(program, path)
    elif precision == "int8":
        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder, "float32.onnx")
            write_onnx(program, plain, opset, metadata)
            quantize(plain, path)
    else:
        write_onnx(program, path, opset, metadata)


def _judge(difference: Difference, precision: str):
    if precision == "float32":
        allowed = max(1, int(ALLOWED_OFF * difference.count))
        passed = difference.off <= allowed and difference.labels <= allowed
    else:
        passed = difference.mean <= ALLOWED_MEAN
    if not passed:
        raise ExportError(f"The file computes something else than the model, and was not left: {difference}.")
