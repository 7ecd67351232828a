#!/usr/bin/env python3
"""What a call of the Python package costs besides the kernel: tiny tensors, where the kernel takes next to nothing.

For each call the whole time and that of the core alone on the same memory (NumPy arrays, which need no conversion), in microseconds,
medians of blocks; their difference is the package's own cost. PyTorch's own call stands beside. --limit N fails when it is more than N."""
import argparse
import json
import statistics
import sys
import time
from pathlib import Path

BUILT = Path(__file__).resolve().parents[1] / "build/release/python"
if BUILT.is_dir():
    sys.path.insert(0, str(BUILT))

import aerogel  # noqa: E402
import torch  # noqa: E402

LIMIT = 20.0


def microseconds(calls, blocks=30, length=200):
    """Median over blocks of each call's mean time; the calls take turns, so that all see the same machine."""
    times = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(blocks):
        for name, call in calls.items():
            start = time.perf_counter_ns()
            for _ in range(length):
                call()
            times[name].append((time.perf_counter_ns() - start) / 1000 / length)
    return {name: statistics.median(values) for name, values in times.items()}


def linear_calls(scheme, shape):
    plain = torch.nn.Linear(shape[-1], 32)
    layer, x = aerogel.QuantizedLinear.from_linear(plain, scheme), torch.randn(shape)
    rows, y = x.reshape(-1, shape[-1]).numpy(), torch.empty(x.numel() // shape[-1], 32).numpy()
    return {"whole": lambda: layer(x), "kernel": lambda: layer.packed().core.forward(rows, y, -1), "torch": lambda: plain(x)}


def attention_calls():
    q = torch.randn(1, 1, 4, 32)
    arrays, o = q.numpy(), torch.empty_like(q).numpy()
    return {"whole": lambda: aerogel.attention(q, q, q), "kernel": lambda: aerogel._core.attention(arrays, arrays, arrays, o, layout="BNSD"),
            "torch": lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q)}


def measure():
    """[{call, whole, kernel, own, torch}], microseconds."""
    cases = {f"QuantizedLinear {scheme} {list(shape)}": linear_calls(scheme, shape)
             for scheme, shape in (("W8A8_DYNAMIC", (4, 32)), ("W8A16", (4, 32)), ("W8A8_DYNAMIC", (1, 4, 32)))}
    cases["attention [1, 1, 4, 32]"] = attention_calls()
    rows = []
    with torch.inference_mode():
        for name, calls in cases.items():
            times = microseconds(calls)
            rows.append({"call": name, **times, "own": times["whole"] - times["kernel"]})
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--limit", type=float, help=f"most microseconds of its own that a call may cost (aim: {LIMIT:g})")
    options = parser.parse_args()
    torch.set_num_threads(1)
    aerogel.set_num_threads(1)
    rows = measure()
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        print(f"{'call (microseconds)':<44} {'whole':>8} {'kernel':>8} {'own':>8} {'torch':>8}")
        for row in rows:
            print(f"{row['call']:<44} {row['whole']:8.2f} {row['kernel']:8.2f} {row['own']:8.2f} {row['torch']:8.2f}")
    return int(options.limit is not None and max(row["own"] for row in rows) > options.limit)


if __name__ == "__main__":
    sys.exit(main())
