"""Two lines for an engineer with a diffusers model: the demo transformer in float and with int8 Linears, side by side.

Run from the repository: PYTHONPATH=build/release/python .venv/bin/python examples/python/quantize_transformer.py
"""
import argparse
import copy
import time
from pathlib import Path

import aerogel
import torch
from diffusers import WanTransformer3DModel

FOLDER = Path(__file__).parents[1] / "shapes_dit/transformer"


@torch.inference_mode()
def velocity(model, frames):
    """The model's answer to fixed noise, and the seconds it took (the second call: compiled kernels and memory are warm)."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 3, frames, 64, 64, generator=generator)
    text = torch.randn(1, 2, model.config.text_dim, generator=generator)
    for _ in range(2):
        start = time.perf_counter()
        y = model(noise, torch.tensor([900.0]), text, return_dict=False)[0]
    return y, time.perf_counter() - start


def main(frames=8):
    model = WanTransformer3DModel.from_pretrained(FOLDER).eval()
    light = copy.deepcopy(model)
    report = aerogel.quantize(light, scheme="W8A8_DYNAMIC")
    print(report)
    (exact, before), (y, after) = velocity(model, frames), velocity(light, frames)
    error = float((y - exact).norm() / exact.norm())
    print(f"{before:.2f} s in float, {after:.2f} s quantized, relative error {error:.1e}")
    return error


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=8, help="of the video (default: %(default)s)")
    main(**vars(parser.parse_args()))
