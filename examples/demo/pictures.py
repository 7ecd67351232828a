"""The demo's pictures: frames of every video, and bars that show the speed of the block."""

import pathlib

import matplotlib
import numpy as np
from safetensors.numpy import load_file

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (after the backend is chosen)

COLOURS = ["#9aa5b1", "#5aa9d6", "#2f7fb8", "#155a8a"]


def video_pixels(path: pathlib.Path) -> np.ndarray:
    """[frames, height, width, 3] in [0, 1]."""
    video = load_file(path)["video"]
    return np.clip((video.transpose(1, 2, 3, 0) + 1) / 2, 0, 1)


def frame_label(run: dict) -> str:
    name = run["name"].replace(" + ", "\n+ ")
    return f"{name}\n" + ("the reference" if run["psnr"] == "inf" else f"PSNR {run['psnr']:.1f} dB")


def draw_frames(folder: pathlib.Path, part: dict, path: pathlib.Path, columns: int = 8) -> None:
    """One row of evenly spaced frames per run."""
    runs = part["runs"]
    figure, axes = plt.subplots(len(runs), columns, figsize=(1.25 * columns + 2, 1.35 * len(runs) + 0.4), squeeze=False)
    for row, run in zip(axes, runs):
        frames = video_pixels(folder / f"{run['file']}.safetensors")
        for axis, index in zip(row, np.linspace(0, len(frames) - 1, columns).round().astype(int)):
            axis.imshow(frames[index], interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_ylabel(frame_label(run), rotation=0, ha="right", va="center", fontsize=9)
    figure.suptitle(f"Quality: “{part['prompt']}”, the same seed each time", fontsize=11)
    figure.tight_layout(pad=0.4)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_speed(part: dict, path: pathlib.Path) -> None:
    """A bar per way to run the block: how long it takes, and how many times as fast as float that is."""
    runs = part["runs"]
    figure, axis = plt.subplots(figsize=(9, 0.62 * len(runs) + 1.5))
    seconds = [run["seconds"] for run in runs]
    axis.barh(range(len(runs)), seconds, color=COLOURS, height=0.66)
    for index, run in enumerate(runs):
        text = f"  {run['seconds']:.2f} s" + (f"   {run['speed']:.1f} x as fast" if index else "")
        axis.text(run["seconds"], index, text, va="center", fontsize=10, fontweight="bold" if index else "normal")
    axis.set_yticks(range(len(runs)), [bar_label(run) for run in runs], fontsize=10)
    axis.invert_yaxis()
    axis.set_xlim(0, 1.12 * max(seconds))
    axis.set_xlabel("seconds for one transformer block (shorter is better)", fontsize=9)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(left=False)
    cpu, sizes = part["cpu"], part["sizes"]
    level = cpu["level"].upper().replace("AVX512", "AVX-512")
    figure.suptitle(
        f"Speed: a block of {sizes['dim']:,} columns, {sizes['tokens']:,} tokens; {cpu['name']}, {level}, {cpu['threads']} threads", fontsize=11
    )
    figure.tight_layout(pad=0.6)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def bar_label(run: dict) -> str:
    """The name in words."""
    return {
        "float": "nothing quantized (float)",
        "W8A8_DYNAMIC": "linear layers in 8 bits\n(W8A8_DYNAMIC)",
        "W8A8_DYNAMIC + int8 attention": "… and attention in 8 bits",
        "W8A8_DYNAMIC + int8 attention + rf_v2": f"… and {100 * (1 - run['density']):.0f} % of attention skipped\n(rf_v2)",
    }[run["name"]]
