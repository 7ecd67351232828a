"""onnxruntime's dynamic int8 quantization, as quantize_dynamic writes it: unsigned activations with one scale per call, int8 weights with a scale per
column."""
import os
import tempfile
from pathlib import Path

import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic


def about() -> str:
    return f"onnxruntime {onnxruntime.__version__}"


def float_model(problem, arrays):
    m, n, k = problem.sizes
    weight, bias = numpy_helper.from_array(arrays["weight"].T.copy(), "weight"), numpy_helper.from_array(arrays["bias"], "bias")
    nodes = [helper.make_node("MatMul", ["x", "weight"], ["product"]), helper.make_node("Add", ["product", "bias"], ["y"])]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", [m, k]), ("y", [m, n]))]
    graph = helper.make_graph(nodes, "linear", values[:1], values[1:], [weight, bias])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def prepare(problem, arrays, variant):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = int(os.environ["BENCH_THREADS"]), 1
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(float_model(problem, arrays), before)
        quantize_dynamic(before, after, weight_type=QuantType.QInt8, per_channel=True)
        session = onnxruntime.InferenceSession(after, options, providers=["CPUExecutionProvider"])
    inputs = {"x": arrays["x"]}
    return lambda: session.run(None, inputs)[0], lambda y: y
