"""bench/gpu.py without a GPU: what it makes of what it is told, and a whole run on the emulated card."""

import json
import os
import sys
from pathlib import Path

import gpu
import pytest
from safetensors.numpy import load_file, save_file

BUILD = Path(os.environ.get("AEROGEL_BUILD", Path(__file__).resolve().parents[2] / "build/release"))
DRIVER = BUILD / "libaerogel_fake_driver.so"


def result(name, seconds):
    return {"name": name, "median_seconds": seconds, "gops": 2e3, "error": 3e-3}


def test_a_row_compares_with_the_best_of_its_kind():
    peers = {"torch bf16": 3e-3, "torchao int8 (compiled)": 2e-3, "torch fp8 (_scaled_mm)": "not on this card"}
    row = gpu.row_of(result("linear/W8A8_DYNAMIC/1x2x3", 1e-3), peers, {"bf16": 1e12, "int8": 4e12})
    assert row["over_bf16"] == pytest.approx(3) and row["over_best"] == pytest.approx(2) and row["best_peer"] == "torchao int8 (compiled)"
    assert row["of_peak"] == pytest.approx(0.5)
    assert gpu.row_of(result("attention/dense/bf16/1x2x3", 1e-3), {}, {"bf16": 1e12, "int8": 4e12})["of_peak"] == pytest.approx(2)


def test_a_wrong_kernel_is_said_first():
    report = {"device": {}, "conformance": {"passed": False, "failed": ["LinearKernels.X"], "said": ""}, "rows": []}
    assert "Wrong: LinearKernels.X" in gpu.markdown(report)
    report["conformance"] = {"passed": True, "agree": ["linear", "attention"], "failed": [], "said": ""}
    assert "Every row agrees with the CPU (linear and attention)." in gpu.markdown(report)


def test_what_was_not_run_does_not_agree(tmp_path):
    check = gpu.conformance(tmp_path, tmp_path / "answers")
    assert not check["passed"] and check["agree"] == [] and "aerogel_cuda_tests is not built" in check["said"]


def test_without_pytorch_aerogel_is_measured_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)  # its import fails
    monkeypatch.setattr(gpu, "conformance", lambda *args: {"passed": True, "agree": ["linear"], "failed": [], "said": ""})
    monkeypatch.setattr(gpu, "times", lambda build, only: sys.exit("aerogel bench: lost"))
    with pytest.raises(SystemExit):
        gpu.main(["--out", str(tmp_path)])
    assert "nothing is measured beside" in capsys.readouterr().err
    assert json.loads((tmp_path / "gpu.json").read_text())["conformance"]["passed"]


def test_wrong_answers_to_pytorch_fail_the_run(tmp_path, monkeypatch):
    passed = {"passed": True, "agree": ["linear"], "failed": [], "said": ""}
    for wrong in ({"passed": True, "last": "50 passed"}, {"passed": False, "last": "1 failed"}):
        monkeypatch.setattr(gpu, "conformance", lambda *args: passed)
        monkeypatch.setattr(gpu.Torch, "found", lambda: type("Torch", (), {"peaks": lambda self: {}})())
        monkeypatch.setattr(gpu, "torch_path", lambda build, wrong=wrong: wrong)
        monkeypatch.setattr(gpu, "times", lambda build, only: [])
        assert gpu.main(["--out", str(tmp_path)]) == (0 if wrong["passed"] else 1)
        assert ("**Wrong: 1 failed**" in (tmp_path / "gpu.md").read_text()) != wrong["passed"]


def test_tests_on_the_card_that_hang_are_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "TORCH_TESTS_SECONDS", 0.01)
    path = gpu.torch_path(tmp_path)
    assert not path["passed"] and path["last"].startswith("not done after")


@pytest.mark.skipif(not DRIVER.exists() or not (BUILD / "cuda").exists(), reason="no emulator or no CUDA kernels (no nvcc) in this build")
def test_the_emulated_card(tmp_path, monkeypatch):
    monkeypatch.setenv("AEROGEL_CUDA_DRIVER", str(DRIVER))
    monkeypatch.setattr(gpu, "REPEAT", 1)
    monkeypatch.setattr(gpu, "programs", lambda: {"linear": ("tests/aerogel_tests", "LinearKernels.QuotientsAtTies*")})
    code = gpu.main(["--build", str(BUILD), "--out", str(tmp_path), "--no-peers", "--only", "linear/W8A8_DYNAMIC/4096x256x256"])
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert code == 0 and report["conformance"]["passed"], report["conformance"]["said"]
    (row,) = report["rows"]
    assert row["problem"] == "linear/W8A8_DYNAMIC/4096x256x256" and 1e-4 < row["error"] < 1e-2 and row["of_peak"] is None
    assert "| linear/W8A8_DYNAMIC/4096x256x256 |" in (tmp_path / "gpu.md").read_text()
    answers = load_file(tmp_path / "golden.safetensors")
    assert answers and all(0 < len(answer) <= 64 for answer in answers.values()) and all(name.startswith("cuda.sm80.") for name in answers)
    check = gpu.conformance(BUILD, tmp_path / "again.safetensors", tmp_path / "golden.safetensors")
    assert check["passed"] and check["golden"] == len(answers)
    name, answer = next(iter(answers.items()))
    save_file(answers | {name: answer + 1}, tmp_path / "golden.safetensors")
    check = gpu.conformance(BUILD, tmp_path / "again.safetensors", tmp_path / "golden.safetensors")
    assert not check["passed"] and f"{name}: number 0 is" in check["said"] and check["failed"] == ["LinearKernels.QuotientsAtTiesAreRoundedAsByDivision"]
    save_file({"another kernel": answer}, tmp_path / "golden.safetensors")
    assert "it is of other kernels" in gpu.conformance(BUILD, tmp_path / "again.safetensors", tmp_path / "golden.safetensors")["said"]
