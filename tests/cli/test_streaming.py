"""bench/streaming.py on a small checkpoint: memory stays at the size of a layer, whatever the size of the model."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 64 * 2**20  # of a checkpoint of 256 MB: a quarter, as for the large ones


@pytest.mark.parametrize("scheme", ["W8A8_DYNAMIC", "W4A4_MXFP4"])
def test_peak_memory(build, tmp_path, scheme):
    command = [sys.executable, ROOT / "bench/streaming.py", "--aerogel", build / "aerogel", "--folder", tmp_path, "--width", 1024, "--ffn", 4096,
               "--blocks", 8, "--shard-bytes", 10**8, "--scheme", scheme, "--json"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env={**os.environ, "AEROGEL_NUM_THREADS": "2"})
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["results"]
    assert row["bytes"] > 256 * 10**6 and row["layers"] == 80
    assert row["peak_bytes"] < LIMIT, f"{row['peak_bytes'] / 2**20:.0f} MB"
    assert row["ratio"] == row["seconds"] / (row["copy_seconds"] + row["read_seconds"]) > 0
    assert list(tmp_path.iterdir()) == []
