"""bench/python_overhead.py: what a call of the package costs besides the kernel."""
import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "bench/python_overhead.py"
AIM = 20.0
SLACK = 15.0  # for machines that are busy with other tests


def bench(*flags):
    return subprocess.run([sys.executable, SCRIPT, *flags], capture_output=True, text=True, check=False, env=dict(os.environ))


def test_calls_cost_little_beside_the_kernel():
    done = bench("--json", "--limit", str(AIM * SLACK))
    rows = json.loads(done.stdout)
    assert done.returncode == 0, rows
    assert {row["call"].split()[0] for row in rows} == {"QuantizedLinear", "attention"}
    for row in rows:
        assert row["own"] == row["whole"] - row["kernel"] and min(row["whole"], row["kernel"], row["torch"]) > 0


def test_the_limit_applies():
    done = bench("--limit", "0.001")
    assert done.returncode == 1 and "own" in done.stdout
