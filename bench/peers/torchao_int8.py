"""torchao: int8 weights, int8 activations with a scale per row found in the call, compiled by torch.compile."""
from importlib.metadata import version

import torch
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

from .torch_float import DTYPES, linear_of, numbers

# PyTorch 2.13 writes C++ that does not compile (variables declared twice) for torchao's int8 in bfloat16 when it fuses more than two nodes.
OPTIONS = {"bf16": {"max_fusion_size": 2}}


def about() -> str:
    return f"torchao {version('torchao')}"


def prepare(problem, arrays, variant):
    torch.set_grad_enabled(False)
    torch._dynamo.reset()
    x, linear = linear_of(arrays, DTYPES[variant])
    model = torch.nn.Sequential(linear)
    quantize_(model, Int8DynamicActivationInt8WeightConfig())
    compiled = torch.compile(model, options=OPTIONS.get(variant))
    return lambda: compiled(x), numbers
