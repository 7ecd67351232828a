"""Values of another kind than a call takes are an error with the name, where int(), float() and bool() would make something of them."""
import aerogel
import numpy as np
import pytest
import torch
from torch import nn

GRID = (8, 16, 16)
SPARSE = dict(sparse_type="rf_v2", sparsity=0.5, latent_shape_q=GRID, block_size=64)
WRONG_SPARSE = [
    ("sparsity", "0.5"), ("sparsity", True), ("sparsity", [0.5]), ("block_size", 64.5), ("block_size", 64.0), ("block_size", "64"), ("block_size", (64, 64)), ("txt_len", 1.5),
    ("txt_len", None), ("latent_shape_q", (8.5, 16, 16)), ("latent_shape_q", 8), ("keep_sink", "no"), ("keep_recent", 2), ("protect_first_frame", "false"),
    ("by_error", "no"), ("centroids", []), ("txt_first", None), ("return_mask", "no"), ("return_report", 3), ("is_causal", "false"), ("cdf_threshold", "a"),
    ("min_recall", "half"), ("block_size_kv", 32.5), ("precision", 8), ("scale", True), ("scale", "1"), ("scale", float("nan"))]


def video(dtype=torch.float32):
    return torch.randn(1, 1, 8 * 16 * 16, 32).to(dtype)


@pytest.mark.parametrize("name,value", WRONG_SPARSE, ids=str)
def test_sparse_attention(name, value):
    x = video()
    with pytest.raises(ValueError, match=rf"^\[sparse_attention\] {name} must be .*, got "):
        aerogel.sparse_attention(x, x, x, **{**SPARSE, name: value})


def test_starts_of_videos():
    x = video()
    with pytest.raises(ValueError, match=r"start of video_spans must be a whole number, got 0.5"):
        aerogel.sparse_attention(x, x, x, sparse_type="rf_v2", sparsity=0.5, video_spans=[{"start": 0.5, "latent_shape": GRID}])


def test_numbers_of_numpy_and_torch_mean_what_they_say():
    x = video()
    wanted = aerogel.sparse_attention(x, x, x, **SPARSE, scale=0.25, centroids=True)
    of_numpy = dict(sparsity=np.float32(0.5), latent_shape_q=np.array(GRID), block_size=np.int64(64), scale=np.float32(0.25), centroids=np.bool_(True))
    of_torch = dict(sparsity=torch.tensor(0.5), latent_shape_q=torch.tensor(GRID), block_size=torch.tensor(64), scale=torch.tensor(0.25), centroids=1)
    for given in (of_numpy, of_torch):
        assert torch.equal(wanted, aerogel.sparse_attention(x, x, x, **{**SPARSE, **given}))


WRONG_ATTENTION = [("is_causal", "no"), ("return_lse", "no"), ("scale", True)]
WRONG_QUANTIZED = [("is_causal", "no"), ("smooth_k", "no"), ("block_tokens", 16), ("block_tokens", (16,)), ("block_tokens", (1, 2, 3, 4)),
                   ("block_tokens", (16.5, 16)), ("v_channels", 1.5), ("v_channels", "8"), ("rotation", [[1.0]]), ("scales", [1]), ("scales", {})]


@pytest.mark.parametrize("name,value", WRONG_ATTENTION, ids=str)
def test_attention(name, value):
    x = torch.randn(1, 1, 20, 32)
    with pytest.raises(ValueError, match=rf"^\[attention\] {name} must be .*, got "):
        aerogel.attention(x, x, x, **{name: value})


@pytest.mark.parametrize("name,value", WRONG_QUANTIZED, ids=str)
def test_quantized_attention(name, value):
    x = torch.randn(1, 1, 20, 32)
    with pytest.raises(ValueError, match=rf"^\[quantized_attention\] {name} must "):
        aerogel.quantized_attention(x, x, x, "int8" if name == "scales" else "fp8", **{name: value})


@pytest.mark.parametrize("lengths", [["20"], [9.5, 10.5], "20", 20], ids=str)
def test_lengths_of_sequences(lengths):
    x = torch.randn(20, 1, 32)
    with pytest.raises(ValueError, match=r"^\[quantized_attention\] seq_len must be "):
        aerogel.quantized_attention(x, x, x, seq_len=lengths)


@pytest.mark.parametrize("call", [aerogel.attention, aerogel.quantized_attention, aerogel.sparse_attention])
def test_things_that_are_no_arrays(call):
    with pytest.raises(ValueError, match=rf"\[{call.__name__}\] q must be a NumPy array or a torch tensor, got list"):
        call([[1.0]], [[1.0]], [[1.0]])


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.ModuleDict({"a": nn.Linear(64, 64), "b": nn.Linear(64, 64)}) for _ in range(2))

    def forward(self, x):
        for block in self.blocks:
            x = block["b"](block["a"](x))
        return x


GROUPS = [-1, 2.7, "32", True]


