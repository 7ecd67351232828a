#!/usr/bin/env python3
"""Sparse attention beside dense attention, PyTorch's and flex_attention under the same mask: one run, turn by turn. Times are
medians; a ratio is the median of those within one turn.

An Aerogel time is the whole call from Python: recognition or prediction of the mask, and attention. The
peer flex_attention gets the finished mask over tokens as they lie, and so does the row "given" it is compared with. Errors are relative L2 distances to
attention in float64 under the same mask, on sampled rows of one head. The problem is that of tests/problems/sparse.txt, or a model's of
tests/problems/models.txt."""
import argparse
import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILT = ROOT / "build/release/python"
if BUILT.is_dir() and "PYTHONPATH" not in os.environ:
    sys.path.insert(0, str(BUILT))
os.environ.setdefault("AEROGEL_NUM_THREADS", str(len(os.sched_getaffinity(0))))

sys.path.insert(0, str(ROOT / "bench"))

import aerogel  # noqa: E402
import torch  # noqa: E402
from machine import machine  # noqa: E402
from problems import lines, models, size  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from run import PEER_SETTINGS  # noqa: E402
from turns import take_turns  # noqa: E402

(PROBLEM,) = lines("sparse")
BLOCK = int(PROBLEM["block"])
# Smallest acceptable ratios, by row; --check enforces them. The int8 ones: without and with VNNI.
FLOORS = {"dense": 1.05, "rf_v2": 4.0, "flex": 1.8, "int8": (1.5, 2.0)}
MOST_PREDICTION = 0.02  # share of the dense call
MOST_FOR_ONE_TOKEN = 1.03


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=[name for name, model in models().items() if model.latent[0] > 1], help="heads and video of this model")
    parser.add_argument("--heads", type=int)
    parser.add_argument("--head-dim", type=int)
    parser.add_argument("--latent", type=size, help="frames x height x width in tokens")
    parser.add_argument("--sparsity", type=float, default=float(PROBLEM["sparsity"]))
    parser.add_argument("--cpu", choices=[*PEER_SETTINGS], help="hold both sides to this level")
    parser.add_argument("--rounds", type=int, default=7, help="calls of each kind; they take turns")
    parser.add_argument("--aerogel", type=Path, default=ROOT / "build/release/aerogel", help="the command, which measures the peak")
    parser.add_argument("--no-flex", action="store_true", help="without flex_attention, which compiles for a minute")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a goal is missed")
    arguments = parser.parse_args()
    if arguments.cpu and os.environ.get("AEROGEL_CPU") != arguments.cpu:  # both libraries read their level when they start
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"AEROGEL_CPU": arguments.cpu, **PEER_SETTINGS[arguments.cpu]})
    if arguments.model:
        model = models()[arguments.model]
        given = {"heads": model.heads, "head_dim": model.head_dim, "latent": model.measured}
    else:
        given = {"heads": int(PROBLEM["heads"]), "head_dim": int(PROBLEM["head_dim"]), "latent": size(PROBLEM["latent"])}
    for name, value in given.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    return arguments


