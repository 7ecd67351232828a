"""Part two of the demo: what quantized and sparse layers gain at the sizes of a real model.

Times one block of Wan2.1-1.3B's sizes (random weights) by `aerogel forward`. The ways to run it take turns, so that a slow moment of the machine
meets them all; the speed of a way is the median of its ratios to the float call of the same turn.
"""

import dataclasses
import pathlib
import statistics
import time

import checkpoint
from command import run
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

QUANTIZED = ["--online", "W8A8_DYNAMIC"]
INT8_ATTENTION = [*QUANTIZED, "--fa", "INT8_DYNAMIC"]


@dataclasses.dataclass(frozen=True)
class Settings:
    aerogel: pathlib.Path
    output: pathlib.Path
    sizes: checkpoint.Sizes
    sparsity: float = 0.8
    block_size: int = 128
    turns: int = 5
    seconds: float = 45.0  # no further turn that would end after this time, once there are two


def sides(settings: Settings) -> list[dict]:
    """Each adds one thing to the one before; the first is the reference."""
    sparse = ["--sparse", "rf_v2", "--sparsity", settings.sparsity, "--block-size", settings.block_size]
    return [
        {"name": "float", "file": "block_float", "flags": []},
        {"name": "W8A8_DYNAMIC", "file": "block_w8a8", "flags": QUANTIZED},
        {"name": "W8A8_DYNAMIC + int8 attention", "file": "block_w8a8_int8", "flags": INT8_ATTENTION},
        {"name": "W8A8_DYNAMIC + int8 attention + rf_v2", "file": "block_w8a8_int8_rf_v2", "flags": [*INT8_ATTENTION, *sparse]},
    ]


def prepared(settings: Settings, console: Console) -> pathlib.Path:
    folder = settings.output / "wan_block"
    if checkpoint.is_ready(folder, settings.sizes):
        console.print(f"  weights from the last run: {folder}", soft_wrap=True)
        return folder
    with console.status("writing random weights, a few seconds"):
        checkpoint.write(folder, settings.sizes)
    size = sum(file.stat().st_size for file in folder.iterdir())
    console.print(f"  wrote random weights, {size / 1e6:.0f} MB: {folder}", soft_wrap=True)
    return folder


def call(settings: Settings, folder: pathlib.Path, side: dict) -> dict:
    output = settings.output / f"{side['file']}.safetensors"
    command = [settings.aerogel, "forward", folder, "--inputs", folder / "input.safetensors", "-o", output]
    return run([*command, *side["flags"], "--json"], quiet=True)


def take_turns(settings: Settings, folder: pathlib.Path, console: Console) -> list[list[dict]]:
    """The reports of every call, by side and turn."""
    ways = sides(settings)
    reports: list[list[dict]] = [[] for _ in ways]
    columns = [TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    start = time.monotonic()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("timing", total=len(ways) * settings.turns)
        for turn in range(1, settings.turns + 1):
            for side, of_side in zip(ways, reports):
                progress.update(task, description=f"turn {turn}: {side['name']}")
                of_side.append(call(settings, folder, side))
                progress.advance(task)
            elapsed = time.monotonic() - start
            fitting = max(2, int(settings.seconds / (elapsed / turn)))
            progress.update(task, total=len(ways) * min(settings.turns, fitting))
            if turn >= min(settings.turns, fitting):
                break
    return reports


def closeness(settings: Settings, side: dict) -> dict:
    files = [settings.output / f"{name}.safetensors" for name in ("block_float", side["file"])]
    return run([settings.aerogel, "compare", *files, "--json"], quiet=True)["results"][0]


def measure(settings: Settings, console: Console) -> dict:
    folder = prepared(settings, console)
    reports = take_turns(settings, folder, console)
    seconds = [[report["record_seconds"][0] for report in of_side] for of_side in reports]
    runs = []
    for side, of_side, own in zip(sides(settings), reports, seconds):
        close = closeness(settings, side)
        runs.append(
            {
                "name": side["name"],
                "seconds": statistics.median(own),
                "speed": statistics.median(plain / mine for plain, mine in zip(seconds[0], own)),
                "all_seconds": own,
                "weight_bytes": of_side[0]["weight_bytes"],
                "peak_memory_bytes": max(report["peak_memory_bytes"] for report in of_side),
                "density": of_side[0].get("density", 1.0),
                "cosine": close["cosine"],
                "relative_l2": close["relative_l2"],
            }
        )
    sizes = {**dataclasses.asdict(settings.sizes), "dim": settings.sizes.dim, "tokens": settings.sizes.tokens}
    return {"sizes": sizes, "sparsity": settings.sparsity, "turns": len(seconds[0]), "cpu": reports[0][0]["cpu"], "runs": runs}
