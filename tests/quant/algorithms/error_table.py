"""Measures every offline algorithm on one layer and prints the table of docs/algorithms.md:
.venv/bin/python tests/quant/algorithms/error_table.py [BUILD_FOLDER]

The layer has Gaussian weights [384,512], 1 % of its columns 6 times larger and 0.1 % single outliers of 10 times; its 512
inputs are correlated, 2 % of the channels are 25 times larger. Weight errors are |W - decoded| / |W|; output errors
|x W^T - y| / |x W^T| with y in float (weights only), or, where the table says W8A8, with x in int8 per token too."""
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
from safetensors.torch import load_file, save_file

PLAIN = {"int8": 127.0, "int4": 7.0}
ROWS = [("int8", "ssz"), ("int8", "mse_clip"), ("int8", "percentile"), ("int4", "ssz"), ("int4", "mse_clip"), ("int4", "percentile"),
        ("mxfp8", "mse_round"), ("mxfp4", "ceil_x"), ("mxfp4", "ceil_x_search"), ("mxfp4", "fouroversix")]
WITH_INPUTS = [("int4", "awq"), ("int4", "gptq"), ("int4", "autoround")]


def make_layer():
    rng = np.random.default_rng(11)
    w = rng.standard_normal((384, 512)) * 0.02
    w[:, rng.random(512) < 0.01] *= 6
    w[rng.random(w.shape) < 0.001] *= 10
    mixing = np.eye(512) + rng.standard_normal((512, 512)) / 512**0.5 / 2
    x = rng.standard_normal((512, 512)) @ mixing
    x[:, rng.random(512) < 0.02] *= 25
    return torch.from_numpy(w.astype(np.float32)), torch.from_numpy(x.astype(np.float32))


def minmax(w, format_):
    """The rule that every algorithm here improves on; MX as the OCP rule, in floating point of exact powers of two."""
    w = w.double()
    if format_ in PLAIN:
        scale = w.abs().amax(1, keepdim=True) / PLAIN[format_]
        return (w / scale).round() * scale
    blocks = w.reshape(w.shape[0], -1, 32)
    largest = blocks.abs().amax(-1, keepdim=True)
    if format_ == "mxfp8":
        scale = torch.exp2(largest.log2().floor() - 8)
        return ((blocks / scale).clamp(-448, 448).float().to(torch.float8_e4m3fn).double() * scale).reshape(w.shape)
    scale = torch.exp2((largest * 8 / 7).log2().floor() - 2)
    values = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=torch.float64)
    nearest = ((blocks / scale).abs()[..., None] - values).abs().argmin(-1)
    return (values[nearest] * blocks.sign() * scale).reshape(w.shape)


def per_token_int8(x):
    scale = x.abs().amax(1, keepdim=True) / 127
    return (x / scale).round() * scale


class Measure:
    def __init__(self, build):
        self.program = build / "tests/algorithm_run"
        self.w, self.x = make_layer()
        self.y = self.x.double() @ self.w.double().T

    def run(self, name, *numbers, weight=None, x=None):
        with tempfile.TemporaryDirectory() as folder:
            given, result = pathlib.Path(folder, "in.safetensors"), pathlib.Path(folder, "out.safetensors")
            save_file({"weight": self.w if weight is None else weight, "x": self.x if x is None else x}, given)
            subprocess.run([self.program, name, given, result, *map(str, numbers)], check=True)
            return load_file(result)

    def weight_error(self, decoded):
        return ((decoded.double() - self.w.double()).norm() / self.w.double().norm()).item()

    def output_error(self, decoded, x=None):
        y = (self.x if x is None else x).double() @ decoded.double().T
        return ((y - self.y).norm() / self.y.norm()).item()


def measure(build):
    """[(format, algorithm, weight error or None, output error)]"""
    m = Measure(build)
    rows = []
    for format_, name in ROWS:
        if not any(row[0] == format_ for row in rows):
            plain = minmax(m.w, format_)
            rows.append((format_, "minmax", m.weight_error(plain), m.output_error(plain)))
        decoded = m.run(f"row:{name}:{format_}")["decoded"]
        rows.append((format_, name, m.weight_error(decoded), m.output_error(decoded)))
    for format_, name in WITH_INPUTS:
        got = m.run(f"inputs:{name}:{format_}", 0)
        decoded = got["decoded"] * got.get("mul_scale", torch.ones(512))
        rows.append((format_, name, m.weight_error(decoded), m.output_error(decoded)))
    split = m.run("low_rank", 32, 42)
    decoded = split["l2"].double() @ split["l1"].double() + minmax(split["residual"], "mxfp4")
    rows.append(("mxfp4", "minmax + low rank 32", m.weight_error(decoded), m.output_error(decoded)))
    turned = m.run("hadamard", 512, 1)
    rows.append(("int4", "minmax + rotation 512", None, m.output_error(minmax(turned["weight"], "int4"), turned["x"].double())))
    w8a8 = lambda w, x: m.output_error(minmax(w, "int8"), per_token_int8(x.double()))
    rows.append(("W8A8", "minmax", None, w8a8(m.w, m.x)))
    for alpha, beta, label in ((0.5, 0.5, "smoothquant"), (0.9, 0.1, "smoothing .9 / .1")):
        smooth = m.run("smooth", alpha, beta, 1e-5)
        rows.append(("W8A8", label, None, w8a8(smooth["weight"], m.x * smooth["mul_scale"])))
    rows.append(("W8A8", "rotation 512", None, w8a8(turned["weight"], turned["x"])))
    return rows


def table(rows):
    lines = ["| numbers | algorithm | weight error | output error |", "| --- | --- | --- | --- |"]
    for format_, name, weight, output in rows:
        lines.append(f"| {format_} | {name} | {'' if weight is None else f'{weight:.4f}'} | {output:.4f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(measure(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "build/release"))))
