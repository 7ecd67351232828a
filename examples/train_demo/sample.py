"""Draws videos for captions with the PyTorch model (Euler sampler) and writes them as safetensors and as a contact sheet.

Run: python sample.py MODEL_FOLDER --captions captions.txt --out FOLDER     (or: --prompt "red circle moves left")
"""
import argparse
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file

import model as demo


def contact_sheet(videos, captions, path, columns=8, scale=2):
    """One row per video [3, T, H, W] in [-1, 1]: its caption and `columns` evenly spaced frames; written to path (PNG)."""
    size = videos[0].shape[-1] * scale
    picked = np.linspace(0, videos[0].shape[1] - 1, min(columns, videos[0].shape[1])).round().astype(int)
    sheet = Image.new("RGB", (len(picked) * (size + 2), len(videos) * (size + 16)), "white")
    for row, (video, caption) in enumerate(zip(videos, captions)):
        ImageDraw.Draw(sheet).text((2, row * (size + 16) + 2), caption, fill="black")
        pixels = ((video.float() + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 3, 0).numpy()
        for column, t in enumerate(picked):
            frame = Image.fromarray(pixels[t]).resize((size, size), Image.Resampling.BICUBIC)
            sheet.paste(frame, (column * (size + 2), row * (size + 16) + 14))
    sheet.save(path)


def read_captions(path):
    return [line.strip() for line in Path(path).read_text().splitlines() if line.strip() and not line.startswith("#")]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="folder written by train.py --export")
    parser.add_argument("--captions", type=Path, help="file with one caption per line")
    parser.add_argument("--prompt", action="append", default=[], help="a caption (may be repeated)")
    parser.add_argument("--out", type=Path, required=True, help="folder for video_NNN.safetensors and contact_sheet.png")
    parser.add_argument("--limit", type=int, default=10**6)
    parser.add_argument("--seed", type=int, default=0, help="caption i starts from the noise of seed + i")
    parser.add_argument("--steps", type=int, default=demo.STEPS)
    parser.add_argument("--shift", type=float, default=demo.FLOW_SHIFT)
    parser.add_argument("--guidance", type=float, default=demo.GUIDANCE)
    parser.add_argument("--frames", type=int, default=demo.data.FRAMES)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--bf16", action="store_true", help="matrix products in bfloat16")
    parser.add_argument("--rows", type=int, default=12, help="videos on the contact sheet")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    captions = (args.prompt + (read_captions(args.captions) if args.captions else []))[:args.limit]
    if not captions:
        parser.error("no captions: give --prompt or --captions")
    args.out.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = demo.load_folder(args.model, autocast=args.bf16).to(device)
    videos, start = [], time.time()
    for first in range(0, len(captions), args.batch):
        some = captions[first:first + args.batch]
        videos += demo.sample(model, some, seed=args.seed + first, steps=args.steps, shift=args.shift,
                              guidance=args.guidance, frames=args.frames, device=device)
        for i, caption in enumerate(some, first):
            save_file({"video": videos[i].contiguous()}, args.out / f"video_{i:03d}.safetensors", {"caption": caption})
        print(f"{len(videos)}/{len(captions)} videos, {time.time() - start:.0f} s", flush=True)
    contact_sheet(videos[:args.rows], captions, args.out / "contact_sheet.png")
    (args.out / "captions.txt").write_text("".join(c + "\n" for c in captions))


if __name__ == "__main__":
    main()
