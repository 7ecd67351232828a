"""The file format of quantized pairs in plain PyTorch, written from the format's formulas and not from our code. Arithmetic runs
in the dtype of the model's weights (torch rounds after each operation), as the exporter that defined the format does."""
import json

import numpy as np
import torch

EPS = 2.0**-23
SCALE_TENSORS = ("weight_scale", "weight_offset", "input_scale", "input_offset", "quant_bias", "deq_scale")


def quantize_weight(weight, lowest=-127):
    """Symmetric int8 per output channel, values `lowest` .. 127: (q, scale [N,1])."""
    largest = weight.abs().amax(dim=1, keepdim=True)
    scale = torch.clamp(largest / 127, min=EPS)
    return torch.clamp(torch.round(weight / scale), lowest, 127).to(torch.int8), scale


def input_scales(low, high, dtype):
    """Asymmetric int8 per tensor from ranges (tensors of any shape): (scale, offset) in the model's dtype."""
    low, high = low.float().to(dtype).clamp(max=0), high.float().to(dtype).clamp(min=0)
    scale = torch.clamp(high / 255 - low / 255, min=EPS)
    return scale, (torch.round(-low / scale) - 128).clamp(-128, 127)


def static_tensors(q, scale, bias, input_scale, input_offset):
    """quant_bias and deq_scale of one step."""
    deq_scale = (input_scale * scale).flatten().float()
    bias = torch.zeros(q.shape[0]) if bias is None else bias.float()
    correction = input_offset.float() * q.float().sum(dim=1)
    return torch.round(bias / deq_scale - correction).to(torch.int32), deq_scale


def stored_deq_scale(deq_scale, dtype):
    """float32 for bfloat16 models, else the float32 bits as int64."""
    if dtype == torch.bfloat16:
        return deq_scale
    return torch.from_numpy(deq_scale.numpy().view(np.int32).astype(np.int64))


def mean_range(stats, layer):
    """The mean over all forwards of the per-forward minimum and maximum."""
    count = stats[f"{layer}.forwards"].sum().double()
    return stats[f"{layer}.min_sum"].sum() / count, stats[f"{layer}.max_sum"].sum() / count


def step_ranges(stats, layer):
    """Row t: the mean over the forwards of steps t and later."""
    after = lambda name: torch.flip(torch.cumsum(torch.flip(stats[f"{layer}.{name}"].double(), [0]), 0), [0])
    return after("min_sum") / after("forwards"), after("max_sum") / after("forwards")


def quantize_layer_v1(name, weight, bias, scheme, stats=None):
    """The tensors one layer stores in the newer form, in its order: float32 scales and bias, -128 allowed, static layers without
    scales of the weight."""
    q, scale = quantize_weight(weight, -128)
    tensors = {f"{name}.weight": q}
    if scheme == "W8A8":
        input_scale, input_offset = input_scales(*(torch.stack([x]) for x in mean_range(stats, name)), weight.dtype)
        quant_bias, deq_scale = static_tensors(q, scale, bias, input_scale, input_offset)
        tensors |= {f"{name}.quant_bias": quant_bias, f"{name}.input_scale": input_scale.float(),
                    f"{name}.input_offset": input_offset.float(), f"{name}.deq_scale": deq_scale}
    else:
        tensors |= {f"{name}.weight_scale": scale.float(), f"{name}.weight_offset": torch.zeros(scale.shape)}
    if bias is not None:
        tensors[f"{name}.bias"] = bias.float()
    return tensors


def quantize_layer(name, weight, bias, scheme, stats=None):
    """The tensors one layer stores in the older form."""
    dtype = weight.dtype
    q, scale = quantize_weight(weight)
    tensors = {f"{name}.weight": q, f"{name}.weight_scale": scale, f"{name}.weight_offset": torch.zeros_like(scale)}
    if bias is not None:
        tensors[f"{name}.bias"] = bias
    if scheme in ("W8A16", "W8A8_DYNAMIC"):
        return tensors
    if scheme == "W8A8":
        input_scale, input_offset = input_scales(*(torch.stack([x]) for x in mean_range(stats, name)), dtype)
        quant_bias, deq_scale = static_tensors(q, scale, bias, input_scale, input_offset)
    else:
        input_scale, input_offset = (x[:, None] for x in input_scales(*step_ranges(stats, name), dtype))
        rows = [static_tensors(q, scale, bias, s, o) for s, o in zip(input_scale, input_offset)]
        quant_bias, deq_scale = (torch.stack(x) for x in zip(*rows))
    tensors |= {f"{name}.input_scale": input_scale, f"{name}.input_offset": input_offset,
                f"{name}.quant_bias": quant_bias, f"{name}.deq_scale": stored_deq_scale(deq_scale, dtype)}
    return tensors


def quantize_model(state, layers, scheme, stats=None, layout="v0"):
    """All tensors of the weight file and the entries of the description."""
    quantize = quantize_layer if layout == "v0" else quantize_layer_v1
    tensors, types = {}, {}
    for name, value in state.items():
        layer, _, kind = name.rpartition(".")
        if layer in layers and kind == "weight":
            tensors |= quantize(layer, value, state.get(f"{layer}.bias"), scheme, stats)
        elif not (layer in layers and kind == "bias"):
            tensors[name] = value
    for name in tensors:
        layer, _, kind = name.rpartition(".")
        types[name] = scheme if layer in layers and kind in ("weight", *SCALE_TENSORS) else "FLOAT"
    return tensors, types


def raw(tensor):
    """dtype, shape and bytes: what must be equal."""
    return tensor.dtype, tuple(tensor.shape), tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def write_stats(path, layers, steps, seed=0, forwards=3):
    """A calibration file with random ranges; returns its tensors."""
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)
    stats = {}
    for layer in layers:
        stats[f"{layer}.forwards"] = torch.full((steps,), forwards, dtype=torch.int64)
        stats[f"{layer}.min_sum"] = -torch.rand(steps, generator=generator, dtype=torch.float64) * 9
        stats[f"{layer}.max_sum"] = torch.rand(steps, generator=generator, dtype=torch.float64) * 9
    save_file(stats, path)
    return stats


def write_pair(folder, quant_type, tensors, types, suffix=""):
    """A handmade pair; returns the description's path."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / f"quant_model_weight_{quant_type.lower()}{suffix}.safetensors")
    path = folder / f"quant_model_description_{quant_type.lower()}{suffix}.json"
    path.write_text(json.dumps({**types, "model_quant_type": quant_type}, indent=4))
    return path
