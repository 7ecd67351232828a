"""The Linears of the small model of conftest.py that are quantized by default, and the model in diffusers."""
import json

from diffusers import WanTransformer3DModel
from safetensors.torch import load_file

LAYERS = [f"blocks.{i}.{part}" for i in range(2) for part in
          [f"{a}.{p}" for a in ("attn1", "attn2") for p in ("to_q", "to_k", "to_v", "to_out.0")] + ["ffn.net.0.proj", "ffn.net.2"]]


def load(folder):
    config = {k: v for k, v in json.loads((folder / "config.json").read_text()).items() if not k.startswith("_")}
    model = WanTransformer3DModel(**config).eval()
    model.load_state_dict(load_file(folder / "diffusion_pytorch_model.safetensors"))
    return model
