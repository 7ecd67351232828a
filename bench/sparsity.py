"""What sparse attention costs in quality on the trained model: every pattern at several sparsities beside the dense video.

Whole videos come from `aerogel generate` and are compared by `aerogel compare`. Layer by layer, q, k and v of the same model in
PyTorch (on the dense video, noised as at three points of a staggered sampler's way) go through aerogel.sparse_attention; its output is compared with dense
attention, and the attention mass of the chosen blocks with that of the best blocks, as many per row.
Writes docs/sparsity.md with its pictures; --output writes them elsewhere.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

import matplotlib
import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from safetensors.numpy import load_file

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (after the backend is chosen)

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "examples/train_demo"), str(ROOT / "tests/sparse")]
import data  # noqa: E402
import model as demo_model  # noqa: E402
import rainfusion_reference as reference  # noqa: E402
import train  # noqa: E402

PATTERNS = ("rf_v1", "rf_v2", "ada_bsa")
SPARSITIES = (0.5, 0.7, 0.8, 0.9)
LATENT = (data.FRAMES, data.SIZE // data.PATCH, data.SIZE // data.PATCH)
PROGRESS = (0.2, 0.5, 0.8)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aerogel", type=pathlib.Path, default=ROOT / "build/release/aerogel", help="the command")
    parser.add_argument("--model", type=pathlib.Path, default=ROOT / "examples/shapes_dit", help="pipeline folder")
    parser.add_argument("--prompt", default="red star moves down, blue square moves right")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--start-step", type=int, default=6, help="sparse from this step on")
    parser.add_argument("--block-size", type=int, default=64)
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "docs", help="folder for sparsity.md and images/")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "build/sparsity", help="folder for the videos")
    return parser.parse_args()


def run(command: list) -> dict:
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"sparsity: failed ({done.returncode}): {' '.join(str(part) for part in command)}")
    return json.loads(done.stdout)


def video(arguments: argparse.Namespace, name: str, flags: list) -> dict:
    """Report of one generated video, with how close it is to dense.safetensors."""
    path = arguments.work / f"{name}.safetensors"
    command = [arguments.aerogel, "generate", arguments.model, "--prompt", arguments.prompt, "--seed", arguments.seed]
    report = run([*command, "--steps", arguments.steps, "-o", path, "--json", *flags])
    close = run([arguments.aerogel, "compare", arguments.work / "dense.safetensors", path, "--json"])["results"][0]
    calls = [c for c in report["sparse"]["calls"] if c["step"] >= arguments.start_step] if flags else []
    densities = [head["density"] for call in calls for head in call["heads"]]
    return {**{key: close[key] for key in ("psnr", "ssim", "cosine")}, "cpu": report["cpu"],
            "seconds": statistics.median(report["step_seconds"][arguments.start_step:]),
            "density": statistics.fmean(densities) if densities else 1.0}


def videos(arguments: argparse.Namespace, console: Console) -> dict:
    """{(pattern, sparsity) or "dense": figures}, one after the other, dense first and last for a fair median."""
    rows = {"dense": video(arguments, "dense", [])}
    wanted = [(pattern, sparsity) for pattern in PATTERNS for sparsity in SPARSITIES]
    for pattern, sparsity in track(wanted, "videos", console=console):
        flags = ["--sparse", pattern, "--sparsity", sparsity, "--block-size", arguments.block_size, "--start-step", arguments.start_step]
        rows[pattern, sparsity] = video(arguments, f"{pattern}_{round(100 * sparsity)}", flags)
    again = video(arguments, "dense", [])
    rows["dense"]["seconds"] = statistics.median([rows["dense"]["seconds"], again["seconds"]])
    return rows


@torch.inference_mode()
def recorded(arguments: argparse.Namespace) -> list:
    """[(progress, layer, q, k, v)] of every self-attention, each [1, heads, tokens, head_dim]."""
    model = demo_model.load_folder(arguments.model)
    model.set_places(None)
    clean = torch.from_numpy(load_file(arguments.work / "dense.safetensors")["video"])[None]
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(arguments.seed))
    ids = torch.tensor([data.tokenize(arguments.prompt)])
    attend, calls = torch.nn.functional.scaled_dot_product_attention, []

    def record(q, k, v):
        calls.append((q, k, v))
        return attend(q, k, v)

    torch.nn.functional.scaled_dot_product_attention = record
    try:
        result = []
        for progress in PROGRESS:
            calls.clear()
            sigma = train.rolling_levels(torch.tensor([progress]), torch.arange(data.FRAMES)[None], torch.tensor([train.HELD_OUT_LAG]), demo_model.FLOW_SHIFT)
            model(train.noised(clean, sigma, noise), sigma, ids)
            result += [(progress, layer, *qkv) for layer, qkv in enumerate(calls)]  # cross-attention has few keys and goes another way
    finally:
        torch.nn.functional.scaled_dot_product_attention = attend
    return result


def kept_mass(weights: torch.Tensor, mask: np.ndarray, orders: tuple, block: int) -> tuple[float, float]:
    """Share of a head's attention in the blocks of `mask`, and in the best blocks, as many in each row."""
    q_order, k_order = (torch.from_numpy(order) for order in orders)
    blocks = mask.shape[0]
    tiles = weights[q_order][:, k_order].reshape(blocks, block, blocks, block).sum(dim=(1, 3)).numpy()
    chosen = (tiles * mask).sum()
    best = sum(np.sort(row)[::-1][:count].sum() for row, count in zip(tiles, mask.sum(axis=1)))
    return chosen / len(weights), best / len(weights)


