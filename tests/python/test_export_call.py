"""export: the command's bytes from a checkpoint and from a model in memory, progress, and what is left when it is stopped."""
import json
import os
import signal
import subprocess
import sys
import time

import aerogel
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn


def blocks(dtype=torch.float32, count=2):
    model = nn.Module()
    model.blocks = nn.ModuleList(nn.ModuleDict({"attn1": nn.Linear(64, 64), "ffn": nn.Linear(64, 128, bias=False)}) for _ in range(count))
    model.norm, model.proj_out = nn.LayerNorm(64), nn.Linear(64, 8)
    return model.to(dtype)


def files(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def same_pair(a, b):
    """Equal tensors and equal descriptions; the order of tensors is the model's own."""
    assert {p.name for p in a.iterdir()} == {p.name for p in b.iterdir()}
    for path in a.iterdir():
        other = b / path.name
        if path.suffix == ".json":
            assert json.loads(path.read_text()) == json.loads(other.read_text())
            continue
        x, y = load_file(path), load_file(other)
        assert x.keys() == y.keys()
        for name in x:
            assert x[name].dtype == y[name].dtype and torch.equal(x[name].view(torch.uint8), y[name].view(torch.uint8)), name


CASES = [("W8A8_DYNAMIC", {}), ("W8A16", {"algorithm": "ssz"}), ("W8A16", {"group_size": 32, "asymmetric": True}),
         ("W4A16", {"group_size": 32, "packed": True}), ("int4", {}), ("W4A4_MXFP4", {"algorithm": "fouroversix"}), ("W8A8_MXFP8", {}),
         ("W4A4_MXFP4_SVD", {}), ("W8A8_DYNAMIC", {"rotate": 32, "low_rank": 3})]


@pytest.mark.parametrize("scheme, options", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_bytes_of_the_command(tmp_path, aerogel_command, scheme, options, dtype):
    model = blocks(dtype)
    save_file(model.state_dict(), tmp_path / "m.safetensors")
    flags = [x for key, value in options.items() for x in ([f"--{key.replace('_', '-')}"] + ([] if value is True else [value]))]
    aerogel_command("quantize", tmp_path / "m.safetensors", "-o", tmp_path / "native", "--scheme", scheme, "--include", "blocks.*", *flags)
    from_file = aerogel.export(tmp_path / "m.safetensors", tmp_path / "file", scheme, include="blocks.*", progress=False, **options)
    from_memory = aerogel.export(model, tmp_path / "memory", scheme, progress=False, **options)
    assert files(tmp_path / "file") == files(tmp_path / "native")
    same_pair(tmp_path / "memory", tmp_path / "native")
    assert sorted(layer.name for layer in from_memory.layers) == sorted(layer.name for layer in from_file.layers)
    assert len(from_memory.layers) == 4 and from_memory.scheme == aerogel.inspect(tmp_path / "memory")["model_quant_type"]


def test_report(tmp_path):
    model = blocks()
    report = aerogel.export(model, tmp_path / "deep/er", "W8A16", include=["*"], exclude=["proj_out", "blocks.1.*"], progress=False)
    assert [layer.name for layer in report.layers] == ["blocks.0.attn1", "blocks.0.ffn"]
    stored = load_file(report.weights)
    assert report.bytes_before == sum(t.nbytes for t in model.state_dict().values())
    assert report.bytes_after == sum(t.nbytes for t in stored.values())
    weight = model.blocks[0]["ffn"].weight.detach().double()
    error = (stored["blocks.0.ffn.weight"].double() * stored["blocks.0.ffn.weight_scale"] - weight).norm() / weight.norm()
    assert report.layers[1].relative_error == pytest.approx(float(error), rel=1e-5)
    assert (report.layers[1].out_features, report.layers[1].in_features) == (128, 64)
    assert report.weights in str(report) and "2 W8A16" in str(report)
    assert torch.equal(stored["norm.weight"], model.norm.weight) and "proj_out.weight" in stored


def test_a_model_reads_its_own_files_back(tmp_path):
    model, x = blocks(), torch.randn(3, 64)
    aerogel.export(model, tmp_path, "W8A8_DYNAMIC", progress=False)
    exact = model.blocks[0]["attn1"](x)
    report = aerogel.quantize(model, tmp_path)
    assert len(report.quantized) == 4
    assert 1e-4 < aerogel.compare(exact, model.blocks[0]["attn1"](x)).relative_l2 < 0.03


def test_views_and_odd_buffers_of_a_model(tmp_path):
    """Transposed weights, tied weights, integer and empty and scalar buffers."""
    model = nn.ModuleDict({"a": nn.Linear(8, 6), "b": nn.Linear(8, 6)})
    model["a"].weight = nn.Parameter(torch.randn(8, 6).T)
    model["b"].weight = model["a"].weight
    for name, value in [("count", torch.tensor(3)), ("none", torch.zeros(0, 4)), ("flags", torch.tensor([True, False]))]:
        model.register_buffer(name, value)
    aerogel.export(model, tmp_path, "W8A16", include="*", progress=False)
    stored = load_file(tmp_path / "quant_model_weight_w8a16.safetensors")
    assert torch.equal(stored["a.weight"], stored["b.weight"]) and stored["a.weight"].shape == (6, 8)
    torch.testing.assert_close(stored["a.weight"] * stored["a.weight_scale"], model["a"].weight.detach(), atol=0.02, rtol=0)
    assert stored["count"] == 3 and stored["none"].shape == (0, 4) and stored["flags"].tolist() == [True, False]


def test_progress_counts_bytes_to_the_end(tmp_path):
    calls = []
    report = aerogel.export(blocks(), tmp_path, progress=lambda *call: calls.append(call))
    done = [d for d, _, _ in calls]
    assert done == sorted(done) and done[-1] == report.bytes_before and {t for _, t, _ in calls} == {report.bytes_before}
    assert {name for _, _, name in calls} >= {"blocks.1.ffn.weight", "norm.bias"}


def test_a_bar_is_drawn_on_a_terminal_only(tmp_path, monkeypatch, capsys):
    aerogel.export(blocks(), tmp_path)
    assert capsys.readouterr().err == ""
    import tqdm.auto

    seen = []

    class Bar(tqdm.std.tqdm):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **{**kwargs, "disable": False})
            seen.append(self)

    monkeypatch.setattr(tqdm.auto, "tqdm", Bar)
    report = aerogel.export(blocks(), tmp_path)
    assert seen[0].n == seen[0].total == report.bytes_before and "export" in capsys.readouterr().err


def test_an_error_of_the_progress_function_stops_and_leaves_nothing(tmp_path):
    def stop(done, total, name):
        if name.startswith("blocks.1"):
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        aerogel.export(blocks(), tmp_path / "q", progress=stop)
    assert list((tmp_path / "q").iterdir()) == []


STOPPED = """
import sys, aerogel
model = sys.argv[1]
if sys.argv[3] == "module":
    import torch
    model = torch.nn.ModuleDict({str(i): torch.nn.Linear(2048, 2048, bias=False, dtype=torch.bfloat16) for i in range(24)})
try:
    aerogel.export(model, sys.argv[2], "W8A16", include="*", progress=False)
except KeyboardInterrupt:
    sys.exit(7)
"""


@pytest.mark.parametrize("kind", ["checkpoint", "module"])
def test_ctrl_c_leaves_no_half_files(tmp_path, kind):
    """Nothing of Python runs during this export: the interrupt is looked for between tensors. What a checkpoint's export has finished
    is where the next one goes on."""
    weight = torch.randn(2048, 2048).bfloat16()
    save_file({f"{i}.weight": weight.clone() for i in range(24)}, tmp_path / "m.safetensors")
    old = tmp_path / "q"
    aerogel.export(blocks(), old, "W8A16", progress=False)
    before = files(old)
    process = subprocess.Popen([sys.executable, "-c", STOPPED, tmp_path / "m.safetensors", old, kind],
                               env={**os.environ, "AEROGEL_NUM_THREADS": "1"})
    deadline = time.monotonic() + 60
    while not list(old.glob("*.part")) and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 7
    left = files(old)
    parts = {name for name in left if name.endswith((".part", ".journal"))}
    assert {name: left[name] for name in left.keys() - parts} == before
    assert bool(parts) == (kind == "checkpoint")
    if parts:
        aerogel.export(tmp_path / "m.safetensors", old, "W8A16", include="*", progress=False)
        aerogel.export(tmp_path / "m.safetensors", tmp_path / "fresh", "W8A16", include="*", progress=False)
        assert files(old) == files(tmp_path / "fresh")


def test_bad_input_is_refused_and_leaves_nothing(tmp_path):
    model, out = blocks(), tmp_path / "q"
    nan = blocks()
    nan.blocks[1]["ffn"].weight.data[3, 4] = float("nan")
    quantized = blocks()
    aerogel.quantize(quantized, scheme="W8A16")
    (tmp_path / "file").write_text("in the way")
    for arguments, error, message in [
        ((tmp_path / "none.safetensors", out), OSError, "none.safetensors"),
        ((nan, out), ValueError, "blocks.1.ffn"),
        ((quantized, out), ValueError, "no Linear layers inside repeated blocks|no Linear"),
        ((blocks().to("meta"), out), ValueError, "meta device"),
        ((blocks(torch.float64), out), ValueError, r"blocks.0.attn1"),
        ((nn.ReLU(), out), ValueError, "no Linear layers"),
        ((model, out, "W8A8"), ValueError, "W8A8 needs calibration"),
        ((model, out, "W9"), ValueError, "no scheme 'W9'"),
        ((model, tmp_path / "file"), OSError, "cannot make the folder"),
    ]:
        with pytest.raises(error, match=message):
            aerogel.export(*arguments, progress=False)
    for options, message in [(dict(include="bloks.*"), "bloks"), (dict(algorithm="magic"), "magic"), (dict(group_size=48, scheme="W8A16"), "48"),
                             (dict(progress="yes"), "progress must be"), (dict(packed=True), "packing is for int4"),
                             (dict(scheme="W8A8", calibration=tmp_path / "file"), "file")]:
        with pytest.raises(ValueError, match=message):
            aerogel.export(model, out, **{"progress": False, **options})
    assert not out.exists() or not list(out.iterdir())


def test_a_checkpoint_needs_no_torch(tmp_path):
    save_file({"blocks.0.ffn.a.weight": torch.randn(8, 8)}, tmp_path / "m.safetensors")
    code = f"""import sys, aerogel
print(len(aerogel.export({str(tmp_path / 'm.safetensors')!r}, {str(tmp_path / 'q')!r}).layers), 'torch' in sys.modules)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.stdout == "1 False\n", done.stderr
    assert np.isfinite(aerogel.inspect(tmp_path / "q")["bits_per_weight"])
