"""The demo: one caption, one seed, four ways to make the video.

Quantizes examples/shapes_dit to W8A8_DYNAMIC with the command `aerogel`, generates the video in float, quantized, and
quantized with RainFusion 2 and RainFusion 1 sparse attention, compares each with float, and writes into build/demo:
the videos, results.json, a contact sheet (contact_sheet.png) and a self-contained report.html.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import time

import report
from rich.console import Console
from rich.table import Table

ROOT = pathlib.Path(__file__).resolve().parents[2]
CAPTION = "red star moves down, blue square moves right"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aerogel", type=pathlib.Path, default=ROOT / "build/release/aerogel", help="the command")
    parser.add_argument("--model", type=pathlib.Path, default=ROOT / "examples/shapes_dit", help="pipeline folder")
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "build/demo", help="folder for everything written")
    parser.add_argument("--prompt", default=CAPTION)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--steps", type=int, help="sampling steps (default: the model's own)")
    parser.add_argument("--sparsity", type=float, default=0.7, help="share of attention blocks to skip")
    parser.add_argument("--block-size", type=int, default=64, help="tokens per block: one 8x8 window of the frame")
    parser.add_argument("--start-step", type=int, default=6, help="sparse from this step on")
    return parser.parse_args()


def run(command: list) -> str:
    """Output of a command; on failure its own message and exit code 1."""
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"demo: failed ({done.returncode}): {' '.join(str(part) for part in command)}")
    return done.stdout


def variants(arguments: argparse.Namespace, description: pathlib.Path) -> list[dict]:
    """Name, file name and extra flags of each way to make the video; the first one is the reference."""
    quantized = ["--quantized", description]
    sparse = ["--sparsity", arguments.sparsity, "--block-size", arguments.block_size]
    sparse += ["--start-step", arguments.start_step]
    return [
        {"name": "float", "file": "float", "flags": []},
        {"name": "W8A8_DYNAMIC", "file": "w8a8", "flags": quantized},
        {"name": "W8A8_DYNAMIC + rf_v2", "file": "w8a8_rf_v2", "flags": [*quantized, "--sparse", "rf_v2", *sparse]},
        {"name": "W8A8_DYNAMIC + rf_v1", "file": "w8a8_rf_v1", "flags": [*quantized, "--sparse", "rf_v1", *sparse]},
    ]


def generate(arguments: argparse.Namespace, variant: dict) -> dict:
    """Makes one video (.mp4 to look at, .safetensors to measure) and returns the command's report."""
    base = arguments.output / variant["file"]
    command = [arguments.aerogel, "generate", arguments.model, "--prompt", arguments.prompt, "--seed", arguments.seed]
    command += ["-o", base.with_suffix(".mp4"), "-o", base.with_suffix(".safetensors"), "--json", *variant["flags"]]
    if arguments.steps:
        command += ["--steps", arguments.steps]
    return json.loads(run(command))


def compare(arguments: argparse.Namespace, variant: dict) -> dict:
    files = [arguments.output / f"{name}.safetensors" for name in ("float", variant["file"])]
    return json.loads(run([arguments.aerogel, "compare", *files, "--json"]))["results"][0]


def result_of(variant: dict, generated: dict, closeness: dict, start_step: int) -> dict:
    """One row of the table; times are means over all steps, the density is that of the sparse steps."""
    seconds = generated["step_seconds"]
    sparse = generated.get("sparse")
    sparse_calls = [call for call in sparse["calls"] if call["step"] >= start_step] if sparse else []
    densities = [head["density"] for call in sparse_calls for head in call["heads"]]
    return {
        "name": variant["name"],
        "file": variant["file"],
        "seconds_per_step": statistics.fmean(seconds),
        "weight_bytes": generated["weight_bytes"],
        "peak_memory_bytes": generated["peak_memory_bytes"],
        "density": statistics.fmean(densities) if densities else 1.0,
        "predict_seconds": sparse["predict_seconds"] if sparse else 0.0,
        "head_types": sparse["head_types"] if sparse else {},
        "psnr": closeness["psnr"],
        "ssim": closeness["ssim"],
        "cosine": closeness["cosine"],
        "cpu": generated["cpu"],
        "steps": generated["steps"],
    }


def print_table(results: list[dict], console: Console) -> None:
    table = Table(title=f"{results[0]['cpu']['name']}, {results[0]['cpu']['level']}, {results[0]['cpu']['threads']} threads")
    for header in report.HEADERS:
        table.add_column(header, justify="left" if header == "run" else "right")
    for cells in report.table_cells(results):
        table.add_row(*cells)
    console.print(table)


def main() -> None:
    arguments = parse_arguments()
    for path in (arguments.aerogel, arguments.model):
        if not path.exists():
            sys.exit(f"demo: {path} is missing; run `make demo`, which builds first")
    arguments.output.mkdir(parents=True, exist_ok=True)
    console = Console(width=None if sys.stdout.isatty() else 150)
    start = time.monotonic()
    console.print(f'"{arguments.prompt}", seed {arguments.seed}')
    quantized = arguments.output / "quantized"
    run([arguments.aerogel, "quantize", arguments.model, "-o", quantized, "--scheme", "W8A8_DYNAMIC"])
    results = []
    for variant in variants(arguments, quantized / "quant_model_description_w8a8_dynamic.json"):
        console.print(f"generating: {variant['name']}")
        generated = generate(arguments, variant)
        results.append(result_of(variant, generated, compare(arguments, variant), arguments.start_step))
    print_table(results, console)
    (arguments.output / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    report.write_contact_sheet(arguments.output, results, arguments.output / "contact_sheet.png")
    report.write_html(arguments.output, results, arguments.prompt, arguments.output / "report.html")
    console.print(f"{time.monotonic() - start:.0f} s; open {arguments.output / 'report.html'}", soft_wrap=True)


if __name__ == "__main__":
    main()
