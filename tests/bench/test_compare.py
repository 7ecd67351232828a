"""bench/compare.py: sides that fail, spin or compute wrongly, the problems, the report, and a real run of two sides."""
import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))
import compare  # noqa: E402
import figures  # noqa: E402
import turns  # noqa: E402
from peers import environment, measure, report, side  # noqa: E402
from peers.problem import Problem, relative_error, wrong_integers  # noqa: E402
from peers.table import ROWS, Row, rows_of  # noqa: E402

SMALL = Problem("linear", "test", (70, 24, 128))
# Peers of these tests: they compute with NumPy, each with something wrong but the first.
FAKES = {
    "exact": "call = lambda a: a['x'] @ a['weight'].T + a['bias']",
    "spins": """
        import threading
        call = lambda a: a['x'] @ a['weight'].T + a['bias']
        def spin():
            while True: pass
        threading.Thread(target=spin, daemon=True).start()""",
    "saturates": """
        def call(a):
            pairs = ((a['x'] + 128).reshape(len(a['x']), 1, -1, 2) * a['weight'].reshape(1, len(a['weight']), -1, 2)).sum(-1)
            return pairs.clip(-32768, 32767).sum(-1) - 128 * a['weight'].sum(-1) + a['bias']  # as vpmaddubsw""",
    "nan": "call = lambda a: a['x'] @ a['weight'].T * np.nan",
    "raises": "def call(a): raise RuntimeError('Exception from src/core.cpp:1:\\n\\nno such kernel\\nmore')",
    "dies": "def call(a): print('about to die', file=sys.stderr, flush=True); os._exit(3)",
    "hangs": "def call(a): time.sleep(60)",
    "missing": "import a_library_that_is_not_there",
}


@pytest.fixture
def sides(tmp_path):
    """A function of the names of fakes that gives their sides."""
    package, started = tmp_path / "fakes", []
    package.mkdir()
    (package / "__init__.py").touch()
    for name, code in FAKES.items():
        text = "import os, sys, time\nimport numpy as np\n" + textwrap.dedent(code).strip() + "\n" + textwrap.dedent("""
            about = lambda: "a fake"
            def prepare(problem, arrays, variant):
                return lambda: call(arrays), lambda y: y
        """)
        (package / f"{name}.py").write_text(text)

    def start(*names):
        begin = side.Start(Path(sys.executable), 1, str(tmp_path))
        started.extend(side.Side(Row(name, f"fakes.{name}", ("linear",), "f32", integers=True), begin) for name in names)
        return started[-len(names):]

    yield start
    for one in started:
        one.close()


def test_sides_that_fail_are_lines_and_the_others_go_on(sides, monkeypatch):
    monkeypatch.setattr(side, "MOST_SECONDS", 5)
    rows = {row["side"]: row for row in measure.measured(SMALL, sides(*FAKES), measure.Plan(rounds=2, turn=0))}
    failed = {name: row["failed"] for name, row in rows.items() if "failed" in row}
    assert failed == {"raises": "RuntimeError: no such kernel", "dies": "ended with 3: about to die", "hangs": "no answer in 5 seconds",
                      "missing": "ModuleNotFoundError: No module named 'a_library_that_is_not_there'"}
    for name in ("exact", "spins", "saturates", "nan"):
        assert len(rows[name]["seconds"]) == 2
    assert rows["exact"]["wrong_integers"] == 0 and rows["exact"]["error"] < 1e-6
    assert rows["saturates"]["wrong_integers"] > 0.5 and rows["saturates"]["error"] < 1e-4  # small numbers do not saturate
    assert np.isnan(rows["nan"]["error"]) and rows["nan"]["wrong_integers"] == 1
    report.completed(list(rows.values()), SMALL.operations)
    assert [report.cells(rows[name])[-1] for name in ("exact", "saturates", "dies")] == [
        "exact", report.verdict(rows["saturates"]), "ended with 3: about to die"]
    assert report.verdict(rows["saturates"]).startswith("not exact (") and report.cells(rows["nan"])[-2] == "NaN"


