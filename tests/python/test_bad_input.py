"""What calls on arrays do with wrong types, gaps, other devices and nothing at all: an error that names both sides, or the right answer."""
import types

import aerogel
import numpy as np
import pytest
import torch
from torch import nn

SPARSE = dict(sparse_type="rf_v2", latent_shape_q=(2, 8, 8), sparsity=0.5)


def layer(scheme="W8A8_DYNAMIC"):
    return aerogel.QuantizedLinear.from_linear(nn.Linear(12, 7), scheme)


def attention_calls():
    return {"attention": lambda x: aerogel.attention(x, x, x), "sparse_attention": lambda x: aerogel.sparse_attention(x, x, x, **SPARSE)}


WRONG_TYPES = [torch.float64, torch.int64, torch.int8, torch.bool, torch.complex64, torch.float8_e4m3fn]


@pytest.mark.parametrize("dtype", WRONG_TYPES)
def test_wrong_types_of_tensors(dtype):
    with pytest.raises(ValueError, match=rf"\[linear\] x must be float32, bfloat16 or float16, got {dtype}"):
        layer()(torch.zeros(3, 12).to(dtype))
    for op, call in attention_calls().items():
        with pytest.raises(ValueError, match=rf"\[{op}\] q must be float32, bfloat16 or float16, got {dtype}"):
            call(torch.zeros(1, 1, 128, 32).to(dtype))


@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.complex64, object, "U3"])
def test_wrong_types_of_arrays(dtype):
    for op, call in attention_calls().items():
        with pytest.raises(ValueError, match=rf"\[{op}\] q must be float32 or float16"):
            call(np.zeros((1, 1, 128, 32), dtype))


@pytest.mark.parametrize("wrong", [None, "tensor", [[1.0, 2.0]], 3])
def test_things_that_are_no_arrays(wrong):
    for _, call in attention_calls().items():
        with pytest.raises((ValueError, AttributeError, TypeError)):
            call(wrong)
    with pytest.raises(ValueError, match=rf"\[linear\] x must be a torch tensor, got {type(wrong).__name__}"):
        layer()(wrong)


def test_other_devices_are_refused_with_their_name():
    """Every device but the CPU and NVIDIA's GPUs takes the same way; meta is the one that exists everywhere."""
    with pytest.raises(NotImplementedError, match=r"\[attention\] q must be on the CPU or on an NVIDIA GPU, got meta"):
        aerogel.attention(*(torch.zeros(1, 1, 4, 32, device="meta"),) * 3)
    with pytest.raises(NotImplementedError, match=r"\[linear\] x must be on the CPU, got meta"):
        layer()(torch.zeros(3, 12, device="meta"))
    with pytest.raises(NotImplementedError, match="run on the CPU or on an NVIDIA GPU, not on meta"):
        layer().to("meta")
    with pytest.raises(NotImplementedError, match="not on meta"):
        nn.ModuleList([layer()]).to("meta")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["weight", "bias"])
@pytest.mark.parametrize("scheme", ["W8A16", "W8A8_DYNAMIC", "W4A4_MXFP4", "W8A16_FP8", "W4A4_MXFP4_SVD"])
def test_a_model_that_is_not_finite_is_not_quantized(scheme, name, value):
    model = nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 64))
    with torch.no_grad():
        getattr(model[1], name).view(-1)[5] = value
    with pytest.raises(ValueError, match=rf"1: .*'{name}' f32.* is not finite: element \[(0,)?5\] is {value}"):
        aerogel.quantize(model, scheme=scheme, include="*")


def test_a_meta_model_is_not_quantized():
    model = nn.ModuleList([nn.Linear(8, 8, device="meta")])
    with pytest.raises(NotImplementedError, match="the weight must be on the CPU or on an NVIDIA GPU, got meta"):
        aerogel.quantize(model, scheme="W8A16", include="*")
    assert type(model[0]) is nn.Linear


def test_sparse_layouts_of_torch_are_refused():
    with pytest.raises(ValueError, match=r"\[linear\] x must be dense, got torch.sparse_coo"):
        layer()(torch.ones(3, 12).to_sparse())


@pytest.mark.parametrize("scheme", [name for name, _, needs_data in aerogel.schemes() if not needs_data])
def test_empty_batches(scheme):
    for shape in ((0, 64), (2, 0, 64), (0, 3, 64)):
        y = aerogel.QuantizedLinear.from_linear(nn.Linear(64, 7), scheme)(torch.zeros(shape))
        assert y.shape == (*shape[:-1], 7)


def test_empty_attention_is_an_answer_or_a_clear_error():
    for shape in ((0, 2, 5, 32), (1, 0, 5, 32), (1, 2, 0, 32)):
        x = torch.zeros(shape)
        try:
            assert aerogel.attention(x, x, x).shape == shape
        except ValueError as error:
            assert str(error).startswith("[attention]")


def strided(shape, seed):
    """The same values four times: contiguous, and with gaps, transposed and reversed in memory."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    gaps = torch.full((*shape[:-1], 2 * shape[-1]), float("nan"))
    gaps[..., ::2] = x
    transposed = x.transpose(-1, -2).contiguous().transpose(-1, -2)
    return [x, gaps[..., ::2], transposed, torch.from_numpy(x.numpy()[..., ::-1].copy()).flip(-1)]


def test_gaps_and_transposes_give_the_same_bits():
    module = layer()
    answers = [module(x) for x in strided((5, 12), 1)]
    assert all(torch.equal(a, answers[0]) for a in answers)
    queries = strided((2, 3, 9, 32), 2)
    answers = [aerogel.attention(x, x, x) for x in queries]
    assert all(torch.equal(a, answers[0]) for a in answers)
    negative = [x.numpy()[:, :, ::-1] for x in queries]
    answers = [aerogel.attention(x, x, x) for x in negative]
    assert all(np.array_equal(a, answers[0]) for a in answers)
    np.testing.assert_allclose(answers[0], aerogel.attention(*(queries[0],) * 3).numpy()[:, :, ::-1], rtol=1e-5, atol=1e-6)


def test_read_only_arrays_are_only_read():
    x = np.random.default_rng(0).normal(size=(1, 1, 4, 32)).astype(np.float32)
    wanted = aerogel.attention(x, x, x)
    x.setflags(write=False)
    assert np.array_equal(aerogel.attention(x, x, x), wanted)


def test_extreme_values_stay_where_they_are():
    """A NaN in one row reaches this row only, and large values are no infinities."""
    module = layer()
    x = torch.randn(4, 12)
    wanted = module(x)
    x[1, 3], x[2, 0] = float("nan"), 1e30
    y = module(x)
    assert torch.equal(y[[0, 3]], wanted[[0, 3]]) and torch.isfinite(y[2]).all()


def test_a_model_that_is_none_is_refused():
    for wrong in (None, 3, types.SimpleNamespace()):
        with pytest.raises((TypeError, AttributeError, ValueError)):
            aerogel.quantize(wrong, scheme="W8A16")
        with pytest.raises((TypeError, AttributeError, ValueError)):
            aerogel.export(wrong, "nowhere", progress=False)
        with pytest.raises((TypeError, AttributeError, ValueError)):
            aerogel.calibrate(wrong, lambda: None)
