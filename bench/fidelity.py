"""What quantization costs in quality: every scheme and the sensible combinations of algorithms on one model, at equal seeds.

Per variant: size of the weights, seconds per step, relative error of the weights per layer, and, each as a mean with a 95 % interval: what the
flow-matching loss of unseen videos gains and the relative error of the predicted velocity (over all noise levels), and how near the videos are
to those of the float model from the same captions and seeds (PSNR, SSIM, cosine). Beside them stand the float model with every weight moved by
one unit in the last place of float32 (nearer than that nothing can be expected) and torchao's schemes. Writes fidelity.md and fidelity.png.
"""

import argparse
import concurrent.futures
import hashlib
import json
import math
import os
import pathlib
import shutil
import statistics
import subprocess
import tempfile

import figures
import held_out
import numpy as np
import torchao_peers
from machine import machine
from rich.progress import track
from safetensors.torch import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parents[1]
DATA = "data"  # marks variants that need calibration
PER_ROW = ["--packed", "--group-size", "0"]  # int4 without the groups that it has unless told otherwise
# name: flags of `aerogel quantize`
VARIANTS = {
    "W8A16": ["W8A16"], "W8A16, mse_clip": ["W8A16", "--algorithm", "mse_clip"], "W8A16, ssz": ["W8A16", "--algorithm", "ssz"], "W8A16_FP8": ["W8A16_FP8"], "W8A16_FP8_E5M2": ["W8A16_FP8_E5M2"], "W8A16_MXFP8": ["W8A16_MXFP8"],
    "W8A8_DYNAMIC": ["W8A8_DYNAMIC"], "W8A8_DYNAMIC, rotated": ["W8A8_DYNAMIC", "--rotate", "-1"],
    "W8A8_DYNAMIC, ConvRot": ["W8A8_DYNAMIC", "--rotate", "convrot"],
    "W8A8_DYNAMIC, smoothquant": ["W8A8_DYNAMIC", "--smooth", "smoothquant", DATA],
    "W8A8_DYNAMIC, low rank 32": ["W8A8_DYNAMIC", "--low-rank", "32"], "W8A8_DYNAMIC, gptq": ["W8A8_DYNAMIC", "--algorithm", "gptq", DATA],
    "W8A8_DYNAMIC, autoround": ["W8A8_DYNAMIC", "--algorithm", "autoround", DATA],
    "W8A8": ["W8A8", DATA], "W8A8, smoothquant": ["W8A8", "--smooth", "smoothquant", DATA], "W8A8, rotated": ["W8A8", "--rotate", "-1", DATA],
    "W8A8_TIMESTEP": ["W8A8_TIMESTEP", DATA], "WFP8AFP8_DYNAMIC": ["WFP8AFP8_DYNAMIC"], "W8A8_MXFP8": ["W8A8_MXFP8"],
    "W8A8_MXFP8, mse_round": ["W8A8_MXFP8", "--algorithm", "mse_round"],
    "W4A16": ["W4A16", *PER_ROW], "W4A16, groups of 32": ["W4A16", "--group-size", "32", "--packed"],
    "W4A16, groups of 32, mse_clip": ["W4A16", "--group-size", "32", "--packed", "--algorithm", "mse_clip"],
    "W4A16, groups of 32, ssz": ["W4A16", "--group-size", "32", "--packed", "--algorithm", "ssz"],
    "W4A16, groups of 32, gptq": ["W4A16", "--group-size", "32", "--packed", "--algorithm", "gptq", DATA],
    "W4A16, groups of 32, autoround": ["W4A16", "--group-size", "32", "--packed", "--algorithm", "autoround", DATA],
    "W4A16, groups of 32, rotated": ["W4A16", "--group-size", "32", "--packed", "--rotate", "-1"],
    "W4A16, groups of 32, ConvRot": ["W4A16", "--group-size", "32", "--packed", "--rotate", "convrot"],
    "W4A16, groups of 32, smoothquant": ["W4A16", "--group-size", "32", "--packed", "--smooth", "smoothquant", DATA],
    "W4A16, groups of 32, low rank 32": ["W4A16", "--group-size", "32", "--packed", "--low-rank", "32"],
    "W4A16, groups of 32, awq": ["W4A16", "--group-size", "32", "--packed", "--algorithm", "awq", DATA],
    "W4A16, groups of 32, awq, gptq": ["W4A16", "--group-size", "32", "--packed", "--smooth", "awq", "--algorithm", "gptq", DATA],
    "W4A16_MXFP4": ["W4A16_MXFP4"], "W4A16_MXFP4, fouroversix": ["W4A16_MXFP4", "--algorithm", "fouroversix"],
    "W4A8": ["W4A8", *PER_ROW], "W4A8, rotated, gptq": ["W4A8", *PER_ROW, "--rotate", "-1", "--algorithm", "gptq", DATA],
    "W4A4_DYNAMIC": ["W4A4_DYNAMIC", *PER_ROW], "W4A4_DYNAMIC, rotated": ["W4A4_DYNAMIC", *PER_ROW, "--rotate", "-1"],
    "W4A4_DYNAMIC, ConvRot": ["W4A4_DYNAMIC", *PER_ROW, "--rotate", "convrot"],
    "W4A4_DYNAMIC, smoothquant": ["W4A4_DYNAMIC", *PER_ROW, "--smooth", "smoothquant", DATA],
    "W4A4_DYNAMIC, low rank 32": ["W4A4_DYNAMIC", *PER_ROW, "--low-rank", "32"],
    "W4A4_DYNAMIC, gptq": ["W4A4_DYNAMIC", *PER_ROW, "--algorithm", "gptq", DATA],
    "W4A4_DYNAMIC, autoround": ["W4A4_DYNAMIC", *PER_ROW, "--algorithm", "autoround", DATA],
    "W4A4_DYNAMIC, rotated, gptq": ["W4A4_DYNAMIC", *PER_ROW, "--rotate", "-1", "--algorithm", "gptq", DATA],
    "W4A4_DYNAMIC, rotated, low rank 32": ["W4A4_DYNAMIC", *PER_ROW, "--rotate", "-1", "--low-rank", "32"],
    "W4A4_DYNAMIC, smoothed, low rank 32, rotated, gptq":
        ["W4A4_DYNAMIC", *PER_ROW, "--smooth", "smoothquant", "--low-rank", "32", "--rotate", "-1", "--algorithm", "gptq", DATA],
    "W4A4_STATIC": ["W4A4_STATIC", "--packed", DATA], "W4A4_STATIC, rotated": ["W4A4_STATIC", "--packed", "--rotate", "-1", DATA],
    "W4A8_MXFP": ["W4A8_MXFP"], "W4A4_MXFP4": ["W4A4_MXFP4"], "W4A4_MXFP4, ceil_x_search": ["W4A4_MXFP4", "--algorithm", "ceil_x_search"],
    "W4A4_MXFP4, rotated": ["W4A4_MXFP4", "--rotate", "-1"], "W4A4_MXFP4_SVD": ["W4A4_MXFP4_SVD"],
    "W4A4_MXFP4_SVD, smoothquant": ["W4A4_MXFP4_SVD", "--smooth", "smoothquant", DATA], "W4A4_MXFP4_DUALSCALE": ["W4A4_MXFP4_DUALSCALE"],
    "W8A16, attention INT8_DYNAMIC": ["W8A16", "--fa", "INT8_DYNAMIC"], "W8A16, attention FAQUANT": ["W8A16", "--fa", "FAQUANT", DATA],
    "W8A16, attention FP8_DYNAMIC": ["W8A16", "--fa", "FP8_DYNAMIC"], "W8A16, attention MXFP8_DYNAMIC": ["W8A16", "--fa", "MXFP8_DYNAMIC"],
    "W8A16, attention MXFP4_DYNAMIC": ["W8A16", "--fa", "MXFP4_DYNAMIC"],
}
# One algorithm at a time, each on the same schemes: name in the table, end of the variant's name.
SIDE_BY_SIDE = {"none (minmax)": "", "ConvRot": ", ConvRot", "rotated (ours)": ", rotated", "SVD, low rank 32": ", low rank 32",
                "SmoothQuant": ", smoothquant", "GPTQ": ", gptq", "AutoRound": ", autoround"}
