"""The errors that docs/algorithms.md tells are those of this build."""
import pathlib
import re

import pytest
from error_table import measure

DOCS = pathlib.Path(__file__).resolve().parents[3] / "docs/algorithms.md"


def test_documented_errors(build):
    told = re.findall(r"^\| (\S+) \| ([^|]+) \| ([\d.]*) ?\| ([\d.]+) \|$", DOCS.read_text(), re.MULTILINE)
    rows = measure(build)
    assert [(row[0], row[1]) for row in rows] == [(line[0], line[1]) for line in told]
    for row, line in zip(rows, told):
        for got, expected in zip(row[2:], line[2:]):
            assert (got is None) == (expected == "") and (got is None or got == pytest.approx(float(expected), rel=0.02))
