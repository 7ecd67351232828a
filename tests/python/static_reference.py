"""Static W8A8 and W8A8_TIMESTEP in NumPy float32, from the formulas of the file format: what a layer stores, given the inputs
of each forward."""
import numpy as np

F = np.float32
EPS = F(2.0**-23)


def mean_extremes(forwards):
    """forwards: arrays -> the mean over them of the smallest and the largest value."""
    return (F(np.mean([np.float64(x.min()) for x in forwards])), F(np.mean([np.float64(x.max()) for x in forwards])))


def input_scale(low, high):
    """Asymmetric int8 over a range that holds 0: (scale, offset)."""
    low, high = min(low, F(0)), max(high, F(0))
    scale = max(high / F(255) - low / F(255), EPS)
    return scale, np.clip(np.rint(-low / scale) - F(128), F(-128), F(127))


def weight_int8(weight):
    """Symmetric per row: (q int8 [n,k], scale [n,1])."""
    scale = np.maximum(np.abs(weight).max(1, keepdims=True) / F(127), EPS)
    return np.clip(np.rint(weight / scale), -127, 127).astype(np.int8), scale


def stored(weight, bias, ranges):
    """ranges: one (low, high) per step -> the arrays, with a step axis in front."""
    q, weight_scale = weight_int8(weight)
    scales, offsets = (np.array(column, F)[:, None] for column in zip(*(input_scale(*r) for r in ranges)))
    deq = (scales * weight_scale.T).astype(F)
    quant_bias = np.rint(bias / deq - offsets * q.astype(F).sum(1)).astype(np.int32)
    return {"weight": q, "weight_scale": weight_scale, "input_scale": scales, "input_offset": offsets, "quant_bias": quant_bias,
            "deq_scale": deq.view(np.int32).astype(np.int64)}