SIDES = ("W8A8_DYNAMIC", "W4A16, groups of 32", "W4A4_DYNAMIC")
# name: flags of `aerogel generate`
CACHES = {f"{kind}, {threshold}": ["--cache", kind, "--cache-threshold", threshold] for kind in ("first-block", "taylor") for threshold in (0.02, 0.05, 0.1)}
# Ranges per step differ where all tokens of a step are at one noise level: all frames together, none before the others.
TOGETHER = ["--stagger", "0", "--no-image-first"]
# name: flags of `aerogel quantize`, share of the steps before the first static one
BY_STEP = {
    "W8A8": (["W8A8", DATA], 0.0), "W8A8_TIMESTEP": (["W8A8_TIMESTEP", DATA], 0.0),
    "W8A8_TIMESTEP, first quarter of the steps dynamic": (["W8A8_TIMESTEP", DATA], 0.25),
    "W8A8_TIMESTEP, first half dynamic": (["W8A8_TIMESTEP", DATA], 0.5), "W8A8_DYNAMIC": (["W8A8_DYNAMIC"], 0.0),
}
COLUMNS = {
    "MB": ("bytes", "MB"), "s/step": ("seconds_per_step", ".2f"), "weight error, mean": ("weight_errors", ".4f"), "worst layer": ("error_worst", ".4f"),
    "loss gained, 1e-5": ("losses_gained", "1e-5"), "velocity error": ("velocity_errors", ".4f"), "PSNR": ("psnr", ".1f"), "SSIM": ("ssim", ".4f"),
    "cosine": ("cosine", ".5f"),
}
COLUMNS_OF_CACHES = {"passes left out": ("left_out", ".0%"), "s/video": ("seconds", ".2f"), "PSNR": ("psnr", ".1f"), "SSIM": ("ssim", ".4f"),
                     "cosine": ("cosine", ".5f")}
