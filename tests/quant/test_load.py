"""Pairs in both exporters' forms load and compute what the formulas say: where all products are exact, bit for bit."""
import numpy as np
import pytest
import torch
from pair_cases import (F32, activations, make_pair, run_dynamic, run_static, run_weight_only, static_steps, weights)
from safetensors.torch import load_file, save_file

FORMS = [("V0", torch.float32), ("V0", torch.bfloat16), ("V1", torch.float32)]


@pytest.fixture
def run_layer(build, tmp_path):
    """run_layer(description, x, step, first static step) -> y, or the error text."""
    import subprocess

    def run(description, x, step=None, first=0, layer="net.fc"):
        save_file({"x": torch.as_tensor(x)}, tmp_path / "x.safetensors")
        command = [build / "tests/quantized_linear_run", description, layer, tmp_path / "x.safetensors", tmp_path / "y.safetensors"]
        done = subprocess.run([*map(str, command), *([str(step), str(first)] if step is not None else [])],
                              capture_output=True, text=True)
        if done.returncode:
            assert done.stderr.count("\n") == 1
            return done.stderr.strip()
        return load_file(tmp_path / "y.safetensors")["y"]

    return run


def exact_rows(x):
    """Rows whose largest magnitude is 127 times a power of two, so that the per-token scale is exact as well."""
    scale = F32(2.0) ** np.arange(-3, len(x) - 3, dtype=F32)[:, None]
    x = np.clip(x / 3, -1, 1) * F32(100)
    x[:, 0] = 127
    return x * scale


@pytest.mark.parametrize("form,dtype", FORMS)
@pytest.mark.parametrize("with_bias", [True, False])
def test_dynamic(run_layer, tmp_path, form, dtype, with_bias):
    q, scale, bias = weights()
    bias = bias if with_bias else None
    path = make_pair(tmp_path, "W8A8_DYNAMIC", form, dtype, q=q, scale=scale, bias=bias)
    x = exact_rows(activations())
    assert np.array_equal(run_layer(path, x).numpy(), run_dynamic(x, q, scale, bias))


@pytest.mark.parametrize("form,dtype", FORMS)
def test_static(run_layer, tmp_path, form, dtype):
    q, scale, bias = weights()
    steps = static_steps(q, scale, bias, 1)
    path = make_pair(tmp_path, "W8A8", form, dtype, q=q, scale=scale, bias=bias, steps=steps)
    x = activations()
    assert np.array_equal(run_layer(path, x).numpy(), run_static(x, q, steps[0]))


def test_static_without_bias_has_a_quant_bias(run_layer, tmp_path):
    q, scale, _ = weights()
    steps = static_steps(q, scale, None, 1)
    path = make_pair(tmp_path, "W8A8", q=q, scale=scale, steps=steps)
    assert np.array_equal(run_layer(path, activations()).numpy(), run_static(activations(), q, steps[0]))


@pytest.mark.parametrize("scheme", ["W8A8_DYNAMIC", "W8A8", "W8A16"])
def test_smoothing(run_layer, tmp_path, scheme):
    """net.fc.div.mul_scale beside net.fc.linear.*: the layer is net.fc and computes x * mul_scale first."""
    q, scale, bias = weights()
    mul_scale = F32(2.0) ** np.random.default_rng(5).integers(-2, 3, q.shape[1]).astype(F32)
    steps = static_steps(q, scale, bias, 1) if scheme == "W8A8" else None
    path = make_pair(tmp_path, scheme, q=q, scale=scale, bias=bias, steps=steps, mul_scale=mul_scale)
    x = exact_rows(activations() * mul_scale) / mul_scale
    y = run_layer(path, x).numpy()
    if scheme == "W8A8":
        assert np.array_equal(y, run_static(x, q, steps[0], mul_scale))
    elif scheme == "W8A8_DYNAMIC":
        assert np.array_equal(y, run_dynamic(x, q, scale, bias, mul_scale))
    else:
        assert_close(y, x * mul_scale, q, scale=scale, offset=0, bias=bias)


