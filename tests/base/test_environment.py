"""The environment variables of the library, each read once per process, so each case is a process."""

import os
import pathlib
import subprocess

import pytest

LEVELS = ["baseline", "avx2", "avxvnni", "avx512", "avx512_bf16", "amx"]


@pytest.fixture
def report(build):
    def run(**variables):
        clean = {name: value for name, value in os.environ.items() if not name.startswith("AEROGEL_")}
        return subprocess.run(
            [build / "tests/environment_report"], env={**clean, **variables}, capture_output=True, text=True, check=False
        )

    return run


def fields(result):
    assert result.returncode == 0, result.stderr
    return dict(item.split("=") for item in result.stdout.split())


def test_defaults(report):
    result = report()
    values = fields(result)
    assert values["level"] == values["detected"]
    assert int(values["threads"]) == len(os.sched_getaffinity(0))
    assert values["log"] == "0" and result.stderr == ""


def test_empty_values_count_as_unset(report):
    assert fields(report(AEROGEL_CPU="", AEROGEL_NUM_THREADS="", AEROGEL_LOG="")) == fields(report())


@pytest.mark.parametrize("level", LEVELS)
def test_the_level_is_held_down_but_never_raised(report, level):
    detected = fields(report())["detected"]
    result = report(AEROGEL_CPU=level)
    if level == "avxvnni" and result.returncode == 1 and LEVELS.index(detected) > LEVELS.index(level):
        assert result.stderr == f"[environment] AEROGEL_CPU=avxvnni asks for more than this CPU has ({detected} without AVX-VNNI)\n"
        assert " avx_vnni " not in pathlib.Path("/proc/cpuinfo").read_text()
    elif LEVELS.index(level) <= LEVELS.index(detected):
        assert fields(result)["level"] == level
    else:
        assert result.returncode == 1
        assert result.stderr == f"[environment] AEROGEL_CPU={level} asks for more than this CPU has ({detected})\n"


def test_the_number_of_threads(report):
    for threads in ("1", "2", "5"):
        values = fields(report(AEROGEL_NUM_THREADS=threads))
        assert values["threads"] == threads and values["tasks"] == "100"


def test_the_log_goes_to_stderr(report):
    result = report(AEROGEL_LOG="dispatch")
    assert fields(result)["log"] == "1"
    assert result.stderr == "aerogel: dispatch: one line\n"


@pytest.mark.parametrize(
    ("name", "value", "right"),
    [
        ("AEROGEL_CPU", "sse", "one of baseline, avx2, avxvnni, avx512, avx512_bf16, amx"),
        ("AEROGEL_CPU", "AVX2", "one of baseline, avx2, avxvnni, avx512, avx512_bf16, amx"),
        ("AEROGEL_LOG", "all", "one of dispatch"),
        ("AEROGEL_NUM_THREADS", "0", "a whole number >= 1"),
        ("AEROGEL_NUM_THREADS", "many", "a whole number >= 1"),
        ("AEROGEL_NUM_THREADS", "1000000", "at most 1024"),
    ],
)
def test_a_wrong_value_is_an_error_that_lists_the_right_ones(report, name, value, right):
    result = report(**{name: value})
    assert result.returncode == 1
    assert name in result.stderr and right in result.stderr and value in result.stderr
    assert result.stderr.count("\n") == 1
