"""A program as one ONNX file, and the same with 8-bit weights."""

import importlib.util
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.export import ExportedProgram

if TYPE_CHECKING:
    import onnx

OPSETS = range(18, 23)
"""Of ONNX's own operators: what PyTorch writes and ONNX Runtime runs. It refuses our masks in the attention of 23."""
DEFAULT_OPSET = 20
INSTALL = 'pip install "transformers-samdetr[export]"'


def require_onnx():
    """Raises:
    ImportError: one of the packages that ONNX files need is missing; the message says how to install them.
    """
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"ONNX files need {', '.join(missing)}: {INSTALL}")


def write_onnx(program: ExportedProgram, path: Path, opset: int, metadata: Mapping[str, str]):
    """Writes weights and graph to one file; inputs, outputs and open dimensions have the program's names.

    Args:
        program: of `program.capture`.
        opset: one of `OPSETS`.
        metadata: strings that the file carries along.
    """
    import onnx
    import onnxscript.optimizer

    names = list(program.graph_signature.user_inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of operators that onnxscript would rather have under other names
        written = torch.onnx.export(
            program,
            input_names=names,
            output_names=list(output_names(program)),
            opset_version=opset,
            optimize=False,  # its search for patterns takes minutes, and runtimes do the same as they load a file
            verbose=False,
        )
    onnxscript.optimizer.fold_constants(written.model)
    onnxscript.optimizer.remove_unused_nodes(written.model)
    proto = written.model_proto
    del proto.graph.value_info[:]  # of what is in between, by the tracer's names; runtimes find it themselves
    for entry in (*proto.graph.node, *proto.graph.input, *proto.graph.output):
        del entry.metadata_props[:]  # where in our code each comes from
    _name_dimensions(proto.graph)
    onnx.helper.set_model_props(proto, dict(metadata))
    onnx.save_model(proto, path)


def _name_dimensions(graph: "onnx.GraphProto"):
    """Calls the open dimensions of inputs and outputs batch, height and width, as those of `pixel_values`."""
    dimensions = [value.type.tensor_type.shape.dim for value in (*graph.input, *graph.output)]
    pixel_values = next(value for value in graph.input if value.name == "pixel_values").type.tensor_type.shape.dim
    names = {pixel_values[axis].dim_param: name for axis, name in ((0, "batch"), (2, "height"), (3, "width"))}
    for dimension in (dimension for shape in dimensions for dimension in shape):
        if dimension.dim_param:
            dimension.dim_param = names[dimension.dim_param]


def output_names(program: ExportedProgram) -> tuple[str, ...]:
    """Of the dictionary that the program returns, in its order."""
    return tuple(program.call_spec.out_spec.context)


def quantize(source: Path, path: Path):
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