@pytest.mark.parametrize("size", GROUPS, ids=str)
def test_group_sizes(size, tmp_path):
    for call in (lambda: aerogel.AerogelConfig("W4A16", group_size=size), lambda: aerogel.OnlineQuantConfig("W4A16", group_size=size),
                 lambda: aerogel.export(Model(), tmp_path, "W4A16", group_size=size, progress=False),
                 lambda: aerogel.QuantizedLinear.from_linear(nn.Linear(64, 64), "W4A16", group_size=size)):
        with pytest.raises(ValueError, match="group_size must be a whole number of at least 0, got "):
            call()


WRONG_CONFIG = [("scheme", None), ("scheme", 3), ("include", 3), ("include", [3]), ("exclude", None), ("fallback_layers", "W8A16"), ("fallback_layers", [("a", "b")]),
                ("layers", {}), ("layers", ["a"])]


@pytest.mark.parametrize("name,value", WRONG_CONFIG, ids=str)
def test_configurations(name, value):
    pytest.importorskip("diffusers")
    with pytest.raises(ValueError, match=rf"^\[quantize\] {name} must "):
        aerogel.AerogelConfig(**{name: value})


def test_fallback_schemes():
    with pytest.raises(ValueError, match=r"fallback_layers\['a'\] must be a word, got None"):
        aerogel.OnlineQuantConfig(fallback_layers={"a": None})
    with pytest.raises(ValueError, match=r"a pattern of fallback_layers must be a word, got 3"):
        aerogel.OnlineQuantConfig(fallback_layers={3: "W8A16"})


WRONG_EXPORT = [("scheme", None), ("algorithm", None), ("asymmetric", "no"), ("packed", 2), ("low_rank", 2.5), ("rank", -2), ("rank", "0"), ("include", 3), ("exclude", None)]


@pytest.mark.parametrize("name,value", WRONG_EXPORT, ids=str)
def test_export(name, value, tmp_path):
    with pytest.raises(ValueError, match=rf"\] {name} must be .*, got "):
        aerogel.export(Model(), tmp_path, **{"progress": False, name: value})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("steps", [0, -1, 2.5, "3"], ids=str)
def test_steps_of_a_calibration(steps):
    model = Model()
    with pytest.raises(ValueError, match=r"\[calibrate\] steps must be a whole number of at least 1, got "):
        aerogel.calibrate(model, lambda: model(torch.randn(2, 64)), steps=steps)


def test_arrays_of_a_layer():
    layer = aerogel.QuantizedLinear.from_linear(nn.Linear(64, 64))
    with pytest.raises(ValueError, match="no layer has scale; arrays may be: weight, "):
        aerogel.QuantizedLinear.from_arrays("W8A8_DYNAMIC", 64, {**layer.state_dict(), "scale": torch.ones(64)})
    with pytest.raises(ValueError, match="linear must be a module with a weight, got NoneType"):
        aerogel.QuantizedLinear.from_linear(None)


def test_plans_of_sparse_attention():
    pytest.importorskip("diffusers")
    for options in (dict(start_step=1.5), dict(end_step="3"), dict(mask_refresh_steps=True)):
        with pytest.raises(ValueError, match=rf"\[sparse_attention\] {next(iter(options))} must be a whole number"):
            aerogel.enable_sparse_attention(Model(), **options)


@pytest.mark.parametrize("sparse_type,name,value,types", [
    ("rf_v2", "min_recall", 0.5, "rf_v1"), ("rf_v3", "by_error", True, "rf_v1"), ("ada_bsa", "protect_first_frame", False, "rf_v1, rf_v2 and rf_v3")])
def test_settings_of_other_types(sparse_type, name, value, types):
    """None of them would change anything: they are mistakes. Those of MindIE SD's signature pass, its callers give them with every type."""
    pytest.importorskip("diffusers")
    x = video()
    options = {**SPARSE, "sparse_type": sparse_type}
    with pytest.raises(ValueError, match=rf"\[sparse_attention\] {name} goes with {types}, got {sparse_type}$"):
        aerogel.sparse_attention(x, x, x, **options, **{name: value})
    with pytest.raises(ValueError, match=rf"{name} goes with {types}"):
        aerogel.enable_sparse_attention(Model(), sparse_type=sparse_type, **{name: value})
    assert torch.equal(aerogel.sparse_attention(x, x, x, **options), aerogel.sparse_attention(x, x, x, **options, **{name: type(value)(name == "protect_first_frame")}))


def test_the_signature_of_mindie_sd_goes_with_every_type():
    x = video()
    wanted = aerogel.sparse_attention(x, x, x, **SPARSE)
    assert torch.equal(wanted, aerogel.sparse_attention(x, x, x, **SPARSE, keep_sink=False, keep_recent=False, cdf_threshold=0.5))


@pytest.mark.parametrize("options", [dict(sparsity=2.0), dict(block_size=8), dict(precision="fp8"), dict(sparse_type="rf_v9"), dict(cdf_threshold=float("nan"), sparse_type="ada_bsa")], ids=str)
def test_plans_are_checked_before_a_model_runs(options):
    pytest.importorskip("diffusers")
    with pytest.raises(ValueError, match=r"\[sparse_attention\] (sparsity|block_size|precision|sparse_type|cdf_threshold) "):
        aerogel.enable_sparse_attention(Model(), **options)
