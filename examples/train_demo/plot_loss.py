"""Draws the loss curve of a run (loss.csv of train.py) as a PNG: training loss by stage, held-out loss on full videos.

Run: python plot_loss.py RUN_FOLDER/loss.csv loss.png
"""
import csv
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402


def main(source, target):
    with open(source, newline="") as file:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    figure, axes = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
    for frames in sorted({r["frames"] for r in rows}):
        part = [r for r in rows if r["frames"] == frames]
        axes.plot([r["step"] for r in part], [r["train_loss"] for r in part], ".--", alpha=0.7,
                  label=f"training, {frames:.0f} frame{'s' if frames > 1 else ''}")
    axes.plot([r["step"] for r in rows], [r["held_out_loss"] for r in rows], "k.-", label="held out, 16 frames")
    axes.set(xlabel="step", ylabel="flow-matching loss", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
