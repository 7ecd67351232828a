"""OpenVINO: int8 weights with a scale per row, activations quantized to int8 in the call with a scale for each
GROUP columns of a row."""
import os

import numpy as np
import openvino
from openvino import opset13 as ops


GROUP = 128  # the largest that its manual recommends; larger ones are no faster, and "the whole row" makes it compute in float32


def about() -> str:
    return f"OpenVINO {openvino.__version__.split('-')[0]}"


def compressed(weight):
    """The weight as constants: int8, and a scale per row."""
    scale = np.abs(weight).max(axis=1, keepdims=True) / np.float32(127)
    whole = ops.convert(ops.constant(np.rint(weight / scale).astype(np.int8)), "f32")
    return ops.multiply(whole, ops.constant(scale))


def prepare(problem, arrays, variant):
    m, _, k = problem.sizes
    x = ops.parameter([m, k], np.float32)
    y = ops.add(ops.matmul(x, compressed(arrays["weight"]), False, True), ops.constant(arrays["bias"]))
    settings = {"INFERENCE_NUM_THREADS": int(os.environ["BENCH_THREADS"]), "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(GROUP)}
    request = openvino.Core().compile_model(openvino.Model([y], [x]), "CPU", settings).create_infer_request()
    request.set_input_tensor(openvino.Tensor(arrays["x"]))

    def call():
        request.infer()
        return request.get_output_tensor()

    return call, lambda tensor: tensor.data
