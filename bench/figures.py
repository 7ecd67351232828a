"""Files of figures: whole or not there, and JSON that every reader takes (an error that is no number is null)."""
import json
import math
import os
from pathlib import Path


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
