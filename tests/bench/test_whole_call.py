"""Sums of bench/whole_call.py, from calls that did not happen, and what does not fit into memory."""
import sys
import time

import numpy as np
import pytest
import whole_call


def one(seconds, peak, *steps):
    return {"seconds": seconds, "step_seconds": steps, "peak_bytes": peak, "stages": {"load": 1.5, "decode": 2.0}}


def test_the_first_step_is_left_out():
    calls = {"aerogel-float": [one(10, 5e9, 9, 4, 6), one(11, 6e9, 8, 5, 5)], "aerogel-w8a8": [one(6, 2e9, 7, 2)]}
    results = {"aerogel-float": np.full(4, 2.0), "aerogel-w8a8": np.full(4, 2.2)}
    rows = whole_call.summary(calls, results)
    assert [row["step"] for row in rows] == [5, 2] and rows[0]["seconds"] == 10.5 and rows[0]["peak_bytes"] == 6e9
    assert "error" not in rows[0] and abs(rows[1]["error"] - 0.1) < 1e-9
    text = whole_call.table(rows, {"diffusers-f32": "needs some 40 GB, 20 GB are free"}, 2)
    assert "| side | call of 2 steps, s |" in text
    assert "| aerogel-w8a8 | 6.0 | 2.0 | 2.0 | 1.00e-01 | load 1.5, decode 2.0 |" in text
    assert text.endswith("diffusers-f32: left out, needs some 40 GB, 20 GB are free")


def test_one_step_is_too_few(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["whole_call.py", "folder", "--steps", "1"])
    with pytest.raises(SystemExit):
        whole_call.main()
    assert "--steps must be at least 2" in capsys.readouterr().err


def test_what_does_not_fit_is_said(tmp_path):
    (tmp_path / "transformer").mkdir()
    with (tmp_path / "transformer/weights.safetensors").open("wb") as file:
        file.truncate(1 << 40)
    assert "needs some 2419 GB" in whole_call.does_not_fit(tmp_path, 2.2)
    assert whole_call.does_not_fit(tmp_path, 0) == ""


def test_a_call_that_takes_longer_is_stopped_with_its_children(tmp_path):
    program = f"import pathlib, time; time.sleep(3); pathlib.Path({str(tmp_path / 'still_there')!r}).touch()"
    with pytest.raises(RuntimeError, match=r"^stopped after 0\.5 s$"):
        whole_call.run(whole_call.peak_of([sys.executable, "-c", program]), {}, 0.5)
    time.sleep(4)
    assert not (tmp_path / "still_there").exists()
