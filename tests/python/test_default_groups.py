"""int4 weights have groups of columns unless told otherwise, in the command, in files and in memory alike, and every report says so."""
import json

import aerogel
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

# Columns -> the groups of W4A16: 64, else 32, in any case more than one, else the whole row.
GROUPS = {"wide": (256, 64), "plain": (96, 32), "narrow": (64, 32), "odd": (80, 0), "one": (32, 0)}


def model():
    torch.manual_seed(0)
    return nn.ModuleDict({name: nn.Linear(columns, 10) for name, (columns, _) in GROUPS.items()})


@pytest.fixture
def command(aerogel_command, tmp_path):
    save_file(model().state_dict(), tmp_path / "model.safetensors")

    def run(*flags, json_report=True):
        done = aerogel_command("quantize", tmp_path / "model.safetensors", "-o", tmp_path / "q", "--include", "*", *(["--json"] if json_report else []), *flags)
        return json.loads(done.stdout) if json_report else done.stdout

    return run


def groups_of(report):
    return {layer["name"]: layer["group_size"] for layer in report["layers"]}


@pytest.mark.parametrize("scheme", ["W4A16", "W4A8", "W4A4_DYNAMIC"])
def test_groups_where_the_columns_allow_them(command, scheme, tmp_path):
    wanted = {name: group for name, (_, group) in GROUPS.items()}
    report = command("--scheme", scheme)
    assert groups_of(report) == wanted and report["group_size"] == 64
    assert "one weight scale per row (2 layers), per 32 columns (2 layers), per 64 columns (1 layer)\n" in command("--scheme", scheme, json_report=False)
    written = load_file(report["weights"])
    assert {n: written[f"{n}.weight_scale"].shape[1] for n in GROUPS} == {n: columns // group if group else 1 for n, (columns, group) in GROUPS.items()}
    memory, files = model(), model()
    done = aerogel.quantize(memory, scheme=scheme, include="*")
    assert {layer.name: layer.group_size for layer in done.layers} == wanted and f"1 {scheme} in groups of 64" in str(done)
    aerogel.quantize(files, report["description"])
    exported = aerogel.export(model(), tmp_path / "e", scheme, include="*")
    assert {layer.name: layer.group_size for layer in exported.layers} == wanted and f"5 {scheme} in groups of 64" in str(exported)
    again = load_file(exported.weights)
    for name in GROUPS:
        assert torch.equal(memory[name].weight, files[name].weight) and torch.equal(memory[name].weight_scale, files[name].weight_scale)
        assert torch.equal(again[f"{name}.weight"], written[f"{name}.weight"])


@pytest.mark.parametrize("flags", [("W4A16", "--group-size", 0), ("W4A16", "--layout", "v0"), ("W8A16",), ("W8A8_DYNAMIC",), ("W8A16_FP8",)], ids=str)
def test_one_scale_per_row_where_it_is_told_or_wanted(command, flags):
    """v0 is the form that readers of files know, which have no groups."""
    report = command("--scheme", *flags)
    assert set(groups_of(report).values()) == {0} and report["group_size"] == 0
    assert "one weight scale" not in command("--scheme", *flags, json_report=False)


def test_python_is_told_too():
    linear = model()["wide"]
    sizes = {given: aerogel.QuantizedLinear.from_linear(linear, "W4A16", group_size=given).group_size for given in (None, 0, 32, 128)}
    assert sizes == {None: 64, 0: 0, 32: 32, 128: 128}
    config = aerogel.OnlineQuantConfig("W4A16", group_size=0, fallback_layers={"plain": "W8A16"})
    assert {layer.group_size for layer in aerogel.quantize(model(), online_config=config, include="*").layers} == {0}
    config = aerogel.OnlineQuantConfig("W8A16", fallback_layers={"wide": "W4A8"})
    assert [layer.group_size for layer in aerogel.quantize(model(), online_config=config, include="*").layers] == [64, 0, 0, 0, 0]


def test_groups_err_less():
    layer = nn.Linear(1024, 64)
    def error(group_size):
        made = aerogel.QuantizedLinear.from_linear(layer, "W4A16", group_size=group_size).dequantized()
        return float((made - layer.weight).detach().norm() / layer.weight.detach().norm())

    torch.nn.init.normal_(layer.weight, std=0.02)
    assert error(None) < 0.8 * error(0)


def test_packed_rows_come_in_pairs(aerogel_command, tmp_path):
    """Packed groups pair rows: layers with an odd number of them keep one scale per row."""
    torch.manual_seed(0)
    save_file({"even.weight": torch.randn(4, 128), "odd.weight": torch.randn(5, 128)}, tmp_path / "m.safetensors")
    done = aerogel_command("quantize", tmp_path / "m.safetensors", "-o", tmp_path / "q", "--scheme", "W4A16", "--include", "*", "--packed", "--json")
    report = json.loads(done.stdout)
    assert groups_of(report) == {"even": 64, "odd": 0}
    shapes = {name: list(t.shape) for name, t in load_file(report["weights"]).items() if name.endswith(".weight")}
    assert shapes == {"even.weight": [2, 128], "odd.weight": [5, 64]}
    aerogel_command("dequantize", report["description"], "-o", tmp_path / "back.safetensors")
    back, exact = load_file(tmp_path / "back.safetensors"), load_file(tmp_path / "m.safetensors")
    assert all((back[name] - exact[name]).norm() / exact[name].norm() < 0.25 for name in exact)
