"""Aerogel beside PyTorch in one run: turn by turn on each problem, medians, ratios, share of the peak, error.

Both use the same number of threads and the same instruction set (--cpu avx2 holds both down). Linear rows are compared with
torch.nn.functional.linear in float32 (BF16: in bfloat16), attention with scaled_dot_product_attention of the same type;
block-sparse attention with Aerogel's own dense attention, int8 attention with its float32 one. Every Aerogel time includes quantizing the activations.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

from rich.console import Console
from rich.progress import track
from rich.table import Table

ROOT = pathlib.Path(__file__).resolve().parents[1]
# What holds PyTorch and its libraries to the instruction set of an Aerogel level.
PEER_SETTINGS = {
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "avxvnni": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2_VNNI"},
    "avx512": {"ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"},
    "avx512_bf16": {"ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"},
    "amx": {},
}
LINEAR_FLOORS = {"avx2": 1.3, "avxvnni": 2.5}
# Smallest acceptable ratio to the peer by level and start of the problem's name; --check enforces them.
FLOORS = {
    level: {
        "linear/W8A8_DYNAMIC/": LINEAR_FLOORS.get(level, 3.5),
        "linear/W8A8/": LINEAR_FLOORS.get(level, 3.5),
        "attention/dense/f32/": 0.9,
        "attention/dense/int8/": 1.5 if level == "avx2" else 2.5,
        "attention/block_sparse_20%/": 3.0,
    }
    for level in PEER_SETTINGS
}
FLOORS["avx512_bf16"] |= {"linear/BF16/": 0.9, "attention/dense/bf16/": 1.0}
# A layer whose weights fit the caches must take this many times as long when they were emptied: otherwise --cold does not empty them.
COLD_PROBLEM, COLD_FLOOR = "linear/W8A16/1x3072x3072", 1.3
# No kernel is faster than the peak of its instructions; one that seems so, or the peak, was measured wrong. Percent, with some room for the clock.
PEAK_CEILING = 110
LARGE = 4e10  # operations of a problem that is called as often as asked for
FLOOR_SIZES = ["1024x3072x3072", "512x5120x5120", "256x12288x3072", "4x4096x128"]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aerogel", type=pathlib.Path, default=ROOT / "build/release/aerogel", help="the command")
    parser.add_argument("--cpu", choices=[*PEER_SETTINGS], help="hold both sides to this level")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", action="append", default=[], help="only problems whose name, or whose model's (tests/problems/models.txt), contains this; repeatable")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side per problem")
    parser.add_argument("--repeat", type=int, default=5, help="calls per turn; fewer, down to one, of a problem with more than 40 billion operations")
    parser.add_argument("--cold", action="store_true", help="empty the caches before every timed call, as the other layers of a model do")
    parser.add_argument("--json", type=pathlib.Path, help="write all figures to this file")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a ratio is under its floor, a rate above the peak, or when --cold makes no difference")
    return parser.parse_args()


def calls_per_turn(name: str, repeat: int) -> int:
    """The layers and attentions of large models take seconds: fewer calls of them."""
    a, b, c = (int(part) for part in name.split("/")[-1].split("x"))
    operations = 2.0 * a * b * c if name.startswith("linear/") else 4.0 * a * b**2 * c
    return max(1, min(repeat, round(repeat * LARGE / operations)))


class Aerogel:
    """The command `aerogel bench`, one process per turn."""

    def __init__(self, arguments: argparse.Namespace):
        self.command = [str(arguments.aerogel), "bench"]
        self.repeat, self.cold = arguments.repeat, ["--cold"] * arguments.cold
        self.environment = {**os.environ, "AEROGEL_NUM_THREADS": str(arguments.threads)}
        if arguments.cpu:
            self.environment["AEROGEL_CPU"] = arguments.cpu

    def run(self, *flags: str) -> str:
        done = subprocess.run([*self.command, *flags], env=self.environment, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0:
            sys.exit(1)  # its own message is on stderr
        return done.stdout

    def names(self, only: list[str]) -> list[str]:
        return self.run("--list", *(flag for part in only for flag in ("--only", part))).split()

    def measure(self, name: str, beside: str | None = None) -> dict:
        """`beside`: a problem whose calls are timed between those of `name`, as beside_seconds."""
        other = ["--beside", beside] if beside else []
        report = json.loads(self.run("--only", name, "--repeat", str(calls_per_turn(name, self.repeat)), "--json", *self.cold, *other))
        return {**report["results"][0], "cpu": report["cpu"]}

    def cold_ratio(self) -> float | None:
        """Time of a layer with empty caches over that with its weights in them; None where they hardly fit. The best of a few tries: other programs
        empty the caches too."""
        best = 0.0
        for _ in range(5):
            warm, cold = (json.loads(self.run("--only", COLD_PROBLEM, "--repeat", "9", "--json", *flags)) for flags in ([], ["--cold"]))
            if warm["cpu"]["cache_bytes"] < 4 * warm["results"][0]["weight_bytes"]:
                return None
            best = max(best, min(cold["results"][0]["seconds"]) / min(warm["results"][0]["seconds"]))
            if best > COLD_FLOOR:
                break
        return best


class Torch:
    """bench/peer_torch.py, one process for the whole run."""

    def __init__(self, threads: int, level: str, repeat: int, cold_bytes: int):
        self.repeat, self.cold_bytes = repeat, cold_bytes
        environment = {**os.environ, **PEER_SETTINGS.get(level, {})}
        command = [sys.executable, str(ROOT / "bench/peer_torch.py"), str(threads)]
        self.process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.about = json.loads(self.process.stdout.readline())

    def measure(self, name: str) -> list[float]:
        self.process.stdin.write(json.dumps({"name": name, "repeat": calls_per_turn(name, self.repeat), "cold": self.cold_bytes}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def spread(seconds: list[float]) -> float:
    """Width of the middle 80 % over the median."""
    ordered = sorted(seconds)
    tenth = len(ordered) // 10
    return (ordered[-1 - tenth] - ordered[tenth]) / statistics.median(ordered)


def own_peer(name: str) -> tuple[str, str] | None:
    """What a problem is compared with besides PyTorch: block-sparse attention with dense, dense int8 attention with float32, linear layers
    with float32. Its name in the table, and the problem."""
    kind, scheme, size = name.split("/", 2)
    if kind == "linear":
        return None if scheme == "FLOAT" else ("own float32", f"linear/FLOAT/{size}")
    if scheme != "dense":
        return "own dense", f"attention/dense/{size}"
    return ("own float32", name.replace("/int8/", "/f32/")) if "/int8/" in name else None


def measure(name: str, aerogel: Aerogel, torch: Torch, rounds: int) -> dict:
    """Turn by turn, so that a change of the machine's speed meets all sides."""
    alone, theirs, paired, owns, report, own = [], [], [], [], {}, own_peer(name)
    for _ in range(rounds):
        report = aerogel.measure(name)
        alone += report["seconds"]
        theirs += torch.measure(name)
        if own:
            pair = aerogel.measure(name, own[1])
            paired += pair["seconds"]
            owns += pair["beside_seconds"]
    ours = alone if theirs or not own else paired
    median = statistics.median(ours)
    rate = report["gops"] * report["median_seconds"] / median
    row = {"name": name, "seconds": median, "spread": spread(ours), "gops": rate, "error": report["error"]}
    if report["weight_bytes"]:
        row["weight_gb_per_s"] = report["weight_bytes"] / median / 1e9
    row["percent_of_peak"] = 100 * rate / report["peak_gops"]
    if own and name.startswith("linear/"):
        row["ratio_to_own_float32"] = statistics.median(owns) / statistics.median(paired)
    peer, seconds = ("torch", theirs) if theirs else (own[0], owns) if own else (None, [])
    if peer:
        row |= {"peer": peer, "peer_seconds": statistics.median(seconds), "peer_spread": spread(seconds)}
        row["ratio"] = row["peer_seconds"] / median
    return row


