"""A diffusers pipeline made light in two lines: quantized while it loads, sparse while it samples; compared with the float pipeline.

diffusers' WanPipeline takes all frames from noise to clear together. The demo model was trained to begin with the first frame and to let
the others follow one by one, as `aerogel generate` does (docs/models.md): look at speed and closeness here, and at motion there.

Run from the repository: PYTHONPATH=build/release/python .venv/bin/python examples/python/diffusers_pipeline.py
"""
import argparse
import json
import time
from pathlib import Path

import aerogel
import torch
from diffusers import UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from safetensors.torch import load_file

FOLDER = Path(__file__).parents[1] / "shapes_dit"
CAPTION = "red circle moves right, blue star turns"


def pipeline(**options):
    """The demo model as a WanPipeline. It paints pixels, so there is no VAE, and its captions are a table, so there is no text encoder."""
    transformer = WanTransformer3DModel.from_pretrained(FOLDER / "transformer", **options)
    scheduler = UniPCMultistepScheduler.from_pretrained(FOLDER / "scheduler")
    pipe = WanPipeline(tokenizer=None, text_encoder=None, vae=None, transformer=transformer, scheduler=scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def embeddings(caption):
    """The demo model's embeddings of a caption [1, tokens, text_dim]."""
    vocabulary = json.loads((FOLDER / "text_encoder/vocabulary.json").read_text())
    tables = load_file(FOLDER / "text_encoder/model.safetensors")
    ids = [0] * vocabulary["max_length"]
    for i, thing in enumerate(caption.split(",") if caption else []):
        for j, word in enumerate(thing.split()):
            ids[vocabulary["slots_per_object"] * i + j] = vocabulary["words"].index(word)
    slots = tables["word_embedding.weight"][ids] + tables["position_embedding.weight"]
    if "groups" in vocabulary:  # slots of an object that are summed to one embedding
        slots = slots.unflatten(0, (-1, vocabulary["slots_per_object"]))
        slots = torch.stack([slots[:, group].sum(1) for group in vocabulary["groups"]], 1).flatten(0, 1)
    return slots[None]


def video(pipe, frames, steps):
    """The video [3, frames, 64, 64] and the seconds per step. The pipeline thinks in pixels of a VAE: 8 x 8 x 4 for one of ours."""
    start = time.perf_counter()
    y = pipe(prompt_embeds=embeddings(CAPTION), negative_prompt_embeds=embeddings(""), guidance_scale=3.0, num_inference_steps=steps,
             num_frames=4 * (frames - 1) + 1, height=8 * 64, width=8 * 64, output_type="latent", return_dict=False,
             generator=torch.Generator().manual_seed(3))[0]
    return y[0], (time.perf_counter() - start) / steps


def main(frames=16, steps=12):
    exact, before = video(pipeline(), frames, steps)

    pipe = pipeline(quantization_config=aerogel.AerogelConfig("W8A8_DYNAMIC"))
    plan = aerogel.enable_sparse_attention(pipe, sparse_type="rf_v2", sparsity=0.7, block_size=64, start_step=steps // 4)

    y, after = video(pipe, frames, steps)
    print(pipe.transformer.hf_quantizer.report)
    print(plan.report)
    psnr = float(10 * torch.log10(4 / (y - exact).square().mean()))  # pixels are -1 to 1
    print(f"{before:.2f} s per step in float, {after:.2f} s light, PSNR {psnr:.1f} dB")
    return psnr, plan.report


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=16, help="of the video (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=12, help="of sampling (default: %(default)s)")
    main(**vars(parser.parse_args()))
