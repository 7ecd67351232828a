"""Objects compiled for AVX2, AVX-VNNI, AVX-512 or AMX share no code with the rest of the program.

An inline function or a template that such an object emits is a weak symbol, and the linker keeps one copy of
it for the whole program: perhaps the one full of AVX-512 instructions, called on a machine without them.
So these objects may define no weak symbols; their sources keep everything static or in unnamed namespaces."""

import os
import subprocess
from pathlib import Path

import pytest
from source_tree import ROOT

BUILD = Path(os.environ.get("AEROGEL_BUILD", "build/release"))
CXX = os.environ.get("AEROGEL_CXX", "g++")
# Data without code: a pointer to the personality routine, the same whoever compiles it.
HARMLESS = {"DW.ref.__gxx_personality_v0"}


def weak_symbols(object_file):
    """Weak or unique symbols that the object defines, by their readable names."""
    listing = subprocess.run(["nm", "-C", str(object_file)], capture_output=True, text=True, check=True).stdout
    rows = (line.split(maxsplit=2) for line in listing.splitlines())
    return sorted(row[2] for row in rows if len(row) == 3 and row[1] in "WVu" and row[2] not in HARMLESS)


def level_sources():
    folder = ROOT / "src/kernels/cpu"
    return sorted(p for level in ("avx2", "avxvnni", "avx512", "avx512_bf16", "amx") for p in (folder / level).rglob("*.cpp"))


def is_sanitized():
    cache = (BUILD / "CMakeCache.txt").read_text()
    return any(line.startswith("AEROGEL_SANITIZE:") and not line.endswith("=") for line in cache.splitlines())


@pytest.mark.skipif(not level_sources(), reason="there are no kernels for a CPU level yet")
def test_cpu_level_objects_define_no_weak_symbols():
    if is_sanitized():
        pytest.skip("sanitizers instrument the inline functions of every header")
    library = [BUILD / "CMakeFiles/aerogel.dir" / f"{source.relative_to(ROOT)}.o" for source in level_sources()]
    in_software = sorted((BUILD / "tests/CMakeFiles/software_kernels.dir").rglob("*.o"))
    assert in_software
    found = {str(built.relative_to(BUILD)): weak_symbols(built) for built in library + in_software}
    assert {source: names for source, names in found.items() if names} == {}


@pytest.mark.parametrize("code, expected", [
    ("inline int f(int a) { return a + 1; }\nint (*g())(int) { return f; }", ["f(int)"]),
    ("template <typename T> T h(T a) { return a; }\ntemplate int h<int>(int);", ["int h<int>(int)"]),
    ("namespace { inline int f(int a) { return a + 1; } }\nint (*g())(int) { return f; }", []),
    ("static int f(int a) { return a + 1; }\nint (*g())(int) { return f; }", []),
])
def test_shared_functions_are_seen(tmp_path, code, expected):
    (tmp_path / "x.cpp").write_text(code)
    subprocess.run([CXX, "-std=c++20", "-O2", "-mavx2", "-c", "x.cpp", "-o", "x.o"], cwd=tmp_path, check=True)
    assert weak_symbols(tmp_path / "x.o") == expected
