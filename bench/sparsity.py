"""What sparse attention costs in quality on the trained model: every pattern at several sparsities beside the dense video.

Whole videos come from `aerogel generate` and are compared by `aerogel compare`. Layer by layer, q, k and v of the same model in
PyTorch (on the dense video, noised as at three points of a staggered sampler's way) go through aerogel.sparse_attention; its output is compared with dense
attention, and the attention mass of the chosen blocks with that of the best blocks, as many per row. Everything with and without the
centroids of skipped blocks, and rf_v1 with masks chosen by the error of the output. Writes docs/sparsity.md with its pictures; --output writes them elsewhere.
"""

import argparse
import concurrent.futures
import hashlib
import json
import math
import os
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
import figures as figure_files  # noqa: E402
from figures import interval, shown  # noqa: E402

PATTERNS = ("rf_v1", "rf_v2", "ada_bsa")
SPARSITIES = (0.5, 0.7, 0.8, 0.9)
# What a pattern is measured with: the name in the tables and the flags of the command.
VARIANTS = {"plain": [], "centroids": ["--centroids"], "by error": ["--by-error"]}
MARKERS = dict(zip(VARIANTS, "xo^"))
SIDE = data.SIZE // data.PATCH
PROGRESS = (0.2, 0.5, 0.8)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aerogel", type=pathlib.Path, default=ROOT / "build/release/aerogel", help="the command")
    parser.add_argument("--model", type=pathlib.Path, default=ROOT / "examples/shapes_dit", help="pipeline folder")
    parser.add_argument("--prompt", nargs="+", default=fidelity.listed_captions(fidelity.VIDEOS), help="captions of the videos, one each")
    parser.add_argument("--seed", type=int, default=5, help="of the first caption; each other one takes the next")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--start-step", type=int, default=2, help="sparse from this step on")
    parser.add_argument("--recorded", type=int, default=4, help="videos whose attention is looked at layer by layer")
    parser.add_argument("--block-size", type=int, default=64)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="videos made at a time, each by one thread")
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "docs", help="folder for sparsity.md and images/")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "build/sparsity", help="folder for the videos, and figures of a run that was stopped")
    return parser.parse_args()


def latent(arguments: argparse.Namespace) -> tuple:
    return arguments.frames, SIDE, SIDE


def run(command: list) -> dict:
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True, check=False, env={**os.environ, "AEROGEL_NUM_THREADS": "1"})
    if done.returncode != 0:
        sys.exit(f"sparsity: failed ({done.returncode}): {' '.join(str(part) for part in command)}")
    return json.loads(done.stdout)


def variants_of(pattern: str) -> list:
    return [variant for variant in VARIANTS if variant != "by error" or pattern == "rf_v1"]


def named(pattern: str, sparsity: float, variant: str) -> str:
    return f"{pattern}_{round(100 * sparsity)}{'' if variant == 'plain' else '_' + variant.replace(' ', '_')}"


def titled(pattern: str, variant: str) -> str:
    return pattern if variant == "plain" else f"{pattern}, {variant}"


def video(arguments: argparse.Namespace, name: str, flags: list) -> dict:
    """Figures of a video of each caption: lists of how close it is to that of the dense model, and means."""
    def one(i: int) -> tuple[dict, dict]:
        path = arguments.work / f"{name}_{i}.safetensors"
        command = [arguments.aerogel, "generate", arguments.model, "--prompt", arguments.prompt[i], "--seed", arguments.seed + i]
        report = run([*command, "--frames", arguments.frames, "--steps", arguments.steps, "-o", path, "--json", *flags])
        return report, run([arguments.aerogel, "compare", arguments.work / f"dense_{i}.safetensors", path, "--json"])["results"][0]

    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        made = list(pool.map(one, range(len(arguments.prompt))))
    row: dict = {key: [min(float(close[key]), 100.0) for _, close in made] for key in ("psnr", "ssim", "cosine")}
    calls = [call for report, _ in made if flags for call in report["sparse"]["calls"] if call["step"] >= arguments.start_step]
    densities = [head["density"] for call in calls for head in call["heads"]]
    seconds = [s for report, _ in made for s in report["step_seconds"][arguments.start_step:]]
    return row | {"cpu": made[0][0]["cpu"], "seconds": statistics.median(seconds), "density": statistics.fmean(densities) if flags else 1.0}


