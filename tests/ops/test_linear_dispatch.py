"""Which linear kernel is chosen, as AEROGEL_LOG=dispatch tells it, at every CPU level."""

import os
import subprocess

import pytest

W8A8 = {"baseline": "reference.linear", "avx2": "cpu.avx2.w8a8", "avxvnni": "cpu.avxvnni.w8a8",
        "avx512": "cpu.avx512.w8a8",
        "avx512_bf16": "cpu.avx512.w8a8", "amx": "cpu.amx.w8a8"}


@pytest.fixture
def choose(build):
    def run(**variables):
        clean = {name: value for name, value in os.environ.items() if not name.startswith("AEROGEL_")}
        return subprocess.run(
            [build / "tests/linear_choice"], env={**clean, **variables}, capture_output=True, text=True, check=False
        )

    return run


@pytest.mark.parametrize("level", W8A8)
def test_each_level_has_its_kernel(choose, level):
    result = choose(AEROGEL_CPU=level)
    if "asks for more than this CPU has" in result.stderr:
        pytest.skip(result.stderr)
    assert result.stdout.strip() == W8A8[level]
    assert result.stderr == ""


def test_the_log_tells_choice_and_refusals_once(choose):
    lines = choose(AEROGEL_CPU="baseline", AEROGEL_LOG="dispatch").stderr.splitlines()
    assert len(lines) == 2  # the two equal float layers share a line
    start = "aerogel: dispatch: linear n=8 k=16 x=f32 y=f32 w=f32 act=none -> "
    assert lines[0].startswith(start) and lines[1].startswith(start.replace("w=f32 act=none", "w=int8 act=per_token"))
    assert lines[1].split(" -> ")[1].startswith("reference.linear (cpu.amx.w8a8: needs CPU level amx, allowed is baseline; ")


def test_a_forced_kernel_is_logged_as_such(choose):
    result = choose(AEROGEL_KERNEL="reference.linear", AEROGEL_LOG="dispatch")
    assert result.stdout.strip() == "reference.linear"
    assert all("-> reference.linear (forced by AEROGEL_KERNEL)" in line for line in result.stderr.splitlines())


def test_an_unknown_kernel_is_an_error(choose):
    result = choose(AEROGEL_KERNEL="fast")
    assert result.returncode == 1
    assert result.stderr.startswith("[environment] AEROGEL_KERNEL must be one of cpu.amx.w8a8, ")
    assert result.stderr.endswith("got 'fast'\n")


def test_a_forced_kernel_that_refuses_is_an_error(choose):
    result = choose(AEROGEL_KERNEL="cpu.avx2.w8a8")
    assert result.returncode == 1
    assert "[linear] the kernel forced by AEROGEL_KERNEL refuses n=8 k=16 x=f32 y=f32 w=f32 act=none: " in result.stderr
