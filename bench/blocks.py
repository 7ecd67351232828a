"""A few blocks of a transformer of tests/problems/models.txt as diffusers builds it, with random weights, and inputs for them."""
from dataclasses import dataclass
from typing import Any

from problems import models

TEXT = 128  # tokens of the caption
BUILDERS = {}  # diffusers' class -> function of (Shape): (model, inputs, the argument that stays float32)


@dataclass(frozen=True)
class Shape:
    model: Any  # of problems.models
    blocks: int
    heads: int
    grid: tuple[int, int, int]  # frames, height and width in tokens

    @property
    def width(self) -> int:
        return self.heads * self.model.head_dim


def builder(name):
    def register(function):
        BUILDERS[name] = function
        return function

    return register


def offered() -> list[str]:
    return [name for name, model in models().items() if model.class_name in BUILDERS]


def build(shape: Shape):
    """(the model, its inputs as keywords); seeded."""
    import torch

    torch.manual_seed(0)
    model, inputs = BUILDERS[shape.model.class_name](shape)
    return model.eval(), inputs


@builder("WanTransformer3DModel")
def wan(shape: Shape):
    import torch
    from diffusers import WanTransformer3DModel

    ffn = max(n for n, _ in shape.model.layers)
    model = WanTransformer3DModel(num_attention_heads=shape.heads, attention_head_dim=shape.model.head_dim,
                                  ffn_dim=shape.heads * ffn // shape.model.heads, num_layers=shape.blocks, text_dim=512)
    frames, height, width = shape.grid
    return model, {"hidden_states": torch.randn(1, 16, frames, 2 * height, 2 * width), "timestep": torch.tensor([500.0]),
                   "encoder_hidden_states": torch.randn(1, TEXT, 512)}


@builder("ZImageTransformer2DModel")
def z_image(shape: Shape):
    """No refining blocks, so that all are alike; diffusers fills up to multiples of 32 tokens."""
    import torch
    from diffusers import ZImageTransformer2DModel

    model = ZImageTransformer2DModel(dim=shape.width, n_heads=shape.heads, n_kv_heads=shape.heads, n_layers=shape.blocks, n_refiner_layers=0,
                                     cap_feat_dim=512)
    for padding in (model.x_pad_token, model.cap_pad_token):
        torch.nn.init.normal_(padding)
    frames, height, width = shape.grid
    return model, {"x": [torch.randn(16, frames, 2 * height, 2 * width)], "t": torch.tensor([0.5]), "cap_feats": [torch.randn(TEXT, 512)]}


@builder("Flux2Transformer2DModel")
def flux2(shape: Shape):
    """The first half of the blocks is double ones, as far as there are two kinds."""
    import torch
    from diffusers import Flux2Transformer2DModel

    double = shape.blocks // 2
    head_dim = shape.model.head_dim
    model = Flux2Transformer2DModel(in_channels=64, num_layers=double, num_single_layers=shape.blocks - double, attention_head_dim=head_dim,
                                    num_attention_heads=shape.heads, joint_attention_dim=512, axes_dims_rope=(head_dim // 4,) * 4, guidance_embeds=False)
    _, height, width = shape.grid
    tokens = height * width
    rows = torch.arange(tokens)
    image = torch.stack([torch.zeros_like(rows), rows // width, rows % width, torch.zeros_like(rows)], -1)
    text = torch.stack([torch.zeros(TEXT, dtype=torch.long)] * 3 + [torch.arange(TEXT)], -1)
    return model, {"hidden_states": torch.randn(1, tokens, 64), "encoder_hidden_states": torch.randn(1, TEXT, 512), "timestep": torch.tensor([0.5]),
                   "img_ids": image, "txt_ids": text}
