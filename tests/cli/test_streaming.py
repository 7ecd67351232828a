"""bench/streaming.py on a small checkpoint: memory stays at the size of a layer, whatever the size of the model."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

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


PROGRAM = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
print(status, usage.ru_maxrss * 1024)
"""


def peak_memory(command):
    """Bytes that the command held at most, mapped pages included; a small program of its own starts it, as it would inherit the peak of this one."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, *map(str, command)], capture_output=True, text=True, check=True)
    status, peak = map(int, done.stdout.split())
    assert status == 0, done.stderr
    return peak


@pytest.mark.parametrize("options", [["W8A8_DYNAMIC"], ["W4A16", "--group-size", "64"], ["W8A16", "--exclude", "*.[0-7]"]], ids=lambda x: x[0])
def test_peak_memory_of_dequantize(build, tmp_path, options):
    """Both the pair and the float file are much larger than a layer."""
    model, pair, back = tmp_path / "m.safetensors", tmp_path / "pair", tmp_path / "back.safetensors"
    weight = torch.randn(2048, 2048)
    save_file({f"layer.{i}.weight": weight + i for i in range(24)}, model)
    quantize = [build / "aerogel", "quantize", model, "-o", pair, "--include", "*", "--scheme", *options]
    assert subprocess.run(quantize, stdout=subprocess.DEVNULL, check=False).returncode == 0
    model.unlink()
    files = list(pair.glob("*.safetensors"))
    peak = peak_memory([build / "aerogel", "dequantize", pair, "-o", back])
    assert back.stat().st_size > 384 * 2**20 and files[0].stat().st_size > 96 * 2**20
    assert peak < LIMIT, f"{peak / 2**20:.0f} MB"
    for file in (*files, back):
        file.unlink()
