"""The demo's page: report.html, with videos and pictures inside, so that the one file can be sent around."""

import base64
import html
import pathlib

import tables

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Aerogel demo</title>
<style>
body {{ font: 16px/1.55 system-ui, sans-serif; margin: 2em auto; max-width: 62em; padding: 0 1em; color: #222; }}
h1 {{ font-size: 1.7em; margin-bottom: 0; }}
h2 {{ font-size: 1.3em; margin-top: 2em; border-top: 3px solid #155a8a; padding-top: .6em; }}
.videos {{ display: flex; flex-wrap: wrap; gap: 1.2em; }}
figure {{ margin: 0; text-align: center; }}
video {{ width: 16em; image-rendering: pixelated; border: 1px solid #ccc; }}
table {{ border-collapse: collapse; margin: 1.2em 0; font-size: .92em; }}
td, th {{ padding: .35em .8em; border-bottom: 1px solid #ddd; text-align: right; font-variant-numeric: tabular-nums; }}
td:first-child, th:first-child {{ text-align: left; }}
img {{ max-width: 100%; }}
.small {{ color: #555; font-size: .9em; }}
</style></head><body>
<h1>Aerogel demo</h1>
<p class="small">Measured on {machine}</p>
<h2>1. Quality: {quality_headline}</h2>
<p>A small video model, trained for this demo, makes “{caption}” three times from the same noise: as it is (<b>float</b>), with its linear
layers in 8 bits (<b>W8A8_DYNAMIC</b>: weights and inputs), and also skipping attention that matters little (<b>rf_v2</b>). Its layers are so small
({small_columns} columns) that 8 bits save little time here: this part is about the pictures.</p>
<div class="videos">{videos}</div>
<img alt="frames of each video" src="data:image/png;base64,{frames}">
{quality_table}
<p class="small">PSNR, SSIM and cosine say how close a video is to the float one: higher is closer, and SSIM and cosine end at 1. From about 40 dB
on, hardly anybody sees a difference. <i>Attention computed</i> is the share in the sparse steps. {steps} steps; times are means over all of them.</p>
<h2>2. Speed: {speed_headline}</h2>
<p>One transformer block with the sizes of a real model, Wan2.1-1.3B ({dim} columns, {heads} heads, {tokens} tokens). The model
has 30 of them. Its weights are random: they take as long as trained ones. This part is about time, not pictures.</p>
<img alt="bars: seconds of the block" src="data:image/png;base64,{bars}">
{speed_table}
<p class="small">The ways to run take turns; times and speeds are medians of {turns} turns, quantizing the inputs of every layer included. <i>Error</i> is the relative
distance (L2) of the output to float. Random weights spread attention evenly, so what skipping costs in quality is seen in part 1 only.</p>
</body></html>
"""


def encode(path: pathlib.Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def table(headers: list[str], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{html.escape(header)}</th>" for header in headers)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>" for cells in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def videos(folder: pathlib.Path, runs: list[dict]) -> str:
    return "".join(
        f'<figure><video autoplay loop muted playsinline src="data:video/mp4;base64,{encode(folder / (run["file"] + ".mp4"))}">'
        f"</video><figcaption>{html.escape(run['name'])}</figcaption></figure>"
        for run in runs
    )


def write(folder: pathlib.Path, results: dict) -> None:
    quality, speed = results["quality"], results["speed"]
    dense, sparse = speed["runs"][1], speed["runs"][-1]
    quantized = quality["runs"][1]
    page = PAGE.format(
        machine=html.escape(tables.machine(speed)),
        quality_headline=f"PSNR {tables.decibels(quantized['psnr'])} dB between 8-bit and float video, weights of {quantized['weight_bytes'] / 1e6:.1f} MB"
        f" instead of {quality['runs'][0]['weight_bytes'] / 1e6:.1f} MB",
        speed_headline=f"{dense['speed']:.1f} x as fast with 8-bit layers, {sparse['speed']:.1f} x with 8-bit, sparse attention as well",
        caption=html.escape(quality["prompt"]),
        small_columns=quality["columns"],
        videos=videos(folder, quality["runs"]),
        frames=encode(folder / "pictures.png"),
        quality_table=table(tables.QUALITY_HEADERS, tables.quality_rows(quality)),
        steps=quality["steps"],
        dim=f"{speed['sizes']['dim']:,}",
        heads=speed["sizes"]["heads"],
        tokens=f"{speed['sizes']['tokens']:,}",
        bars=encode(folder / "speed.png"),
        speed_table=table(tables.SPEED_HEADERS, tables.speed_rows(speed)),
        turns=speed["turns"],
    )
    (folder / "report.html").write_text(page)
