"""Aerogel through its Python package: W8A8_DYNAMIC layers, attention in float32, bfloat16 and int8, under a mask of blocks too."""
import aerogel
import torch

from .problem import BLOCK
from .torch_float import DTYPES, attention_inputs, linear_of, numbers


def about() -> str:
    return f"Aerogel {aerogel.__version__}"


def prepare(problem, arrays, variant):
    torch.set_grad_enabled(False)
    dtype = DTYPES.get(variant, torch.float32)
    if problem.kind == "linear":
        x, linear = linear_of(arrays, dtype)
        layer = aerogel.QuantizedLinear.from_linear(linear, "W8A8_DYNAMIC")
        return lambda: layer(x), numbers
    q, k, v = attention_inputs(arrays, dtype)
    tokens_first = lambda o: numbers(o[0])
    if problem.kind == "sparse":
        mask = torch.from_numpy(arrays["mask"])[None]
        precision = "int8" if variant == "int8" else "none"
        return lambda: aerogel.sparse_attention(q, k, v, sparse_type=None, mask=mask, block_size=BLOCK, precision=precision, input_layout="BSND"), tokens_first
    call = aerogel.quantized_attention if variant == "int8" else aerogel.attention
    return lambda: call(q, k, v, input_layout="BSND"), tokens_first
