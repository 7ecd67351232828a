"""bench/stage_memory.py: memory belongs to the stage that the bar shows."""
import sys

import pytest
import stage_memory

PROGRAM = """
import json, sys, time
def stage(name):
    sys.stderr.write(f"\\r{name} [###...] 1/3 estimating")
    sys.stderr.flush()
    time.sleep(0.5)
stage("load vae")
held = bytearray(300 << 20)
held[::4096] = b"x" * len(held[::4096])
stage("generate")
del held
stage("decode")
print(json.dumps({"arguments": sys.argv[1:]}))
"""


def test_stages():
    report, peaks = stage_memory.watch([sys.executable, "-c", PROGRAM, "x"])
    assert report == {"arguments": ["x", "--json"]}
    assert {"load vae", "denoise", "decode"} <= peaks.keys()
    assert peaks["denoise"] > 300 << 20 and peaks["decode"] < 200 << 20


def test_a_call_that_fails_says_why():
    with pytest.raises(SystemExit, match="the last line"):
        stage_memory.watch([sys.executable, "-c", "import sys; sys.exit('first\\nthe last line')"])