def floor_of(name: str, level: str) -> float | None:
    if name.split("/")[-1] not in FLOOR_SIZES:
        return None
    return next((ratio for start, ratio in FLOORS.get(level, {}).items() if name.startswith(start)), None)


def complaint(rows: list[dict]) -> str:
    """What --check finds in the rows, or nothing."""
    missed = [row["name"] for row in rows if row["floor"] and row.get("ratio", row["floor"]) < row["floor"]]
    beyond = [row["name"] for row in rows if row["percent_of_peak"] >= PEAK_CEILING]
    return "; ".join(f"{what}: {', '.join(names)}" for what, names in (("under the floor", missed), ("faster than the peak", beyond)) if names)


def show(rows: list[dict], title: str) -> None:
    table = Table(title=title)
    for header in ("problem", "ms", "spread", "GOPS", "of peak", "GB/s", "error", "peer", "peer ms", "ratio", "floor", "own f32"):
        table.add_column(header, justify="left" if header in ("problem", "peer") else "right", no_wrap=True)
    for row in rows:
        ratio = row.get("ratio")
        floor = row["floor"]
        colour = "" if ratio is None or floor is None else "[green]" if ratio >= floor else "[red]"
        table.add_row(
            row["name"],
            f"{1e3 * row['seconds']:.2f}",
            f"{100 * row['spread']:.0f} %",
            f"{row['gops']:.0f}",
            f"{row['percent_of_peak']:.0f} %",
            f"{row['weight_gb_per_s']:.1f}" if "weight_gb_per_s" in row else "-",
            f"{row['error']:.1e}",
            row.get("peer", "-"),
            f"{1e3 * row['peer_seconds']:.2f}" if ratio else "-",
            f"{colour}{ratio:.2f} x" if ratio else "-",
            f"{floor} x" if floor else "-",
            f"{row['ratio_to_own_float32']:.2f} x" if "ratio_to_own_float32" in row else "-",
        )
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def main() -> None:
    arguments = parse_arguments()
    aerogel = Aerogel(arguments)
    names = aerogel.names(arguments.only)
    cpu = aerogel.measure(names[0])["cpu"]
    torch = Torch(arguments.threads, arguments.cpu or cpu["level"], arguments.repeat, 2 * cpu["cache_bytes"] * arguments.cold)
    rows = [measure(name, aerogel, torch, arguments.rounds) for name in track(names, "measuring", disable=not sys.stderr.isatty())]
    torch.close()
    for row in rows:
        row["floor"] = floor_of(row["name"], cpu["level"])
    about = f"{cpu['name']}, {cpu['level']}, {cpu['threads']} threads, torch {torch.about['torch']} ({torch.about['capability']})"
    show(rows, about)
    if arguments.json:
        arguments.json.write_text(json.dumps({"cpu": cpu, "peer": torch.about, "results": rows}, indent=2) + "\n")
    if arguments.check and (found := complaint(rows)):
        sys.exit(found)
    if arguments.check and (ratio := aerogel.cold_ratio()) is not None and ratio <= COLD_FLOOR:
        sys.exit(f"a call with empty caches takes only {ratio:.2f} times as long")


if __name__ == "__main__":
    main()
