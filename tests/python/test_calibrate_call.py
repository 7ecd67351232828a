"""calibrate: ranges against NumPy on the inputs that hooks of the test's own see, and what the files then hold."""
import json

import aerogel
import numpy as np
import pytest
import static_reference as reference
import torch
from aerogel import TimestepManager
from safetensors.numpy import load_file
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.ffn = nn.ModuleDict({"up": nn.Linear(12, 20), "down": nn.Linear(20, 12, bias=False)})

    def forward(self, x):
        return x + self.ffn["down"](input=torch.nn.functional.gelu(self.ffn["up"](x)))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(2))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


LAYERS = ["blocks.0.ffn.up", "blocks.0.ffn.down", "blocks.1.ffn.up", "blocks.1.ffn.down"]
STEPS = 3


@pytest.fixture(autouse=True)
def unset():
    yield
    TimestepManager.set_timestep_idx(None)
    TimestepManager.set_timestep_idx_max(None)


def samples(dtype=torch.float32):
    return [(torch.randn(2, n, 12) * (n + 1)).to(dtype) for n in (5, 1, 7)]


def sampling(xs):
    """A run that shows every sample in every step, larger ones in later steps."""

    def run(model):
        TimestepManager.set_timestep_idx_max(STEPS)
        for step in range(STEPS):
            TimestepManager.set_timestep_idx(step)
            for x in xs:
                model(x * (1 + step))

    return run


def inputs_of(model, run):
    """layer -> [(step, input)], by hooks of the test's own."""
    seen = {name: [] for name in LAYERS}
    hooks = [model.get_submodule(name).register_forward_pre_hook(
        lambda module, args, kwargs, name=name: seen[name].append((TimestepManager.get_timestep_idx(), [*args, *kwargs.values()][0])),
        with_kwargs=True) for name in LAYERS]
    with torch.no_grad():
        run(model)
    for hook in hooks:
        hook.remove()
    return {name: [(step, x.float().numpy()) for step, x in pairs] for name, pairs in seen.items()}


def check_files(folder, scheme, model, ranges):
    arrays = load_file(folder / f"quant_model_weight_{scheme.lower()}.safetensors")
    for name in LAYERS:
        layer = model.get_submodule(name)
        bias = layer.bias.detach().numpy() if layer.bias is not None else np.zeros(layer.out_features, np.float32)
        for key, wanted in reference.stored(layer.weight.detach().numpy(), bias, ranges[name]).items():
            got = arrays[f"{name}.{key}"]
            wanted = wanted[0] if scheme == "W8A8" and not key.startswith("weight") else wanted
            assert got.shape == wanted.shape and got.dtype == wanted.dtype and np.array_equal(got, wanted), (name, key)
        assert f"{name}.bias" in arrays or layer.bias is None


def test_static_scales_equal_numpy(tmp_path):
    model, xs = Net(), samples()
    run = lambda m: [m(x) for x in xs]
    calibration = aerogel.calibrate(model, run)
    seen = inputs_of(model, run)
    ranges = {name: [reference.mean_extremes([x for _, x in pairs])] for name, pairs in seen.items()}
    assert calibration.layers == sorted(LAYERS) and calibration.steps == 1 and len(calibration) == 4
    for name in LAYERS:
        assert calibration.ranges(name) == [tuple(map(float, r)) for r in ranges[name]] and calibration.forwards(name) == [3]
    aerogel.export(model, tmp_path, "W8A8", layout="v0", calibration=calibration, progress=False)
    check_files(tmp_path, "W8A8", model, ranges)


def test_scales_of_each_step_equal_numpy(tmp_path):
    """Step t goes by the mean over the forwards of t and of all later steps."""
    model, run = Net(), sampling(samples())
    calibration = aerogel.calibrate(model, run, "W8A8_TIMESTEP")
    seen = inputs_of(model, run)
    ranges = {name: [reference.mean_extremes([x for step, x in pairs if step >= t]) for t in range(STEPS)] for name, pairs in seen.items()}
    assert calibration.steps == STEPS and calibration.forwards(LAYERS[1]) == [3, 3, 3]
    assert len({r for r in calibration.ranges(LAYERS[0])}) == STEPS
    aerogel.export(model, tmp_path, "W8A8_TIMESTEP", calibration=calibration, progress=False)
    check_files(tmp_path, "W8A8_TIMESTEP", model, ranges)
    aerogel.export(model, tmp_path / "static", "W8A8", layout="v0", calibration=calibration, progress=False)
    check_files(tmp_path / "static", "W8A8", model, {name: r[:1] for name, r in ranges.items()})


def test_the_command_takes_the_saved_file_and_writes_the_same_bytes(tmp_path, aerogel_command):
    from safetensors.torch import save_file

    model = Net()
    save_file(model.state_dict(), tmp_path / "m.safetensors")
    aerogel.calibrate(model, sampling(samples()), "W8A8_TIMESTEP").save(tmp_path / "c.safetensors")
    for scheme in ("W8A8", "W8A8_TIMESTEP"):
        aerogel_command("quantize", tmp_path / "m.safetensors", "-o", tmp_path / scheme, "--scheme", scheme, "--include", "blocks.*",
                        "--calibration", tmp_path / "c.safetensors")
        aerogel.export(model, tmp_path / f"py{scheme}", scheme, calibration=tmp_path / "c.safetensors", progress=False)
        native, ours = ({p.name: p for p in (tmp_path / folder).iterdir()} for folder in (scheme, f"py{scheme}"))
        assert native.keys() == ours.keys() and len(ours) == 2
        for name in native:
            if name.endswith(".json"):
                assert json.loads(native[name].read_text()) == json.loads(ours[name].read_text())
                continue
            a, b = load_file(native[name]), load_file(ours[name])
            assert a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and np.array_equal(a[k], b[k]) for k in a)


