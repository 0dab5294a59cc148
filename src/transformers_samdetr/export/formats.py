"""Writes a captured program in each format: ONNX, OpenVINO, `torch.export` and AOTInductor."""

import importlib.util
import operator
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch.export import ExportedProgram

from .program import without_stack_traces

OPSETS = range(18, 23)
"""Of ONNX's own operators: what PyTorch writes and ONNX Runtime runs. It refuses our masks in the attention of 23."""
DEFAULT_OPSET = 20
EXTRAS = {"openvino": "openvino"}
"""Of packages that another extra than `export` brings."""


def require(*packages: str) -> None:
    """An ImportError that says how to install those of the packages that are missing."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        extra = ",".join(dict.fromkeys(EXTRAS.get(name, "export") for name in missing))
        raise ImportError(f'This format needs {", ".join(missing)}: pip install "transformers-samdetr[{extra}]"')


def write_onnx(program: ExportedProgram, path: Path, opset: int, metadata: Mapping[str, str]) -> None:
    """Writes the weights and graph of `program.capture` to one file, with metadata, at an opset of `OPSETS`.

    Inputs, outputs and open dimensions have the program's names.
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

    quantize_dynamic(
        source,
        path,
        op_types_to_quantize=["MatMul", "Gemm"],
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=True,  # 7 bits of weights: older processors add pairs of products in 16 bits
    )


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
