"""PyTorch's flex_attention, compiled, under the same mask of blocks."""
import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from .problem import BLOCK
from .torch_float import DTYPES, attention_inputs, numbers


def about() -> str:
    return f"flex_attention of PyTorch {torch.__version__}"


def prepare(problem, arrays, variant):
    torch.set_grad_enabled(False)
    torch._dynamo.reset()
    q, k, v = (t.transpose(1, 2).contiguous() for t in attention_inputs(arrays, DTYPES[variant]))
    kept = torch.from_numpy(arrays["mask"])
    heads, tokens, _ = problem.sizes
    blocks = create_block_mask(lambda b, h, i, j: kept[h, i // BLOCK, j // BLOCK], 1, heads, tokens, tokens, device="cpu", BLOCK_SIZE=BLOCK)
    compiled = torch.compile(flex_attention, dynamic=False)
    return lambda: compiled(q, k, v, block_mask=blocks), lambda o: numbers(o[0].transpose(0, 1))