def videos(arguments: argparse.Namespace, console: Console) -> dict:
    """{(pattern, sparsity, variant) or "dense": figures}, one after the other, dense first and last for a fair median. What a run that
    was stopped has found by the same command with the same flags is taken from it."""
    settings = {key: str(value) for key, value in vars(arguments).items() if key not in ("output", "work", "recorded")}
    settings["aerogel"] = hashlib.sha256(arguments.aerogel.read_bytes()).hexdigest()
    path = arguments.work / "rows.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    kept = before["rows"] if before.get("settings") == settings else {}
    rows = {"dense": video(arguments, "dense", [])}
    wanted = [(pattern, sparsity, variant) for pattern in PATTERNS for variant in variants_of(pattern) for sparsity in SPARSITIES]
    for pattern, sparsity, variant in track(wanted, "videos", console=console):
        name = named(pattern, sparsity, variant)
        flags = ["--sparse", pattern, "--sparsity", sparsity, "--block-size", arguments.block_size, "--start-step", arguments.start_step]
        if name not in kept:
            kept[name] = video(arguments, name, [*flags, *VARIANTS[variant]])
            figure_files.write(path, {"settings": settings, "rows": kept})
        rows[pattern, sparsity, variant] = kept[name]
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
    ways to choose do: by the recall of the whole map, and by the error of the output of a sample of queries, with a sample of the keys or
    with all."""

    WAYS = ("ARM: recall, sampled", "recall, whole map", "`--by-error`", "error of ARM's queries, all keys")

    def __init__(self, latent: tuple, block: int):
        self.pairs = {}  # token pairs that a mask keeps
        for sparsity in SPARSITIES:
            asked = reference.Video(latent, 0, block, sparsity)
            self.pairs[sparsity] = {kind: torch.from_numpy(reference.pair_mask(asked, reference.static_mask(asked, kind), *reference.orders(asked, kind)))
                                    for kind in reference.TYPES}
        tokens, frame = math.prod(latent), math.prod(latent[1:])
        self.queries = sampled(min(64, max(16, tokens // 128)), frame if tokens > frame else 0, tokens)
        self.agreed: dict = {(sparsity, way): [] for sparsity in SPARSITIES for way in self.WAYS}
        self.excess: dict = {(sparsity, way): [] for sparsity in SPARSITIES for way in self.WAYS}

    @staticmethod
    def error(weights: torch.Tensor, pairs: torch.Tensor, v: torch.Tensor) -> float:
        """Of the output under a mask; rows of weights of any sum."""
        kept, dense = weights * pairs, weights @ v / weights.sum(1, keepdim=True)
        return float((kept @ v / kept.sum(1, keepdim=True).clamp(min=1e-30) - dense).norm())

    def judge(self, sparsity: float, chosen: tuple[str, str], weights: torch.Tensor, v: torch.Tensor) -> None:
        """One head: weights [tokens, tokens] after the softmax, v [tokens, head_dim], and the masks that ARM chose by recall and by error."""
        pairs, rows = self.pairs[sparsity], weights[self.queries]
        errors = {kind: self.error(weights, kept, v) for kind, kept in pairs.items()}
        recalls = {kind: float((weights * kept).sum()) for kind, kept in pairs.items()}
        queries = {kind: self.error(rows, kept[self.queries], v) for kind, kept in pairs.items()}
        best = min(errors, key=errors.get)
        choices = (chosen[0], max(recalls, key=recalls.get), chosen[1], min(queries, key=queries.get))
        for way, choice in zip(self.WAYS, choices):
            self.agreed[sparsity, way].append(choice == best)
            self.excess[sparsity, way].append(errors[choice] / max(errors[best], 1e-30))

    def table(self) -> str:
        rows = [f"| {sparsity:.0%} | {way} | {len(agreed)} | {shown(agreed, '.0%')} | {shown(self.excess[sparsity, way], '.3f')} x |\n"
                for (sparsity, way), agreed in self.agreed.items()]
        return "| asked | chosen by | heads judged | same mask | its error to the least |\n| --- | --- | --- | --- | --- |\n" + "".join(rows)


def relative_error(o: torch.Tensor, wanted: torch.Tensor) -> list:
    """Of every head."""
    return ((o - wanted).flatten(2).norm(dim=2) / wanted.flatten(2).norm(dim=2))[0].tolist()


@torch.inference_mode()
def layer_figures(arguments: argparse.Namespace, calls: list, exhaustive: "ExhaustiveChoice", console: Console) -> dict:
    """{(pattern, sparsity): {"cosines": [per call], "chosen": mean mass, "best": mean mass, "layers": {layer: mean cosine}}}."""
    import aerogel

    figures = {(p, s): {"cosine": [], "chosen": [], "best": [], "error": [], "centroids": []} for p in PATTERNS for s in SPARSITIES}
    for _, layer, q, k, v in track(calls, "layers", console=console):
        weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
        dense = weights @ v
        for (pattern, sparsity), row in figures.items():
            call = {"sparse_type": pattern, "sparsity": sparsity, "block_size": arguments.block_size,
                    **({} if pattern == "ada_bsa" else {"latent_shape_q": latent(arguments)})}
            o, mask, report = aerogel.sparse_attention(q, k, v, return_mask=True, return_report=True, **call)
            row["error"] += relative_error(o, dense)
            row["centroids"] += relative_error(aerogel.sparse_attention(q, k, v, centroids=True, **call), dense)
            by_error = aerogel.sparse_attention(q, k, v, by_error=True, return_report=True, **call)[1]["heads"] if pattern == "rf_v1" else []
            row["cosine"].append((layer, float(torch.cosine_similarity(o.flatten(), dense.flatten(), dim=0))))
            asked = reference.Video(latent(arguments), 0, arguments.block_size, sparsity)
            for head, found in enumerate(report["heads"]):
                kind = {"block_mean": "block_mean", "antidiagonal": "dense"}.get(found["type"], found["type"])
                chosen, best = kept_mass(weights[0, head], mask[0, head].numpy(), reference.orders(asked, kind), arguments.block_size)
                row["chosen"].append(chosen)
                row["best"].append(best)
                if pattern == "rf_v1" and found["type"] in reference.TYPES:
                    exhaustive.judge(sparsity, (found["type"], by_error[head]["type"]), weights[0, head], v[0, head])
    return figures


def write_plot(rows: dict, path: pathlib.Path) -> None:
    """Against seconds, so that centroids pay for what they cost."""
    figure, axis = plt.subplots(figsize=(6.5, 4))
    for colour, pattern in enumerate(PATTERNS):
        for variant in variants_of(pattern):
            of = [rows[pattern, s, variant] for s in SPARSITIES]
            means, halves = zip(*(interval(row["cosine"]) for row in of))
            points = [(row["seconds"], mean) for row, mean in zip(of, means)]
            axis.errorbar(*zip(*points), yerr=None if None in halves else halves, marker=MARKERS[variant], color=f"C{colour}",
                          linestyle=":" if variant == "plain" else "-", label=titled(pattern, variant))
            for sparsity, (x, y) in zip(SPARSITIES, points):
                axis.annotate(f"{sparsity:.0%}", (x, y), textcoords="offset points", xytext=(4, 4), fontsize=8)
    axis.axhline(0.95, color="#999", linewidth=0.8)
    axis.set_xlabel("seconds of a step")
    axis.set_ylabel("cosine to the dense video")
    axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def write_frames(arguments: argparse.Namespace, path: pathlib.Path, columns: int = 8) -> None:
    """Evenly spaced frames of the dense video and of every pattern at 80 %."""
    names = ["dense", *(named(pattern, 0.8, variant) for pattern in PATTERNS for variant in variants_of(pattern))]
    figure, axes = plt.subplots(len(names), columns, figsize=(1.25 * columns + 1.4, 1.35 * len(names)), squeeze=False)
    for row, name in zip(axes, names):
        frames = np.clip((load_file(arguments.work / f"{name}_0.safetensors")["video"].transpose(1, 2, 3, 0) + 1) / 2, 0, 1)
        for axis, index in zip(row, np.linspace(0, len(frames) - 1, columns).round().astype(int)):
            axis.imshow(frames[index], interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_ylabel(name.replace("_80", "\n80 %").replace("_centroids", "\ncentroids").replace("_by_error", "\nby error"), rotation=0, ha="right", va="center", fontsize=9)
    figure.tight_layout(pad=0.3)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def at_equal_time(rows: dict, pattern: str, sparsity: float) -> str:
    """PSNR without centroids where a step takes as long as that one with them: on the line between two sparsities."""
    points = sorted((rows[pattern, s, "plain"]["seconds"], statistics.fmean(rows[pattern, s, "plain"]["psnr"])) for s in SPARSITIES)
    seconds = rows[pattern, sparsity, "centroids"]["seconds"]
    inside = points[0][0] <= seconds <= points[-1][0]
    return f"{np.interp(seconds, *zip(*points)):.1f}" if inside else ""


def centroids(arguments: argparse.Namespace, rows: dict, figures: dict) -> str:
    text = f"""
