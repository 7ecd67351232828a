#!/usr/bin/env python3
"""Aerogel beside its peers on layers and attentions of real models (tests/problems/models.txt): one run, turn by turn.

Each side is a process of its own with the same threads, cores and arrays, stopped unless it is its turn (bench/peers). A ratio is the median
of those within a turn. Errors are relative L2 distances to float64. Integers are judged with whole numbers that every side must multiply exactly. A peer
that is missing or fails is a line of the report. Peers are installed into .venv-peers when that is missing (requirements-peers.txt)."""
import argparse
import datetime
import json
import os
import subprocess
import sys
import time
from pathlib import Path

BENCH = Path(__file__).resolve().parent
ROOT = BENCH.parent
sys.path.insert(0, str(BENCH))

import figures  # noqa: E402
from peers import environment  # noqa: E402
from peers.measure import Plan, measured  # noqa: E402
from peers.problem import MOST_HEADS, MOST_ROWS, Problem  # noqa: E402
from peers.report import HEADERS, cells, completed, markdown  # noqa: E402
from peers.side import HOLDS, Failure, Side, Start, python_of  # noqa: E402
from peers.table import rows_of  # noqa: E402
from problems import models  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

KINDS = ("linear", "attention", "cross", "sparse")
# What runs without --all: layers of small and large widths, an image's and a video's attention.
DEFAULT = ("linear/wan2.1-1.3b/", "linear/z-image-turbo/1024x3840x3840", "linear/z-image-turbo/1024x10240x3840", "linear/flux.2-klein-4b/1024x18432x3072",
           "linear/wan2.1-14b/1024x5120x5120", "linear/qwen-image/1024x3072x3072", "attention/wan2.1-1.3b/", "attention/flux.2-klein-4b/",
           "cross/wan2.1-1.3b/", "sparse/wan2.1-1.3b/")
# What runs with --short: narrow and wide layers, and each kind of attention, for --levels in about as many minutes.
SHORT = ("linear/wan2.1-1.3b/1024x1536x1536", "linear/qwen-image/1024x3072x3072", "linear/z-image-turbo/1024x10240x3840", "attention/wan2.1-1.3b/",
         "attention/flux.2-klein-4b/", "cross/wan2.1-1.3b/", "sparse/wan2.1-1.3b/")
# What --check asks of W8A8_DYNAMIC layers by level: times as fast as PyTorch in float32.
FLOORS = {"avx2": 1.3, "avxvnni": 2.5, "avx512": 3.5, "avx512_bf16": 3.5, "amx": 3.5}
# The largest errors that --check takes of ours, by kind and variant: several times those measured.
OF_ATTENTION = {"f32": 1e-4, "bf16": 0.02, "int8": 0.05}
ERRORS = {"linear": {"f32": 0.03, "bf16": 0.03}, "attention": OF_ATTENTION, "cross": OF_ATTENTION, "sparse": OF_ATTENTION}


def parse_arguments(arguments=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="every layer and attention of every model; default: a selection of about ten minutes on two cores")
    parser.add_argument("--short", action="store_true", help="half of that selection, three turns of each side unless --rounds says otherwise")
    parser.add_argument("--only", action="append", default=[], help="problems of all models whose name contains this (linear/wan2.1-1.3b/1024x1536x1536, see --list); repeatable")
    parser.add_argument("--list", action="store_true", help="print the names of the problems and end")
    parser.add_argument("--peer", action="append", default=[], help="only peers whose name contains this; repeatable")
    parser.add_argument("--cpu", choices=[*HOLDS], help="hold all sides to this level; peers that cannot be held are left out")
    parser.add_argument("--levels", action="store_true", help="repeat ours at the lesser CPU levels")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of every side")
    parser.add_argument("--rounds", type=int, help=f"turns of each side (default {Plan.rounds}, with --short 3)")
    parser.add_argument("--turn", type=float, default=Plan.turn, help="seconds of a turn; at least one call is timed (default %(default)s)")
    parser.add_argument("--most-rows", type=int, default=MOST_ROWS, help="rows of x of a layer, at most (default %(default)s)")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--markdown", action="store_true", help="print the summary of the README too")
    parser.add_argument("--from", dest="earlier", type=Path, nargs="+", metavar="FILE", help="show the figures of these files (--json) instead of measuring: one "
                        "for each level, say")
    parser.add_argument("--check", action="store_true", help="exit with 1 when ours is not exact, fails, is off by more than ERRORS, or is slower than asked (FLOORS)")
    parser.add_argument("--no-install", action="store_true", help="leave out the peers that are not installed")
    parser.add_argument("--build", type=Path, default=ROOT / "build/release", help="the build folder")
    parsed = parser.parse_args(arguments)
    parsed.rounds = parsed.rounds or (3 if parsed.short else Plan.rounds)
    return parsed


