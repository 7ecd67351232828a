"""docs/python_api.md, the types of the extension and the list of what a wheel holds are those of the sources."""
import ast
import importlib.util
import re
from pathlib import Path

import aerogel
import pytest

ROOT = Path(__file__).resolve().parents[2]


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / f"scripts/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_current():
    assert (ROOT / "docs/python_api.md").read_text() == script("python_api").page(), "run make docs"


def test_the_page_names_everything():
    titles = re.findall(r"^## (\w+)$", (ROOT / "docs/python_api.md").read_text(), re.MULTILINE)
    assert titles == list(aerogel.__all__)


def test_long_signatures_are_complete():
    def call(a, b: "int" = 3, *, keyword_that_is_long: "list[str]" = (), another_long_one: "str | None" = None, _private=1, **more) -> "str":
        pass

    text = script("python_api").signature("call", call)
    assert text == ("call(\n    a,\n    b: int = 3,\n    *,\n    keyword_that_is_long: list[str] = (),\n"
                    "    another_long_one: str | None = None,\n    **more,\n) -> str")


def test_types_of_the_extension_cover_what_the_package_uses(build):
    stub = ast.parse((build / "python/aerogel/_core.pyi").read_text())
    known = {node.name for node in stub.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    known |= {node.target.id for node in stub.body if isinstance(node, ast.AnnAssign)}
    used = {name for path in (ROOT / "python/aerogel").rglob("*.py") for name in re.findall(r"(?<![.\w])_core\.([A-Za-z]\w*)", path.read_text())}
    assert used and used <= known, used - known


def complete_wheel():
    package = [str(p.relative_to(ROOT / "python")) for p in (ROOT / "python/aerogel").rglob("*") if p.suffix in (".py", ".pyi") or p.name == "py.typed"]
    return [*package, "aerogel/_core.cpython-311-x86_64-linux-gnu.so", "aerogel/_core.pyi", "aerogel/bin/aerogel",
            "aerogel-0.1.0.dist-info/entry_points.txt", "aerogel-0.1.0.dist-info/METADATA"]


def test_a_complete_wheel_passes():
    assert script("check_wheel").problems(complete_wheel()) == []


@pytest.mark.parametrize("lost", ["aerogel/linear.py", "aerogel/diffusers/plan.py", "aerogel/py.typed", "aerogel/_core.pyi", "aerogel/bin/aerogel",
                                  "aerogel/_core.cpython-311-x86_64-linux-gnu.so", "aerogel-0.1.0.dist-info/entry_points.txt"])
def test_what_a_wheel_lacks_is_seen(lost):
    assert len(script("check_wheel").problems([name for name in complete_wheel() if name != lost])) == 1


def test_what_does_not_belong_in_a_wheel_is_seen():
    names = [*complete_wheel(), "aerogel/notes.txt", "include/aerogel/tensor.h"]
    found = script("check_wheel").problems(names)
    assert len(found) == 2 and all("does not belong" in line for line in found)
