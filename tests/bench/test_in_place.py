"""bench/in_place.py on a small model: the sides it compares and the goal it checks."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytest.importorskip("torchao")
pytest.importorskip("diffusers")


def test_sides_errors_and_goal(build, tmp_path):
    command = [sys.executable, ROOT / "bench/in_place.py", "--aerogel", build / "aerogel", "--heads", 1, "--grid", "4x8x8", "--rounds", 1, "--no-compile",
               "--json", tmp_path / "out.json", "--check"]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(build / "python")}
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, env=environment)
    result = json.loads((tmp_path / "out.json").read_text())
    error = {row["name"]: row["error"] for row in result["rows"]}
    assert error["torch float32"] == 0 and 0 < error["torch bfloat16"] < 0.05
    assert 0 < error["aerogel W8A8_DYNAMIC"] < 0.05 and 0 < error["torchao int8, bfloat16"] < 0.1
    goal = result["goal"]
    best = min(row["seconds"] for row in result["rows"] if row["name"] in goal["peers"])
    ours = min(row["seconds"] for row in result["rows"] if row["name"].startswith("aerogel"))
    assert goal["peers"] and abs(goal["reached"] - best / ours) < 1e-9
    assert (done.returncode == 1) == bool(goal["wanted"] and goal["reached"] < goal["wanted"]), done.stderr
