"""A program written for MindIE SD on Ascend cards, run here: only the device is another one.

A small video transformer of the usual kind (rotary positions, RMS norms, adaptive LayerNorm) uses MindIE SD's layers, is quantized in
memory or from the files of msModelSlim, follows a timestep policy, and calls quantized attention where `quantize` hung it in.

Run from the repository: PYTHONPATH=build/release/python .venv/bin/python examples/python/from_ascend.py [DESCRIPTION.json]
"""
import argparse
import copy

import torch
from mindiesd import (
    OnlineQuantConfig,
    RMSNorm,
    TimestepManager,
    TimestepPolicyConfig,
    attention_forward,
    get_activation_layer,
    layernorm_scale_shift,
    quantize,
    rotary_position_embedding,
    sparse_attention,
)
from torch import nn

DEVICE = "cpu"  # "npu" on Ascend
STEPS, LATENT, DIM, HEADS = 6, (6, 16, 16), 128, 2


class Attention(nn.Module):
    def __init__(self, sparse):
        super().__init__()
        self.inner_dim, self.heads, self.sparse = DIM, HEADS, sparse
        self.to_q, self.to_k, self.to_v, self.to_out = (nn.Linear(DIM, DIM) for _ in range(4))
        self.norm_q, self.norm_k = RMSNorm(DIM // HEADS), RMSNorm(DIM // HEADS)

    def forward(self, x, cos, sin):
        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)) for layer in (self.to_q, self.to_k, self.to_v))
        q, k = (rotary_position_embedding(t, cos, sin, rotated_mode="rotated_interleaved") for t in (self.norm_q(q), self.norm_k(k)))
        if self.sparse:
            o = sparse_attention(q, k, v, input_layout="BSND", head_num=self.heads, sparse_type="rf_v2", sparsity=0.5, latent_shape_q=LATENT,
                                 latent_shape_k=LATENT, block_size=32)
        elif hasattr(self, "fa_quant"):
            o = self.fa_quant(q, k, v, layout="BSND")
        else:
            o = attention_forward(q, k, v, opt_mode="manual", op_type="fused_attn_score", layout="BNSD")
        return self.to_out(o.flatten(-2))


class Block(nn.Module):
    def __init__(self, sparse):
        super().__init__()
        self.attn, self.norm1, self.norm2 = Attention(sparse), nn.LayerNorm(DIM, elementwise_affine=False), nn.LayerNorm(DIM, elementwise_affine=False)
        self.up, self.act, self.down = nn.Linear(DIM, 4 * DIM), get_activation_layer("gelu-tanh"), nn.Linear(4 * DIM, DIM)
        self.modulation = nn.Linear(DIM, 4 * DIM)

    def forward(self, x, t, cos, sin):
        scale1, shift1, scale2, shift2 = self.modulation(t).chunk(4, dim=-1)
        x = x + self.attn(layernorm_scale_shift(self.norm1, x, scale1, shift1), cos, sin)
        return x + self.down(self.act(self.up(layernorm_scale_shift(self.norm2, x, scale2, shift2))))


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block(sparse=index == 2) for index in range(3))
        tokens = LATENT[0] * LATENT[1] * LATENT[2]
        angles = torch.arange(tokens)[:, None] / 10000 ** (torch.arange(0, DIM // HEADS, 2) / (DIM // HEADS))
        self.register_buffer("angles", angles.repeat_interleave(2, dim=1))

    def forward(self, x, t):
        for block in self.blocks:
            x = block(x, t, self.angles.cos(), self.angles.sin())
        return x


@torch.no_grad()
def sample(model):
    """A few Euler steps from fixed noise."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, LATENT[0] * LATENT[1] * LATENT[2], DIM, generator=generator).to(DEVICE)
    TimestepManager.set_timestep_idx_max(STEPS)
    for i in range(STEPS):
        TimestepManager.set_timestep_idx(i)
        t = torch.full((1, DIM), 1 - i / STEPS, device=DEVICE)
        x = x - model(x, t) / STEPS
    return x


def main(description=None):
    torch.manual_seed(0)
    model = Transformer().eval().to(DEVICE)
    exact = copy.deepcopy(model)
    policy = TimestepPolicyConfig(default_strategy="dynamic")
    policy.register(range(0, 2), "FLOAT", target="fa")  # the first steps lay out the picture: keep their attention in float
    policy.register(range(2, 4), "FP8", target="fa")
    if description:
        model = quantize(model, description, timestep_config=policy, dtype=torch.bfloat16)
    else:
        model = quantize(model, online_config=OnlineQuantConfig(
            quant_type="W8A8_DYNAMIC", fallback_layers={"*modulation": "W16A16"}, fa_layers="*attn", fa_quant_type="MXFP4_DYNAMIC",
            timestep_config=policy))
    wanted = sample(exact)
    error = float((sample(model) - wanted).norm() / wanted.norm())
    quantized = [name for name, layer in model.named_modules() if hasattr(layer, "scheme")]
    print(f"{len(quantized)} Linear layers quantized, relative error {error:.1e} after {STEPS} steps")
    return error


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("description", nargs="?", help="quant_model_description*.json of the model (default: quantized in memory)")
    main(**vars(parser.parse_args()))
