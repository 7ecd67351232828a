"""What sparse attention costs in quality on the trained model: every pattern at several sparsities beside the dense video.

Whole videos come from `aerogel generate` and are compared by `aerogel compare`. Layer by layer, q, k and v of the same model in
PyTorch (on the dense video, noised as at three points of a staggered sampler's way) go through aerogel.sparse_attention; its output is compared with dense
attention, and the attention mass of the chosen blocks with that of the best blocks, as many per row.
Writes docs/sparsity.md with its pictures; --output writes them elsewhere.
"""

import argparse
import json
import math
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
import fidelity  # noqa: E402
from figures import interval, shown  # noqa: E402

PATTERNS = ("rf_v1", "rf_v2", "ada_bsa")
SPARSITIES = (0.5, 0.7, 0.8, 0.9)
SIDE = data.SIZE // data.PATCH
PROGRESS = (0.2, 0.5, 0.8)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aerogel", type=pathlib.Path, default=ROOT / "build/release/aerogel", help="the command")
    parser.add_argument("--model", type=pathlib.Path, default=ROOT / "examples/shapes_dit", help="pipeline folder")
    parser.add_argument("--prompt", nargs="+", default=fidelity.listed_captions(fidelity.VIDEOS), help="captions of the videos, one each")
    parser.add_argument("--seed", type=int, default=5, help="of the first caption; each other one takes the next")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--start-step", type=int, default=3, help="sparse from this step on")
    parser.add_argument("--recorded", type=int, default=4, help="videos whose attention is looked at layer by layer")
    parser.add_argument("--block-size", type=int, default=64)
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "docs", help="folder for sparsity.md and images/")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "build/sparsity", help="folder for the videos")
    return parser.parse_args()


def latent(arguments: argparse.Namespace) -> tuple:
    return arguments.frames, SIDE, SIDE


def run(command: list) -> dict:
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"sparsity: failed ({done.returncode}): {' '.join(str(part) for part in command)}")
    return json.loads(done.stdout)


def video(arguments: argparse.Namespace, name: str, flags: list) -> dict:
    """Figures of a video of each caption: lists of how close it is to that of the dense model, and means."""
    row: dict = {"psnr": [], "ssim": [], "cosine": [], "seconds": [], "densities": []}
    for i, prompt in enumerate(arguments.prompt):
        path = arguments.work / f"{name}_{i}.safetensors"
        command = [arguments.aerogel, "generate", arguments.model, "--prompt", prompt, "--seed", arguments.seed + i, "--frames", arguments.frames]
        report = run([*command, "--steps", arguments.steps, "-o", path, "--json", *flags])
        close = run([arguments.aerogel, "compare", arguments.work / f"dense_{i}.safetensors", path, "--json"])["results"][0]
        for key in ("psnr", "ssim", "cosine"):
            row[key].append(min(float(close[key]), 100.0))
        calls = [c for c in report["sparse"]["calls"] if c["step"] >= arguments.start_step] if flags else []
        row["densities"] += [head["density"] for call in calls for head in call["heads"]]
        row["seconds"] += report["step_seconds"][arguments.start_step:]
        row["cpu"] = report["cpu"]
    return row | {"seconds": statistics.median(row["seconds"]), "density": statistics.fmean(row["densities"]) if flags else 1.0}


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
    attend, calls = torch.nn.functional.scaled_dot_product_attention, []

    def record(q, k, v):
        calls.append((q, k, v))
        return attend(q, k, v)

    torch.nn.functional.scaled_dot_product_attention = record
    try:
        result = []
        for i, progress in ((i, progress) for i in range(min(arguments.recorded, len(arguments.prompt))) for progress in PROGRESS):
            calls.clear()
            clean = torch.from_numpy(load_file(arguments.work / f"dense_{i}.safetensors")["video"])[None]
            noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(arguments.seed + i))
            ids = torch.tensor([data.tokenize(arguments.prompt[i])])
            sigma = train.rolling_levels(torch.tensor([progress]), torch.arange(clean.shape[2])[None], torch.tensor([train.HELD_OUT_LAG]),
                                         demo_model.FLOW_SHIFT)
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


def sampled(count: int, start: int, end: int) -> torch.Tensor:
    """`count` tokens of [start, end), one of each of as many equal stretches, at places that follow the golden ratio."""
    inside = torch.arange(count, dtype=torch.float64)
    return start + ((inside + (inside * 0.6180339887498949) % 1) * (end - start) / count).long()


