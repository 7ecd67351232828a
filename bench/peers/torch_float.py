"""PyTorch in float32 and bfloat16: linear and scaled_dot_product_attention."""
import os

import torch

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
torch.set_num_threads(int(os.environ.get("BENCH_THREADS", "1")))


def about() -> str:
    return f"PyTorch {torch.__version__} ({torch.backends.cpu.get_cpu_capability()})"


def linear_of(arrays, dtype):
    """(x, nn.Linear) of a problem."""
    weight = torch.from_numpy(arrays["weight"])
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], dtype=dtype, device="meta").to_empty(device="cpu")
    linear.weight.copy_(weight)
    linear.bias.copy_(torch.from_numpy(arrays["bias"]))
    return torch.from_numpy(arrays["x"]).to(dtype), linear.eval()


def attention_inputs(arrays, dtype):
    """q, k and v [1, tokens, heads, head_dim]."""
    return [torch.from_numpy(arrays[name])[None].to(dtype) for name in "qkv"]


def numbers(tensor):
    return tensor.float().numpy()


def prepare(problem, arrays, variant):
    torch.set_grad_enabled(False)
    if problem.kind == "linear":
        x, linear = linear_of(arrays, DTYPES[variant])
        return lambda: linear(x), numbers
    q, k, v = (t.transpose(1, 2) for t in attention_inputs(arrays, DTYPES[variant]))
    return lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v), lambda o: numbers(o[0].transpose(0, 1))
