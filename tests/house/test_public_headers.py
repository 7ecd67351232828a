"""Every public header compiles alone, with all warnings on: whoever includes it needs nothing before it."""

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from source_tree import ROOT

BUILD = Path(os.environ.get("AEROGEL_BUILD", "build/release"))
HEADERS = sorted((ROOT / "include/aerogel").glob("*.h")) + [BUILD / "include/aerogel/version.h"]
COMMAND = [os.environ.get("AEROGEL_CXX", "g++"), "-std=c++20", "-fsyntax-only", "-Wall", "-Wextra", "-Wpedantic",
           "-Wshadow", "-Wconversion", "-Werror", f"-I{ROOT / 'include'}", f"-I{BUILD / 'include'}", "-x", "c++", "-"]


def compile_error(code):
    done = subprocess.run(COMMAND, input=code, capture_output=True, text=True, cwd=ROOT, check=False)
    return done.stderr if done.returncode else ""


@pytest.fixture(scope="module")
def errors():
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(HEADERS, pool.map(lambda h: compile_error(f"#include <aerogel/{h.name}>\n"), HEADERS)))


@pytest.mark.parametrize("header", HEADERS, ids=lambda h: h.name)
def test_compiles_alone(header, errors):
    assert errors[header] == ""


def test_a_header_in_need_is_seen():
    assert "string" in compile_error("inline std::string f() { return {}; }\n")
    assert "conversion" in compile_error("inline char f(int a) { return a; }\n")
