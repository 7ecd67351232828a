"""Part one of the demo: one caption, one seed, three ways to make the video, each compared with float."""

import argparse
import json
import pathlib
import statistics
import time

from command import run
from rich.console import Console

CAPTION = "red star moves down, blue square moves right"


def variants(arguments: argparse.Namespace, description: pathlib.Path) -> list[dict]:
    """Name, file name and extra flags of each way to make the video; the first one is the reference."""
    quantized = ["--quantized", description]
    sparse = ["--sparse", "rf_v2", "--sparsity", arguments.sparsity, "--block-size", arguments.block_size]
    sparse += ["--start-step", arguments.start_step]
    return [
        {"name": "float", "file": "float", "flags": []},
        {"name": "W8A8_DYNAMIC", "file": "w8a8", "flags": quantized},
        {"name": "W8A8_DYNAMIC + rf_v2", "file": "w8a8_rf_v2", "flags": [*quantized, *sparse]},
    ]


def generate(arguments: argparse.Namespace, variant: dict) -> dict:
    """Makes one video (.mp4 to look at, .safetensors to measure) and returns the command's report."""
    base = arguments.output / variant["file"]
    command = [arguments.aerogel, "generate", arguments.model, "--prompt", arguments.prompt, "--seed", arguments.seed]
    command += ["-o", base.with_suffix(".mp4"), "-o", base.with_suffix(".safetensors"), "--json", *variant["flags"]]
    if arguments.steps:
        command += ["--steps", arguments.steps]
    return run(command)


def compare(arguments: argparse.Namespace, variant: dict) -> dict:
    files = [arguments.output / f"{name}.safetensors" for name in ("float", variant["file"])]
    return run([arguments.aerogel, "compare", *files, "--json"])["results"][0]


def result_of(variant: dict, generated: dict, closeness: dict, start_step: int) -> dict:
    """One row of the table; times are means over all steps, the density is that of the sparse steps."""
    sparse = generated.get("sparse")
    sparse_calls = [call for call in sparse["calls"] if call["step"] >= start_step] if sparse else []
    densities = [head["density"] for call in sparse_calls for head in call["heads"]]
    return {
        "name": variant["name"],
        "file": variant["file"],
        "seconds_per_step": statistics.fmean(generated["step_seconds"]),
        "weight_bytes": generated["weight_bytes"],
        "peak_memory_bytes": generated["peak_memory_bytes"],
        "density": statistics.fmean(densities) if densities else 1.0,
        "psnr": closeness["psnr"],
        "ssim": closeness["ssim"],
        "cosine": closeness["cosine"],
    }


def measure(arguments: argparse.Namespace, console: Console) -> dict:
    quantized = arguments.output / "quantized"
    run([arguments.aerogel, "quantize", arguments.model, "-o", quantized, "--scheme", "W8A8_DYNAMIC"], quiet=True)
    ways = variants(arguments, quantized / "quant_model_description_w8a8_dynamic.json")
    runs: list[dict] = []
    for index, variant in enumerate(ways):
        console.print(f"  video {index + 1} of {len(ways)}: {variant['name']}")
        start = time.monotonic()
        generated = generate(arguments, variant)
        runs.append(result_of(variant, generated, compare(arguments, variant), arguments.start_step))
        console.print(f"    done in {time.monotonic() - start:.0f} s")
    config = json.loads((arguments.model / "transformer/config.json").read_text())
    return {
        "prompt": arguments.prompt,
        "seed": arguments.seed,
        "columns": config["num_attention_heads"] * config["attention_head_dim"],
        "steps": generated["steps"],
        "cpu": generated["cpu"],
        "runs": runs,
    }
