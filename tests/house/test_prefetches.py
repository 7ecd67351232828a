"""Kernels ask memory for the rows that come next. GCC takes a function that only prefetches for one without effect and drops its calls, without a
word, unless it is inlined before that: Rows::prefetch must be in the objects as often as in the sources, at least."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from source_tree import ROOT
from test_weak_symbols import is_sanitized, level_sources

BUILD = Path(os.environ.get("AEROGEL_BUILD", "build/release"))
INCLUDED = re.compile(r'#include "(kernels/cpu/[^"]+)"')
ASKED = re.compile(r"\w\.prefetch\(")


def text_of(source, seen):
    """The source with the headers of kernels that it includes, each once."""
    text = source.read_text()
    for name in INCLUDED.findall(text):
        header = ROOT / "src" / name
        if header not in seen:
            seen.add(header)
            text += text_of(header, seen)
    return text


def prefetches(object_file):
    listing = subprocess.run(["objdump", "-d", "--no-show-raw-insn", object_file], capture_output=True, text=True, check=True).stdout
    return len(re.findall(r"\tprefetch\w+", listing))


def test_prefetches_are_compiled():
    cache = (BUILD / "CMakeCache.txt").read_text()
    if is_sanitized() or "CMAKE_BUILD_TYPE:STRING=Debug" in cache:
        pytest.skip("only what is optimized is inlined")
    asked = {source: len(ASKED.findall(text_of(source, set()))) for source in level_sources() if "attention" in source.name}
    assert len([source for source, times in asked.items() if times]) >= 7
    found = {source: prefetches(BUILD / "CMakeFiles/aerogel.dir" / f"{source.relative_to(ROOT)}.o") for source in asked}
    assert {str(source.relative_to(ROOT)): (found[source], times) for source, times in asked.items() if found[source] < times} == {}