COLUMNS_BY_STEP = {name: COLUMNS[name] for name in ("loss gained, 1e-5", "velocity error", "PSNR", "SSIM", "cosine")}
# Variants of near figures, or whose figures once seemed to contradict each other: compared video by video and input by input.
PAIRS = [
    ("W8A16", "W8A8_DYNAMIC"), ("W8A16, mse_clip", "W8A16"), ("W8A16, mse_clip", "torchao int8 weight-only"), ("W8A8_DYNAMIC, rotated", "W8A8_DYNAMIC"),
    ("W8A8_DYNAMIC, smoothquant", "W8A8_DYNAMIC"), ("W8A8_TIMESTEP", "W8A8"), ("W8A8, rotated", "W8A8, smoothquant"),
    ("W4A16, groups of 32, mse_clip", "W4A16, groups of 32"), ("W4A16, groups of 32, mse_clip", "torchao int4 weight-only, groups of 32"),
    ("W4A16, groups of 32, mse_clip", "W4A16, groups of 32, ssz"), ("W4A16, groups of 32, awq, gptq", "W4A16, groups of 32, gptq"),
    ("W4A16, groups of 32, autoround", "W4A16, groups of 32, gptq"), ("W8A8_DYNAMIC, ConvRot", "W8A8_DYNAMIC, rotated"),
    ("W4A4_DYNAMIC, ConvRot", "W4A4_DYNAMIC, rotated"),
    ("W4A16_MXFP4, fouroversix", "W4A16_MXFP4"), ("W4A4_MXFP4, ceil_x_search", "W4A4_MXFP4"), ("W4A4_MXFP4_SVD, smoothquant", "W4A4_MXFP4_SVD"),
    ("W8A16, attention INT8_DYNAMIC", "W8A16"), ("W8A16, attention FAQUANT", "W8A16"),
]
PAIRS_BY_STEP = [("W8A8_TIMESTEP", "W8A8"), ("W8A8_TIMESTEP, first half dynamic", "W8A8_TIMESTEP")]
EXPLANATIONS = """- **A few videos rank nothing.** This page once compared two, and W8A16 (37 dB) stood below W8A8_DYNAMIC (43 dB), with
  the same weights. One video that turns into another is enough for that, and such videos are in every row: of 24 of
  W8A16 one has 33 dB, the median 49. Over 24 pairs W8A16 is better in the videos and in the velocity. The velocity
  error needs fewer inputs, as its intervals are narrow.
- **W8A8_TIMESTEP** gains next to nothing in the velocity here, and its videos are no nearer: each step holds tokens
  of nearly all noise levels. [Ranges per step](#ranges-per-step) has it where it belongs.
- **Weight errors of int8**: `minmax` rounds w / s to bfloat16, the type of the model, as the exporter does whose
  files it writes byte for byte; torchao divides in float32. `mse_clip` and `ssz` write the same format without that
  rounding.
- **Weight errors of int4 in groups**: torchao maps the largest magnitude to 7.5, `minmax` to 7, which is the contract
  of the format. `mse_clip` tries 100 scales and `ssz` fits one; both err less than either.
- **A small weight error is no aim in itself**: smoothing moves weights far from where they were, and GPTQ does too;
  both are nearer in the velocity. The int8 weights of `mse_clip` are nearer than those of `minmax`, but the velocity
  is not."""
