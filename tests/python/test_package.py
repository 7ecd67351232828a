"""The package as users meet it: import without torch, help, the command, and the example."""
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import aerogel
import pytest

ROOT = Path(__file__).resolve().parents[2]



def python(*arguments, **env):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, env={**os.environ, **env})


def test_import_needs_no_torch():
    done = python("-c", "import sys, aerogel, numpy as np\nx = np.ones((1, 1, 4, 32), np.float32)\n"
                  "print(aerogel.attention(x, x, x).sum(), 'torch' in sys.modules)")
    assert done.stdout == "128.0 False\n", done.stderr


def test_everything_promised_is_there():
    for name in aerogel.__all__:
        thing = getattr(aerogel, name)
        assert thing.__doc__, name
    assert set(aerogel.__all__) <= set(dir(aerogel))
    with pytest.raises(AttributeError, match="has no attribute 'quantise'"):
        aerogel.quantise
    assert {"W8A16", "W8A8_DYNAMIC", "W8A8_TIMESTEP"} <= {name for name, _, _ in aerogel.schemes()}


def test_versions_agree(build):
    done = python("-m", "aerogel", "--version", AEROGEL_COMMAND=str(build / "aerogel"))
    assert done.stdout.strip() == aerogel.__version__, done.stderr


def test_the_command_passes_through_and_a_missing_one_is_told(build, tmp_path):
    done = python("-m", "aerogel", "inspect", str(tmp_path / "nothing"), AEROGEL_COMMAND=str(build / "aerogel"))
    assert done.returncode == 1 and "nothing" in done.stderr
    done = python("-m", "aerogel", "--version", AEROGEL_COMMAND="", PATH="/nowhere")
    assert done.returncode == 1 and "AEROGEL_COMMAND" in done.stderr


def test_threads():
    before = aerogel.num_threads()
    aerogel.set_num_threads(3)
    assert aerogel.num_threads() == 3
    with pytest.raises(ValueError):
        aerogel.set_num_threads(0)
    aerogel.set_num_threads(before)


def test_example():
    spec = importlib.util.spec_from_file_location("example", ROOT / "examples/python/quantize_transformer.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    assert 1e-4 < example.main(frames=2) < 0.05
