#!/usr/bin/env python3
"""Aerogel inside diffusers beside PyTorch: two blocks of a transformer of tests/problems/models.txt (Wan, Z-Image, FLUX.2), one run, turn by turn.

Sides: PyTorch in float32 and bfloat16, torchao's dynamic int8 and SDNQ's int8 products, as they are and compiled (SDNQ compiles its layers itself);
Aerogel in W8A8_DYNAMIC with attention by PyTorch, by itself, in int8, and, for videos, with rf_v2. Every time is a whole forward of the model, with
all that is between the products. The error is the relative L2 distance to float32; random weights make no sparse attention maps, so that of rf_v2
says little here (docs/sparsity.md measures it on a trained model)."""
import argparse
import copy
import functools
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILT = ROOT / "build/release/python"
if BUILT.is_dir() and "PYTHONPATH" not in os.environ:
    sys.path.insert(0, str(BUILT))
sys.path.insert(0, str(ROOT / "bench"))

from blocks import Shape, build, offered  # noqa: E402
import figures  # noqa: E402
from machine import machine  # noqa: E402
from peers import environment  # noqa: E402
from peers.side import HOLDS, python_of, settings_of  # noqa: E402
from problems import models, size  # noqa: E402
from turns import take_turns  # noqa: E402

# Our best side against PyTorch's best: float only without VNNI; bfloat16 or torchao compiled, or SDNQ, with it. An image has no sparse attention.
GOALS = {"avx2": 1.8, "avxvnni": 1.8, "avx512": 1.6, "avx512_bf16": 1.6, "amx": 1.6}
IMAGE_GOAL = 1.3
# PyTorch 2.13 writes C++ that does not compile (variables declared twice) for torchao's int8 in bfloat16 when it fuses more than two nodes.
COMPILE_OPTIONS = {"torchao int8, bfloat16": {"max_fusion_size": 2}}


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aerogel", type=Path, default=ROOT / "build/release/aerogel", help="the command, which tells the level")
    parser.add_argument("--cpu", choices=[*HOLDS], help="hold both sides to this level")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5, help="calls of each side; they take turns")
    parser.add_argument("--model", choices=offered(), default=offered()[0])
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--heads", type=int, help="fewer than the model has; its widths shrink with them")
    parser.add_argument("--grid", type=size, help="tokens: frames x height x width; default: the model's")
    parser.add_argument("--sparsity", type=float, default=0.8)
    parser.add_argument("--only", action="append", default=[], help="only sides whose name contains this, and torch float32; repeatable")
    parser.add_argument("--no-compile", action="store_true", help="without the compiled sides, which take minutes to begin")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--check", action="store_true", help="exit with 1 when the goal is missed")
    return parser.parse_args()


def hold_down(arguments):
    """Both libraries read their level when they start: the environment is set before either is loaded."""
    os.environ["AEROGEL_NUM_THREADS"] = str(arguments.threads)
    if arguments.cpu:
        os.environ["AEROGEL_CPU"] = arguments.cpu
    os.environ |= settings_of(arguments.cpu or "")


def with_peers():
    """Starts this program anew in the peers' environment, where SDNQ is; goes on without when there is none."""
    python = python_of(environment.FOLDER)
    if Path(sys.prefix) != environment.FOLDER and python != Path(sys.executable) and not environment.make():
        os.execve(python, [str(python), *sys.argv], os.environ)


def float_model(arguments):
    import torch

    torch.set_num_threads(arguments.threads)
    model = models()[arguments.model]
    return build(Shape(model, arguments.blocks, arguments.heads or model.heads, arguments.grid or model.measured))


STAY = ("timestep", "t", "img_ids", "txt_ids")  # inputs that have no type of the model


def to_bfloat16(model, inputs):
    half = lambda value: [v.bfloat16() for v in value] if isinstance(value, list) else value.bfloat16()
    return copy.deepcopy(model).bfloat16(), {name: value if name in STAY else half(value) for name, value in inputs.items()}


def in_blocks(name):
    """Whether a layer is one of those that Aerogel quantizes by default: the Linears of the blocks but for the modulations, which have one row."""
    return ("blocks." in name or name.startswith("layers.")) and "adaLN" not in name


def torchao_int8(model):
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    model = copy.deepcopy(model)
    quantize_(model, Int8DynamicActivationInt8WeightConfig(), filter_fn=lambda module, name: type(module).__name__ == "Linear" and in_blocks(name))
    return model


def sdnq_int8(model):
    import sdnq
    import torch

    others = [f"{name}.weight" for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and not in_blocks(name)]
    return sdnq.sdnq_post_load_quant(copy.deepcopy(model), weights_dtype="int8", use_quantized_matmul=True, add_skip_keys=False,
                                     modules_to_not_convert=others, torch_dtype=next(model.parameters()).dtype)


def ours(model, **attention):
    """Quantized; attention: options of enable_sparse_attention, or nothing: PyTorch's."""
    import aerogel

    quantized = copy.deepcopy(model)
    aerogel.quantize(quantized, scheme="W8A8_DYNAMIC")
    if attention:
        aerogel.enable_sparse_attention(quantized, **attention)
    return quantized


