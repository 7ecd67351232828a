#!/usr/bin/env python3
"""Aerogel inside diffusers beside PyTorch: two blocks of a Wan transformer of tests/problems/models.txt, one run, turn by turn.

Sides: PyTorch in float32 and bfloat16, as it is and compiled; torchao's dynamic int8, as it is and compiled; Aerogel in W8A8_DYNAMIC with dense
attention and with rf_v2. Every time is a whole forward of the model. The error is the relative L2 distance to float32; random weights make no
sparse attention maps, so that of rf_v2 says little here (docs/sparsity.md measures it on a trained model)."""
import argparse
import copy
import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILT = ROOT / "build/release/python"
if BUILT.is_dir() and "PYTHONPATH" not in os.environ:
    sys.path.insert(0, str(BUILT))
sys.path.insert(0, str(ROOT / "bench"))

from machine import machine  # noqa: E402
from problems import models, size  # noqa: E402
from run import PEER_SETTINGS  # noqa: E402
from turns import take_turns  # noqa: E402

# Our best side against PyTorch's best: float only without VNNI; bfloat16 or torchao compiled with it.
GOALS = {"avx2": 1.8, "avxvnni": 1.8, "avx512": 1.5, "avx512_bf16": 1.5, "amx": 1.5}
WANS = models("WanTransformer3DModel")
# PyTorch 2.13 writes C++ that does not compile (variables declared twice) for torchao's int8 in bfloat16 when it fuses more than two nodes.
COMPILE_OPTIONS = {"torchao int8, bfloat16": {"max_fusion_size": 2}}


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aerogel", type=Path, default=ROOT / "build/release/aerogel", help="the command, which tells the level")
    parser.add_argument("--cpu", choices=[*PEER_SETTINGS], help="hold both sides to this level")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5, help="calls of each side; they take turns")
    parser.add_argument("--model", choices=[*WANS], default=next(iter(WANS)))
    parser.add_argument("--heads", type=int, help="fewer than the model has; its widths shrink with them")
    parser.add_argument("--grid", type=size, help="tokens: frames x height x width; default: the model's")
    parser.add_argument("--sparsity", type=float, default=0.8)
    parser.add_argument("--no-compile", action="store_true", help="without the compiled sides, which take minutes to begin")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--check", action="store_true", help="exit with 1 when the goal is missed")
    return parser.parse_args()


def hold_down(arguments):
    """Both libraries read their level when they start: the environment is set before either is loaded."""
    os.environ["AEROGEL_NUM_THREADS"] = str(arguments.threads)
    if arguments.cpu:
        os.environ |= {"AEROGEL_CPU": arguments.cpu, **PEER_SETTINGS[arguments.cpu]}


def float_model(arguments):
    import torch
    from diffusers import WanTransformer3DModel

    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    wan = WANS[arguments.model]
    heads, ffn = arguments.heads or wan.heads, max(n for n, _ in wan.layers)
    model = WanTransformer3DModel(num_attention_heads=heads, attention_head_dim=wan.head_dim, ffn_dim=heads * ffn // wan.heads, num_layers=2,
                                  text_dim=512)
    frames, height, width = arguments.grid or wan.measured
    inputs = {"hidden_states": torch.randn(1, 16, frames, 2 * height, 2 * width), "timestep": torch.tensor([500.0]),
              "encoder_hidden_states": torch.randn(1, 128, 512)}
    return model.eval(), inputs


def to_bfloat16(model, inputs):
    return copy.deepcopy(model).bfloat16(), {k: v if k == "timestep" else v.bfloat16() for k, v in inputs.items()}


def torchao_int8(model):
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    model = copy.deepcopy(model)
    quantize_(model, Int8DynamicActivationInt8WeightConfig(), filter_fn=lambda module, name: type(module).__name__ == "Linear" and "blocks." in name)
    return model