class Problem:
    """q, k and v of one video: normal values that are alike in neighbouring tokens, so that masks have something to find."""

    def __init__(self, arguments):
        frames, height, width = self.latent = arguments.latent
        self.heads, self.tokens = arguments.heads, frames * height * width
        generator = torch.Generator().manual_seed(1)
        coarse = torch.randn(3, arguments.heads * arguments.head_dim, -(-frames // 2), -(-height // 4), -(-width // 4), generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, size=self.latent, mode="trilinear")
        fields = smooth + 0.5 * torch.randn(smooth.shape, generator=generator)
        self.q, self.k, self.v = fields.reshape(3, 1, arguments.heads, arguments.head_dim, self.tokens).transpose(3, 4).contiguous()

    def operations(self, density):
        return 4.0 * density * self.heads * self.tokens**2 * self.q.shape[-1]


def relative_error(o, q, k, v, pairs):
    """pairs(rows) -> bool [rows, tokens] or None."""
    rows = torch.arange(0, q.shape[2], 61)
    q, k, v = q[0, 0, rows].double(), k[0, 0].double(), v[0, 0].double()
    scores = q @ k.T * q.shape[-1] ** -0.5
    seen = pairs(rows)
    if seen is not None:
        scores = scores.masked_fill(~seen, -torch.inf)
    exact = scores.softmax(-1) @ v
    return float((o[0, 0, rows].double() - exact).norm() / exact.norm())


def flex_call(problem, mask):
    """torch.compile(flex_attention) on the same blocks."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    kept = mask.bool()

    def is_kept(b, h, i, j):
        return kept[b, h, i // BLOCK, j // BLOCK]

    size = problem.tokens
    blocks = create_block_mask(is_kept, 1, problem.heads, size, size, device="cpu", BLOCK_SIZE=BLOCK)
    compiled = torch.compile(flex_attention, dynamic=False)
    return lambda: compiled(problem.q, problem.k, problem.v, block_mask=blocks)


def calls_of(problem, arguments):
    """{name: call}; a sparse call returns (o, report)."""
    p, sdpa = problem, torch.nn.functional.scaled_dot_product_attention

    def sparse(kind, **options):
        video = {} if kind == "ada_bsa" else {"latent_shape_q": p.latent}
        options = {"sparse_type": kind, "sparsity": arguments.sparsity, "block_size": BLOCK, "return_report": True, **video, **options}
        return lambda: aerogel.sparse_attention(p.q, p.k, p.v, **options)

    one_more = [torch.cat([t, t[:, :, :1]], 2) for t in (p.q, p.k, p.v)]
    calls = {
        "torch SDPA": lambda: sdpa(p.q, p.k, p.v),
        "dense": lambda: aerogel.attention(p.q, p.k, p.v),
        "dense, one token more": lambda: aerogel.attention(*one_more),
        "dense int8": lambda: aerogel.quantized_attention(p.q, p.k, p.v),
        "rf_v2": sparse("rf_v2", protect_first_frame=False),
        "rf_v2 int8": sparse("rf_v2", protect_first_frame=False, precision="int8"),
        "rf_v2, first frame kept": sparse("rf_v2"),
        "rf_v1": sparse("rf_v1", protect_first_frame=False),
        "ada_bsa": sparse("ada_bsa", cdf_threshold=0.95),
    }
    _, mask = aerogel.sparse_attention(p.q, p.k, p.v, sparse_type="rf_v2", sparsity=arguments.sparsity, latent_shape_q=p.latent,
                                       block_size=BLOCK, protect_first_frame=False, return_mask=True)
    if p.tokens % BLOCK == 0:
        given = {"sparse_type": None, "mask": mask, "block_size": BLOCK, "return_report": True}
        calls["the mask of rf_v2, given"] = lambda: aerogel.sparse_attention(p.q, p.k, p.v, **given)
        if not arguments.no_flex:
            calls["flex_attention"] = flex_call(p, mask)
        calls["the mask of rf_v2, given, int8"] = lambda: aerogel.sparse_attention(p.q, p.k, p.v, precision="int8", **given)
    return calls, mask


def rows_of(problem, calls, mask, turns, peaks):
    blocks = lambda rows: mask[0, 0].bool()[rows // BLOCK].repeat_interleave(BLOCK, 1)
    rows = []
    for name in calls:
        result = turns.results[name]
        o, report = result if isinstance(result, tuple) else (result, None)
        density = report["density"] if report else float(mask.bool().float().mean()) if name == "flex_attention" else 1.0
        row = {"name": name, "seconds": turns.median(name), "spread": turns.spread(name), "density": density}
        if report:
            row["prediction"] = report["predict_seconds"] / turns.median("dense")
        if "given" in name or name == "flex_attention":
            row["error"] = relative_error(o, problem.q, problem.k, problem.v, blocks)
        elif density == 1.0 and o.shape == problem.q.shape:
            row["error"] = relative_error(o, problem.q, problem.k, problem.v, lambda rows: None)
        peak = peaks.get("int8" if "int8" in name else "f32")
        row["percent_of_peak"] = 100 * problem.operations(density) / turns.median(name) / 1e9 / peak if peak else None
        row["times_dense"] = turns.ratio("dense", name)
        row["times_torch"] = turns.ratio("torch SDPA", name)
        rows.append(row)
    return rows


def goals(turns, rows, cpu):
    """[(what, reached, wanted, holds)]."""
    by_name = {row["name"]: row for row in rows}
    int8 = FLOORS["int8"][cpu["level"] != "avx2"]
    compared = [
        ("dense against torch SDPA", "torch SDPA", "dense", FLOORS["dense"]),
        ("rf_v2 against dense, prediction included", "dense", "rf_v2", FLOORS["rf_v2"]),
        ("rf_v2 in int8 against float32", "rf_v2", "rf_v2 int8", int8),
        ("the same mask, against flex_attention", "flex_attention", "the mask of rf_v2, given", FLOORS["flex"]),
    ]
    found = [(what, turns.ratio(slow, fast), wanted) for what, slow, fast, wanted in compared if slow in turns.seconds]
    checks = [(what, reached, f">= {wanted}", reached >= wanted) for what, reached, wanted in found]
    share, more = by_name["rf_v2"]["prediction"], turns.ratio("dense, one token more", "dense")
    checks.append(("prediction of rf_v2, of the dense call", share, f"<= {MOST_PREDICTION}", share <= MOST_PREDICTION))
    checks.append(("one token more than a multiple of the block", more, f"<= {MOST_FOR_ONE_TOKEN}", more <= MOST_FOR_ONE_TOKEN))
    return checks


def show(rows, checks, title):
    console = Console(width=None if sys.stdout.isatty() else 150)
    table = Table(title=title)
    for header in ("call", "ms", "spread", "density", "prediction", "of peak", "error", "x dense", "x SDPA"):
        table.add_column(header, justify="left" if header == "call" else "right", no_wrap=True)
    percent = lambda x, digits=0: "-" if x is None else f"{100 * x:.{digits}f} %"
    for r in rows:
        table.add_row(r["name"], f"{1e3 * r['seconds']:.1f}", percent(r["spread"]), percent(r["density"], 1), percent(r.get("prediction"), 1),
                      percent(r["percent_of_peak"] and r["percent_of_peak"] / 100), f"{r['error']:.1e}" if "error" in r else "-",
                      f"{r['times_dense']:.2f}", f"{r['times_torch']:.2f}")
    console.print(table)
    for what, reached, wanted, holds in checks:
        console.print(f"{'[green]met   [/]' if holds else '[red]missed[/]'} {what}: {reached:.3f} (goal {wanted})", highlight=False)


def main():
    arguments = parse_arguments()
    torch.set_num_threads(int(os.environ["AEROGEL_NUM_THREADS"]))
    cpu, peaks = machine(arguments.aerogel)
    problem = Problem(arguments)
    with torch.inference_mode():
        calls, mask = calls_of(problem, arguments)
        turns = take_turns(calls, arguments.rounds)
        rows = rows_of(problem, calls, mask, turns, peaks)
    checks = goals(turns, rows, cpu)
    size = f"{arguments.heads} heads, {problem.tokens} tokens, head_dim {arguments.head_dim}"
    show(rows, checks, f"{size}; {cpu['name']}, {cpu['level']}, {cpu['threads']} threads, torch {torch.__version__}")
    if arguments.json:
        results = {"cpu": cpu, "rows": rows, "goals": [dict(zip(("what", "reached", "wanted", "holds"), c)) for c in checks]}
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    missed = [what for what, _, _, holds in checks if not holds]
    if arguments.check and missed:
        sys.exit("missed: " + "; ".join(missed))


if __name__ == "__main__":
    main()