CAPTIONS = ["red circle moves left", "blue star turns, yellow square moves up", "green triangle moves right"]  # of calibration
VIDEOS = 24


def listed_captions(count):
    lines = [line.strip() for line in (ROOT / "examples/train_demo/captions.txt").read_text().splitlines()]
    return [line for line in lines if line and line[0] != "#" and line not in CAPTIONS][:count]


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aerogel", type=pathlib.Path, default=ROOT / "build/release/aerogel", help="the command")
    parser.add_argument("--model", type=pathlib.Path, default=ROOT / "examples/shapes_dit")
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "docs", help="folder of fidelity.md and fidelity.png")
    parser.add_argument("--only", action="append", default=[], help="only variants whose name contains this; repeatable")
    parser.add_argument("--captions", nargs="+", default=listed_captions(VIDEOS), help="of the videos, one each; by default 24 that are not calibrated on")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--frames", type=int, default=2)
    parser.add_argument("--cache-steps", type=int, default=24, help="of the videos with --cache, which needs steps that are near each other")
    parser.add_argument("--guidance", type=float, help="of the videos; 1: none; default: the model's")
    parser.add_argument("--held-out", type=int, default=VIDEOS, help="unseen videos, at as many noise levels, of the loss and the velocity error")
    parser.add_argument("--held-out-frames", type=int, default=4, help="frames of them")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="videos made at a time, each by one thread")
    parser.add_argument("--json", type=pathlib.Path, default=ROOT / "build/fidelity.json",
                        help="keeps all figures; variants that it holds already, measured alike by the same command, are not measured again")
    return parser.parse_args()


class Kept:
    """Figures of variants by name, on the disk after each one: a run that is stopped goes on where it was."""

    def __init__(self, arguments):
        self.path = arguments.json
        named = ("model", "captions", "steps", "frames", "guidance", "held_out", "held_out_frames", "cache_steps")
        self.settings = {key: str(getattr(arguments, key)) for key in named} | {"aerogel": hashlib.sha256(arguments.aerogel.read_bytes()).hexdigest()}
        before = json.loads(self.path.read_text()) if self.path.exists() else {}
        alike = before.get("settings") == self.settings
        self.rows = {part: before[part] if alike else {} for part in ("variants", "by_step", "caches")}

    def row(self, part, name, measured, flags=()):
        """What is kept of the same flags, else what `measured()` gives."""
        rows, flags = self.rows[part], [str(flag) for flag in flags]
        if rows.get(name, {}).get("flags") != flags:
            rows[name] = {**measured(), "flags": flags}
            figures.write(self.path, {"settings": self.settings, **self.rows})
        return rows[name]


