"""Files of the four- and eight-bit schemes and what their layers compute, in NumPy and ml_dtypes, from the format's formulas alone."""
import ml_dtypes
import numpy as np
import torch

F32 = np.float32
E4M3, E5M2, E2M1 = ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.float4_e2m1fn
TORCH = {E4M3: torch.float8_e4m3fn, E5M2: torch.float8_e5m2}
# scheme: (weight format, activation kind)
SCHEMES = {
    "W4A16": ("int4", None), "W8A16_FP8": (E4M3, None), "W8A16_FP8_E5M2": (E5M2, None), "W8A16_MXFP8": ("mxfp8", None),
    "W4A16_MXFP4": ("mxfp4", None), "W4A8": ("int4", 127), "W4A4_DYNAMIC": ("int4", 7), "WFP8AFP8_DYNAMIC": (E4M3, "fp8"),
    "W8A8_MXFP8": ("mxfp8", "mxfp8"), "W4A8_MXFP": ("mxfp4", "mxfp8"), "W4A4_MXFP4": ("mxfp4", "mxfp4"),
    "W4A4_MXFP4_DUALSCALE": ("dual", "dual"),
}
GROUPED = ("W4A16", "W8A16_FP8", "W8A16_FP8_E5M2", "W4A8", "W4A4_DYNAMIC", "WFP8AFP8_DYNAMIC")


def blocks(w, width):
    """[rows, blocks, width], zeros behind the last column."""
    return np.pad(w, ((0, 0), (0, -w.shape[1] % width))).reshape(w.shape[0], -1, width)


def flat(b, columns):
    return b.reshape(b.shape[0], -1)[:, :columns]


def pairs(codes):
    """Two neighbouring columns per byte, the even one low."""
    return codes[:, 0::2] & 15 | (codes[:, 1::2] & 15) << 4


# --- weights as the exporters write them -----------------------------------------------------------------


def integers(w, bits, group=0, symmetric=True):
    """Codes int8 [n,k], scale and offset [n,groups]; rows in the model's type, groups in float32."""
    v = (w.float() if group else w).reshape(len(w), -1, group or w.shape[1])
    top = 2 ** (bits - 1) - 1
    if symmetric:
        scale = (v.abs().amax(2, keepdim=True) / top).clamp(min=2.0**-23)
        offset = torch.zeros_like(scale)
    else:
        low, high = v.amin(2, keepdim=True).clamp(max=0), v.amax(2, keepdim=True).clamp(min=0)
        scale = (high / (2 * top + 1) - low / (2 * top + 1)).clamp(min=2.0**-23)
        offset = torch.round(-low / scale) - top - 1
    q = torch.clamp(torch.round(v / scale + offset), -top if symmetric and bits == 8 else -top - 1, top)
    return q.reshape(w.shape).to(torch.int8), scale[..., 0], offset[..., 0]


def fp8_weight(w, kind, group=0):
    b = blocks(w, group or w.shape[1])
    largest = F32(ml_dtypes.finfo(kind).max)
    scale = np.maximum(np.abs(b).max(-1, keepdims=True) / largest, np.finfo(F32).tiny)
    return flat(np.clip(b / scale, -largest, largest), w.shape[1]).astype(kind), scale[..., 0]


def mxfp8_weight(w):
    """Elements to nearest, ties away from zero."""
    b = blocks(w, 32)
    amax = np.abs(b).max(-1, keepdims=True)
    e = np.maximum(np.floor(np.log2(np.where(amax == 0, F32(2.0**-126), amax))) - 8, -127).astype(int)
    v = np.abs(np.ldexp(b, -e))
    step = np.exp2(np.maximum(np.floor(np.log2(v + (v == 0))), -6) - 3).astype(F32)
    q = np.sign(b) * np.minimum(np.floor(v / step + F32(0.5)) * step, 448)
    return flat(q, w.shape[1]).astype(E4M3), (e[..., 0] + 127).astype(np.uint8)


def mxfp4_weight(w):
    b = blocks(w, 32)
    amax = np.abs(b).max(-1, keepdims=True)
    e = np.clip(np.floor(np.log2(amax * F32(8) / F32(7) + F32(9.6e-7))) - 2, -129, 125).astype(int)
    v = np.ldexp(np.abs(b), -e)
    pe = np.exp2(np.clip(np.floor(np.log2(v + F32(9.6e-7))), 0, 2)).astype(F32)
    q = np.sign(b) * np.minimum(np.floor(v / pe * F32(2) + F32(0.5)) / F32(2) * pe, F32(6))
    return flat(q, w.shape[1]).astype(E2M1).view(np.uint8), (e[..., 0] + 127).astype(np.uint8)


def dual_weight(w):
    b = blocks(w, 512)
    dual = np.abs(b).max(-1, keepdims=True) / F32(6)
    dual = np.where(dual < np.finfo(F32).tiny, F32(1), dual)
    return *mxfp4_weight(flat(b / dual, w.shape[1])), dual


def as_torch(array):
    kind = TORCH.get(array.dtype.type)
    array = np.ascontiguousarray(array)
    return torch.from_numpy(array) if kind is None else torch.from_numpy(array.view(np.uint8)).view(kind)


