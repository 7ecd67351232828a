"""The program that runs one algorithm on one layer."""
import subprocess

import pytest
from safetensors.torch import load_file, save_file


@pytest.fixture
def run(build, tmp_path):
    """run(name, weight, x, *numbers) -> tensors; an error of the algorithm is a ValueError with its message."""

    def call(name, weight=None, x=None, *numbers):
        given = {"weight": weight, "x": x}
        save_file({k: v.contiguous() for k, v in given.items() if v is not None}, tmp_path / "in.safetensors")
        result = subprocess.run([build / "tests/algorithm_run", name, tmp_path / "in.safetensors", tmp_path / "out.safetensors",
                                 *map(str, numbers)], capture_output=True, text=True, check=False)
        if result.returncode:
            raise ValueError(result.stderr)
        return load_file(tmp_path / "out.safetensors")

    return call