class Measure:
    """`together`: all frames of a video at the noise level of the step, in held-out inputs (one video per step), calibration and videos."""

    def __init__(self, arguments, folder, together=False):
        self.arguments, self.folder = arguments, folder
        self.length = ["--steps", arguments.steps, "--frames", arguments.frames, *(TOGETHER if together else [])]
        self.guidance = [] if arguments.guidance is None else ["--guidance", arguments.guidance]
        shift = json.loads((arguments.model / "model_index.json").read_text())["generation"]["flow_shift"] if together else None
        self.held_out = held_out.HeldOut(held_out.demo.load_folder(arguments.model), arguments.held_out, shift, arguments.held_out_frames)
        self.records = self.held_out.write(folder / "records.safetensors", arguments.steps)

    def run(self, *flags, threads=None):
        settings = {**os.environ, **({} if threads is None else {"AEROGEL_NUM_THREADS": str(threads)})}
        done = subprocess.run([str(self.arguments.aerogel), *map(str, flags)], capture_output=True, text=True, check=False, env=settings)
        if done.returncode != 0:
            raise SystemExit(f"aerogel {' '.join(map(str, flags))}\n{done.stderr}")
        return json.loads(done.stdout)

    def each(self, function):
        """What function(seed, caption) gives for every caption. Several at a time: one video is too small for many threads."""
        with concurrent.futures.ThreadPoolExecutor(self.arguments.jobs) as pool:
            return list(pool.map(function, range(len(self.arguments.captions)), self.arguments.captions))

    def videos(self, name, model, *flags):
        """The videos of all captions, caption i from seed i; the generation reports."""
        def one(seed, caption):
            path = self.folder / f"{name}_{seed}.safetensors"
            return self.run("generate", model, "--prompt", caption, "--seed", seed, *self.length, *self.guidance, "-o", path, "--json", *flags, threads=1)

        return self.each(one)

    def forward(self, model, *flags):
        """Loss and error of the velocity of each unseen video."""
        path = self.folder / "velocity.safetensors"
        self.run("forward", model, "--inputs", self.records, "-o", path, "--json", *flags)
        return self.held_out.of_file(path)

    def distances(self, name, reference="float"):
        """PSNR, SSIM and cosine of each video to that of the float model; equal videos count as 100 dB."""
        def one(seed, _):
            return self.run("compare", *(self.folder / f"{n}_{seed}.safetensors" for n in (reference, name)), "--json")["results"][0]

        results = self.each(one)
        return {key: [min(float(r[key]), 100.0) for r in results] for key in ("psnr", "ssim", "cosine")}

    def calibration(self):
        """One file of ranges and inputs for all variants that need data."""
        path, captions = self.folder / "stats", self.folder / "captions.txt"
        captions.write_text("\n".join(CAPTIONS) + "\n")
        self.run("quantize", self.arguments.model, "-o", self.folder / "q", "--scheme", "W8A8", "--smooth", "smoothquant", "--captions", captions,
                 *self.length, "--save-calibration", path, "--json")
        return path, captions

    def variant(self, flags, calibration, running=()):
        """`running`: flags of what runs the quantized model."""
        out = self.folder / "q"
        shutil.rmtree(out, ignore_errors=True)
        extra = []
        if DATA in flags:  # ranges of attention are not kept in files
            extra = ["--captions", calibration[1], *self.length] if "FAQUANT" in flags else ["--calibration", calibration[0]]
        report = self.run("quantize", self.arguments.model, "-o", out, "--json", "--scheme", *(f for f in flags if f != DATA), *extra)
        errors = [layer["relative_error"] for layer in report["layers"]]
        quantized = ["--quantized", report["description"], *running]
        generated = self.videos("quantized", self.arguments.model, *quantized)
        return {"bytes": generated[0]["weight_bytes"], "seconds_per_step": statistics.median(s for g in generated for s in g["step_seconds"]),
                "weight_errors": errors, "error_worst": max(errors), **self.forward(self.arguments.model, *quantized),
                **self.distances("quantized")}

    def torchao(self, kept):
        """Rows of PyTorch's float32 model and of torchao's schemes, whose videos PyTorch makes and that are compared with its own."""
        original = held_out.demo.load_folder(self.arguments.model)

        def row(model, name):
            a = self.arguments
            made, seconds = torchao_peers.videos(model, a.captions, a.steps, a.frames, a.guidance)
            for seed, video in enumerate(made):
                save_file({"video": video.contiguous()}, self.folder / f"{name}_{seed}.safetensors")
            found = {"bytes": torchao_peers.stored_bytes(model), "seconds_per_step": seconds, **self.held_out.of_model(model)}
            return found | ({} if name == "torch" else self.distances(name, "torch"))

        def peer(config):
            model = torchao_peers.quantized(self.arguments.model, config)
            errors = torchao_peers.weight_errors(model, original)
            return {"weight_errors": errors, "error_worst": max(errors), **row(model, "torchao")}

        plain = row(original, "torch")
        rows = {"PyTorch float32": kept.row("variants", "PyTorch float32", lambda: plain)}
        for name, config in track(torchao_peers.configs().items(), "torchao"):
            rows[name] = kept.row("variants", name, lambda config=config: peer(config))
        return rows