def layer_tensors(name, weight, bias, scheme, *, group=0, symmetric=True, packed=False, layout="v1"):
    """The tensors one layer stores (torch weight [n,k] of the model's type), the bias last."""
    form = SCHEMES[scheme][0]
    w = weight.float().numpy()
    wide = scheme != "W4A16" or layout == "v1"
    t = {}
    if form == "int4":
        q, scale, offset = integers(weight, 4, group, symmetric)
        if packed:
            q = as_torch(pairs(q.numpy()) if not group else pairs(q.numpy().T).T)
        dtype = torch.float32 if wide or group else weight.dtype
        t = {"weight": q, "weight_scale": scale.to(dtype), "weight_offset": offset.to(dtype)}
    elif form == "mxfp8":
        t["weight"], t["weight_scale"] = map(as_torch, mxfp8_weight(w))
    elif form == "mxfp4":
        codes, scale = mxfp4_weight(w)
        t = {"weight": as_torch(pairs(codes)), "weight_scale": as_torch(scale)}
    elif form == "dual":
        codes, scale, dual = dual_weight(w)
        t = {"weight": as_torch(pairs(codes)), "weight_scale": as_torch(scale), "weight_dual_scale": as_torch(dual)}
    else:
        t["weight"], t["weight_scale"] = map(as_torch, fp8_weight(w, form, group))
        if scheme == "WFP8AFP8_DYNAMIC":
            t["weight_offset"] = torch.zeros_like(t["weight_scale"])
    if bias is not None:
        t["bias"] = bias.float() if wide else bias
    return {f"{name}.{key}": value for key, value in t.items()}


# --- what a file stands for, and what its layer computes ---------------------------------------------------


def unpaired(bytes_):
    out = np.empty((bytes_.shape[0], 2 * bytes_.shape[1]), np.uint8)
    out[:, 0::2], out[:, 1::2] = bytes_ & 15, bytes_.view(np.uint8) >> 4
    return out


def codes_of(t, form):
    """The stored numbers as float32 [n,k]; int4 one per byte."""
    if form == "int4":
        return t["weight"].numpy().astype(F32)
    if form in ("mxfp4", "dual"):
        return unpaired(t["weight"].numpy().view(np.uint8)).view(E2M1).astype(F32)
    return t["weight"].float().numpy()


def decode(t, form):
    """float32 [n,k], rounded once per product."""
    codes = codes_of(t, form)
    k = codes.shape[1]
    spread = lambda a, width: np.repeat(a.reshape(len(codes), -1), width, axis=1)[:, :k]
    if form in ("mxfp8", "mxfp4", "dual"):
        w = codes * np.ldexp(F32(1), spread(t["weight_scale"].numpy(), 32).astype(int) - 127)
        return w * spread(t["weight_dual_scale"].numpy(), 512) if form == "dual" else w
    scale = t["weight_scale"].float().numpy()
    offset = t["weight_offset"].float().numpy() if "weight_offset" in t else np.zeros_like(scale)
    width = k // scale.shape[1]
    return (codes - spread(offset, width)) * spread(scale, width)


def mx(x, kind, emax):
    """Blocks of 32: 2^(floor(log2 max) - emax), elements to nearest even."""
    b = blocks(x, 32)
    amax = np.abs(b).max(-1, keepdims=True)
    e = np.where(amax > 0, np.frexp(amax)[1] - 1 - emax, -127).clip(-127)
    top = F32(ml_dtypes.finfo(kind).max)
    q = np.clip(np.ldexp(b, -e), -top, top).astype(kind).astype(F32)
    return flat(np.ldexp(q, e), x.shape[1])


def dual(x, dtype):
    b = blocks(x, 512)
    d = np.abs(b).max(-1, keepdims=True) / F32(6)
    d = np.where(d < np.finfo(F32).tiny, F32(1), d)
    t = torch.from_numpy(b / d).to(dtype).float().numpy()
    q = mx(t.reshape(-1, 512), E2M1, 2).reshape(b.shape)
    return flat(q.astype(np.float64) * d, x.shape[1])


def float_activations(x, kind, dtype):
    if kind is None:
        return x.astype(np.float64)
    if kind == "dual":
        return dual(x, dtype)
    if kind == "fp8":
        s = np.abs(x).max(1, keepdims=True) / F32(448)
        s = np.where(s < np.finfo(F32).tiny, F32(1), s)
        return np.clip(x / s, -448, 448).astype(E4M3).astype(np.float64) * s
    return mx(x, E4M3, 8).astype(np.float64) if kind == "mxfp8" else mx(x, E2M1, 2).astype(np.float64)


def run(t, scheme, x, mul_scale=None, group=0):
    """y and the largest error it may have: 0 for integers, where float32 is used in the same order; for float products k roundings of the
    sum in any order, and those of the product, the weight, the bias and the result. x torch f32|bf16."""
    form, kind = SCHEMES[scheme]
    bias = t["bias"].float().numpy() if "bias" in t else F32(0)
    values = x.float().numpy() * (F32(1) if mul_scale is None else mul_scale)
    if not isinstance(kind, int):
        a, w = float_activations(values, kind, x.dtype), decode(t, form).astype(np.float64)
        y = a @ w.T + bias
        return y, (np.abs(a) @ np.abs(w).T + np.abs(bias)) * (x.shape[1] + 4) * 2.0**-24
    s = np.abs(values).max(1, keepdims=True) / F32(kind)
    s[s == 0] = 1
    q = np.clip(np.rint(values / s), -kind - 1, kind).astype(np.int64)
    codes, scale = codes_of(t, form).astype(np.int64), t["weight_scale"].float().numpy()
    if not group:
        y = (q @ codes.T).astype(F32) * scale.T * s
    else:
        y = np.zeros((len(q), len(codes)), F32)
        for g in range(scale.shape[1]):
            part = slice(g * group, (g + 1) * group)
            y += (q[:, part] @ codes[:, part].T).astype(F32) * scale[:, g]
        y = y * s
    return y + bias if "bias" in t else y, 0
