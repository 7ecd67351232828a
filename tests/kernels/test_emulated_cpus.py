"""One binary for every x86-64: the command and the suites of the kernels on emulated CPUs that have less than this machine.

qemu's user mode (Debian's qemu-user) raises the illegal-instruction signal as those CPUs would, so an instruction of a higher
level in code that every machine runs ends the program here. The bits of a result must be those of this machine held down to the level."""
import concurrent.futures
import os
import pathlib
import shutil
import signal
import subprocess

import pytest
import torch
from safetensors.torch import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
CPUS = {"Nehalem": "baseline", "Haswell": "avx2"}
ABOVE = {"Nehalem": "avx2", "Haswell": "avx512"}
# The parts of the suites that take an emulator seconds, not minutes.
SUITES = ("ElementwiseKernels.*", "Hadamard.*", "DequantizeKernels.*", "LinearKernels.EveryKernelAgreesWithTheReference",
          "LinearKernels.SumsOfTheLargestKAreExact", "LinearKernels.EveryPair*", "LinearKernels.QuotientsAtTiesAreRoundedAsByDivision",
          "AttentionKernels.AFull*", "AttentionKernels.AN*", "AttentionKernels.ARow*", "QuantizedAttentionKernels.AllProblems*",
          "QuantizedAttentionKernels.Quot*", "SparseAttention.*", "Mx*", "Fp8*",
          "Int8*", "Dispatch*")

pytestmark = pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="qemu-x86_64 is not installed (Debian: qemu-user)")


def emulated(cpu, command, **variables):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AEROGEL_")}
    return subprocess.run(["qemu-x86_64", "-cpu", cpu, *map(str, command)], env={**clean, **variables}, capture_output=True, text=True,
                          check=False)


def skip_on_such_a_machine(cpu, aerogel):
    """What takes an emulator minutes runs here without one."""
    if f"(this CPU has {CPUS[cpu]})" in aerogel("inspect", "--kernels").stdout:
        pytest.skip(f"this machine has {CPUS[cpu]} and no more: its own runs of the suites show it")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A float matrix of odd sizes in a file that `aerogel quantize` takes."""
    folder = tmp_path_factory.mktemp("emulated")
    torch.manual_seed(0)
    save_file({"blocks.0.ffn.weight": torch.randn(67, 160), "blocks.0.ffn.bias": torch.randn(67)}, folder / "model.safetensors")
    return folder / "model.safetensors"


@pytest.mark.parametrize("cpu", CPUS)
def test_the_emulator_traps_what_the_cpu_lacks(cpu, tmp_path):
    """What the other tests here rely on: AVX2 ends a program on Nehalem, AVX-512 one on Haswell."""
    register = {"Nehalem": "%ymm0", "Haswell": "%zmm0"}[cpu]
    source = tmp_path / "above.cpp"
    source.write_text(f'int main() {{ asm volatile("vpaddd {register}, {register}, {register}"); }}\n')
    subprocess.run([os.environ.get("AEROGEL_CXX", "c++"), source, "-o", tmp_path / "above"], check=True)
    assert emulated(cpu, [tmp_path / "above"]).returncode in (-signal.SIGILL, 128 + signal.SIGILL)


@pytest.mark.parametrize("cpu", CPUS)
def test_suites_pass(cpu, build, aerogel):
    skip_on_such_a_machine(cpu, aerogel)
    program = build / "tests/aerogel_tests"
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        halves = list(pool.map(lambda half: emulated(cpu, [program, "--gtest_brief=1", f"--gtest_filter={':'.join(half)}"],
                                                             AEROGEL_TEST_MACHINE="emulated_cpu"), (SUITES[:3], SUITES[3:])))
    for done in halves:
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
        assert "[  PASSED  ] 0 tests" not in done.stdout


@pytest.mark.parametrize("cpu", CPUS)
def test_a_level_that_the_cpu_lacks_is_skipped(cpu, build):
    done = emulated(cpu, [build / "tests/aerogel_tests"], AEROGEL_CPU=ABOVE[cpu])
    assert done.returncode == 77
    assert f"skipped: [environment] AEROGEL_CPU={ABOVE[cpu]} asks for more than this CPU has ({CPUS[cpu]})" in done.stderr


@pytest.mark.parametrize("cpu", CPUS)
def test_the_command_gives_the_bits_of_the_level(cpu, build, model, tmp_path, aerogel):
    told = emulated(cpu, [build / "aerogel", "inspect", "--kernels"])
    assert told.returncode == 0 and f"level {CPUS[cpu]} (this CPU has {CPUS[cpu]})" in told.stdout, told.stdout + told.stderr
    for scheme in ("W8A8_DYNAMIC", "W4A4_MXFP4"):
        flags = ["quantize", model, "--include", "*", "--scheme", scheme, "-o"]
        done = emulated(cpu, [build / "aerogel", *flags, tmp_path / scheme])
        assert done.returncode == 0, done.stderr
        assert aerogel(*flags, tmp_path / f"{scheme}_here", env={"AEROGEL_CPU": CPUS[cpu]}).returncode == 0
        weights = f"quant_model_weight_{scheme.lower()}.safetensors"
        here, there = (load_file(folder / weights) for folder in (tmp_path / f"{scheme}_here", tmp_path / scheme))
        assert here.keys() == there.keys() and all(torch.equal(here[name], there[name]) for name in here)


@pytest.mark.parametrize("cpu", CPUS)
def test_generating_gives_the_bits_of_the_level(cpu, build, tmp_path, aerogel):
    skip_on_such_a_machine(cpu, aerogel)
    flags = ["generate", ROOT / "examples/shapes_dit", "--prompt", "red circle moves left", "--steps", "1", "--frames", "2", "--sparse", "rf_v2", "-o"]
    done = emulated(cpu, [build / "aerogel", *flags, tmp_path / "there.safetensors"])
    assert done.returncode == 0, done.stderr
    assert aerogel(*flags, tmp_path / "here.safetensors", env={"AEROGEL_CPU": CPUS[cpu]}).returncode == 0
    assert torch.equal(load_file(tmp_path / "there.safetensors")["video"], load_file(tmp_path / "here.safetensors")["video"])
