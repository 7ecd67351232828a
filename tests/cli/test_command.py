"""The command as a whole: help with examples, exit codes, and settings in the environment."""

import re

import pytest

SUBCOMMANDS = ["bench", "compare", "dequantize", "forward", "generate", "inspect", "mine", "quantize", "tune"]


@pytest.mark.parametrize("subcommand", SUBCOMMANDS)
def test_help_has_examples(aerogel, subcommand):
    done = aerogel(subcommand, "--help")
    assert done.returncode == 0
    assert f"aerogel {subcommand} " in done.stdout.split("Examples:")[1]


SAMPLING = ["--steps", "--seed", "--frames", "--size", "--guidance", "--shift", "--sampler", "--image-first", "--stagger"]


def sampling_help(done):
    """What the help says about each sampling flag, as one line."""
    entries = re.split(r"\n  (?=-)", done.stdout)
    return {flag: " ".join(entry.split("\n\n")[0].split()) for flag in SAMPLING for entry in entries if re.match(rf"{flag}\b", entry)}


def test_commands_that_make_videos_have_the_same_sampling_flags(aerogel):
    told = [sampling_help(aerogel(command, "--help")) for command in ("generate", "mine", "quantize")]
    assert list(told[0]) == SAMPLING and told[0]["--shift"].endswith("Shift of the flow-matching schedule")
    assert told[0] == told[1] == told[2]


def test_top_help_names_every_subcommand(aerogel):
    done = aerogel("--help")
    assert done.returncode == 0
    for subcommand in SUBCOMMANDS:
        assert f"\n  {subcommand} " in done.stdout


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["compare", "only-one"], ["generate"], ["compare", "--bogus", "a", "b"]])
def test_wrong_usage_exits_with_1(aerogel, arguments):
    done = aerogel(*arguments)
    assert done.returncode == 1
    assert done.stderr.strip()


@pytest.mark.parametrize(
    ("name", "value", "listed"),
    [
        ("AEROGEL_CPU", "avx9", "baseline, avx2, avxvnni, avx512, avx512_bf16, amx"),
        ("AEROGEL_LOG", "everything", "dispatch"),
        ("AEROGEL_NUM_THREADS", "0", ">= 1"),
        ("AEROGEL_NUM_THREADS", "two", ">= 1"),
    ],
)
def test_wrong_setting_is_an_error_that_lists_the_right_ones(aerogel, name, value, listed):
    done = aerogel("compare", "a.safetensors", "b.safetensors", env={name: value})
    assert done.returncode == 1
    assert name in done.stderr
    assert listed in done.stderr
    assert f"'{value}'" in done.stderr


def test_version(aerogel):
    done = aerogel("--version")
    assert done.returncode == 0
    assert done.stdout.strip().count(".") == 2