def sides(model, inputs, arguments):
    """({name: function}, {name: side}); a side is torch, torch bf16, torchao, one of them compiled, or aerogel."""
    import aerogel
    import torch

    half, half_inputs = to_bfloat16(model, inputs)

    def ours(original, **sparse):
        quantized = copy.deepcopy(original)
        aerogel.quantize(quantized, scheme="W8A8_DYNAMIC")
        if sparse:
            aerogel.enable_sparse_attention(quantized, sparse_type="rf_v2", sparsity=arguments.sparsity, protect_first_frame=False, **sparse)
        return quantized

    models = {
        "torch float32": ("torch", model, inputs),
        "torch bfloat16": ("torch bf16", half, half_inputs),
        "torchao int8": ("torchao", torchao_int8(model), inputs),
        "torchao int8, bfloat16": ("torchao", torchao_int8(half), half_inputs),
    }
    for suffix, original, given in (("", model, inputs), (", bfloat16", half, half_inputs)):
        models[f"aerogel W8A8_DYNAMIC{suffix}"] = ("aerogel", ours(original), given)
        models[f"aerogel W8A8_DYNAMIC + rf_v2{suffix}"] = ("aerogel", ours(original, precision="none"), given)
        models[f"aerogel W8A8_DYNAMIC + rf_v2 in int8{suffix}"] = ("aerogel", ours(original, precision="int8"), given)
    if not arguments.no_compile:
        for name, (side, one, given) in list(models.items()):
            if side != "aerogel" or name.endswith(("+ rf_v2, bfloat16", "in int8, bfloat16")):
                models[f"{name}, compiled"] = (f"{side} compiled", torch.compile(one, options=COMPILE_OPTIONS.get(name)), given)
    call = lambda one, given: lambda: one(**given, return_dict=False)[0]
    return {name: call(one, given) for name, (_, one, given) in models.items()}, {name: side for name, (side, _, _) in models.items()}


def peers_of(level, side_of):
    """The sides of PyTorch that the goal speaks of."""
    wanted = ("torch", "torch bf16") if level == "avx2" else ("torch bf16", "torchao")
    return [name for name, side in side_of.items() if side.removesuffix(" compiled") in wanted and (side.endswith("compiled") or side != "torchao")]


def main():
    arguments = parse_arguments()
    hold_down(arguments)
    import torch
    from rich.console import Console
    from rich.table import Table

    cpu, _ = machine(arguments.aerogel)
    level = cpu["level"]
    calls, side_of = sides(*float_model(arguments), arguments)
    with torch.inference_mode():
        turns = take_turns(calls, arguments.rounds, may_fail=True)
    outputs = turns.results
    peers, exact = [name for name in peers_of(level, side_of) if name in outputs], outputs["torch float32"].double()
    best = min(peers, key=turns.median)
    rows = [{"name": name, "seconds": turns.median(name), "spread": turns.spread(name), "error": float((o.double() - exact).norm() / exact.norm()),
             "ratio": turns.ratio(best, name)} for name, o in outputs.items()]
    reached = max(row["ratio"] for row in rows if row["name"].startswith("aerogel"))
    goal = {"reached": reached, "wanted": GOALS.get(level), "peers": peers}

    table = Table(title=f"{cpu['name']}, {level}, {arguments.threads} threads, torch {torch.__version__}")
    for header in ("forward of", "ms", "spread", "error", "x best peer"):
        table.add_column(header, justify="left" if header == "forward of" else "right", no_wrap=True)
    for row in rows:
        table.add_row(row["name"], f"{1e3 * row['seconds']:.0f}", f"{100 * row['spread']:.0f} %", f"{row['error']:.1e}", f"{row['ratio']:.2f}")
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    console.print(f"best of {', '.join(goal['peers'])}; ours {reached:.2f} x (goal {goal['wanted']})", highlight=False)
    if arguments.json:
        arguments.json.write_text(json.dumps({"cpu": cpu, "rows": rows, "goal": goal}, indent=1) + "\n")
    if arguments.check and goal["wanted"] and reached < goal["wanted"]:
        sys.exit(f"missed: {reached:.2f} x, wanted {goal['wanted']} x")


if __name__ == "__main__":
    main()