## Centroids of skipped blocks

With `--centroids` each skipped block counts as its {arguments.block_size} tokens at their mean key and mean value (arXiv 2603.08982).
*Errors* are |o - dense o| / |dense o| of the output of every head, on the inputs above. *At equal time* is the PSNR
without centroids at the sparsity whose steps take as long as those with them, on the line between two rows of the
first table; empty where these have none as slow. What was also tried: to leave out the product with v for blocks whose
weights stay under 1 % of the largest so far (arXiv 2512.12087). It saved 8 to 17 % of those products, less than half
of the work of a block, and is not in the kernels.

| pattern | asked | error | with centroids | PSNR dB | with centroids | at equal time |
| --- | --- | --- | --- | --- | --- | --- |
"""
    for (pattern, sparsity), row in figures.items():
        plain, means = (shown(rows[pattern, sparsity, variant]["psnr"], ".1f") for variant in ("plain", "centroids"))
        text += (f"| {pattern} | {sparsity:.0%} | {shown(row['error'], '.3f')} | {shown(row['centroids'], '.3f')} | {plain} | {means} | "
                 f"{at_equal_time(rows, pattern, sparsity)} |\n")
    return text


def arm(exhaustive: ExhaustiveChoice) -> str:
    return f"""
## ARM against the exhaustive choice

