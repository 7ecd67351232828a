"""None of the mistakes of mutants.py survives: each changed kernel is compiled as the build compiles it, linked in front of the
right one (the first definition counts) into the suites of the emulator or into the fake driver, and the suites must fail, all within a time that no hang
would keep."""

import json
import os
import re
import shlex
import subprocess
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path

import pytest
from mutants import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("AEROGEL_BUILD", ROOT / "build/release"))
FOLDER = BUILD / "tests/emulator"
LONGEST = 120  # seconds of a suite, far more than any takes
PRIMITIVES = [f"kernels/cuda/primitives/{name}.h" for name in ("gpu", "gpu_sm90", "gpu_sm120")]
HEADERS = {"kernels": PRIMITIVES, "tensors": ["aerogel/tensor.h", *PRIMITIVES]}
ENTRY = re.compile(r'^AEROGEL_\w+\(\s*(?:aerogel_)?(?P<name>\w+),.*?\)\n(?=\S|\s*$|\n)|^extern "C" __global__[^{]*\s(?:aerogel_)?(?P<plain>\w+)\([^{]*\{\n.*?^\}\n', re.M | re.S)
OF_TENSORS = ("planning.cu", "elementwise.cu")  # whose arguments are those of the CPU's kernels


def compile_commands():
    """The build's command for each file of the suites: path below the root -> (words, object)."""
    found = {}
    for entry in json.loads((BUILD / "compile_commands.json").read_text()):
        words = shlex.split(entry["command"])
        target = Path(words[words.index("-o") + 1])
        if any(name in str(target) for name in ("aerogel_emulator_tests.dir", "aerogel_emulated_", "aerogel_fake_driver.dir")):
            path = os.path.relpath(os.path.join(entry["directory"], entry["file"]), ROOT)
            found[path] = ([w for w in words if not w.endswith("ccache")], Path(entry["directory"]) / target)
    return found


@pytest.fixture(scope="module")
def commands():
    if not (FOLDER / "aerogel_emulator_tests").exists():
        pytest.skip("no emulator in this build: another processor, or sanitizers")
    return compile_commands()


@pytest.fixture(scope="module")
def headers(commands, tmp_path_factory):
    """What kernels include and no mutant changes, read once for all: a precompiled header for each kind of kernel."""
    made = {}
    for kind, included in HEADERS.items():
        made[kind] = tmp_path_factory.mktemp("headers") / f"{kind}.h"
        made[kind].write_text("".join(f'#include "{name}"\n' for name in included))
        words = quick(commands[MUTANTS[-1].unit][0])
        words[words.index("-o") + 1], words[words.index("-c") + 1] = f"{made[kind]}.gch", str(made[kind])
        subprocess.run(["c++-header" if word == "c++" and before == "-x" else word for before, word in zip(["", *words], words)], cwd=BUILD, check=True)
    return made


def quick(words):
    """A command of the build without what debuggers and the build want, and with the optimization that takes the least time in all."""
    words = [w for w in words if w not in ("-g1", "-MD") and not w.startswith("-O")]
    for option in ("-MT", "-MF"):
        if option in words:
            del words[words.index(option) : words.index(option) + 2]
    return [*words[:1], "-Og", *words[1:]]


def changed(mutant):
    text = (ROOT / mutant.source).read_text()
    assert text.count(mutant.old) == 1, f"{mutant.name}: {mutant.source} has {mutant.old!r} {text.count(mutant.old)} times"
    return text.replace(mutant.old, mutant.new)


def entries(text, kernels):
    """A .cu with those of its kernels alone whose names match: compiling the others is what would take the time."""
    wanted = lambda name: any(fnmatch(name, pattern) for pattern in kernels.split())
    return ENTRY.sub(lambda entry: entry[0] if wanted(entry["name"] or entry["plain"]) else "", text)


