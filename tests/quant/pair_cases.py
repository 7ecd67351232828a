"""Handmade quantized pairs in both exporters' forms, and what their layers compute, in NumPy."""
import numpy as np
import torch
from format_reference import stored_deq_scale, write_pair

F32 = np.float32


def weights(n=24, k=40, seed=0):
    """int8 weights with every value from -128 on, scales that are powers of two (so float products are exact), and a bias."""
    rng = np.random.default_rng(seed)
    q = rng.integers(-128, 128, (n, k)).astype(np.int8)
    q[0, :8] = -128
    scale = F32(2.0) ** rng.integers(-9, -4, (n, 1)).astype(F32)
    bias = rng.integers(-64, 64, n).astype(F32) / 16
    return q, scale, bias


def activations(m=7, k=40, seed=1):
    return np.random.default_rng(seed).standard_normal((m, k)).astype(F32) * 3


def quantize_rows(x):
    """Per token: (int8 values as int64, scale [m,1])."""
    scale = np.abs(x).max(axis=1, keepdims=True) / F32(127)
    scale[scale == 0] = 1
    return np.rint(x / scale).astype(np.int64), scale


def run_dynamic(x, q, scale, bias=None, mul_scale=None):
    x = x if mul_scale is None else x * mul_scale
    xq, s = quantize_rows(x)
    y = (xq @ q.T.astype(np.int64)).astype(F32) * s * scale.T
    return y if bias is None else y + bias


def run_static(x, q, step, mul_scale=None):
    x = x if mul_scale is None else x * mul_scale
    xq = np.clip(np.rint(x / F32(step["input_scale"]) + F32(step["input_offset"])), -128, 127).astype(np.int64)
    return (xq @ q.T.astype(np.int64) + step["quant_bias"]).astype(F32) * step["deq_scale"]


def run_weight_only(x, q, scale, *, offset=0, bias=None, mul_scale=None):
    """In float64: the caller needs a bound."""
    groups = scale.shape[1]
    spread = lambda a: np.repeat(np.broadcast_to(a, scale.shape), q.shape[1] // groups, axis=1).astype(np.float64)
    w = (q.astype(np.float64) - spread(offset)) * spread(scale)
    y = (x.astype(np.float64) * (1 if mul_scale is None else mul_scale)) @ w.T
    return y if bias is None else y + bias


def static_steps(q, scale, bias, steps, seed=2):
    """Static scales of each step as the formats define them, from dyadic input scales."""
    rng = np.random.default_rng(seed)
    result = []
    for _ in range(steps):
        input_scale = F32(2.0) ** F32(rng.integers(-6, -3))
        offset = F32(rng.integers(-100, 100))
        deq = (input_scale * scale[:, 0]).astype(F32)
        start = bias / deq if bias is not None else np.zeros(len(q), F32)
        quant_bias = np.rint(start - offset * q.astype(F32).sum(axis=1)).astype(np.int32)
        result.append({"input_scale": input_scale, "input_offset": offset, "quant_bias": quant_bias, "deq_scale": deq})
    return result


def tensor(array, dtype=torch.float32):
    return torch.from_numpy(np.ascontiguousarray(array)).to(dtype)


def weight_tensors(layer, q, scale, bias, dtype):
    tensors = {f"{layer}.weight": tensor(q, torch.int8), f"{layer}.weight_scale": tensor(scale, dtype),
               f"{layer}.weight_offset": torch.zeros(scale.shape, dtype=dtype)}
    if bias is not None:
        tensors[f"{layer}.bias"] = tensor(bias, dtype)
    return tensors


def static_tensors(layer, steps, per_step, dtype, form):
    """V0 writes scalars in the model's dtype and deq_scale as int64 bits unless that is bfloat16; V1 writes float32."""
    stack = lambda key: np.stack([np.asarray(s[key]).reshape(-1) for s in steps])
    shape = (lambda a: a) if per_step else (lambda a: a[0])
    dtype = torch.float32 if form == "V1" else dtype
    deq = tensor(shape(stack("deq_scale")))
    return {f"{layer}.input_scale": tensor(shape(stack("input_scale")), dtype),
            f"{layer}.input_offset": tensor(shape(stack("input_offset")), dtype),
            f"{layer}.quant_bias": tensor(shape(stack("quant_bias")), torch.int32),
            f"{layer}.deq_scale": deq if form == "V1" else stored_deq_scale(deq, dtype)}


def make_pair(folder, scheme, form="V0", dtype=torch.float32, **parts):
    """One layer "net.fc" of the scheme: parts q, scale, bias, steps, mul_scale, edit(tensors). Returns the description."""
    smoothed = parts.get("mul_scale") is not None
    layer = "net.fc.linear" if smoothed else "net.fc"
    dtype = torch.float32 if form == "V1" else dtype
    tensors = weight_tensors(layer, parts["q"], parts["scale"], parts.get("bias"), dtype)
    if parts.get("steps"):
        tensors |= static_tensors(layer, parts["steps"], scheme == "W8A8_TIMESTEP", dtype, form)
        if form == "V1":
            del tensors[f"{layer}.weight_scale"], tensors[f"{layer}.weight_offset"]
    if smoothed:
        tensors["net.fc.div.mul_scale"] = tensor(parts["mul_scale"], dtype)
    tensors["norm.weight"] = torch.ones(4)
    floats = ("bias", "mul_scale", "norm.weight")
    types = {k: "FLOAT" if k.endswith(floats) else scheme for k in tensors}
    if "edit" in parts:
        parts["edit"](tensors, types)
    return write_pair(folder, scheme, tensors, types)