`rf_v1` (RainFusion 1) recognises each head's mask from a sample of its attention; the paper calls this ARM, adaptive
recognition module. Here each head's whole attention is computed under all three masks and compared with dense
attention. The table says how often a way to choose finds the mask that errs least, and how many times as much its mask
errs as that one, on average.

ARM chooses by *recall*, the kept share of the attention, as the paper does. The sample is not what it lacks: the
recall of the whole map chooses no better. A mask that keeps more of the attention may still err more, because the
error hangs on how far the values of what is left out are from those of what is kept. With `--by-error` ARM compares
the outputs of the same sample of queries over the same sample of keys instead.

{exhaustive.table()}"""


def page(arguments: argparse.Namespace, rows: dict, figures: dict, exhaustive: ExhaustiveChoice) -> str:
    dense = rows["dense"]
    text = f"""# Sparse attention on the trained model

This page measures what sparse attention costs in quality on a trained model, how well each pattern chooses its blocks,
and how well `rf_v1` recognises heads. `make sparsity` (`bench/sparsity.py`) writes it.
[sparse_attention.md](sparse_attention.md) explains the patterns.

Model `{arguments.model.name}`, {len(arguments.prompt)} captions from seed {arguments.seed} on, {arguments.frames} frames, {arguments.steps} steps, blocks of {arguments.block_size}
tokens, dense before step {arguments.start_step}. Figures are `mean ± half` of the 95 % interval of the mean (Student's t) over
the videos, or over layers, levels and videos. Measured on {dense["cpu"]["name"]} ({dense["cpu"]["level"]}), {arguments.jobs} videos at a time by one thread each; the dense model takes {dense["seconds"]:.2f} s
per step. *asked* is the sparsity. *density* is the computed share of the attention maps in the sparse steps (blocks
of the first frame are always computed). Seconds are medians over the sparse steps. PSNR, SSIM and
cosine compare with the dense video.

![cosine against seconds](images/sparsity.png)

| pattern | asked | density | s / step | speed | PSNR dB | SSIM | cosine |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""
    for (pattern, sparsity, variant), row in list(rows.items())[1:]:
        text += (f"| {titled(pattern, variant)} | {sparsity:.0%} | {row['density']:.0%} | {row['seconds']:.2f} | {dense['seconds'] / row['seconds']:.2f} x | "
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
    return text + centroids(arguments, rows, figures) + arm(exhaustive)


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