class ExhaustiveChoice:
    """ARM's question answered the long way: which of the three static masks errs least on the whole of a head's attention."""

    def __init__(self, latent: tuple, block: int):
        self.pairs = {}  # token pairs that a mask keeps
        for sparsity in SPARSITIES:
            asked = reference.Video(latent, 0, block, sparsity)
            self.pairs[sparsity] = {kind: torch.from_numpy(reference.pair_mask(asked, reference.static_mask(asked, kind), *reference.orders(asked, kind)))
                                    for kind in reference.TYPES}
        self.agreed: dict = {sparsity: [] for sparsity in SPARSITIES}
        self.excess: dict = {sparsity: [] for sparsity in SPARSITIES}

    def judge(self, sparsity: float, chosen: str, weights: torch.Tensor, v: torch.Tensor, dense: torch.Tensor) -> None:
        """One head: weights [tokens, tokens] after the softmax, v and their product [tokens, head_dim], and the mask that ARM chose."""
        errors = {}
        for kind, pairs in self.pairs[sparsity].items():
            kept = weights * pairs
            errors[kind] = float((kept @ v / kept.sum(1, keepdim=True).clamp(min=1e-30) - dense).norm())
        best = min(errors, key=errors.get)
        self.agreed[sparsity].append(chosen == best)
        self.excess[sparsity].append(errors[chosen] / max(errors[best], 1e-30))

    def table(self) -> str:
        rows = [f"| {sparsity:.0%} | {len(agreed)} | {statistics.fmean(agreed):.0%} | {statistics.fmean(self.excess[sparsity]):.3f} x |\n"
                for sparsity, agreed in self.agreed.items()]
        return "| asked | heads judged | same mask | error of ARM's mask to the least |\n| --- | --- | --- | --- |\n" + "".join(rows)


@torch.inference_mode()
def layer_figures(arguments: argparse.Namespace, calls: list, exhaustive: ExhaustiveChoice, console: Console) -> dict:
    """{(pattern, sparsity): {"cosines": [per call], "chosen": mean mass, "best": mean mass, "layers": {layer: mean cosine}}}."""
    import aerogel

    figures = {(p, s): {"cosine": [], "chosen": [], "best": []} for p in PATTERNS for s in SPARSITIES}
    for _, layer, q, k, v in track(calls, "layers", console=console):
        weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
        dense = weights @ v
        for (pattern, sparsity), row in figures.items():
            o, mask, report = aerogel.sparse_attention(
                q, k, v, sparse_type=pattern, sparsity=sparsity, block_size=arguments.block_size, return_mask=True, return_report=True,
                **({} if pattern == "ada_bsa" else {"latent_shape_q": LATENT}))
            row["cosine"].append((layer, float(torch.cosine_similarity(o.flatten(), dense.flatten(), dim=0))))
            asked = reference.Video(LATENT, 0, arguments.block_size, sparsity)
            for head, found in enumerate(report["heads"]):
                kind = {"block_mean": "block_mean", "antidiagonal": "dense"}.get(found["type"], found["type"])
                chosen, best = kept_mass(weights[0, head], mask[0, head].numpy(), reference.orders(asked, kind), arguments.block_size)
                row["chosen"].append(chosen)
                row["best"].append(best)
                if pattern == "rf_v1":
                    exhaustive.judge(sparsity, found["type"], weights[0, head], v[0, head], dense[0, head])
    return figures


