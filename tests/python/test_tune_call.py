"""aerogel.tune: the budget holds on the model itself, the model stays as it was, the recipe says the same, and the command finds the same."""
import copy
import json
import subprocess

import aerogel
import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import save_file


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return WanTransformer3DModel(patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=32, in_channels=4, out_channels=4, text_dim=16,
                                 freq_dim=32, ffn_dim=128, num_layers=2, rope_max_seq_len=64).eval()


@pytest.fixture(scope="module")
def inputs():
    torch.manual_seed(1)
    return [{"hidden_states": torch.randn(1, 4, 2, 8, 8), "timestep": torch.tensor([t]), "encoder_hidden_states": torch.randn(1, 5, 16)}
            for t in (900.0, 500.0, 100.0)]


@torch.no_grad()
def outputs(model, inputs):
    return [model(**arguments).sample.double() for arguments in inputs]


def errors(model, wanted, inputs):
    return [float((a - b).norm() / b.norm()) for a, b in zip(outputs(model, inputs), wanted)]


def test_the_budget_holds_and_the_model_stays(model, inputs, tmp_path):
    before, wanted, names = copy.deepcopy(model.state_dict()), outputs(model, inputs), []
    found = aerogel.tune(model, inputs, max_error=0.008, recipe=tmp_path / "r.yaml", measurements=tmp_path / "m.json",
                         progress=lambda done, total, what: names.append((done, total, what)))
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values())) and names[0][:2] == (0, 20 * 2 + 2 + 10)
    quantized = copy.deepcopy(model)
    found.quantize(quantized)
    assert errors(quantized, wanted, inputs) == pytest.approx(found.errors, rel=1e-6)
    assert 0.005 < found.error == max(found.errors) <= 0.008 and {"W8A8_DYNAMIC", "W4A8"} <= set(found.schemes.values())
    assert found.uniform["W4A8"][0] < found.bytes < found.uniform["W8A8_DYNAMIC"][0] and "chosen" in str(found)
    # The same budget again measures nothing; a size takes what is known.
    again = aerogel.tune(model, inputs, max_error=0.008, measurements=tmp_path / "m.json")
    assert again.schemes == found.schemes
    small = aerogel.tune(model, inputs, max_size=found.bytes, measurements=tmp_path / "m.json")
    assert small.bytes <= found.bytes and small.error <= found.error * 1.001
    # Broken on purpose: another layer in four bits goes over the budget.
    broken = copy.deepcopy(model)
    aerogel.quantize(broken, scheme="W4A8")
    assert max(errors(broken, wanted, inputs)) > 0.008


def test_the_command_finds_the_same(build, model, inputs, tmp_path):
    model.save_pretrained(tmp_path / "model")
    records = {key: torch.cat([one[key] for one in inputs]).float() for key in inputs[0]}
    save_file(records, tmp_path / "records.safetensors")
    done = subprocess.run([build / "aerogel", "tune", tmp_path / "model", "-o", tmp_path / "r.yaml", "--recorded-inputs", tmp_path / "records.safetensors",
                           "--records", "3", "--max-error", "0.008", "--json"], capture_output=True, text=True, check=True)
    command = json.loads(done.stdout)
    found = aerogel.tune(model, inputs, max_error=0.008)
    assert found.errors == pytest.approx(command["best"]["errors"], rel=0.02)
    same = [found.schemes[m["name"]] == m["chosen"] for m in command["modules"]]
    assert len(same) == 20 and sum(same) >= 18  # errors of two implementations differ in the last digits


def test_a_linear_of_two_names_is_tuned_once():
    torch.manual_seed(0)
    shared = torch.nn.Linear(64, 64)
    tied = torch.nn.ModuleDict({"one": shared, "two": shared, "three": torch.nn.Linear(64, 64)})
    tied.forward = lambda x: tied["three"](tied["two"](tied["one"](x)).relu())
    inputs = [{"x": torch.randn(8, 64)} for _ in range(3)]
    found = aerogel.tune(tied, inputs, max_error=0.5, include="*")
    assert list(found.schemes) == ["one", "three"] and set(found.schemes.values()) == {"W4A8"}
    assert found.bytes_before == 2 * (64 * 64 + 64) * 4 and 0 < found.bytes == found.uniform["W4A8"][0]
    assert tied["one"] is tied["two"] is shared
    found.quantize(tied)
    assert tied["one"] is tied["two"] and isinstance(tied["two"], aerogel.QuantizedLinear)


@pytest.mark.parametrize("arguments, error, message", [
    ({}, ValueError, "one of them"),
    ({"max_error": 0.1, "max_size": 5}, ValueError, "one of them"),
    ({"max_error": 1e-9}, ValueError, "keeps the error within 1e-09"),
    ({"max_size": 5}, ValueError, "no mixture of these schemes is as small"),
    ({"max_size": 10**9}, ValueError, "hold the unchanged model"),
    ({"max_error": 0.1, "step_groups": 4}, ValueError, "step_groups must be 1 .. 3"),
    ({"max_error": 0.1, "schemes": ["W4A8/gptq"]}, ValueError, "only the command"),
    ({"max_error": 0.1, "schemes": ["W8A8"]}, NotImplementedError, "calibrated ranges"),
    ({"max_error": 0.1, "include": "nothing"}, ValueError, "nothing"),
])
def test_errors(model, inputs, arguments, error, message):
    with pytest.raises(error, match=message):
        aerogel.tune(model, inputs, **arguments)