def disturbed(model, folder):
    """A copy of the model in float32 with every weight one unit in the last place up or down."""
    shutil.copytree(model, folder)
    path = folder / "transformer/diffusion_pytorch_model.safetensors"
    rng = np.random.default_rng(0)
    weights = {}
    for name, tensor in load_file(path).items():
        values = tensor.float()
        up = rng.integers(0, 2, values.numel()).astype(bool).reshape(values.shape)
        moved = np.nextafter(values.numpy(), np.where(up, np.inf, -np.inf).astype(np.float32))
        weights[name] = values.new_tensor(moved)
    save_file(weights, path)
    return folder


def measure(arguments, kept):
    names = [n for n in VARIANTS if not arguments.only or any(part in n for part in arguments.only)]
    with tempfile.TemporaryDirectory() as temporary:
        measure = Measure(arguments, pathlib.Path(temporary))
        plain = measure.videos("float", arguments.model)
        size = {"bytes": plain[0]["weight_bytes"], "seconds_per_step": statistics.median(s for g in plain for s in g["step_seconds"])}
        reference = measure.forward(arguments.model)

        def moved():
            measure.videos("disturbed", disturbed(arguments.model, measure.folder / "model"))
            return {**size, **measure.forward(measure.folder / "model"), **measure.distances("disturbed")}

        rows = {"float": kept.row("variants", "float", lambda: {**size, **reference})}
        rows["float, weights moved by 1 ulp"] = kept.row("variants", "float, weights moved by 1 ulp", moved)
        calibration = measure.calibration() if any(DATA in VARIANTS[n] for n in names) else None
        for name in track(names, "fidelity"):
            rows[name] = kept.row("variants", name, lambda name=name: measure.variant(VARIANTS[name], calibration), VARIANTS[name])
        return rows | (measure.torchao(kept) if not arguments.only or any("torchao" in part for part in arguments.only) else {})


def measure_caches(arguments, kept):
    """Rows of the float model whose blocks are left out in some passes, beside that without."""
    with tempfile.TemporaryDirectory() as temporary:
        measure = Measure(argparse.Namespace(**{**vars(arguments), "steps": arguments.cache_steps}), pathlib.Path(temporary))

        def seconds(reports):
            return {"seconds": [stage["seconds"] for r in reports for stage in r["stages"] if stage["stage"] == "denoise"]}

        def cached(flags):
            reports = measure.videos("cached", arguments.model, *flags)
            passes = [(1 if r["guidance"] == 1 else 2) * r["steps"] for r in reports]
            left_out = [len(r["cache"]["cached_passes"]) / count for r, count in zip(reports, passes)]
            return {"left_out": left_out, **seconds(reports), **measure.distances("cached")}

        plain = seconds(measure.videos("float", arguments.model))
        rows = {"none": kept.row("caches", "none", lambda: plain)}
        for name, flags in track(CACHES.items(), "caches"):
            rows[name] = kept.row("caches", name, lambda flags=flags: cached(flags), flags)
        return rows


def measure_by_step(arguments, kept):
    """Rows of the schemes with a range for all steps and with one for each."""
    with tempfile.TemporaryDirectory() as temporary:
        measure = Measure(arguments, pathlib.Path(temporary), together=True)
        measure.videos("float", arguments.model)
        reference = measure.forward(arguments.model)
        rows = {"float": kept.row("by_step", "float", lambda: reference)}
        calibration = measure.calibration()
        for name, (flags, share) in track(BY_STEP.items(), "by step"):
            first = ["--first-static-step", round(share * arguments.steps)]
            rows[name] = kept.row("by_step", name, lambda flags=flags, first=first: measure.variant(flags, calibration, first), [*flags, *first])
        return rows


