"""Description files and weights as msModelSlim writes them, made by hand from a float model."""
import json

import torch
from safetensors.torch import save_file
from torch import nn


class Attention(nn.Module):
    """As upstream's examples have it: attention goes through fa_quant or fa3 where quantize hung them in."""

    def __init__(self, dim=64, heads=2):
        super().__init__()
        self.heads, self.inner_dim = heads, dim
        self.to_q, self.to_k, self.to_v, self.to_out = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x):
        from mindiesd import attention_forward

        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)) for layer in (self.to_q, self.to_k, self.to_v))
        if hasattr(self, "fa_quant"):
            o = self.fa_quant(q, k, v, layout="BSND")
        elif hasattr(self, "fa3"):
            o = self.fa3.forward(*(t.flatten(0, 1) for t in (q, k, v)), [x.shape[1]] * len(x)).view_as(q)
        else:
            o = attention_forward(q, k, v)
        return self.to_out(o.flatten(-2))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(24, 64)
        self.blocks = nn.ModuleList(nn.ModuleDict({"attn": Attention(), "up": nn.Linear(64, 96), "down": nn.Linear(96, 64)}) for _ in range(2))

    def forward(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = x + block["attn"](x)
            x = x + block["down"](torch.relu(block["up"](x)))
        return x


STEPS = 4


def _static(layer, scale, offset):
    """The tensors of one W8A8 or W8A8_TIMESTEP layer: scale and offset [1] or [steps, 1]."""
    w = layer.weight.detach()
    weight_scale = w.abs().amax(1, keepdim=True) / 127
    q = (w / weight_scale).round()
    deq = (scale.reshape(-1, 1) * weight_scale[:, 0]).float()
    bias = (layer.bias.detach() / deq - offset.reshape(-1, 1) * q.sum(1)).round().to(torch.int32)
    flat = scale.dim() == 1
    return {"weight": q.to(torch.int8), "weight_scale": weight_scale, "weight_offset": torch.zeros_like(weight_scale), "input_scale": scale,
            "input_offset": offset, "deq_scale": deq[0] if flat else deq, "quant_bias": bias[0] if flat else bias}


def write(folder, kind, arrays, entries):
    """A pair of files; entries: name -> type. Returns the description's path as a string."""
    save_file({n: t.contiguous() for n, t in arrays.items()}, folder / f"quant_model_weight_{kind.lower()}.safetensors")
    path = folder / f"quant_model_description_{kind.lower()}.json"
    path.write_text(json.dumps({**entries, "model_quant_type": kind}))
    return str(path)


def static_files(folder, model, kind, stored_as=None):
    """W8A8 or W8A8_TIMESTEP of every Linear in the blocks. stored_as: another name for the same arrays."""
    arrays, entries = {}, {}
    for name, layer in model.named_modules():
        if not isinstance(layer, nn.Linear):
            continue
        if not name.startswith("blocks."):
            entries[f"{name}.weight"] = "FLOAT"
            continue
        steps = torch.arange(STEPS).reshape(-1, 1) if kind == "W8A8_TIMESTEP" else torch.zeros(1)
        for tensor, array in _static(layer, 0.04 + 0.01 * steps, steps.float() - 2).items():
            arrays[f"{name}.{tensor}"], entries[f"{name}.{tensor}"] = array, stored_as or kind
        arrays[f"{name}.bias"], entries[f"{name}.bias"] = layer.bias.detach().clone(), "FLOAT"
    return write(folder, stored_as or kind, arrays, entries), arrays, entries
