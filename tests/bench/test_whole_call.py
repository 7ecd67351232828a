"""Sums of bench/whole_call.py, from calls that did not happen, and what does not fit into memory."""
import numpy as np
import pytest
import whole_call


def one(seconds, peak):
    return {"seconds": seconds, "peak_bytes": peak, "stages": {"load": 1.5, "decode": 2.0}}


def test_a_step_is_the_difference_of_two_calls():
    calls = {"aerogel-float": {1: [one(10, 5e9), one(11, 5e9)], 2: [one(14, 5e9), one(17, 6e9)]},
             "aerogel-w8a8": {1: [one(6, 2e9)], 3: [one(10, 2e9)]}}
    results = {"aerogel-float": np.full(4, 2.0), "aerogel-w8a8": np.full(4, 2.2)}
    rows = whole_call.summary(calls, results)
    assert [row["step"] for row in rows] == [5, 2] and rows[0]["seconds"] == 10.5 and rows[0]["peak_bytes"] == 6e9
    assert "error" not in rows[0] and abs(rows[1]["error"] - 0.1) < 1e-9
    text = whole_call.table(rows, {"diffusers-f32": "needs some 40 GB, 20 GB are free"}, 1)
    assert "| aerogel-w8a8 | 6.0 | 2.0 | 2.0 | 1.00e-01 | load 1.5, decode 2.0 |" in text
    assert text.endswith("diffusers-f32: left out, needs some 40 GB, 20 GB are free")


@pytest.mark.parametrize("steps", [("2", "2"), ("4", "2"), ("0", "2")])
def test_steps_rise(monkeypatch, capsys, steps):
    monkeypatch.setattr("sys.argv", ["whole_call.py", "folder", "--steps", *steps])
    with pytest.raises(SystemExit):
        whole_call.main()
    assert "the second one larger" in capsys.readouterr().err


def test_what_does_not_fit_is_said(tmp_path):
    (tmp_path / "transformer").mkdir()
    with (tmp_path / "transformer/weights.safetensors").open("wb") as file:
        file.truncate(1 << 40)
    assert "needs some 2419 GB" in whole_call.does_not_fit(tmp_path, 2.2)
    assert whole_call.does_not_fit(tmp_path, 0) == ""