def shown(value, form):
    if value is None:
        return ""
    if isinstance(value, list):
        if form == "1e-5":
            value, form = [1e5 * v for v in value], ".1f"
        return figures.shown(value, form)
    return f"{value / 1e6:.2f}" if form == "MB" else format(value, form)


def table(rows, columns=None):
    columns = COLUMNS if columns is None else columns
    lines = [f"| variant | {' | '.join(columns)} |", f"|{' --- |' * (len(columns) + 1)}"]
    for name, row in rows.items():
        cells = [shown(row.get(key), form) for key, form in columns.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def side_by_side(rows):
    """Velocity errors, PSNR and bytes of one algorithm at a time on the same schemes."""
    lines = [f"| algorithm | {' | '.join(f'{side}: velocity error | PSNR | MB' for side in SIDES)} |", "|" + " --- |" * (1 + 3 * len(SIDES))]
    for name, end in SIDE_BY_SIDE.items():
        found = [rows.get(side + end) for side in SIDES]
        cells = [["", "", ""] if row is None else [shown(row["velocity_errors"], ".4f"), shown(row["psnr"], ".1f"), shown(row["bytes"], "MB")] for row in found]
        lines.append(f"| {name} | {' | '.join(' | '.join(part) for part in cells)} |")
    return "\n".join(lines)


def verdict(mean, half):
    return "" if half is None else "no difference" if abs(mean) <= half else "yes"


def compared(rows, pairs):
    """A row per pair: differences with intervals, from the same seeds and inputs."""
    lines = ["| variant | beside | PSNR, dB more | sure | times the velocity error | sure |", "|" + " --- |" * 6]
    for one, other in pairs:
        if one not in rows or other not in rows:
            continue
        cells = []
        # PyTorch makes other videos than we do.
        alike = one.startswith("torchao") == other.startswith("torchao")
        if alike:
            mean, half = figures.interval([x - y for x, y in zip(rows[one]["psnr"], rows[other]["psnr"])])
            cells += [f"{mean:+.1f}" + ("" if half is None else f" ± {half:.1f}"), verdict(mean, half)]
        else:
            cells += ["", ""]
        mean, half = figures.interval([math.log(x / y) for x, y in zip(rows[one]["velocity_errors"], rows[other]["velocity_errors"])])
        ends = "" if half is None else f" ({math.exp(mean - half):.2f} to {math.exp(mean + half):.2f})"
        cells += [f"{math.exp(mean):.2f}{ends}", verdict(mean, half)]
        lines.append(f"| {one} | {other} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(rows, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 6), layout="constrained")
    for name, row in rows.items():
        if not any(row["velocity_errors"]) or "ulp" in name or name.startswith("PyTorch"):
            continue
        peer = name.startswith("torchao")
        mean, half = figures.interval(row["velocity_errors"])
        at = (row["bytes"] / 1e6, mean)
        axes.errorbar(*at, yerr=half, fmt="x" if peer else "o", markersize=4, linewidth=0.8, color="black" if peer else f"C{hash_of(name)}")
        axes.annotate(name, at, fontsize=5, xytext=(3, 2), textcoords="offset points")
    axes.set(xlabel="weights, MB", ylabel="relative error of the velocity", yscale="log")
    axes.grid(alpha=0.3, which="both")
    figure.savefig(path, dpi=120)


def hash_of(name):
    """A colour per scheme."""
    return sum(name.partition(",")[0].encode()) % 10


def further_tables(arguments, rows, rows_of_caches):
    return f"""## One algorithm at a time

The same algorithms on three schemes, from the table above. SVD is a float branch of rank 32 beside the quantized
residual (`--low-rank`), which takes bytes; the rotated rows multiply the inputs by a Hadamard matrix.

{side_by_side(rows)}

## Caches of steps

`--cache first-block` and `--cache taylor` leave the blocks of a pass out where the first block's output changes little
([models.md](models.md)). The float model, {arguments.cache_steps} steps; the numbers are `--cache-threshold`. *Passes left out* is
their share. PSNR, SSIM and cosine compare with the videos of the first row.

{table(rows_of_caches, COLUMNS_OF_CACHES)}

"""


def page(arguments, rows, rows_by_step, rows_of_caches):
    videos, guidance = len(arguments.captions), "" if arguments.guidance is None else f", guidance {arguments.guidance:g}"
    further = further_tables(arguments, rows, rows_of_caches)
    cpu, _ = machine(arguments.aerogel)
    return f"""# Fidelity: what quantization costs in quality

This page compares every scheme, with its useful algorithms, in size, speed and quality on one model, beside torchao.
`make fidelity` (`bench/fidelity.py`) writes it. [quantization.md](quantization.md) explains the schemes,
[algorithms.md](algorithms.md) the algorithms. `aerogel tune` finds mixtures of schemes
([quantization.md](quantization.md#a-budget-instead-of-a-scheme)).

How it is measured:

- **Model**: `{arguments.model.name}`, {videos} captions, {arguments.steps} steps, {arguments.frames} frames{guidance}. Caption i starts from the noise of seed i, the same for every
  variant. The default layers are quantized (attention and feed-forward of all blocks). Int4 rows that name no groups
  have one scale per row (`--group-size 0`).
- **Intervals**: `mean ± half` of the 95 % interval of the mean (Student's t), over videos, unseen inputs or layers.
- **Weight error**: |W - decoded| / |W| per layer.
- **Loss gained**: by how much the flow-matching loss of {arguments.held_out} unseen videos ({arguments.held_out_frames} frames, one noise level of a staggered
  sampler each, evenly over all levels) is above that of the float model on the same inputs.
- **Velocity error**: |v - v of float| / |v of float| of each of these inputs.
- **PSNR, SSIM, cosine**: compare each video with that of the float model from the same caption and seed.
- **torchao** quantizes the same layers. PyTorch makes its videos, with another sampler and other noise than ours, so
  they are compared with PyTorch's own float video. Its size counts int4 as four bits, and what stays float as bfloat16.
- **Seconds** depend on the machine (here {cpu["name"]}, {cpu["level"]}) and on which formats have fast kernels there. A video is made by one
  thread, {arguments.jobs} at a time; torchao's are made in batches.

The second row moves every weight of the float model by one unit in the last place of float32: a variant near it is as
good as float.

{table(rows)}

![Error over size; crosses: torchao](fidelity.png)

## Which differences are there

A sampler may turn a small error into another video, and which videos do so is chance. So the means above have wide
intervals, and two variants compare better pair by pair: the same caption and seed, the same unseen input. Here are the
differences of near variants with the 95 % intervals of their means. *Sure* says whether "no difference" is outside.

{compared(rows, PAIRS)}

{EXPLANATIONS}

{further}## Ranges per step

`W8A8` has one input range per layer for all steps. `W8A8_TIMESTEP` has one range for each step, and may compute with
ranges per token (dynamic) before a given step. When frames start one after the other, as above, every step holds tokens
of nearly all noise levels, and ranges per step say little. So in this table all frames of a video are at one level
(`{" ".join(TOGETHER)}` for calibration and videos; {arguments.held_out} unseen videos, at as many levels).

{table(rows_by_step, COLUMNS_BY_STEP)}

{compared(rows_by_step, PAIRS_BY_STEP)}
"""


def main():
    arguments = parse_arguments()
    kept = Kept(arguments)
    rows = measure(arguments, kept)
    rows_by_step, rows_of_caches = measure_by_step(arguments, kept), measure_caches(arguments, kept)
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "fidelity.md").write_text(page(arguments, rows, rows_by_step, rows_of_caches))
    plot(rows, arguments.output / "fidelity.png")
    print(table(rows), compared(rows, PAIRS), side_by_side(rows), table(rows_by_step, COLUMNS_BY_STEP), compared(rows_by_step, PAIRS_BY_STEP),
          table(rows_of_caches, COLUMNS_OF_CACHES), sep="\n\n")


if __name__ == "__main__":
    main()