def problems_of(arguments: argparse.Namespace) -> list[Problem]:
    """Layers of the same size in two models are one problem, named after the first."""
    found = {}
    for model in models().values():
        frames, height, width = model.measured
        tokens = frames * height * width + model.text
        for n, k in model.layers:
            found.setdefault(("linear", n, k), Problem("linear", model.name, (min(tokens, arguments.most_rows), n, k)))
        heads = min(model.heads, MOST_HEADS)
        found["attention", model.name] = Problem("attention", model.name, (heads, tokens, model.head_dim))
        if model.cross:
            found["cross", model.name] = Problem("cross", model.name, (heads, tokens, model.cross, model.head_dim))
        if frames > 1 and not model.text:
            found["sparse", model.name] = Problem("sparse", model.name, (heads, tokens, model.head_dim))
    every = sorted(found.values(), key=lambda problem: KINDS.index(problem.kind))
    wanted = arguments.only or ([""] if arguments.all or arguments.list else SHORT if arguments.short else DEFAULT)
    # Names of models that share a layer find it, too.
    return [problem for problem in every if any(part in name for part in wanted for name in names(problem))]


def names(problem: Problem) -> list[str]:
    """Of a problem: one for each model that has it."""
    if problem.kind != "linear":
        return [problem.name]
    _, n, k = problem.sizes
    return [Problem("linear", model.name, problem.sizes).name for model in models().values() if (n, k) in model.layers]


def told(build: Path, cpu: str | None) -> subprocess.CompletedProcess:
    """What `aerogel bench` says when it is held to a level."""
    settings = {**os.environ, **({"AEROGEL_CPU": cpu} if cpu else {})}
    return subprocess.run([build / "aerogel", "bench", "--only", "W8A8_DYNAMIC/4096x256x256", "--repeat", "1", "--json"], env=settings,
                          capture_output=True, text=True, check=False)


def lesser_levels(build: Path, level: str) -> list[str]:
    """Those below a level that this machine can start: a CPU with AVX-512 may lack AVX-VNNI."""
    order = list(HOLDS)
    return [one for one in order[:order.index(level) if level in order else 0] if told(build, one).returncode == 0]


def machine(build: Path, cpu: str | None) -> dict:
    """Name, level and threads of this machine."""
    done = told(build, cpu)
    if done.returncode != 0:
        sys.exit(f"{done.stderr.strip()}\n{build}/aerogel does not run here: `make build` first")
    return json.loads(done.stdout)["cpu"]


class Sides:
    """All processes, started when a problem first needs them; one that has ended is started anew."""

    def __init__(self, arguments: argparse.Namespace, level: str):
        self.arguments, self.running = arguments, {}
        self.lesser = lesser_levels(arguments.build, level) if arguments.levels else []
        self.start = Start(python_of(environment.FOLDER), arguments.threads, str(arguments.build / "python"))

    def of(self, kind: str) -> list[Side]:
        held = self.arguments.cpu or ""
        rows = [row for row in rows_of(kind, self.arguments.peer) if row.held or not held]
        return [self._side(row, level, level != held) for row in rows for level in (held, *(self.lesser if row.ours else []))]

    def _side(self, row, level: str, lesser: bool) -> Side:
        side = self.running.get((row, level))
        if side is None or side.process.poll() is not None:
            side = self.running[row, level] = Side(row, self.start, level, lesser)
        return side

    def about(self) -> list[str]:
        """Of every library, once."""
        told = {}
        for side in self.running.values():
            try:
                told[side.row.module] = side.ask(about=True)["about"]
            except Failure:
                pass
        return list(told.values())

    def close(self) -> None:
        for side in self.running.values():
            side.close()


