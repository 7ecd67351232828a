"""The demo, in two parts.

1. Quality: the small trained model in examples/shapes_dit makes the same video (one caption, one seed) in float, quantized to W8A8_DYNAMIC, and
   quantized with RainFusion 2 sparse attention; each is compared with float.
2. Speed: one block of Wan2.1-1.3B's sizes, with random weights, is timed in float, quantized, and quantized and sparse.

Everything goes into build/demo: videos, results.json, pictures.png, speed.png and a self-contained report.html.
"""

import argparse
import json
import pathlib
import shutil
import sys
import time

import checkpoint
import pictures
import quality
import report
import speed
import tables
from command import stop_on_terminate
from rich.console import Console

ROOT = pathlib.Path(__file__).resolve().parents[2]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aerogel", type=pathlib.Path, default=ROOT / "build/release/aerogel", help="the command")
    parser.add_argument("--model", type=pathlib.Path, default=ROOT / "examples/shapes_dit", help="pipeline folder")
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "build/demo", help="folder for everything written")
    parser.add_argument("--readme", action="store_true", help="run nothing: print the tables of the last run in Markdown")
    part = parser.add_argument_group("part 1, quality")
    part.add_argument("--prompt", default=quality.CAPTION)
    part.add_argument("--seed", type=int, default=5)
    part.add_argument("--steps", type=int, help="sampling steps (default: the model's own)")
    part.add_argument("--sparsity", type=float, default=0.7, help="share of attention blocks to skip")
    part.add_argument("--block-size", type=int, default=64, help="tokens per block: one 8x8 window of the frame")
    part.add_argument("--start-step", type=int, default=6, help="sparse from this step on")
    part = parser.add_argument_group("part 2, speed")
    sizes = checkpoint.Sizes()
    part.add_argument("--grid", type=int, nargs=3, default=sizes.grid, metavar=("FRAMES", "ROWS", "COLUMNS"), help="tokens of the video")
    part.add_argument("--heads", type=int, default=sizes.heads, help="attention heads of 128")
    part.add_argument("--ffn", type=int, default=sizes.ffn, help="columns inside the feed-forward layer")
    part.add_argument("--speed-block-size", type=int, default=128, help="tokens per block of attention")
    part.add_argument("--turns", type=int, default=5, help="calls of each way, fewer on slow machines")
    return parser.parse_args()


def speed_settings(arguments: argparse.Namespace) -> speed.Settings:
    sizes = checkpoint.Sizes(heads=arguments.heads, ffn=arguments.ffn, grid=tuple(arguments.grid))
    return speed.Settings(arguments.aerogel, arguments.output, sizes, block_size=arguments.speed_block_size, turns=arguments.turns)


def demonstrate(arguments: argparse.Namespace, console: Console) -> None:
    start = time.monotonic()
    output = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    console.print("About one minute on two cores with AVX-512, two with AVX2.")
    console.print(f'\n[bold]1 of 2: quality.[/bold] A small trained model makes one video three times: "{arguments.prompt}"')
    results = {"quality": quality.measure(arguments, console)}
    console.print(tables.as_rich(tables.QUALITY_HEADERS, tables.quality_rows(results["quality"]), tables.machine(results["quality"])))
    console.print("\n[bold]2 of 2: speed.[/bold] One block of a real model (Wan2.1-1.3B's sizes, random weights), four ways in turns")
    results["speed"] = speed.measure(speed_settings(arguments), console)
    console.print(tables.as_rich(tables.SPEED_HEADERS, tables.speed_rows(results["speed"]), tables.machine(results["speed"])))
    (output / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    pictures.draw_frames(output, results["quality"], output / "pictures.png")
    pictures.draw_speed(results["speed"], output / "speed.png")
    report.write(output, results)
    console.print(f"\n{time.monotonic() - start:.0f} s; open {output / 'report.html'}", soft_wrap=True)


def print_readme(folder: pathlib.Path) -> None:
    path = folder / "results.json"
    if not path.is_file():
        sys.exit(f"demo: {path} is missing; run `make demo` first")
    print(tables.markdown(json.loads(path.read_text())))


def main() -> None:
    arguments = parse_arguments()
    if arguments.readme:
        return print_readme(arguments.output)
    for path in (arguments.aerogel, arguments.model):
        if not path.exists():
            sys.exit(f"demo: {path} is missing; run `make demo`, which builds first")
    stop_on_terminate()
    width = None if sys.stdout.isatty() else max(150, shutil.get_terminal_size().columns)
    try:
        demonstrate(arguments, Console(width=width, highlight=False))
    except KeyboardInterrupt:
        print("demo: stopped", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        sys.exit(f"demo: {error}")


if __name__ == "__main__":
    main()
