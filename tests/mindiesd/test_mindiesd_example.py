"""The example runs as it stands, in memory and from files."""
import importlib.util
from pathlib import Path

import pytest
from description_files import static_files

PATH = Path(__file__).resolve().parents[2] / "examples/python/from_ascend.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("from_ascend", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_in_memory(example, capsys):
    assert 1e-4 < example.main() < 0.1
    assert "18 Linear layers quantized" in capsys.readouterr().out


def test_from_files(example, tmp_path, capsys):
    example.torch.manual_seed(0)
    description, _, _ = static_files(tmp_path, example.Transformer(), "W8A8_TIMESTEP")
    assert 1e-4 < example.main(description) < 0.1
    assert "21 Linear layers quantized" in capsys.readouterr().out
