"""bench/sparse_attention.py on a small problem: what it compares, and which goals it names."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytest.importorskip("torch")


def test_rows_ratios_and_goals(build, tmp_path):
    command = [sys.executable, ROOT / "bench/sparse_attention.py", "--heads", "1", "--head-dim", "32", "--latent", "8x32x32", "--rounds", "1",
               "--no-flex", "--aerogel", build / "aerogel", "--json", tmp_path / "out.json", "--check"]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(build / "python")}
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, env=environment)
    result = json.loads((tmp_path / "out.json").read_text())
    rows = {row["name"]: row for row in result["rows"]}
    assert {"dense", "torch SDPA", "rf_v1", "rf_v2", "rf_v2 int8", "ada_bsa", "the mask of rf_v2, given"} <= rows.keys()
    assert abs(rows["rf_v2"]["density"] - 0.2) < 0.01 and rows["rf_v2, first frame kept"]["density"] > 0.3
    assert rows["dense"]["error"] < 1e-5 < rows["dense int8"]["error"] < 0.03 and rows["the mask of rf_v2, given"]["error"] < 1e-5
    assert abs(rows["rf_v2"]["times_dense"] - rows["dense"]["seconds"] / rows["rf_v2"]["seconds"]) < 1e-9
    missed = [goal["what"] for goal in result["goals"] if not goal["holds"]]
    assert len(result["goals"]) == 5 and (done.returncode == 1) == bool(missed)
    assert all(what in done.stderr and what in done.stdout for what in missed)
