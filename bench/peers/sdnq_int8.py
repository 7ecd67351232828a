"""SDNQ (github.com/Disty0/sdnq): int8 weights and int8 products, which it compiles itself and hands to OpenVINO where that is installed."""
import sdnq
import torch

from .torch_float import DTYPES, linear_of, numbers


def about() -> str:
    return f"SDNQ {sdnq.__version__}"


def prepare(problem, arrays, variant):
    torch.set_grad_enabled(False)
    x, linear = linear_of(arrays, DTYPES[variant])
    model = sdnq.sdnq_post_load_quant(torch.nn.Sequential(linear), weights_dtype="int8", use_quantized_matmul=True, add_skip_keys=False,
                                      torch_dtype=DTYPES[variant])
    return lambda: model(x), numbers
