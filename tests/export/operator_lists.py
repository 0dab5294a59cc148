"""Which ONNX operators TensorRT and onnxruntime-web take, with the version and the day on which the list was read.

OpenVINO needs no list: the tests convert each file with OpenVINO 2026.4 itself, which refuses what it does not know.
"""

import onnx

TENSORRT = frozenset(
    """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool BatchNormalization Cast
    CastLike Ceil Celu Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace
    Div Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor Gather GatherElements GatherND Gelu Gemm
    GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization HardSigmoid HardSwish
    Hardmax Identity If InstanceNormalization IsInf IsNaN LayerNormalization LeakyRelu Less LessOrEqual Log
    LogSoftmax Loop LpNormalization MatMul Max MaxPool Mean Min Mish Mod Mul Neg NonMaxSuppression NonZero Not
    OneHot Or Pad Pow PRelu Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax
    ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize RoiAlign Round Scan
    ScatterElements ScatterND Selu Shape Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign Split Sqrt
    Squeeze Sub Sum Tan Tanh Tile TopK Transpose Unsqueeze Where Xor
    """.split()
)
"""Operators of float32 and int64 that TensorRT 10.15 supports, by onnx-tensorrt's docs/operators.md of 2026-11-27."""
WEB_OPSETS = range(7, 23)
"""The WASM backend of onnxruntime-web has ONNX Runtime's CPU kernels, of every operator of these opsets (1.32,
2026-11-27). WebGPU has fewer kernels and leaves the rest to WASM."""


def refused_operators(model: onnx.ModelProto) -> set[str]:
    """`engine: operator` for each operator of the graph and its sub-graphs that an engine does not take."""
    domains = {opset.domain for opset in model.opset_import} - {"", "ai.onnx"}
    refused = {f"all engines: domain {domain}" for domain in domains}
    if any(opset.version not in WEB_OPSETS for opset in model.opset_import):
        refused.add(f"onnxruntime-web: opset {model.opset_import[0].version}")
    inferred = onnx.shape_inference.infer_shapes(model)
    types = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    graphs = [inferred.graph]
    while graphs:
        for node in graphs.pop().node:
            graphs += [attribute.g for attribute in node.attribute if attribute.type == onnx.AttributeProto.GRAPH]
            if node.op_type not in TENSORRT:
                refused.add(f"TensorRT: {node.op_type}")
            if node.op_type == "CumSum" and types.get(node.input[0]) != onnx.TensorProto.FLOAT:
                refused.add("TensorRT: CumSum of integers")
    return refused
