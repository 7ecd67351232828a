"""The demo's pictures: a contact sheet (PNG) and a self-contained report.html with the videos side by side."""

import base64
import html
import pathlib

import matplotlib
import numpy as np
from safetensors.numpy import load_file

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (after the backend is chosen)

HEADERS = ["run", "s / step", "speed", "weights", "peak memory", "density", "PSNR dB", "SSIM", "cosine"]

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Aerogel: {caption}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em; color: #222; }}
h1 {{ font-size: 1.4em; }}
.videos {{ display: flex; flex-wrap: wrap; gap: 1em; }}
figure {{ margin: 0; text-align: center; }}
video {{ width: 16em; image-rendering: pixelated; border: 1px solid #ccc; }}
table {{ border-collapse: collapse; margin: 1.5em 0; }}
td, th {{ padding: .3em .8em; border-bottom: 1px solid #ddd; text-align: right; }}
td:first-child, th:first-child {{ text-align: left; }}
img {{ max-width: 100%; }}
</style>
<h1>“{caption}”</h1>
<div class="videos">{videos}</div>
<table><tr>{headers}</tr>{rows}</table>
<p>{note}</p>
<img alt="frames of each run" src="data:image/png;base64,{sheet}">
</html>
"""


def number(value: float | str, digits: int) -> str:
    return value if isinstance(value, str) else f"{value:.{digits}f}"


def table_cells(results: list[dict]) -> list[list[str]]:
    """The rows of the table under HEADERS; speed is the ratio to the first row."""
    reference = results[0]["seconds_per_step"]
    return [
        [
            row["name"],
            f"{row['seconds_per_step']:.3f}",
            f"{reference / row['seconds_per_step']:.2f} x",
            f"{row['weight_bytes'] / 1e6:.1f} MB",
            f"{row['peak_memory_bytes'] / 1e6:.0f} MB",
            f"{100 * row['density']:.0f} %",
            number(row["psnr"], 1),
            number(row["ssim"], 4),
            number(row["cosine"], 5),
        ]
        for row in results
    ]


def video_pixels(path: pathlib.Path) -> np.ndarray:
    """[frames, height, width, 3] in [0, 1]."""
    video = load_file(path)["video"]
    return np.clip((video.transpose(1, 2, 3, 0) + 1) / 2, 0, 1)


def write_contact_sheet(folder: pathlib.Path, results: list[dict], path: pathlib.Path, columns: int = 8) -> None:
    """One row of evenly spaced frames per run."""
    figure, axes = plt.subplots(len(results), columns, figsize=(1.25 * columns + 2, 1.35 * len(results)), squeeze=False)
    for row, result in zip(axes, results):
        frames = video_pixels(folder / f"{result['file']}.safetensors")
        for axis, index in zip(row, np.linspace(0, len(frames) - 1, columns).round().astype(int)):
            axis.imshow(frames[index], interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
        speed = results[0]["seconds_per_step"] / result["seconds_per_step"]
        label = f"{result['name'].replace(' + ', chr(10) + '+ ')}\n{speed:.2f} x"
        row[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
    figure.tight_layout(pad=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def encode(path: pathlib.Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def note_of(results: list[dict]) -> str:
    cpu = results[0]["cpu"]
    heads = "; ".join(
        f"{row['name']}: " + ", ".join(f"{count} {kind}" for kind, count in row["head_types"].items())
        for row in results
        if row["head_types"]
    )
    return (
        f"{results[0]['steps']} steps on {cpu['name']} ({cpu['level']}, {cpu['threads']} threads). PSNR, SSIM and cosine "
        f"are against the float video. Heads over all steps and blocks: {heads}."
    )


def write_html(folder: pathlib.Path, results: list[dict], caption: str, path: pathlib.Path) -> None:
    """Everything in one file: videos and pictures are embedded."""
    videos = "".join(
        f'<figure><video autoplay loop muted playsinline src="data:video/mp4;base64,{encode(folder / (row["file"] + ".mp4"))}">'
        f"</video><figcaption>{html.escape(row['name'])}</figcaption></figure>"
        for row in results
    )
    rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>" for cells in table_cells(results))
    page = PAGE.format(
        caption=html.escape(caption),
        videos=videos,
        headers="".join(f"<th>{header}</th>" for header in HEADERS),
        rows=rows,
        note=html.escape(note_of(results)),
        sheet=encode(folder / "contact_sheet.png"),
    )
    path.write_text(page)