def write_plot(rows: dict, path: pathlib.Path) -> None:
    figure, axis = plt.subplots(figsize=(6.5, 4))
    for pattern in PATTERNS:
        points = [(rows[pattern, s]["density"], rows[pattern, s]["cosine"]) for s in SPARSITIES]
        axis.plot(*zip(*points), marker="o", label=pattern)
        for sparsity, (x, y) in zip(SPARSITIES, points):
            axis.annotate(f"{sparsity:.0%}", (x, y), textcoords="offset points", xytext=(4, 4), fontsize=8)
    axis.axhline(0.95, color="#999", linewidth=0.8)
    axis.set_xlabel("computed share of the attention map")
    axis.set_ylabel("cosine to the dense video")
    axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def write_frames(arguments: argparse.Namespace, path: pathlib.Path, columns: int = 8) -> None:
    """Evenly spaced frames of the dense video and of every pattern at 80 %."""
    names = ["dense", *(f"{pattern}_80" for pattern in PATTERNS)]
    figure, axes = plt.subplots(len(names), columns, figsize=(1.25 * columns + 1.4, 1.35 * len(names)), squeeze=False)
    for row, name in zip(axes, names):
        frames = np.clip((load_file(arguments.work / f"{name}.safetensors")["video"].transpose(1, 2, 3, 0) + 1) / 2, 0, 1)
        for axis, index in zip(row, np.linspace(0, len(frames) - 1, columns).round().astype(int)):
            axis.imshow(frames[index], interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_ylabel(name.replace("_80", "\n80 %"), rotation=0, ha="right", va="center", fontsize=9)
    figure.tight_layout(pad=0.3)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def page(arguments: argparse.Namespace, rows: dict, figures: dict, exhaustive: ExhaustiveChoice) -> str:
    dense = rows["dense"]
    text = f"""# Sparse attention on the trained model

This page measures what sparse attention costs in quality on a trained model, how well each pattern chooses its blocks,
and how well `rf_v1` recognises heads. `make sparsity` (`bench/sparsity.py`) writes it.
[sparse_attention.md](sparse_attention.md) explains the patterns.

Model `{arguments.model.name}`, "{arguments.prompt}", seed {arguments.seed}, {arguments.steps} steps, blocks of {arguments.block_size}
tokens, dense before step {arguments.start_step}. Measured on {dense["cpu"]["name"]} ({dense["cpu"]["level"]}, {dense["cpu"]["threads"]} threads); the dense model takes {dense["seconds"]:.2f} s
per step. *asked* is the sparsity. *density* is the computed share of the attention maps in the sparse steps (blocks
of the first frame are always computed). Seconds are medians over the sparse steps of one run each. PSNR, SSIM and
cosine compare with the dense video.

![cosine against density](images/sparsity.png)

| pattern | asked | density | s / step | speed | PSNR dB | SSIM | cosine |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""
    for pattern, sparsity in figures:
        row = rows[pattern, sparsity]
        text += (f"| {pattern} | {sparsity:.0%} | {row['density']:.0%} | {row['seconds']:.2f} | {dense['seconds'] / row['seconds']:.2f} x | "
                 f"{row['psnr']:.1f} | {row['ssim']:.3f} | {row['cosine']:.4f} |\n")
    text += f"""
![frames at 80 %](images/sparsity_frames.png)

## Layer by layer

Here the patterns run on q, k and v of every self-attention. The input is the dense video, noised as when a staggered
sampler is {", ".join(f"{p:.0%}" for p in PROGRESS)} done.

- *cosine* compares the output of the attention with that of dense attention (all heads of a layer together). It is the
  mean over layers and levels; *worst layer* has the lowest mean of a layer.
- *chosen mass* is the share of the attention that lies in the blocks the pattern chose. *best mass* is that of the best
  blocks, as many in each row. No choice can do better; *gap* is the difference.

| pattern | asked | cosine | worst layer | chosen mass | best mass | gap |
| --- | --- | --- | --- | --- | --- | --- |
"""
    for (pattern, sparsity), row in figures.items():
        by_layer = {}
        for layer, cosine in row["cosine"]:
            by_layer.setdefault(layer, []).append(cosine)
        worst = min(by_layer, key=lambda layer: statistics.fmean(by_layer[layer]))
        chosen, best = statistics.fmean(row["chosen"]), statistics.fmean(row["best"])
        text += (f"| {pattern} | {sparsity:.0%} | {statistics.fmean(c for _, c in row['cosine']):.4f} | "
                 f"{statistics.fmean(by_layer[worst]):.4f} (layer {worst}) | {chosen:.1%} | {best:.1%} | {best - chosen:.1%} |\n")
    return text + f"""
## ARM against the exhaustive choice

`rf_v1` (RainFusion 1) recognises each head's mask from a sample of its attention; the paper calls this ARM, adaptive
recognition module. Here each head's whole attention is computed under all three masks and compared with dense
attention. The table says how often ARM's mask is the one that errs least, and how many times as much it errs as that
one, on average.

{exhaustive.table()}"""


def main() -> None:
    arguments = parse_arguments()
    if not arguments.aerogel.exists():
        sys.exit(f"sparsity: {arguments.aerogel} is missing; run `make sparsity`, which builds first")
    arguments.work.mkdir(parents=True, exist_ok=True)
    (arguments.output / "images").mkdir(parents=True, exist_ok=True)
    sys.path.insert(0, str(arguments.aerogel.parent / "python"))
    console = Console(stderr=True)
    rows = videos(arguments, console)
    exhaustive = ExhaustiveChoice(LATENT, arguments.block_size)
    figures = layer_figures(arguments, recorded(arguments), exhaustive, console)
    write_plot(rows, arguments.output / "images/sparsity.png")
    write_frames(arguments, arguments.output / "images/sparsity_frames.png")
    (arguments.output / "sparsity.md").write_text(page(arguments, rows, figures, exhaustive))
    print(f"wrote {arguments.output / 'sparsity.md'}")


if __name__ == "__main__":
    main()
