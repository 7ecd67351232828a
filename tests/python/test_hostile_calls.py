"""Files made to hurt, through the Python package: Python's own exceptions, never the end of the process."""
import copy
import json
import os
import pathlib
import pickle
import resource
import subprocess
import sys

import aerogel
import pytest
import torch
from safetensors.torch import save_file

FEATURES = 1024


@pytest.fixture
def checkpoint(tmp_path):
    layers = {f"blocks.{i}.ffn.w.{kind}": torch.randn(*shape) for i in range(4) for kind, shape in {"weight": (FEATURES, FEATURES), "bias": (FEATURES,)}.items()}
    save_file(layers, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList(torch.nn.ModuleDict({"ffn": torch.nn.ModuleDict({"w": torch.nn.Linear(FEATURES, FEATURES)})}) for _ in range(4))


def test_a_checkpoint_shortened_while_it_is_quantized(checkpoint, tmp_path):
    def shorten(*_):
        os.truncate(checkpoint, 1 << 20)

    with pytest.raises(OSError, match="model.safetensors: was shortened while it was read"):
        aerogel.export(checkpoint, tmp_path / "q", scheme="W8A8_DYNAMIC", include=["*"], progress=shorten)
    assert not list((tmp_path / "q").glob("*.json")) and not list((tmp_path / "q").glob("*.safetensors"))


@pytest.mark.parametrize("scheme", ["W8A8_DYNAMIC", "W8A8_MXFP8"])
def test_layers_of_a_file_that_is_shortened_later(checkpoint, tmp_path, scheme):
    """What runs goes on running; who asks for the arrays, which are views of the file, gets an error instead of zeros."""
    report = aerogel.export(checkpoint, tmp_path / "q", scheme=scheme, include=["*"])
    model, x = Model(), torch.randn(3, FEATURES)
    aerogel.quantize(model, report.description)
    layer = model.blocks[3].ffn.w
    copied, y = copy.deepcopy(layer), layer(x)
    wanted = {name: array.clone() for name, array in layer.state_dict().items()}
    os.truncate(report.weights, 1 << 20)
    assert torch.equal(layer(x), y)
    for ask in (model.state_dict, layer.dequantized, lambda: copy.deepcopy(layer), lambda: pickle.dumps(layer)):
        with pytest.raises(OSError, match="safetensors: was shortened while it was read"):
            ask()
    assert all(torch.equal(array, wanted[name]) for name, array in copied.state_dict().items())
    own = aerogel.QuantizedLinear.from_arrays("W8A16", FEATURES, {"weight": torch.ones(2, FEATURES, dtype=torch.int8), "weight_scale": torch.ones(2, 1)})
    own.check_intact()  # of no file


def test_a_pair_shortened_while_it_is_open(checkpoint, tmp_path):
    """The handler that Python's faulthandler sets stays in force for everything else."""
    report = aerogel.export(checkpoint, tmp_path / "q", scheme="W8A8_DYNAMIC", include=["*"])
    program = f"""
import faulthandler, os, sys
import aerogel
from aerogel import _core
faulthandler.enable()
pair = _core.QuantizedPair.open({str(report.description)!r})
os.truncate({str(report.weights)!r}, 1 << 20)
for index in range(4):
    try:
        pair.read(index)
    except OSError as error:
        print(error, flush=True)
del pair
os.kill(os.getpid(), 7)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.count("was shortened while it was read") == 4, done
    assert done.returncode == -7 and "Fatal Python error: Bus error" in done.stderr, done


def test_paths_that_are_not_utf8(checkpoint, tmp_path):
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe")
    os.mkdir(folder)
    report = aerogel.export(checkpoint, folder, scheme="W8A8_DYNAMIC", include=["*"])
    assert pathlib.Path(report.description).exists() and os.fsencode(report.description).startswith(os.fsencode(folder))
    model = Model()
    assert "W8A8_DYNAMIC" in str(aerogel.quantize(model, report.description))
    assert aerogel.inspect(folder)["description"]
    with pytest.raises(OSError, match=r"\\xff\\xfe"):
        aerogel.inspect(folder + "/none")


@pytest.mark.parametrize("kind,error,message", [
    ("pipe", OSError, "is a named pipe"), ("zeros", OSError, "is a device"), ("loop", OSError, "symbolic links"), ("deep", ValueError, "nested deeper than 64 levels"),
    ("none", OSError, "none"),
])
def test_odd_files(tmp_path, kind, error, message):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zeros").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "deep").write_text('{"a":' * 100_000)
    with pytest.raises(error, match=message):
        aerogel.quantize(Model(), tmp_path / kind)
    if kind != "deep":
        with pytest.raises(error, match=message):
            aerogel.export(tmp_path / kind, tmp_path / "q", scheme="W8A8_DYNAMIC")


def test_patterns_are_not_written_out(checkpoint, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (used + (2 << 30), limits[1]))
    try:
        for pattern, message in [("{a,b}" * 30, "matches none"), ("{}" * 30_000, "at most 20000 characters"), ("{" * 9000, "not closed")]:
            with pytest.raises(ValueError, match=message):
                aerogel.export(checkpoint, tmp_path / "q", scheme="W8A8_DYNAMIC", include=[pattern])
            with pytest.raises(ValueError):
                aerogel.quantize(Model(), scheme="W8A8_DYNAMIC", include=[pattern])
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def test_one_matcher():
    from aerogel.layer_choice import matches

    assert matches("blocks.1.ffn", "blocks.{0,{1,2}}.*") and not matches("blocks.3.ffn", "blocks.{0,{1,2}}.*")
    assert matches("a[b", "a[b") and matches("{", "{")
    with pytest.raises(ValueError, match="not closed"):
        matches("a", "{a")


def test_numbers_of_calibration(tmp_path):
    stats = {"fc.min_sum": torch.zeros(2, dtype=torch.float64), "fc.max_sum": torch.tensor([1.0, float("nan")], dtype=torch.float64), "fc.forwards": torch.tensor([1, 1])}
    save_file(stats, tmp_path / "stats.safetensors")
    with pytest.raises(ValueError, match="'fc' in step 1: sums must be finite"):
        aerogel._core.CalibrationStats.load(tmp_path / "stats.safetensors")


def test_descriptions_without_end(tmp_path):
    (tmp_path / "d.json").write_text(json.dumps({"model_quant_type": "../../etc/passwd"}))
    with pytest.raises(ValueError, match="letters, digits"):
        aerogel.quantize(Model(), tmp_path / "d.json")