def our_attentions(arguments):
    """{name: options of enable_sparse_attention}."""
    found = {"": {}, " + attention": {"sparse_type": None}, " + attention in int8": {"sparse_type": None, "dense_format": "int8"}}
    if models()[arguments.model].latent[0] > 1:
        sparse = {"sparse_type": "rf_v2", "sparsity": arguments.sparsity, "protect_first_frame": False}
        found |= {" + rf_v2": {**sparse, "precision": "none"}, " + rf_v2 in int8": {**sparse, "precision": "int8"}}
    return found


def sides(model, inputs, arguments):
    """({name: function that makes a call}, {name: side}); a side is torch, torch bf16, torchao, sdnq, one of them compiled, or aerogel."""
    import torch

    half, half_inputs = to_bfloat16(model, inputs)
    makers = {"torch float32": ("torch", lambda: model, inputs), "torch bfloat16": ("torch bf16", lambda: half, half_inputs)}
    for suffix, original, given in (("", model, inputs), (", bfloat16", half, half_inputs)):
        makers[f"torchao int8{suffix}"] = ("torchao", functools.partial(torchao_int8, original), given)
        makers[f"SDNQ int8{suffix}"] = ("sdnq", functools.partial(sdnq_int8, original), given)
        for name, options in our_attentions(arguments).items():
            makers[f"aerogel W8A8_DYNAMIC{name}{suffix}"] = ("aerogel", functools.partial(ours, original, **options), given)
    if not arguments.no_compile:
        compiled = lambda make, name: torch.compile(make(), options=COMPILE_OPTIONS.get(name))
        for name, (side, make, given) in list(makers.items()):
            if side not in ("aerogel", "sdnq") or name.endswith(("+ attention in int8, bfloat16", "+ rf_v2, bfloat16", "+ rf_v2 in int8, bfloat16")):
                makers[f"{name}, compiled"] = (f"{side} compiled", functools.partial(compiled, make, name), given)
    wanted = [name for name in makers if not arguments.only or name == "torch float32" or any(part in name for part in arguments.only)]
    return {name: makers[name][1:] for name in wanted}, {name: makers[name][0] for name in wanted}


def calls_of(makers):
    """{name: call}; a side that cannot be made, as one that is not installed, is said to be left out."""
    calls = {}
    for name, (make, given) in makers.items():
        try:
            calls[name] = functools.partial(lambda one, given: output_of(one(**given, return_dict=False)), make(), given)
        except Exception as error:
            print(f"{name}: left out: {type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}", file=sys.stderr)
    return calls


def output_of(result):
    """The tensor; Z-Image returns a list of one for each image."""
    return result[0][0] if isinstance(result[0], list) else result[0]


def peers_of(level, side_of):
    """The sides of PyTorch that the goal speaks of."""
    wanted = ("torch", "torch bf16") if level == "avx2" else ("torch", "torch bf16", "torchao", "sdnq")
    return [name for name, side in side_of.items() if side.removesuffix(" compiled") in wanted and (side.endswith("compiled") or side != "torchao")]


def best_of_ours(rows):
    """How many times as fast as the best peer; None where --only, or a failure, left none of ours."""
    return max((row["ratio"] for row in rows if row["name"].startswith("aerogel")), default=None)


def main():
    arguments = parse_arguments()
    with_peers()
    hold_down(arguments)
    import torch
    from rich.console import Console
    from rich.table import Table

    cpu, _ = machine(arguments.aerogel)
    level = cpu["level"]
    makers, side_of = sides(*float_model(arguments), arguments)
    with torch.inference_mode():
        calls = calls_of(makers)
        turns = take_turns(calls, arguments.rounds, may_fail=True)
    outputs = turns.results
    peers, exact = [name for name in peers_of(level, side_of) if name in outputs], outputs["torch float32"].double()
    best = min(peers, key=turns.median)
    rows = [{"name": name, "seconds": turns.median(name), "spread": turns.spread(name), "error": float((o.double() - exact).norm() / exact.norm()),
             "ratio": turns.ratio(best, name)} for name, o in outputs.items()]
    reached = best_of_ours(rows)
    video = models()[arguments.model].latent[0] > 1
    goal = {"reached": reached, "wanted": GOALS.get(level) if video else IMAGE_GOAL, "peers": peers}

    table = Table(title=f"{arguments.model}, {arguments.blocks} blocks; {cpu['name']}, {level}, {arguments.threads} threads, torch {torch.__version__}")
    for header in ("forward of", "ms", "spread", "error", "x best peer"):
        table.add_column(header, justify="left" if header == "forward of" else "right", no_wrap=True)
    for row in rows:
        table.add_row(row["name"], f"{1e3 * row['seconds']:.0f}", f"{100 * row['spread']:.0f} %", f"{row['error']:.1e}", f"{row['ratio']:.2f}")
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    ours_is = "not measured" if reached is None else f"{reached:.2f} x"
    console.print(f"best of {', '.join(goal['peers'])}; ours {ours_is} (goal {goal['wanted']})", highlight=False)
    if arguments.json:
        figures.write(arguments.json, {"cpu": cpu, "rows": rows, "goal": goal})
    if arguments.check and reached is None:
        sys.exit("missed: no side of Aerogel was measured")
    if arguments.check and goal["wanted"] and reached < goal["wanted"]:
        sys.exit(f"missed: {reached:.2f} x, wanted {goal['wanted']} x")


if __name__ == "__main__":
    main()