def test_a_calibrated_model_stays_close_to_the_float_one(tmp_path):
    """And one calibrated on inputs of a tenth of the size, whose ranges clip, does not."""
    xs, errors = [torch.randn(200, 12) for _ in range(2)], []
    for factor in (1, 0.1):
        model = Net()
        model.load_state_dict(torch.load(tmp_path / "model.pt") if factor != 1 else model.state_dict())
        torch.save(model.state_dict(), tmp_path / "model.pt")
        exact = model(xs[1]).detach()
        calibration = aerogel.calibrate(model, lambda: [model(factor * x) for x in xs])
        aerogel.export(model, tmp_path / f"{factor}", "W8A8", calibration=calibration, progress=False)
        assert len(aerogel.quantize(model, tmp_path / f"{factor}").quantized) == 4
        errors.append(aerogel.compare(exact, model(xs[1])).relative_l2)
    assert errors[0] < 0.02 < 0.2 < errors[1]


def test_merged_and_saved_calibrations(tmp_path):
    model, xs = Net(), samples()
    both = aerogel.calibrate(model, lambda: [model(x) for x in xs])
    one, two = (aerogel.calibrate(model, lambda part=part: [model(x) for x in part]) for part in (xs[:1], xs[1:]))
    merged = one.merge(two)
    assert one.forwards(LAYERS[0]) == [1] and merged.forwards(LAYERS[0]) == [3]
    half = aerogel.calibrate(model, lambda: [model(x) for x in xs], include=["*.up"])
    assert half.layers == ["blocks.0.ffn.up", "blocks.1.ffn.up"] and LAYERS[1] not in half
    merged.save(tmp_path / "c.safetensors")
    for got in (merged, aerogel.Calibration.load(tmp_path / "c.safetensors")):
        assert got.layers == both.layers
        for name in LAYERS:
            assert got.ranges(name)[0] == pytest.approx(both.ranges(name)[0], rel=1e-6)
    low, high = both.ranges(LAYERS[0])[0]
    assert f"{low:.5g}" in str(both) and f"{high:.5g}" in str(both) and repr(both) == "Calibration(4 layers, 1 step)"
    with pytest.raises(ValueError, match="of 2 steps cannot be merged with those of 1"):
        both.merge(aerogel.calibrate(model, lambda: model(xs[0]), steps=2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_types_are_measured_exactly(dtype):
    model, xs = Net().to(dtype), samples(dtype)
    run = lambda m: [m(x) for x in xs]
    calibration, seen = aerogel.calibrate(model, run), inputs_of(model, run)
    for name, pairs in seen.items():
        assert calibration.ranges(name) == [tuple(map(float, reference.mean_extremes([x for _, x in pairs])))]


def test_the_model_is_left_as_it_was():
    model = Net()
    before = {k: v.clone() for k, v in model.state_dict().items()}

    def broken(m):
        m(torch.ones(1, 12))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        aerogel.calibrate(model, broken)
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_layers_that_never_ran_are_told(tmp_path):
    model = Net()
    with pytest.warns(RuntimeWarning, match=r"2 of 4 layers never ran \(blocks.1.ffn.up"):
        calibration = aerogel.calibrate(model, lambda: model.blocks[0](torch.randn(3, 12)))
    with pytest.raises(ValueError, match="no input of blocks.1.ffn"):
        aerogel.export(model, tmp_path, "W8A8", calibration=calibration, progress=False)
    assert not list(tmp_path.iterdir())
    report = aerogel.export(model, tmp_path, "W8A8", calibration=calibration, exclude="blocks.1.*", progress=False)
    assert [layer.name for layer in report.layers] == LAYERS[:2]


def test_bad_input_is_refused():
    model, x = Net(), torch.randn(2, 12)

    def step_zero():
        TimestepManager.set_timestep_idx(0)
        model(x)

    for run, arguments, message in [
        (lambda: model(x), dict(scheme="W8A8_DYNAMIC"), "needs no calibration"),
        (lambda: model(x), dict(scheme="W8A9"), "no scheme 'W8A9'"),
        (lambda: model(x), dict(scheme="W8A8_TIMESTEP", steps=3), "needs the sampling step"),
        (step_zero, dict(scheme="W8A8_TIMESTEP"), "number of sampling steps is not known"),
        (lambda: model(x), dict(steps=0), "at least 1"),
        (lambda: None, {}, "never ran any of the 4 layers"),
        (lambda: model(x * float("nan")), {}, "blocks.0.ffn.up is not finite"),
        (lambda: model(x.fill_(float("inf"))), {}, "blocks.0.ffn.up is not finite"),
        (lambda: model(torch.ones(0, 12)), {}, "never ran"),
        ([x], {}, "run must be a function"),
        (lambda: model(x), dict(include="nothing*"), "nothing"),
    ]:
        with pytest.raises(ValueError, match=message):
            aerogel.calibrate(model, run, **arguments)
        TimestepManager.set_timestep_idx(None)
    with pytest.raises(ValueError, match="meta device"):
        meta = Net().to("meta")
        aerogel.calibrate(meta, lambda: meta(torch.ones(1, 12, device="meta")))