def console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 150)


def show(problem: dict) -> None:
    table = Table(title=problem["name"])
    for header in HEADERS:
        table.add_column(header, justify="left" if header == "side" else "right", no_wrap=header != "integers")
    for row in problem["rows"]:
        table.add_row(*cells(row))
    console().print(table)


def title(result: dict) -> str:
    cpu = result["cpu"]
    return f"{cpu['name']}, {cpu['level']}, {cpu['threads']} threads, {result['date']}; {', '.join(result['about'])}"


def run(arguments: argparse.Namespace, problems: list[Problem]) -> dict:
    cpu = machine(arguments.build, arguments.cpu) | {"threads": arguments.threads}
    sides, found, begin = Sides(arguments, cpu["level"]), [], time.monotonic()
    try:
        for index, problem in enumerate(problems):
            rows = completed(measured(problem, sides.of(problem.kind), Plan(arguments.rounds, arguments.turn)), problem.operations)
            found.append({"name": problem.name, "kind": problem.kind, "model": problem.model, "sizes": problem.sizes, "rows": rows})
            show(found[-1])
            if arguments.json:
                figures.write(arguments.json, finished(found, cpu, sides, arguments))  # so that a run that is stopped has told something
            spent, left = time.monotonic() - begin, sum(p.operations + 2e10 for p in problems[index + 1:])
            estimate = spent * left / sum(p.operations + 2e10 for p in problems[:index + 1])
            print(f"{index + 1} of {len(problems)} problems after {spent / 60:.1f} minutes, about {estimate / 60:.1f} more", file=sys.stderr)
        return finished(found, cpu, sides, arguments)
    finally:
        sides.close()


def finished(found: list[dict], cpu: dict, sides: Sides, arguments: argparse.Namespace) -> dict:
    return {"date": datetime.date.today().isoformat(), "cpu": cpu, "about": sides.about(), "held": arguments.cpu, "problems": found}


def complaints(result: dict) -> list[str]:
    """What --check finds."""
    found = []
    for problem in result["problems"]:
        for row in problem["rows"]:
            if row["ours"] and "failed" in row:
                found.append(f"{problem['name']}: {row['side']} fails: {row['failed']}")
            elif row["ours"] and row["exact"] is False:
                found.append(f"{problem['name']}: {row['side']} is not exact")
            elif row["ours"] and not row["error"] <= ERRORS[problem["kind"]][row["variant"]]:  # nor NaN
                found.append(f"{problem['name']}: {row['side']} has an error of {row['error']:.1e}")
            if problem["kind"] != "linear" or row["side"] != "torch f32":
                continue
            floor = FLOORS.get(result["cpu"]["level"], 0)
            if "failed" in row:
                found.append(f"{problem['name']}: {row['side']} fails: {row['failed']}")
            elif row.get("times", floor) < floor:
                found.append(f"{problem['name']}: {row['times']:.2f} times as fast as torch f32, {floor} asked")
    return found


def main() -> None:
    arguments = parse_arguments()
    problems = problems_of(arguments)
    if arguments.list:
        print("\n".join(name for problem in problems for name in names(problem)))
        return
    if not problems:
        sys.exit(f"no problem's name contains {' or '.join(arguments.only)}; --list shows all")
    if arguments.earlier:
        results = [figures.read(file) for file in arguments.earlier]
        for problem in (problem for result in results for problem in result["problems"]):
            show(problem)
    else:
        if not arguments.no_install and (failed := environment.make()):
            print(failed, file=sys.stderr)
        results = [run(arguments, problems)]
        if arguments.json:
            figures.write(arguments.json, results[0])
    print("\n".join(map(title, results)))
    if arguments.markdown:
        print("\n" + markdown(results))
    if arguments.check and (found := [one for result in results for one in complaints(result)]):
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main()