def assert_close(y, x, q, *, scale, offset, bias):
    """Float sums: error at most the sum of magnitudes times (number of terms + 4) half-units, in any order of adding."""
    wanted = run_weight_only(x, q, scale, offset=offset, bias=bias)
    size = run_weight_only(np.abs(x), np.abs(q.astype(np.float64)) + np.abs(np.repeat(np.broadcast_to(
        offset, scale.shape), q.shape[1] // scale.shape[1], axis=1)), scale, bias=None if bias is None else np.abs(bias))
    assert (np.abs(y - wanted) <= size * (q.shape[1] + 4) * 2.0**-24).all()


@pytest.mark.parametrize("groups", [1, 5])
@pytest.mark.parametrize("with_offset", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weight_only(run_layer, tmp_path, groups, with_offset, dtype):
    q, _, bias = weights()
    rng = np.random.default_rng(4)
    scale = F32(2.0) ** rng.integers(-9, -4, (len(q), groups)).astype(F32)
    offset = rng.integers(-100, 100, scale.shape).astype(F32) if with_offset else np.zeros(scale.shape, F32)

    def edit(tensors, types):
        tensors["net.fc.weight_offset"] = torch.from_numpy(offset).to(dtype)

    path = make_pair(tmp_path, "W8A16", dtype=dtype, q=q, scale=scale, bias=bias, edit=edit)
    assert_close(run_layer(path, activations()).numpy(), activations(), q, scale=scale, offset=offset, bias=bias)


def test_timestep_policy(run_layer, tmp_path):
    """Steps before the first static one run dynamic, later ones with their own row; an index outside the file is an error."""
    q, scale, bias = weights()
    steps = static_steps(q, scale, bias, 4)
    path = make_pair(tmp_path, "W8A8_TIMESTEP", q=q, scale=scale, bias=bias, steps=steps)
    x = exact_rows(activations())
    dynamic = run_dynamic(x, q, scale, bias)
    static = [run_static(x, q, s) for s in steps]
    assert len({a.tobytes() for a in [dynamic, *static]}) == 5
    for first in (0, 2, 4):
        for step in range(4):
            wanted = dynamic if step < first else static[step]
            assert np.array_equal(run_layer(path, x, step, first).numpy(), wanted), (first, step)
    for step in (-1, 4):
        assert "timestep index must be in [0, 4), got" in run_layer(path, x, step, 0)
    assert "the first static step must be in [0, 100000], got -1" in run_layer(path, x, 0, -1)


def test_layer_that_is_called_linear(run_layer, tmp_path):
    """Without a div.mul_scale beside it, "linear" is just a name."""
    q, scale, bias = weights()

    def rename(tensors, types):
        for key in [k for k in tensors if k.startswith("net.fc")]:
            tensors[key.replace("net.fc", "net.linear")] = tensors.pop(key)
            types[key.replace("net.fc", "net.linear")] = types.pop(key)

    path = make_pair(tmp_path, "W8A8_DYNAMIC", q=q, scale=scale, bias=bias, edit=rename)
    x = exact_rows(activations())
    assert np.array_equal(run_layer(path, x, layer="net.linear").numpy(), run_dynamic(x, q, scale, bias))


def test_lower_case_types_and_one_float_name(run_layer, tmp_path):
    q, scale, bias = weights()

    def lower(tensors, types):
        types.update({k: v.lower() for k, v in types.items()})

    path = make_pair(tmp_path / "a", "W8A8_DYNAMIC", q=q, scale=scale, bias=bias, edit=lower)
    assert np.array_equal(run_layer(path, exact_rows(activations())).numpy(), run_dynamic(exact_rows(activations()), q, scale, bias))
    path = make_pair(tmp_path / "b", "W8A8_DYNAMIC", q=q, scale=scale, bias=bias,
                     edit=lambda tensors, types: types.update({"net.fc": "FLOAT"}))
    assert "no quantized layer net.fc" in run_layer(path, activations())
