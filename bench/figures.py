"""Means with intervals, and files of figures: whole or not there, and JSON that every reader takes (an error that is no number is null)."""
import json
import math
import os
import statistics
from pathlib import Path


def interval(values):
    """Mean and half of its 95 % interval, by Student's t; None for what does not vary (one value)."""
    count, mean = len(values), statistics.fmean(values)
    if count < 2:
        return mean, None
    z, free = statistics.NormalDist().inv_cdf(0.975), count - 1
    t = z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)  # Abramowitz and Stegun, 26.7.5
    t += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * free**3)
    return mean, t * statistics.stdev(values) / math.sqrt(count)


def shown(values, form):
    """"0.12 ± 0.03"."""
    mean, half = interval(values)
    return format(mean, form) + ("" if half is None else f" ± {format(half, form)}")


def _plain(value):
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write(file: Path, result: dict) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(file.name + ".part")
    part.write_text(json.dumps(_plain(result), indent=1, allow_nan=False) + "\n")
    os.replace(part, file)  # a run that is stopped leaves the figures before


def read(file: Path) -> dict:
    """As it was measured: an error of null is NaN."""
    return json.loads(file.read_text(), object_hook=lambda row: row | {"error": math.nan} if row.get("error", 0) is None else row)
