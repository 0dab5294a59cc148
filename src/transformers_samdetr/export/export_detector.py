"""Exports a saved model to a file that runs without this package, after comparing the file with the model."""

import json
import operator
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from .. import SamDetrForObjectDetection, SamDetrImageProcessor, __version__
from .exported_detector import CHECKED_SHAPES, Difference, ExportedDetector, compare, require
from .program import ExportableDetector, capture, without_stack_traces

PRECISIONS = {
    "onnx": ("float32", "float16", "int8"),
    "openvino": ("float32", "float16"),
    "torch_export": ("float32", "float16", "bfloat16"),
    "aot": ("float32", "bfloat16"),
}
"""By format. ONNX Runtime has no bfloat16 on CPUs, and quantises to 8 bits in its own way."""
OPSETS = range(18, 23)
"""Of ONNX's own operators: what PyTorch writes and ONNX Runtime runs. It refuses our masks in the attention of 23."""
DEFAULT_OPSET = 20
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
        require("onnx", "onnxscript", "onnxruntime", *(["openvino"] if format == "openvino" else []))
    elif format == "aot":
        require_compiler()
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
            write_program(program, written, metadata)
        elif format == "aot":
            write_package(program, written)
        else:
            write_onnx(program, plain, opset, metadata)
        if format == "openvino":
            write_openvino(plain, written, metadata, half=precision == "float16")
        elif precision == "int8":
            progress("quantising")
            quantize(plain, written)
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


def write_onnx(program: ExportedProgram, path: Path, opset: int, metadata: Mapping[str, str]) -> None:
    """Writes the weights and graph of `program.capture` to one file, with metadata, at an opset of `OPSETS`.

    Inputs, outputs and open dimensions have the program's names. The program is simplified, and of no use afterwards.
    """
    import onnx
    import onnxscript.optimizer

    names, output_names = list(program.graph_signature.user_inputs), list(program.call_spec.out_spec.context)
    simplify(program)
    with warnings.catch_warnings(), without_stack_traces():
        warnings.simplefilter("ignore")  # of operators that onnxscript would rather have under other names
        # its own search for patterns takes minutes, and runtimes do the same as they load a file
        options = {"opset_version": opset, "optimize": False, "verbose": False}
        written = torch.onnx.export(program, input_names=names, output_names=output_names, **options)
    onnxscript.optimizer.fold_constants(written.model)
    onnxscript.optimizer.remove_unused_nodes(written.model)
    proto = written.model_proto
    del proto.graph.value_info[:]  # of what is in between, by the tracer's names; runtimes find it themselves
    for entry in (*proto.graph.node, *proto.graph.input, *proto.graph.output):
        del entry.metadata_props[:]  # where in our code each comes from
    shapes = {value.name: value.type.tensor_type.shape.dim for value in (*proto.graph.input, *proto.graph.output)}
    pixel_values = shapes["pixel_values"]
    open_names = {pixel_values[axis].dim_param: name for axis, name in ((0, "batch"), (2, "height"), (3, "width"))}
    for dimension in (dimension for shape in shapes.values() for dimension in shape):
        if dimension.dim_param:
            dimension.dim_param = open_names[dimension.dim_param]
    onnx.helper.set_model_props(proto, dict(metadata))
    onnx.save_model(proto, path)


def simplify(program: ExportedProgram) -> None:
    """Removes assertions, in place, and writes splits into parts of open sizes as slices.

    ONNX would have SplitToSequence and SequenceAt for these, which TensorRT and OpenVINO do not support.
    """
    assertions = (torch.ops.aten._assert_scalar.default, torch.ops.aten._assert_tensor_metadata.default)
    graph = program.graph
    for node in list(graph.nodes):
        if node.target in assertions:
            graph.erase_node(node)
        elif node.target == torch.ops.aten.split_with_sizes.default:
            tensor, sizes, axis = (*node.args, 0)[:3]
            start, parts = 0, []
            with graph.inserting_before(node):
                for size in sizes:
                    stop = graph.call_function(operator.add, (start, size))
                    parts.append(graph.call_function(torch.ops.aten.slice.Tensor, (tensor, axis, start, stop)))
                    start = stop
            for user in list(node.users):  # each takes one part
                user.replace_all_uses_with(parts[user.args[1]])
                graph.erase_node(user)
            graph.erase_node(node)
    graph.eliminate_dead_code()
    program.graph_module.recompile()


def quantize(source: Path, path: Path) -> None:
    """Writes a copy whose linear layers have 8-bit weights and round their inputs to 8 bits as they come.

    Convolutions stay as they are: in 8 bits they are slower on processors, and of the features AP hangs on.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    options = {"op_types_to_quantize": ["MatMul", "Gemm"], "weight_type": QuantType.QInt8, "per_channel": True}
    # 7 bits of weights: older processors add pairs of products in 16 bits
    quantize_dynamic(source, path, reduce_range=True, **options)


def write_openvino(source: Path, folder: Path, metadata: Mapping[str, str], half: bool) -> None:
    """Writes `model.xml` and `model.bin`, with weights in float16 if `half`, from an ONNX file to a new folder.

    The metadata stand in the model's runtime information, under `samdetr`.
    """
    import openvino

    model = openvino.convert_model(source)
    for name, value in metadata.items():
        model.set_rt_info(value, ["samdetr", name])
    folder.mkdir()
    openvino.save_model(model, folder / "model.xml", compress_to_fp16=half)


def write_program(program: ExportedProgram, path: Path, metadata: Mapping[str, str]) -> None:
    """For `torch.export.load(path).module()`; `metadata` are files that it carries along."""
    torch.export.save(program, path, extra_files={f"{name}.json": text for name, text in metadata.items()})


def write_package(program: ExportedProgram, path: Path) -> None:
    """For `torch._inductor.aoti_load_package(path)`: machine code for this kind of processor, by AOTInductor."""
    import torch._inductor  # which takes a second

    torch._inductor.aoti_compile_and_package(program, package_path=str(path))


def require_compiler() -> None:
    """A ValueError if there is no C++ compiler for AOTInductor."""
    compiler = os.environ.get("CXX", "g++")
    if not (shutil.which(compiler) or shutil.which("clang++")):
        raise ValueError(f"format='aot' needs a C++ compiler, there is no {compiler}: install g++, or name one in CXX.")
