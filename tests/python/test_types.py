"""The types of the Python packages: every function says its own, they fit what it does, and a caller's checker sees them."""
import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import aerogel
import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = Path(aerogel.__file__).parents[1]  # the built ones: links to the sources, beside the types of the extension
FILES = sorted([*(ROOT / "python/aerogel").rglob("*.py"), *(ROOT / "python/mindiesd").rglob("*.py")])
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef


def annotated(tree):
    """(function, its parameters without self and cls) for every function of a file, those inside of others too."""
    for scope in ast.walk(tree):
        for node in ast.iter_child_nodes(scope):
            if isinstance(node, FUNCTIONS):
                a = node.args
                positional = [*a.posonlyargs, *a.args]
                bound = isinstance(scope, ast.ClassDef) and "staticmethod" not in map(ast.unparse, node.decorator_list)
                yield node, [*positional[bound:], *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]


def unannotated(text):
    found = []
    for function, parameters in annotated(ast.parse(text)):
        found += [f"{function.name}({p.arg})" for p in parameters if p.annotation is None]
        found += [f"{function.name} ->"] if function.returns is None else []
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT / "python")))
def test_every_function_says_its_types(path):
    assert unannotated(path.read_text()) == []


@pytest.mark.parametrize("text, missing", [
    ("def f(a, *, b: int): pass", ["f(a)", "f ->"]),
    ("def f(*a, **b) -> int: pass", ["f(a)", "f(b)"]),
    ("class A:\n    def f(self, a) -> int: pass", ["f(a)"]),
    ("class A:\n    @staticmethod\n    def f(a) -> int: pass", ["f(a)"]),
    ("class A:\n    @classmethod\n    def f(cls): pass", ["f ->"]),
    ("def f() -> int:\n    async def g(a) -> int: pass", ["g(a)"]),
    ("class A:\n    def f(self, a: int) -> int: pass", []),
])
def test_missing_types_are_seen(text, missing):
    assert unannotated(text) == missing


def names_of(tree, module):
    """What annotations may name: the module's own names and what it imports for type checkers only."""
    names = dict(vars(module))
    for node in tree.body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            exec(compile(ast.Module(node.body, []), module.__file__, "exec"), names)
    return names


def wrong_names(tree, names):
    """The annotations that name what is not there. mypy does not see it where torch is concerned, which it does not read."""
    wrong = []
    for function, parameters in annotated(tree):
        for annotation in filter(None, (*(p.annotation for p in parameters), function.returns)):
            text = ast.literal_eval(annotation) if isinstance(annotation, ast.Constant) and annotation.value else ast.unparse(annotation)
            try:
                eval(text, dict(names))
            except (AttributeError, NameError, TypeError) as error:
                wrong.append(f"{function.name}: {error}")
    return wrong


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT / "python")))
def test_the_names_in_annotations_exist(path):
    if path.stem == "lora":
        pytest.importorskip("peft")
    parts = path.relative_to(ROOT / "python").with_suffix("").parts
    module = importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    tree = ast.parse(path.read_text())
    assert wrong_names(tree, names_of(tree, module)) == []


def test_wrong_names_are_seen():
    tree = ast.parse("def f(a: torch.Tensr, b: 'Nothing', c: int) -> list[torch.Tensor]: pass")
    assert len(wrong_names(tree, {"torch": importlib.import_module("torch")})) == 2


def mypy(*arguments, path):
    """mypy with the settings of pyproject.toml. path: where it looks for modules first."""
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), *map(str, arguments)]
    environment = {**os.environ, "MYPYPATH": os.pathsep.join(map(str, path))}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT)
    return done.returncode, done.stdout + done.stderr


def test_the_types_fit_what_the_packages_do():
    assert (PACKAGES / "aerogel/_core.pyi").exists(), "the build writes it: the types of the extension"
    status, output = mypy(path=[PACKAGES])
    assert status == 0, output


# What a caller's checker makes of the calls: as much of torch and NumPy as they need (reading all of it takes long), and a script.
STUBS = {"numpy": "class ndarray: ...\n", "torch/__init__": "from . import nn as nn\nclass Tensor: ...\n",
         "torch/nn": "class Module: ...\nclass Linear(Module): ...\n"}
SETTINGS = """[mypy]
strict = true
follow_imports = silent
[mypy-diffusers.*,peft.*,tqdm.*]
follow_imports = skip
"""
SCRIPT = """from typing import assert_type
import aerogel
import numpy as np
import torch
from torch import nn

def use(a: np.ndarray, t: torch.Tensor, model: nn.Module) -> None:
    assert_type(aerogel.attention(a, a, a, mask=a), np.ndarray)
    assert_type(aerogel.attention(t, t, t, mask=a), torch.Tensor)
    assert_type(aerogel.attention(t, t, t, return_lse=True), tuple[torch.Tensor, torch.Tensor])
    assert_type(aerogel.quantized_attention(t, t, t, rotation=(t, t)), torch.Tensor)
    assert_type(aerogel.quantize(model, scheme="W8A16"), aerogel.QuantizeReport)
    assert_type(aerogel.TimestepPolicyConfig().register(range(3), "dynamic"), aerogel.TimestepPolicyConfig)
    assert_type(aerogel.QuantizedLinear.from_linear(model).forward(t), torch.Tensor)
    aerogel.attention(a, a, t)  # type: ignore[type-var]
    aerogel.attention(a, a, a, scale="1")  # type: ignore[call-overload]
    aerogel.quantized_attention(a, a, t)  # type: ignore[type-var]
    aerogel.quantized_attention(a, a, a, scale="1")  # type: ignore[arg-type]
    aerogel.quantize(model, schema="W8A16")  # type: ignore[call-arg]
    aerogel.nothing  # type: ignore[attr-defined]
"""


def test_a_callers_checker_sees_the_types(tmp_path):
    (tmp_path / "torch").mkdir()
    for name, text in STUBS.items():
        (tmp_path / f"{name}.pyi").write_text(text)
    (tmp_path / "script.py").write_text(SCRIPT)
    settings = tmp_path / "mypy.ini"
    settings.write_text(SETTINGS)
    status, output = mypy("--config-file", settings, "--cache-dir", ROOT / "build/mypy-caller", tmp_path / "script.py", path=[tmp_path, PACKAGES])
    assert status == 0, output
