"""How fast and how small `aerogel quantize` is on a large checkpoint: a random bf16 folder of the Wan architecture, sharded.

Beside each scheme stand the time and the peak memory of the same machine for copying the checkpoint (`cp`) and for reading it
as floats; the ratio is time / (copy + read). Needs about three times the size of the checkpoint under --folder; all is deleted.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np
from problems import models

ROOT = pathlib.Path(__file__).resolve().parents[1]
SCHEMES = ["W8A8_DYNAMIC", "W4A4_MXFP4"]
WANS = models("WanTransformer3DModel")


def shapes(width: int, ffn: int, blocks: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a WanTransformer3DModel (diffusers)."""
    tensors = {"patch_embedding.weight": (width, 16, 1, 2, 2), "patch_embedding.bias": (width,), "proj_out.weight": (64, width)}
    for i in range(blocks):
        for attention in ("attn1", "attn2"):
            for layer in ("to_q", "to_k", "to_v", "to_out.0"):
                tensors[f"blocks.{i}.{attention}.{layer}.weight"] = (width, width)
                tensors[f"blocks.{i}.{attention}.{layer}.bias"] = (width,)
            tensors[f"blocks.{i}.{attention}.norm_q.weight"] = (width,)
            tensors[f"blocks.{i}.{attention}.norm_k.weight"] = (width,)
        tensors[f"blocks.{i}.ffn.net.0.proj.weight"] = (ffn, width)
        tensors[f"blocks.{i}.ffn.net.0.proj.bias"] = (ffn,)
        tensors[f"blocks.{i}.ffn.net.2.weight"] = (width, ffn)
        tensors[f"blocks.{i}.ffn.net.2.bias"] = (width,)
        tensors[f"blocks.{i}.scale_shift_table"] = (1, 6, width)
    return tensors


def size(shape: tuple[int, ...]) -> int:
    return 2 * int(np.prod(shape))


def write_shard(path: pathlib.Path, tensors: dict[str, tuple[int, ...]], pool: np.ndarray) -> None:
    header, end = {}, 0
    for name, shape in tensors.items():
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size(shape)]}
        end += size(shape)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for i, shape in enumerate(tensors.values()):
            rolled = np.roll(pool, 7919 * i)
            for first in range(0, int(np.prod(shape)), pool.size):
                file.write(rolled[: int(np.prod(shape)) - first].tobytes())


def make_model(folder: pathlib.Path, arguments: argparse.Namespace) -> int:
    """Writes config.json, shards and index; returns the bytes of all tensors."""
    folder.mkdir(parents=True)
    normal = np.random.default_rng(0).standard_normal(1 << 22, dtype=np.float32) * np.float32(0.02)
    pool = (normal.view(np.uint32) >> 16).astype(np.uint16)
    tensors = shapes(arguments.width, arguments.ffn, arguments.blocks)
    parts, room = [{}], arguments.shard_bytes
    for name, shape in tensors.items():
        if parts[-1] and room < size(shape):
            parts.append({})
            room = arguments.shard_bytes
        parts[-1][name] = shape
        room -= size(shape)
    places = {}
    for i, part in enumerate(parts):
        file = f"diffusion_pytorch_model-{i + 1:05}-of-{len(parts):05}.safetensors"
        write_shard(folder / file, part, pool)
        places |= {name: file for name in part}
    index = {"metadata": {"total_size": sum(map(size, tensors.values()))}, "weight_map": places}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps({"_class_name": "WanTransformer3DModel"}))
    return index["metadata"]["total_size"]


def peak_memory(pid: int) -> int:
    """Largest resident memory so far, in bytes. Not that of wait4(): a new program inherits it from the one that started it."""
    try:
        text = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    lines = [line for line in text.splitlines() if line.startswith("VmHWM:")]
    return int(lines[0].split()[1]) * 1024 if lines else 0


def timed(command: list) -> tuple[float, int, str]:
    """Seconds, peak memory in bytes and standard output of a program."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen([str(part) for part in command], stdout=output)
        peak = 0
        while process.poll() is None:
            peak = max(peak, peak_memory(process.pid))
            time.sleep(0.002)
        seconds = time.perf_counter() - start
        output.seek(0)
        out = output.read().decode()
    if process.returncode != 0:
        sys.exit(f"{command[0]} failed with {process.returncode}")
    return seconds, peak, out


def read_floats(folder: pathlib.Path) -> float:
    """Seconds to read all shards and widen them to float32, piece by piece."""
    start = time.perf_counter()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            while piece := file.read(1 << 24):
                np.left_shift(np.frombuffer(piece, np.uint16, len(piece) // 2), 16, dtype=np.uint32).view(np.float32)
    return time.perf_counter() - start


def measure(arguments: argparse.Namespace, home: pathlib.Path) -> list[dict]:
    model, rows = home / "model", []
    total = make_model(model, arguments)
    os.sync()
    read_floats(model)  # from here on the checkpoint is in the page cache, for all alike
    for scheme in arguments.scheme or SCHEMES:
        for _ in range(arguments.rounds):
            copy, _, _ = timed(["cp", "-r", model, home / "copy"])
            shutil.rmtree(home / "copy")
            read = read_floats(model)
            seconds, peak, out = timed([arguments.aerogel, "quantize", model, "-o", home / "out", "--scheme", scheme, "--json", *arguments.option])
            rows.append({"scheme": scheme, "bytes": total, "copy_seconds": copy, "read_seconds": read, "seconds": seconds,
                         "peak_bytes": peak, "ratio": seconds / (copy + read), "layers": json.loads(out)["quantized_layers"]})
            shutil.rmtree(home / "out")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aerogel", type=pathlib.Path, default=ROOT / "build/release/aerogel", help="the command")
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path(tempfile.gettempdir()), help="where to work")
    parser.add_argument("--model", choices=[*WANS], default="wan2.1-14b", help="the widths of this model (tests/problems/models.txt)")
    parser.add_argument("--width", type=int)
    parser.add_argument("--ffn", type=int)
    parser.add_argument("--blocks", type=int, default=6, help="of 0.7 GB each for the default model")
    parser.add_argument("--shard-bytes", type=int, default=10**9)
    parser.add_argument("--scheme", action="append", help=f"repeatable; default {', '.join(SCHEMES)}")
    parser.add_argument("--option", action="append", default=[], help="passed on to aerogel quantize; repeatable")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    arguments = parser.parse_args()
    arguments.width = arguments.width or WANS[arguments.model].width
    arguments.ffn = arguments.ffn or max(n for n, _ in WANS[arguments.model].layers)
    home = pathlib.Path(tempfile.mkdtemp(prefix="aerogel_streaming_", dir=arguments.folder))
    try:
        rows = measure(arguments, home)
    finally:
        shutil.rmtree(home)
    if arguments.json:
        print(json.dumps({"results": rows}))
        return
    for row in rows:
        print("{scheme}: {seconds:.2f} s, copy {copy_seconds:.2f} s + read {read_seconds:.2f} s, ratio {ratio:.2f}".format(**row),
              f"peak {row['peak_bytes'] / 1e6:.0f} MB of a checkpoint of {row['bytes'] / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