def test_a_side_computes_in_its_turn_only(sides):
    (one,) = sides("spins")
    one.ask(about=True)
    used = lambda: sum(int(word) for word in Path(f"/proc/{one.process.pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13])
    deadline = time.monotonic() + 10
    while Path(f"/proc/{one.process.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "T" and time.monotonic() < deadline:
        time.sleep(0.01)  # the signal takes effect after the answer
    before = used()
    time.sleep(0.3)
    assert used() == before and one.ask(about=True) == {"about": "a fake"}


def test_cores_and_settings():
    assert len(side.cores(1)) == 1 and side.cores(10**6) == os.sched_getaffinity(0)
    folders = {side.settings_of(level)["TORCHINDUCTOR_CACHE_DIR"] for level in ("", *side.HOLDS)}
    assert len(folders) == 1 + len(side.HOLDS)  # what is compiled for one level must not run at another


@pytest.mark.parametrize("grid", ["symmetric", "asymmetric", "half"])
def test_whole_numbers_have_a_scale_of_one_and_saturate(grid):
    given, whole = SMALL.integer_arrays(grid)
    for name, most in (("x", 127 if grid != "half" else 127.5), ("weight", 127 if grid != "half" else 127.5)):
        assert (np.abs(given[name]).max(axis=1) == (128 if grid == "asymmetric" and name == "x" else most)).sum() >= len(given[name]) * 0.3
        assert np.array_equal(np.clip(np.rint(given[name]), -128, 127), whole[name])
    if grid == "asymmetric":
        assert (given["x"].min(), given["x"].max()) == (-128, 127)
    exact = SMALL.exact(whole)
    assert np.array_equal(exact, np.rint(exact)) and np.abs(exact).max() < 2**24
    assert wrong_integers(exact, exact, "f32") == 0 and wrong_integers(exact + 1, exact, "f32") == 1
    assert wrong_integers(exact * (1 + 2.0**-9), exact, "bf16") == 0 and wrong_integers(exact * 1.1 + 9, exact, "bf16") > 0.9


def test_exact_attention_under_a_mask():
    problem = Problem("sparse", "test", (2, 300, 8))
    arrays = problem.arrays()
    q, k, v = (arrays[name][:, 0].astype(float) for name in "qkv")
    seen = problem.mask()[0].repeat(128, 0).repeat(128, 1)[:300, :300]
    weights = np.where(seen, np.exp(q @ k.T / np.sqrt(8)), 0)
    wanted = (weights @ v / weights.sum(1, keepdims=True))[problem.sampled]
    assert relative_error(problem.exact(arrays), wanted) < 1e-12
    assert np.array_equal(problem.sample(arrays["q"]), arrays["q"][problem.sampled, 0])


def test_cross_attention_has_keys_of_its_own():
    problem = Problem("cross", "test", (2, 100, 7, 8))
    arrays = problem.arrays()
    q, k, v = (arrays[name][:, 0].astype(float) for name in "qkv")
    assert (len(q), len(k)) == (100, 7) and problem.operations == 4 * 2 * 100 * 7 * 8
    weights = np.exp(q @ k.T / np.sqrt(8))
    assert relative_error(problem.exact(arrays), (weights @ v / weights.sum(1, keepdims=True))[problem.sampled]) < 1e-12


def test_problems_are_those_of_the_models():
    listed = [name for problem in compare.problems_of(compare.parse_arguments(["--list"])) for name in compare.names(problem)]
    assert "linear/wan2.1-1.3b/1024x8960x1536" in listed and "cross/wan2.1-14b/12x4096x512x128" in listed and len(set(listed)) == len(listed)
    default = compare.problems_of(compare.parse_arguments([]))
    assert 8 <= len(default) <= 16 and {problem.kind for problem in default} == set(compare.KINDS)
    for part in (*compare.DEFAULT, *compare.SHORT):
        assert any(part in name for problem in default for name in compare.names(problem)), part
    short = compare.parse_arguments(["--short"])
    assert len(compare.problems_of(short)) == len(compare.SHORT) and short.rounds == 3 and compare.parse_arguments([]).rounds == 5
    (shared,) = compare.problems_of(compare.parse_arguments(["--only", "linear/qwen-image/1024x3072x3072"]))
    assert shared.model == "wan2.2-5b"  # who has the layer first


def test_every_peer_is_a_row_with_a_module():
    for row in ROWS:
        assert (ROOT / f"bench/peers/{row.module}.py").is_file() and set(row.kinds) <= set(compare.KINDS)
    assert all(row.ours for row in rows_of("linear", ["no such peer"])) and len({row.name for row in ROWS}) == len(ROWS)
    wanted = {line.split("==")[0] for line in environment.REQUIREMENTS.read_text().splitlines() if line and not line.startswith("#")}
    assert {"torchao", "onnxruntime", "openvino", "sdnq"} < wanted


def row(side, seconds, **more):
    return {"side": side, "peer": side, "ours": False, "lesser": False, "dtype": "f32", "variant": "f32", "integers": False, "error": 1e-3,
            "seconds": seconds, **more}


def test_ratios_are_medians_within_a_turn_and_stars_mark_wrong_integers():
    ours = row("aerogel", [1.0, 2.0, 1.0], ours=True, integers=True, wrong_integers=0.0)
    rows = [ours, row("slow", [3.0, 4.0, 9.0]), row("wrong", [2.0, 4.0, 2.0], integers=True, wrong_integers=0.25), row("lost", [], failed="gone")]
    problem = {"name": "linear/m/2x3x4", "kind": "linear", "model": "m", "sizes": (2, 3, 4), "rows": report.completed(rows, 4e9)}
    assert [r.get("times") for r in rows] == [1, 3, 2, None] and rows[0]["gops"] == 4
    assert [report.cell(problem, peer) for peer in ("slow", "wrong", "lost", "none")] == ["3.00", "2.00\\*", "fails", ""]
    runs = [{"problems": [problem], "cpu": {"level": level}} for level in ("avx512", "avx2")]
    runs[1]["problems"] = [{**problem, "rows": rows[:2]}, {**problem, "name": "linear/m/1x3x4", "sizes": (1, 3, 4), "rows": rows[1:]}]
    assert report.markdown(runs).splitlines()[2:5] == [
        "| m, 2 x 3 x 4 | avx512 | 3.00 | 2.00\\* | fails | 4 | 1.0e-03 | exact |", "| m, 2 x 3 x 4 | avx2 | 3.00 |  |  | 4 | 1.0e-03 | exact |",
        "| m, 1 x 3 x 4 | avx2 | 3.00 | 2.00\\* | fails | fails | fails | fails |"]
    result = {"problems": [problem], "cpu": {"level": "avx512"}}
    assert compare.complaints(result) == []
    rows[1]["side"], ours["exact"] = "torch f32", False
    assert compare.complaints(result) == ["linear/m/2x3x4: aerogel is not exact", "linear/m/2x3x4: 3.00 times as fast as torch f32, 3.5 asked"]
    result["cpu"]["level"], ours["exact"] = "baseline", True
    assert compare.complaints(result) == []
    rows[1]["failed"] = "gone"
    assert compare.complaints(result) == ["linear/m/2x3x4: torch f32 fails: gone"]


def test_attention_is_judged_by_its_error():
    def said(kind, variant, error):
        one = row("aerogel", [1.0], ours=True, variant=variant, exact=None, error=error)
        return compare.complaints({"problems": [{"name": "a", "kind": kind, "rows": [one]}], "cpu": {"level": "avx2"}})

    for kind in ("attention", "cross", "sparse"):
        for variant, fine, wrong in (("f32", 2e-6, 1e-3), ("bf16", 2e-3, 0.1), ("int8", 3e-3, 0.2)):
            assert said(kind, variant, fine) == []
            for error in (wrong, float("nan"), float("inf")):
                assert said(kind, variant, error) == [f"a: aerogel has an error of {error:.1e}"]


def test_figures_are_whole_files_without_nan(tmp_path, monkeypatch):
    file = tmp_path / "folder/out.json"
    figures.write(file, {"problems": [{"rows": ({"error": float("nan"), "exact": None}, {"error": 0.5})}]})
    assert json.loads(file.read_text(), parse_constant=pytest.fail)["problems"][0]["rows"] == [{"error": None, "exact": None}, {"error": 0.5}]
    first, second = figures.read(file)["problems"][0]["rows"]
    assert np.isnan(first["error"]) and first["exact"] is None and second == {"error": 0.5}
    before = file.read_text()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        figures.write(file, {})
    assert file.read_text() == before


def test_a_side_that_fails_in_a_later_turn_is_left_out(capsys):
    left = iter([1, 2])
    made = turns.take_turns({"good": lambda: 1, "bad": lambda: next(left)}, 3, may_fail=True)
    assert made.results == {"good": 1} and len(made.seconds["good"]) == 3 and list(made.seconds) == ["good"]
    assert "bad: left out, it fails: StopIteration" in capsys.readouterr().err
    with pytest.raises(StopIteration):
        turns.take_turns({"bad": lambda: next(left)}, 1)


def test_an_environment_that_cannot_be_made_is_said(tmp_path):
    taken = tmp_path / "taken"
    taken.write_text("a file")
    assert environment.make(taken).startswith("taken could not be made: ")


def test_levels_repeat_ours_and_a_held_level_leaves_out_who_cannot_be_held(monkeypatch):
    class Stub:
        def __init__(self, row, start, level, lesser):
            self.row, self.level, self.lesser, self.process = row, level, lesser, self
            self.poll = lambda: None

    monkeypatch.setattr(compare, "Side", Stub)
    lacks = []
    monkeypatch.setattr(compare, "told", lambda build, level: subprocess.CompletedProcess([], int(level in lacks)))

    def names(level, *flags):
        sides = compare.Sides(compare.parse_arguments(["--peer", "onnx", "--peer", "torch f32", *flags]), level)
        return [(one.row.name, one.level, one.lesser) for one in sides.of("linear") if one.row.variant == "f32"]

    ours = "aerogel W8A8_DYNAMIC"
    assert names("avx512") == [(ours, "", False), ("torch f32", "", False), ("onnxruntime int8", "", False)]
    assert names("avx512", "--levels") == [(ours, "", False), (ours, "avx2", True), (ours, "avxvnni", True), ("torch f32", "", False),
                                           ("onnxruntime int8", "", False)]
    assert names("avx2", "--cpu", "avx2", "--levels") == [(ours, "avx2", False), ("torch f32", "avx2", False)]
    assert names("baseline", "--levels") == names("baseline")  # which has no lesser ones
    lacks.append("avxvnni")  # as CPUs with AVX-512 of years ago do
    assert names("avx512", "--levels")[1:3] == [(ours, "avx2", True), ("torch f32", "", False)]


def test_our_layers_beside_pytorch(build, tmp_path):
    flags = ["--build", build, "--no-install", "--only", "linear/wan2.1-1.3b/64x1536x1536", "--most-rows", 64, "--peer", "torch f32", "--threads", 1,
             "--rounds", 1, "--turn", 0, "--json", tmp_path / "out.json", "--markdown"]
    done = subprocess.run([sys.executable, str(ROOT / "bench/compare.py"), *map(str, flags)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out.json").read_text())
    (problem,) = result["problems"]
    rows = {row["side"]: row for row in problem["rows"]}
    assert not [row for row in rows.values() if "failed" in row], rows
    assert rows["aerogel W8A8_DYNAMIC"]["exact"] and rows["torch f32"]["exact"] is None and rows["torch f32"]["error"] < 1e-5
    assert all(row["exact"] and 1e-3 < row["error"] < 0.02 for row in rows.values() if row["ours"])
    assert rows["torch f32"]["times"] > 0 and "1 of 1 problems" in done.stderr and "| wan2.1-1.3b, 64 x 1536 x 1536 | " in done.stdout
