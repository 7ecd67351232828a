"""One call of a diffusers pipeline from a folder to a file, in a process of its own: prints what it took as JSON. Components are loaded when their turn
comes, as memory holds no more on a small machine.

    python -m peers.whole_call FOLDER OUT.npy --dtype bf16 --steps 1 --size 512x512 [--frames 17] [--sdnq] [--prompt "..."]
"""
import argparse
import gc
import json
import os
import pathlib
import time

import numpy as np
import torch
from diffusers import DiffusionPipeline

from .torch_float import DTYPES


def load(folder, dtype, without):
    return DiffusionPipeline.from_pretrained(folder, torch_dtype=dtype, local_files_only=True, **dict.fromkeys(without))


def embed(folder, dtype, prompt, guided):
    """The pipeline's own embeddings of the prompt."""
    pipe = load(folder, dtype, ("transformer", "vae"))
    encoded = pipe.encode_prompt(prompt, do_classifier_free_guidance=guided)
    del pipe
    gc.collect()
    return encoded[0]


def quantize(pipe, dtype):
    import sdnq
    pipe.transformer = sdnq.sdnq_post_load_quant(pipe.transformer, weights_dtype="int8", use_quantized_matmul=True, torch_dtype=dtype)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--dtype", choices=list(DTYPES), default="bf16")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--size", required=True)
    parser.add_argument("--frames", type=int, default=1)
    parser.add_argument("--guidance", type=float, default=0.0)
    parser.add_argument("--sdnq", action="store_true")
    parser.add_argument("--prompt")
    parser.add_argument("--embeds", type=pathlib.Path, help="prompt_embeds in a .safetensors file, instead of --prompt")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    torch.set_num_threads(args.threads or len(os.sched_getaffinity(0)))
    torch.set_grad_enabled(False)
    dtype, stages, start = DTYPES[args.dtype], {}, time.perf_counter()
    if args.embeds:
        from safetensors.torch import load_file
        embeds = load_file(args.embeds)["prompt_embeds"].to(dtype)
    else:
        embeds = embed(args.folder, dtype, args.prompt, args.guidance > 1)
    stages["text"] = time.perf_counter() - start
    at = time.perf_counter()
    pipe = load(args.folder, dtype, ("text_encoder", "tokenizer"))
    if args.sdnq:
        quantize(pipe, dtype)
    pipe.set_progress_bar_config(disable=True)
    stages["load"] = time.perf_counter() - at
    width, height = (int(n) for n in args.size.split("x"))
    video = type(pipe).__name__.startswith("Wan")
    ends = []
    at = time.perf_counter()
    options = dict(prompt_embeds=embeds, num_frames=args.frames) if video else dict(prompt_embeds=[embeds[0]])
    result = pipe(height=height, width=width, num_inference_steps=args.steps, guidance_scale=args.guidance, output_type="np",
                  generator=torch.Generator().manual_seed(0), **options,
                  callback_on_step_end=lambda pipe, step, time_, kwargs: ends.append(time.perf_counter()) or kwargs)
    stages["steps"], stages["decode"] = ends[-1] - at, time.perf_counter() - ends[-1]
    np.save(args.output, np.asarray(result[0]))
    step_seconds = [end - begin for begin, end in zip([at, *ends], ends)]
    print(json.dumps({"seconds": time.perf_counter() - start, "step_seconds": step_seconds, "stages": stages}))


if __name__ == "__main__":
    main()
