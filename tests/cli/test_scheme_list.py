"""aerogel quantize --list: the whole table, as text and JSON."""
import json

import pytest

ROWS = {  # scheme: weight, activation, data
    "W8A16": ("int8", "none", "none"), "W4A16": ("int4", "none", "none"), "W8A16_FP8": ("fp8_e4m3", "none", "none"),
    "W8A16_FP8_E5M2": ("fp8_e5m2", "none", "none"), "W8A16_MXFP8": ("mxfp8", "none", "none"), "W4A16_MXFP4": ("mxfp4", "none", "none"),
    "W8A8_DYNAMIC": ("int8", "per_token", "none"), "W4A8": ("int4", "per_token", "none"), "W4A4_DYNAMIC": ("int4", "per_token_int4", "none"),
    "WFP8AFP8_DYNAMIC": ("fp8_e4m3", "per_token_fp8", "none"), "W8A8_MXFP8": ("mxfp8", "mxfp8", "none"),
    "W4A8_MXFP": ("mxfp4", "mxfp8", "none"), "W4A4_MXFP4": ("mxfp4", "mxfp4", "none"), "W4A4_MXFP4_DUALSCALE": ("mxfp4_dual", "mxfp4_dual", "none"),
    "W8A8": ("int8", "per_tensor", "activation ranges"), "W8A8_TIMESTEP": ("int8", "per_tensor", "activation ranges per step"), "W4A4_STATIC": ("int4", "per_tensor", "activation ranges"),
}


def table(aerogel, **environment):
    done = aerogel("quantize", "--list", "--json", env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_row(aerogel):
    found = {row["scheme"]: row for row in table(aerogel)["schemes"]}
    assert {name: (row["weight"], row["activation"], row["data"]) for name, row in found.items()} == ROWS
    for row in found.values():
        assert "minmax" in row["algorithms"] and row["kernels"][-1] == "reference.linear" and row["summary"]
    assert "INT8" in found["W8A16"]["aliases"] and "W4A16_AWQ" in found["W4A16"]["read_as"]


def test_kernels_are_those_of_this_level(aerogel):
    low = {row["scheme"]: row["kernels"] for row in table(aerogel, AEROGEL_CPU="baseline")["schemes"]}
    integers = {name for name, row in ROWS.items() if row[1] in ("per_token", "per_token_int4", "per_tensor")}
    groups = {"W4A8", "W4A4_DYNAMIC"}  # unless told otherwise
    assert all(low[name] == ["reference.linear"] for name in integers - groups)
    assert all(low[name] == ["cpu.baseline.w8a8_groups", "reference.linear"] for name in groups)
    assert all(low[name] == ["cpu.baseline.dequantize", "reference.linear"] for name in ROWS.keys() - integers)
    here = table(aerogel)
    if here["cpu_level"] == "baseline":
        pytest.skip("this machine has no faster kernels")
    fast = {row["scheme"]: row["kernels"] for row in here["schemes"]}
    assert fast["W8A8_DYNAMIC"][0].endswith(".w8a8") and all(fast[name][0].endswith(".dequantize") for name in ROWS.keys() - integers)


def test_text_has_a_line_per_scheme(aerogel):
    done = aerogel("quantize", "--list")
    assert done.returncode == 0 and done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0].split()[:3] == ["scheme", "weight", "activation"] and len(lines) == 1 + len(ROWS)
    assert [line.split()[0] for line in lines[1:]] == list(ROWS)
    assert all(line.split()[1:3] == list(ROWS[line.split()[0]][:2]) for line in lines[1:])


def test_columns_are_in_line(aerogel):
    """Every cell stands under its heading, whatever the kernels of this machine are called."""
    for environment in ({}, {"AEROGEL_CPU": "baseline"}):
        heading, *lines = aerogel("quantize", "--list", env=environment).stdout.splitlines()
        names = ["scheme", "weight", "activation", "data needed", "algorithms", "kernels here", "aliases"]
        starts = [heading.index(name) for name in names]
        found = {row["scheme"]: row for row in table(aerogel, **environment)["schemes"]}
        for line in lines:
            cells = [line[a:b].rstrip() for a, b in zip(starts, starts[1:] + [None])]
            row = found[cells[0]]
            assert cells[1:4] == [row["weight"], row["activation"], row["data"]]
            assert [cell.split(", ") if cell else [] for cell in cells[4:]] == [row["algorithms"], row["kernels"], row["aliases"]]


def test_without_list_the_rest_is_required(aerogel):
    done = aerogel("quantize")
    assert done.returncode == 1 and done.stderr == "aerogel: [quantize] missing: MODEL --output --scheme (or give --list)\n"
    done = aerogel("quantize", "model", "--scheme", "W8A16")
    assert done.returncode == 1 and "missing: --output (or" in done.stderr