class ExhaustiveChoice:
    """ARM's question answered the long way: which of the three static masks errs least on the whole of a head's attention; and how well other
    ways to choose would do: by the recall of the whole map, and by the error of the output of a sample of queries, with a sample of the keys
    or with all."""

    WAYS = ("ARM: recall, sampled", "recall, whole map", "error, as sampled as ARM", "error of ARM's queries, all keys")

    def __init__(self, latent: tuple, block: int):
        self.pairs = {}  # token pairs that a mask keeps
        for sparsity in SPARSITIES:
            asked = reference.Video(latent, 0, block, sparsity)
            self.pairs[sparsity] = {kind: torch.from_numpy(reference.pair_mask(asked, reference.static_mask(asked, kind), *reference.orders(asked, kind)))
                                    for kind in reference.TYPES}
        tokens, frame = math.prod(latent), math.prod(latent[1:])
        self.queries = sampled(min(64, max(16, tokens // 128)), frame if tokens > frame else 0, tokens)
        self.keys = sampled(min(4096, max(256, tokens // 8), tokens), 0, tokens)
        self.agreed: dict = {(sparsity, way): [] for sparsity in SPARSITIES for way in self.WAYS}
        self.excess: dict = {(sparsity, way): [] for sparsity in SPARSITIES for way in self.WAYS}

    @staticmethod
    def error(weights: torch.Tensor, pairs: torch.Tensor, v: torch.Tensor) -> float:
        """Of the output under a mask; rows of weights of any sum."""
        kept, dense = weights * pairs, weights @ v / weights.sum(1, keepdim=True)
        return float((kept @ v / kept.sum(1, keepdim=True).clamp(min=1e-30) - dense).norm())

    def judge(self, sparsity: float, chosen: str, weights: torch.Tensor, v: torch.Tensor) -> None:
        """One head: weights [tokens, tokens] after the softmax, v [tokens, head_dim], and the mask that ARM chose."""
        pairs, rows = self.pairs[sparsity], weights[self.queries]
        errors = {kind: self.error(weights, kept, v) for kind, kept in pairs.items()}
        recalls = {kind: float((weights * kept).sum()) for kind, kept in pairs.items()}
        both = {kind: self.error(rows[:, self.keys], kept[self.queries][:, self.keys], v[self.keys]) for kind, kept in pairs.items()}
        queries = {kind: self.error(rows, kept[self.queries], v) for kind, kept in pairs.items()}
        best = min(errors, key=errors.get)
        choices = (chosen, max(recalls, key=recalls.get), min(both, key=both.get), min(queries, key=queries.get))
        for way, choice in zip(self.WAYS, choices):
            self.agreed[sparsity, way].append(choice == best)
            self.excess[sparsity, way].append(errors[choice] / max(errors[best], 1e-30))

    def table(self) -> str:
        rows = [f"| {sparsity:.0%} | {way} | {len(agreed)} | {shown(agreed, '.0%')} | {shown(self.excess[sparsity, way], '.3f')} x |\n"
                for (sparsity, way), agreed in self.agreed.items()]
        return "| asked | chosen by | heads judged | same mask | its error to the least |\n| --- | --- | --- | --- | --- |\n" + "".join(rows)


class SkippedBlocks:
    """Errors of a head's attention under a mask, in computed order: as it is; with each skipped block as its mean key and mean value
    (arXiv 2603.08982); and with products of weights and v left out where no weight of a block reaches a share of the largest so far
    (arXiv 2512.12087)."""

    THRESHOLD = 0.01

    def __init__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor, block: int):
        blocks = len(mask)
        scores = q @ k.T * q.shape[-1] ** -0.5
        top = scores.max(-1, keepdim=True).values
        weights, wanted = (scores - top).exp(), mask.repeat_interleave(block, 0).repeat_interleave(block, 1)
        dense = weights @ v / weights.sum(-1, keepdim=True)
        kept = weights * wanted
        sums, totals = kept @ v, kept.sum(-1, keepdim=True)
        means = [t.reshape(blocks, block, -1).mean(1) for t in (k, v)]
        skipped = block * (q @ means[0].T * q.shape[-1] ** -0.5 - top).exp() * ~mask.repeat_interleave(block, 0)
        largest = scores.masked_fill(~wanted, -1e30).reshape(blocks, block, blocks, block).amax(3)
        reaches = ((largest - torch.cummax(largest, 2).values) >= math.log(self.THRESHOLD)).any(1) & mask
        above = weights * reaches.repeat_interleave(block, 0).repeat_interleave(block, 1)

        def error(o: torch.Tensor) -> float:
            return float((o - dense).norm() / dense.norm())

        self.density = float(mask.float().mean())
        self.plain = error(sums / totals.clamp(min=1e-30))
        self.means = error((sums + skipped @ means[1]) / (totals + skipped.sum(-1, keepdim=True)))
        self.threshold = error(above @ v / above.sum(-1, keepdim=True).clamp(min=1e-30))
        self.products = float(reaches.sum() / mask.sum())


@torch.inference_mode()
def layer_figures(arguments: argparse.Namespace, calls: list, exhaustive: "ExhaustiveChoice", console: Console) -> dict:
    """{(pattern, sparsity): {"cosines": [per call], "chosen": mean mass, "best": mean mass, "layers": {layer: mean cosine}}}."""
    import aerogel

    figures = {(p, s): {"cosine": [], "chosen": [], "best": [], "skipped": []} for p in PATTERNS for s in SPARSITIES}
    for _, layer, q, k, v in track(calls, "layers", console=console):
        weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
        dense = weights @ v
        for (pattern, sparsity), row in figures.items():
            o, mask, report = aerogel.sparse_attention(
                q, k, v, sparse_type=pattern, sparsity=sparsity, block_size=arguments.block_size, return_mask=True, return_report=True,
                **({} if pattern == "ada_bsa" else {"latent_shape_q": latent(arguments)}))
            row["cosine"].append((layer, float(torch.cosine_similarity(o.flatten(), dense.flatten(), dim=0))))
            asked = reference.Video(latent(arguments), 0, arguments.block_size, sparsity)
            for head, found in enumerate(report["heads"]):
                kind = {"block_mean": "block_mean", "antidiagonal": "dense"}.get(found["type"], found["type"])
                chosen, best = kept_mass(weights[0, head], mask[0, head].numpy(), reference.orders(asked, kind), arguments.block_size)
                row["chosen"].append(chosen)
                row["best"].append(best)
                q_order, k_order = (torch.from_numpy(order) for order in reference.orders(asked, kind))
                row["skipped"].append(SkippedBlocks(q[0, head][q_order], k[0, head][k_order], v[0, head][k_order], mask[0, head].bool(), arguments.block_size))
                if pattern == "rf_v1" and found["type"] in reference.TYPES:
                    exhaustive.judge(sparsity, found["type"], weights[0, head], v[0, head])
    return figures


def write_plot(rows: dict, path: pathlib.Path) -> None:
    figure, axis = plt.subplots(figsize=(6.5, 4))
    for pattern in PATTERNS:
        means, halves = zip(*(interval(rows[pattern, s]["cosine"]) for s in SPARSITIES))
        points = [(rows[pattern, s]["density"], mean) for s, mean in zip(SPARSITIES, means)]
        axis.errorbar(*zip(*points), yerr=None if None in halves else halves, marker="o", label=pattern)
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
        frames = np.clip((load_file(arguments.work / f"{name}_0.safetensors")["video"].transpose(1, 2, 3, 0) + 1) / 2, 0, 1)
        for axis, index in zip(row, np.linspace(0, len(frames) - 1, columns).round().astype(int)):
            axis.imshow(frames[index], interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_ylabel(name.replace("_80", "\n80 %"), rotation=0, ha="right", va="center", fontsize=9)
    figure.tight_layout(pad=0.3)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def skipped_blocks(arguments: argparse.Namespace, figures: dict) -> str:
    text = f"""
## Skipped blocks

Three ways to treat the blocks that a mask leaves out, head by head on the same inputs, in plain PyTorch: errors of the
output, |o - dense o| / |dense o|. *means*: each skipped block counts as {arguments.block_size} tokens with its mean key and its mean value, which adds
one key per block (arXiv 2603.08982). *threshold*: of the computed blocks those whose weights all stay under
{SkippedBlocks.THRESHOLD:.0%} of the largest so far are not multiplied with v (arXiv 2512.12087); *multiplied* is the share that still is. Neither is
in the kernels yet.

| pattern | asked | computed | left out | means | threshold | multiplied |
| --- | --- | --- | --- | --- | --- | --- |
"""
    for (pattern, sparsity), row in figures.items():
        of = {name: [getattr(head, name) for head in row["skipped"]] for name in ("density", "plain", "means", "threshold", "products")}
        text += (f"| {pattern} | {sparsity:.0%} | {statistics.fmean(of['density']):.0%} | {shown(of['plain'], '.3f')} | {shown(of['means'], '.3f')} | "
                 f"{shown(of['threshold'], '.3f')} | {shown(of['products'], '.0%')} |\n")
    return text


def arm(exhaustive: ExhaustiveChoice) -> str:
    return f"""
## ARM against the exhaustive choice

`rf_v1` (RainFusion 1) recognises each head's mask from a sample of its attention; the paper calls this ARM, adaptive
recognition module. Here each head's whole attention is computed under all three masks and compared with dense
attention. The table says how often a way to choose finds the mask that errs least, and how many times as much its mask
errs as that one, on average.

ARM chooses by *recall*, the kept share of the attention, as the paper does. The sample is not what it lacks: the recall
of the whole map chooses no better. A mask that keeps more of the attention may still err more, because the error hangs
on how far the values of what is left out are from those of what is kept. The error of the output of the same sample of
queries would choose better; it needs v, which a plan does not see.

{exhaustive.table()}"""


def page(arguments: argparse.Namespace, rows: dict, figures: dict, exhaustive: ExhaustiveChoice) -> str:
    dense = rows["dense"]
    text = f"""# Sparse attention on the trained model

This page measures what sparse attention costs in quality on a trained model, how well each pattern chooses its blocks,
and how well `rf_v1` recognises heads. `make sparsity` (`bench/sparsity.py`) writes it.
[sparse_attention.md](sparse_attention.md) explains the patterns.

Model `{arguments.model.name}`, {len(arguments.prompt)} captions from seed {arguments.seed} on, {arguments.frames} frames, {arguments.steps} steps, blocks of {arguments.block_size}
tokens, dense before step {arguments.start_step}. Figures are `mean ± half` of the 95 % interval of the mean (Student's t) over
the videos, or over layers, levels and videos. Measured on {dense["cpu"]["name"]} ({dense["cpu"]["level"]}, {dense["cpu"]["threads"]} threads); the dense model takes {dense["seconds"]:.2f} s
per step. *asked* is the sparsity. *density* is the computed share of the attention maps in the sparse steps (blocks
of the first frame are always computed). Seconds are medians over the sparse steps. PSNR, SSIM and
cosine compare with the dense video.

![cosine against density](images/sparsity.png)

| pattern | asked | density | s / step | speed | PSNR dB | SSIM | cosine |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""
    for pattern, sparsity in figures:
        row = rows[pattern, sparsity]
        text += (f"| {pattern} | {sparsity:.0%} | {row['density']:.0%} | {row['seconds']:.2f} | {dense['seconds'] / row['seconds']:.2f} x | "
                 f"{shown(row['psnr'], '.1f')} | {shown(row['ssim'], '.3f')} | {shown(row['cosine'], '.4f')} |\n")
    text += f"""
![frames at 80 %](images/sparsity_frames.png)

## Layer by layer

Here the patterns run on q, k and v of every self-attention. The inputs are {min(arguments.recorded, len(arguments.prompt))} dense videos, noised as when a
staggered sampler is {", ".join(f"{p:.0%}" for p in PROGRESS)} done.

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
        text += (f"| {pattern} | {sparsity:.0%} | {shown([c for _, c in row['cosine']], '.4f')} | "
                 f"{statistics.fmean(by_layer[worst]):.4f} (layer {worst}) | {shown(row['chosen'], '.1%')} | {best:.1%} | {best - chosen:.1%} |\n")
    return text + skipped_blocks(arguments, figures) + arm(exhaustive)


def main() -> None:
    arguments = parse_arguments()
    if not arguments.aerogel.exists():
        sys.exit(f"sparsity: {arguments.aerogel} is missing; run `make sparsity`, which builds first")
    arguments.work.mkdir(parents=True, exist_ok=True)
    (arguments.output / "images").mkdir(parents=True, exist_ok=True)
    sys.path.insert(0, str(arguments.aerogel.parent / "python"))
    console = Console(stderr=True)
    rows = videos(arguments, console)
    exhaustive = ExhaustiveChoice(latent(arguments), arguments.block_size)
    figures = layer_figures(arguments, recorded(arguments), exhaustive, console)
    write_plot(rows, arguments.output / "images/sparsity.png")
    write_frames(arguments, arguments.output / "images/sparsity_frames.png")
    (arguments.output / "sparsity.md").write_text(page(arguments, rows, figures, exhaustive))
    print(f"wrote {arguments.output / 'sparsity.md'}")


if __name__ == "__main__":
    main()
