"""Attention on CUDA tensors: the numbers of the CPU, in torch's memory and on its stream."""
import aerogel
import pytest
import torch
from aerogel.attention.layers import dense
from aerogel.attention.module import QuantizedAttention
from aerogel.attention.problem import Problem
from torch.nn.functional import scaled_dot_product_attention

BOUNDS = {torch.float32: 5e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
INT8 = 2e-2  # softmax weights have seven bits on CPUs with AVX2


def qkv(tokens=37, kv_heads=4, dtype=torch.float32, head_dim=64, heads=4):
    return tuple(torch.randn(1, n, tokens, head_dim).to(dtype) for n in (heads, kv_heads, kv_heads))


def there(*tensors):
    return tuple(t.to("cuda") for t in tensors)


def close(got, want, bound):
    assert got.is_cuda and got.dtype == want.dtype and got.shape == want.shape
    error = (got.cpu().double() - want.double()).norm() / want.double().norm()
    assert error <= bound, float(error)


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_dense_attention(dtype):
    q, k, v = qkv(dtype=dtype, kv_heads=2)
    close(aerogel.attention(*there(q, k, v)), aerogel.attention(q, k, v), BOUNDS[dtype])
    turned = [t.transpose(1, 2) for t in there(q, k, v)]
    close(aerogel.attention(*turned, input_layout="BSND", is_causal=True), aerogel.attention(q, k, v, is_causal=True).transpose(1, 2), BOUNDS[dtype])
    close(aerogel.attention(*(t[0] for t in turned), input_layout="TND"), aerogel.attention(q, k, v)[0].transpose(0, 1), BOUNDS[dtype])


def test_lse_and_masks():
    q, k, v = qkv(100)
    o, lse = aerogel.attention(*there(q, k, v), return_lse=True)
    want, want_lse = aerogel.attention(q, k, v, return_lse=True)
    close(o, want, 5e-5), close(lse, want_lse, 5e-5)
    mask = torch.rand(1, 4, 4, 4) < 0.6
    for given in (mask, mask.to("cuda")):
        close(aerogel.attention(*there(q, k, v), mask=given, block_size=32), aerogel.attention(q, k, v, mask=mask, block_size=32), 5e-5)


@pytest.mark.parametrize("format", ["int8", "int8_qk", "fp8", "mix", "mxfp8", "mxfp4"])
def test_formats(format):
    for dtype in BOUNDS:
        q, k, v = qkv(70, dtype=dtype)
        bound = max(BOUNDS[dtype], INT8 if format == "int8" else 1e-3)
        close(aerogel.quantized_attention(*there(q, k, v), format), aerogel.quantized_attention(q, k, v, format), bound)
    q, k, v = qkv(70)
    rotation = torch.linalg.qr(torch.randn(64, 64))[0]
    want = aerogel.quantized_attention(q, k, v, format, rotation=rotation)
    got = aerogel.quantized_attention(*there(q, k, v), format, rotation=rotation.to("cuda"))
    close(got, want, 2e-2)  # a float apart may round otherwise
    with torch.autocast("cuda", torch.bfloat16):
        assert torch.equal(aerogel.quantized_attention(*there(q, k, v), format, rotation=rotation.to("cuda")).cpu(), got.cpu())
    with pytest.raises(ValueError, match=r"q_rotation must be \[64, 64\] on cuda:0, got \[64, 64\] on cpu"):
        aerogel.quantized_attention(*there(q, k, v), format, rotation=rotation)


def test_packed_sequences_and_the_module():
    q, k, v = (t[0].transpose(0, 1).contiguous() for t in qkv(30))
    want = aerogel.quantized_attention(q, k, v, "int8", input_layout="BSND", seq_len=[12, 0, 18])
    close(aerogel.quantized_attention(*there(q, k, v), "int8", input_layout="BSND", seq_len=[12, 0, 18]), want, INT8)
    module = QuantizedAttention("fp8", q_rot=torch.eye(64), k_rot=torch.eye(64))
    q, k, v = qkv(30)
    close(module.to("cuda")(*there(q, k, v)), module.to("cpu")(q, k, v), 1e-3)


def test_masks_of_keys():
    q, k, v = qkv(70)
    seen = torch.rand(1, 70) < 0.7
    seen[:, -20:] = False
    want = aerogel.attention(q, k[:, :, seen[0]], v[:, :, seen[0]])
    close(aerogel.attention(*there(q, k, v), key_mask=seen.to("cuda")), want, 5e-5)
    for format, bound in (("int8", 2e-2), ("int8_qk", 2e-2), ("mix", 1e-1)):
        close(aerogel.quantized_attention(*there(q, k, v), format, key_mask=seen.to("cuda")), want, bound)
        close(dense(Problem(*there(q, k, v), "BNSD", seen[:, None, None].to("cuda")), format), want, bound)
    rows = seen[:, None, None].expand(1, 1, 70, 70)  # to be looked into: torch's
    close(dense(Problem(*there(q, k, v), "BNSD", rows.to("cuda")), "int8"), want, 1e-5)
    with pytest.raises(NotImplementedError, match="a mask of keys is for CUDA"):
        aerogel.attention(q, k, v, key_mask=seen)
    with pytest.raises(ValueError, match=r"key_mask must be contiguous bool, u8 or i8 \[1,70\] on cuda:0"):
        aerogel.attention(*there(q, k, v), key_mask=seen[:, :60].to("cuda"))


def test_calibrated_scales():
    q, k, v = qkv(70)
    scales = {name: torch.tensor([0.02, 0.03, 0.025, 0.04]) for name in ("q_scale", "k_scale", "v_scale")}
    close(aerogel.quantized_attention(*there(q, k, v), "int8", scales=scales), aerogel.quantized_attention(q, k, v, "int8", scales=scales), INT8)
    scales |= {"q_offset": torch.tensor([3.0, -5.0, 0.0, 7.0]), "k_offset": torch.full((4,), -2.0), "v_offset": torch.tensor([1.0, 20.0, -30.0, 0.0])}
    close(aerogel.quantized_attention(*there(q, k, v), "int8", scales=scales), aerogel.quantized_attention(q, k, v, "int8", scales=scales), INT8)


def test_gradients():
    q, k, v = qkv(20)
    here, gone = [t.clone().requires_grad_() for t in (q, k, v)], [t.requires_grad_() for t in there(q, k, v)]
    mask = torch.ones(1, 4, 1, 1, dtype=torch.bool)
    aerogel.attention(*gone, mask=mask, is_causal=True).square().sum().backward()
    aerogel.attention(*here, mask=mask, is_causal=True).square().sum().backward()
    for a, b in zip(gone, here):
        close(a.grad, b.grad, 1e-4)


def test_calls_do_not_wait_and_take_the_stream_of_torch(cuda, tmp_path, monkeypatch):
    launches, stream = tmp_path / "launches", cuda.Stream.new()
    q, k, v = qkv()
    arrays = there(q, k, v)
    torch.cuda.synchronize()
    monkeypatch.setenv("AEROGEL_FAKE_REPORT", str(launches))
    with torch.cuda.stream(stream):
        for call in (aerogel.attention, aerogel.quantized_attention):
            o = call(*arrays)
            cuda.Stream(0).synchronize()
            assert not launches.exists()
            stream.synchronize()
            assert launches.read_text().count("\n") >= 1
            close(o, call(q, k, v), INT8)
            launches.unlink()


def test_graphs(new_graph):
    q, k, v = there(*qkv())
    for call in (lambda: aerogel.attention(q, k, v, is_causal=True), lambda: aerogel.quantized_attention(q, k, v),
                 lambda: aerogel.quantized_attention(q, k, v, "fp8")):
        graph = new_graph()
        call()
        with graph.capture():
            o = call()
        q.copy_(torch.randn(q.shape))
        torch.cuda.synchronize()
        graph.replay()
        assert torch.equal(o.cpu(), call().cpu())


def test_tensors_of_two_devices_are_refused():
    q, k, v = qkv()
    with pytest.raises(ValueError, match="k must be on cuda:0 as q"):
        aerogel.attention(q.to("cuda"), k, v)
    with pytest.raises(ValueError, match="k must be on the CPU as q"):
        aerogel.attention(q, k.to("cuda"), v.to("cuda"))


def test_another_gpu(second):
    q, k, v = qkv()
    with pytest.raises(ValueError, match="k must be on cuda:0 as q"):
        aerogel.attention(q.to("cuda"), k.to(second), v.to(second))
    close(aerogel.attention(*(t.to(second) for t in (q, k, v))), scaled_dot_product_attention(q, k, v), 5e-5)
