"""Exports a saved model to a file that runs without this package, after comparing the file with the model."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .. import SamDetrForObjectDetection, SamDetrImageProcessor, __version__
from . import formats
from .exported_detector import CHECKED_SHAPES, Difference, ExportedDetector, compare
from .formats import DEFAULT_OPSET, OPSETS
from .program import ExportableDetector, capture

PRECISIONS = {
    "onnx": ("float32", "float16", "int8"),
    "openvino": ("float32", "float16"),
    "torch_export": ("float32", "float16", "bfloat16"),
    "aot": ("float32", "bfloat16"),
}
"""By format. ONNX Runtime has no bfloat16 on CPUs, and quantises to 8 bits in its own way."""
FORMATS = tuple(PRECISIONS)
SUFFIXES = {"onnx": ".onnx", "openvino": "_openvino", "torch_export": ".pt2", "aot": ".pt2"}
"""The end of the output's name; OpenVINO's is a folder."""
ALLOWED_OFF = 0.01
"""Share of the boxes that may differ by more than `BOX_TOLERANCE` in float32: RoIAlign is discontinuous where a sample
lies on the edge of a map or the number of samples changes, and rounding carries a sample over now and then."""
ALLOWED_MEAN = 0.03
"""Allowed mean difference in other precisions, normalised by the picture; AP says what they cost."""


class ExportError(ValueError):
    """A setting that is not supported, or a file whose outputs differ from the model's."""


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
    progress: Callable[[str], None] = lambda stage: None,
) -> Export:
    """Writes one file for every batch and picture size, with inputs and outputs as in `ExportableDetector.forward`.

    The file is run on random padded batches and compared with the model; it is deleted if that fails. Class names,
    image size, mean, deviation, threshold and version stand inside the file and in `OUTPUT.json` beside it.

    Args:
        model: folder or Hub name.
        output: the file, `.onnx` or `.pt2`, or for OpenVINO a folder whose name ends in `_openvino`.
        format: `onnx`; `openvino`, a folder with OpenVINO's model.xml; `torch_export`, a program for
            `torch.export.load`; `aot`, machine code for `torch._inductor.aoti_load_package`, which needs a C++ compiler
            here and the same kind of CPU where it runs.
        precision: one of `PRECISIONS` of the format; `int8` quantises linear layers only.
        postprocess: whether the file returns detections in pixels instead of logits and normalised boxes.
        top_k: number of detections of each picture, with `postprocess`.
        opset: version of ONNX's operators.
        overwrite: whether to replace an existing file.
        progress: called with the name of each stage.

    Raises:
        ExportError: a setting is not supported, or the file's outputs differ; the message says which.
        FileExistsError: `output` exists.
        ImportError: a package that the format needs is missing.
    """
    output, is_onnx = Path(output), format in ("onnx", "openvino")
    precisions, suffix = PRECISIONS.get(format, ()), SUFFIXES.get(format, "")
    for is_right, message in (
        (format in FORMATS, f"format={format!r} must be one of {', '.join(FORMATS)}."),
        (precision in precisions, f"precision={precision!r} must be one of {', '.join(precisions)} for {format!r}."),
        (output.name.endswith(suffix), f"output={str(output)!r} must end in {suffix} for format={format!r}."),
        (top_k >= 1, f"top_k={top_k} must be at least 1."),
        (opset in OPSETS or not is_onnx, f"opset={opset} must be from {OPSETS[0]} to {OPSETS[-1]}."),
    ):
        if not is_right:
            raise ExportError(message)
    if is_onnx:
        formats.require("onnx", "onnxscript", "onnxruntime", *(["openvino"] if format == "openvino" else []))
    elif format == "aot":
        formats.require_compiler()
    if output.exists() and not overwrite:
        raise FileExistsError(f"{output} exists: choose another output, or overwrite it.")
    progress("loading the model")
    detector = SamDetrForObjectDetection.from_pretrained(model, dtype=torch.float32).eval()
    top_k = min(top_k, detector.config.num_queries * detector.config.num_labels) if postprocess else None
    try:
        processor = SamDetrImageProcessor.from_pretrained(model)
    except OSError:  # a model may be saved without it
        processor = None
    metadata = describe(detector, processor, top_k)
    exportable = ExportableDetector(detector, top_k)
    if precision in ("float16", "bfloat16") and format != "openvino":
        exportable.to(getattr(torch, precision))
    progress("capturing the program")
    program = capture(exportable)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".export-") as folder:
        written, plain = Path(folder, f"model{SUFFIXES[format]}"), Path(folder, "float32.onnx")
        progress(f"writing {format}")
        if format == "torch_export":
            formats.write_program(program, written, metadata)
        elif format == "aot":
            formats.write_package(program, written)
        else:
            formats.write_onnx(program, plain, opset, metadata)
        if format == "openvino":
            formats.write_openvino(plain, written, metadata, half=precision == "float16")
        elif precision == "int8":
            progress("quantising")
            formats.quantize(plain, written)
        elif format == "onnx":
            plain.rename(written)
        progress("comparing with the model")
        # OpenVINO rounds the huge sines of fully padded positions otherwise: compared without padding
        shapes = tuple((1, *size) for _, *size in CHECKED_SHAPES) if format == "openvino" else CHECKED_SHAPES
        difference = compare(ExportedDetector(written), detector, shapes, top_k)
        allowed = max(1, int(ALLOWED_OFF * difference.count))
        is_same = difference.off <= allowed and difference.labels <= allowed
        if not (is_same if precision == "float32" else difference.mean <= ALLOWED_MEAN):
            raise ExportError(f"The file's outputs differ from the model's; it was deleted: {difference}.")
        if output.is_dir():
            shutil.rmtree(output)
        os.replace(written, output)
    text = json.dumps({name: json.loads(value) for name, value in metadata.items()}, indent=1, ensure_ascii=False)
    output.with_name(f"{output.name}.json").write_text(text + "\n", encoding="utf-8")
    return Export(output, difference)


def describe(
    detector: SamDetrForObjectDetection, processor: SamDetrImageProcessor | None, top_k: int | None = None
) -> dict[str, str]:
    """What it takes to use the file alone, as JSON texts by name.

    `id2label`, class names; `category_ids` of the training set, or null; `image_processor`, with size, mean and
    deviation; `detection_threshold`, the score with the best F1 in training, or null; `top_k`, of a file that returns
    detections, or null; `version`, of this package.
    """
    content: dict[str, Any] = {"id2label": detector.config.id2label, "top_k": top_k, "version": __version__}
    content |= {name: getattr(detector.config, name, None) for name in ("detection_threshold", "category_ids")}
    if processor is not None:
        content["image_processor"] = json.loads(processor.to_json_string())
    return {name: json.dumps(value, ensure_ascii=False) for name, value in content.items()}
