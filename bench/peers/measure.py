"""Turn by turn on one problem: times, errors against float64, and whether integers are right."""
import statistics
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .problem import Problem, relative_error, save, wrong_integers
from .side import Failure, Side


@dataclass
class Plan:
    rounds: int = 5  # turns of each side
    turn: float = 0.2  # seconds of a turn, at least one call


class Arrays:
    """The arrays of a problem in files, which all sides read, and the exact results."""

    def __init__(self, problem: Problem, folder: Path, grids: Iterable[str]):
        self.folder = folder
        arrays = problem.arrays()
        save(folder / "normal", arrays)
        self.exact = {"normal": problem.exact(arrays)}
        for grid in grids:
            given, whole = problem.integer_arrays(grid)
            save(folder / grid, given)
            self.exact[grid] = problem.exact(whole)

    def output(self, side: Side) -> np.ndarray:
        file = self.folder / "output.npy"
        side.ask(output=str(file))
        return np.load(file)


def prepare(side: Side, problem: Problem, arrays: Arrays, which: str) -> None:
    side.ask(prepare={"kind": problem.kind, "model": problem.model, "sizes": problem.sizes}, arrays=str(arrays.folder / which))


def judged(side: Side, problem: Problem, arrays: Arrays) -> dict:
    """Whether its integers are right, and its error; it is ready to take turns then."""
    row = {}
    if side.row.integers:
        prepare(side, problem, arrays, side.row.grid)
        row["wrong_integers"] = wrong_integers(arrays.output(side), arrays.exact[side.row.grid], side.row.dtype)
    prepare(side, problem, arrays, "normal")
    return row | {"error": relative_error(arrays.output(side), arrays.exact["normal"])}


def measured(problem: Problem, sides: list[Side], plan: Plan) -> list[dict]:
    """A row of figures for every side: {side, level, ours, peer, dtype, error, seconds (of each turn, the median of its calls)}, or {..., failed}."""
    rows = {side.name: {"problem": problem.name, "side": side.name, "level": side.level, "lesser": side.lesser, "ours": side.row.ours, "peer": side.row.peer,
                        "dtype": side.row.dtype, "variant": side.row.variant, "integers": side.row.integers} for side in sides}
    with tempfile.TemporaryDirectory(prefix="aerogel-bench-") as folder:
        arrays = Arrays(problem, Path(folder), sorted({side.row.grid for side in sides if side.row.integers}))
        going = []
        for side in sides:
            try:
                rows[side.name] |= judged(side, problem, arrays)
                going.append(side)
            except Failure as failure:
                rows[side.name]["failed"] = str(failure)
        for _ in range(plan.rounds):
            for side in list(going):
                try:
                    seconds = statistics.median(side.ask(turn=plan.turn)["seconds"])
                    rows[side.name].setdefault("seconds", []).append(seconds)
                except Failure as failure:
                    rows[side.name]["failed"] = str(failure)
                    going.remove(side)
    return list(rows.values())


def ratio(other: dict, ours: dict) -> float:
    """How many times as long the other takes: the median of the ratios within a turn, which a busy machine disturbs less than that of the medians."""
    return statistics.median(a / b for a, b in zip(other["seconds"], ours["seconds"], strict=True))
