"""The peer: PyTorch on the same problems, asked line by line on standard input (a problem's name, a number of calls, and how
many bytes to read before each, to empty the caches).

A separate process, because PyTorch fixes its instruction set when it starts (see run.py).
"""

import json
import sys
import time

import torch

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def make_call(name: str):
    """A function that runs the problem once, or None where PyTorch has no counterpart."""
    kind, variant, *rest = name.split("/")
    size = [int(part) for part in rest[-1].split("x")]
    if kind == "linear":
        m, n, k = size
        dtype = torch.bfloat16 if variant == "BF16" else torch.float32
        x, weight, bias = (torch.randn(shape, dtype=dtype) for shape in ((m, k), (n, k), (n,)))
        return lambda: torch.nn.functional.linear(x, weight, bias)
    if kind == "attention" and variant == "dense" and rest[0] in DTYPES:
        heads, tokens, head_dim = size
        # [batch, tokens, heads, head_dim] in memory, as Aerogel gets it.
        q, k, v = (torch.randn(1, tokens, heads, head_dim, dtype=DTYPES[rest[0]]).transpose(1, 2) for _ in range(3))
        return lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v)
    return None


def main() -> None:
    torch.set_num_threads(int(sys.argv[1]))
    print(json.dumps({"torch": torch.__version__, "capability": torch.backends.cpu.get_cpu_capability()}), flush=True)
    with torch.inference_mode():
        for line in sys.stdin:
            request = json.loads(line)
            call = make_call(request["name"])
            seconds, cold = [], torch.ones(request["cold"] // 8, dtype=torch.int64)
            if call is not None:
                call()
                for _ in range(request["repeat"]):
                    cold.sum()
                    start = time.perf_counter()
                    call()
                    seconds.append(time.perf_counter() - start)
            print(json.dumps(seconds), flush=True)


if __name__ == "__main__":
    main()