def build(mutant, commands, headers, folder):
    """The suites with the changed kernels in place of the right ones."""
    for base in ("src", "tests"):  # the changed file beside links to the others, found before the real ones
        (folder / base).mkdir()
    place = folder / mutant.source
    place.parent.mkdir(parents=True, exist_ok=True)
    for other in (ROOT / mutant.source).parent.iterdir():
        (place.parent / other.name).symlink_to(other)
    place.unlink()
    place.write_text(changed(mutant))
    words = quick(commands[mutant.unit][0])
    unit, wrong = folder / "unit.cu", folder / "unit.o"
    unit.write_text(entries((place if mutant.unit == mutant.source else ROOT / mutant.unit).read_text(), mutant.kernels))
    kind = "tensors" if mutant.unit.endswith(OF_TENSORS) else "kernels"
    words = [*words[:1], "-include", str(headers[kind]), f"-I{folder}/tests", f"-I{folder}/src", *words[1:]]
    words[words.index("-o") + 1], words[words.index("-c") + 1] = str(wrong), str(unit)
    subprocess.run([*words, "-w", "-Wno-psabi"], cwd=BUILD, check=True)
    parts, flags = ("aerogel_emulated_", "aerogel_emulator_tests.dir"), ["-lgmock", "-lgtest", "-lgtest_main", "-ldl", "-pthread"]
    if mutant.program != "aerogel_emulator_tests":
        parts, flags = ("aerogel_emulated_", "aerogel_fake_driver.dir"), ["-shared", "-Wl,-Bsymbolic", "-ldl"]
    objects = [str(o) for _, o in commands.values() if any(part in str(o) for part in parts)]
    linked = folder / "linked"
    subprocess.run([words[0], "-fuse-ld=gold", "-Wl,-S", "-o", linked, "-Wl,--allow-multiple-definition", wrong, *objects, FOLDER / "libaerogel_emulator.a", *flags], check=True)
    return linked


def notice(mutant, commands, headers, folder):
    """What the suites say of the mistake; empty if they do not notice it."""
    program, environment = build(mutant, commands, headers, folder), dict(os.environ)
    if mutant.program != "aerogel_emulator_tests":
        environment |= {"AEROGEL_CUDA_DRIVER": str(program), "AEROGEL_CUDA_MEMORY": "exact"}
        program = FOLDER / mutant.program
        if mutant.sm != 80:
            environment |= {"AEROGEL_FAKE_SM": str(mutant.sm), "AEROGEL_TEST_MACHINE": "cuda_own"}
    try:
        result = subprocess.run([program, f"--gtest_filter={mutant.suites}", "--gtest_fail_fast", "--gtest_throw_on_failure"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LONGEST)
    except subprocess.TimeoutExpired:
        return "hang"
    assert "Running 0 tests" not in result.stdout, f"{mutant.name}: no suite is called {mutant.suites}"
    return "" if result.returncode == 0 else result.stdout + result.stderr


def test_no_mistake_survives(commands, headers, tmp_path):
    mutants = [m for m in MUTANTS if (FOLDER / m.program).exists()]  # without nvcc there are no rows of CUDA
    with ThreadPoolExecutor(2) as pool:
        folders = [tmp_path / str(i) for i in range(len(mutants))]
        for folder in folders:
            folder.mkdir()
        noticed = list(pool.map(lambda pair: notice(pair[0], commands, headers, pair[1]), zip(mutants, folders)))
    said = dict(zip((m.name for m in mutants), noticed))
    survivors = [name for name, text in said.items() if not text]
    assert not survivors, "survivors: " + "; ".join(survivors)
    hangs = [name for name, text in said.items() if text == "hang"]
    assert not hangs, "the emulator must end these: " + "; ".join(hangs)
    assert len(said) == len(mutants) >= 14


def test_a_right_kernel_passes(commands, headers, tmp_path):
    """The machinery itself breaks nothing: a change without a meaning is not noticed."""
    m = MUTANTS[0]
    same = Mutant("none", m.source, m.old, m.old.replace(";", ";  // as it was"), m.unit, m.suites)
    assert notice(same, commands, headers, tmp_path) == ""
