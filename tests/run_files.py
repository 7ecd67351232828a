"""Runs test files one after another, each in a process of its own, and prints how long each took.

The processes are forks of this one, which has imported the heavy libraries that the files name: importing PyTorch and
diffusers takes longer than most files do. Aerogel itself is imported by the files, for it reads its environment then.
"""

import ast
import contextlib
import gc
import importlib
import io
import os
import signal
import sys
import time
from pathlib import Path

import pytest

HEAVY = ("hypothesis", "numpy", "safetensors", "torch", "transformers", "diffusers")
OPTIONS = ["-q", "--tb=short", "--durations=3", "--durations-min=5"]


def heavy_imports(path: Path) -> set[tuple[str, str]]:
    """What the file imports of HEAVY, at its top or in its functions: (module, name of it or nothing)."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update((node.module, alias.name) for alias in node.names)
    return {(module, name) for module, name in found if module.split(".")[0] in HEAVY}


def import_heavy(files: list[Path]) -> None:
    """Imports what the files need. The libraries load their parts when they are asked for, so each name is."""
    on_a_card = os.environ.get("AEROGEL_TEST_GPU") == "1"
    for folder in {path.parent for path in files if not on_a_card and (path.parent / "fake_cuda.py").exists()}:
        sys.path.insert(0, str(folder))
        with contextlib.suppress(OSError, ImportError):  # of which the folder's conftest.py tells
            importlib.import_module("fake_cuda")  # before torch
    for module, name in sorted(set.union(*map(heavy_imports, files))):
        # A file that asks for what is not installed deals with that itself.
        with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(ImportError, RuntimeError):
            getattr(importlib.import_module(module), name or "__name__", None)
    # pytest collects garbage several times per run; what is loaded here is none, and takes long to look through.
    gc.collect()
    gc.freeze()


def run(path: Path) -> str:
    """Runs one file in a fork. Empty when it passed, else what went wrong."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        sys.exit(pytest.main([*OPTIONS, str(path)]))
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return f"ended by {signal.Signals(os.WTERMSIG(status)).name}"
    code = os.WEXITSTATUS(status)
    return f"failed (exit {code})" if code else ""


def main() -> None:
    files = [Path(name) for name in sys.argv[1:]]
    if not files:
        sys.exit("usage: run_files.py FILE...")
    import_heavy(files)
    failed = []
    for path in files:
        start = time.monotonic()
        wrong = run(path)
        print(f"{path}: {wrong or 'passed'}, {time.monotonic() - start:.1f} s", flush=True)
        if wrong:
            failed.append(path)
    if failed:
        sys.exit(f"{len(failed)} of {len(files)} files failed: {' '.join(map(str, failed))}")


if __name__ == "__main__":
    main()
