"""Whole calls, from a prompt (or embeddings, where the folder has no text encoder) to a file, beside diffusers in PyTorch and SDNQ: each call is a
process of its own, and sides take turns. A step is the median of all but the first one, which also packs and compiles.

    python bench/random_pipeline.py z-image-turbo /tmp/z-image
    python bench/random_pipeline.py wan2.1-t2v-1.3b /tmp/wan --only transformer vae
    python bench/whole_call.py /tmp/z-image --size 512x512 --json z-image.json
    python bench/whole_call.py /tmp/wan --size 832x480 --frames 17 --json wan.json --only aerogel-w8a8 diffusers-bf16

With random weights of the real sizes and two threads a round of all sides takes some 6 minutes for Z-Image and 20 for Wan. Seconds, peak memory and,
against the same side's float result, the relative error of the pixels. Sides that do not fit into memory are left out, with the reason.
"""
import argparse
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
from peers import environment
from peers.side import HOLDS, settings_of
from safetensors.numpy import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parents[1]
PROMPT = "a cat sits on a red chair beside the window in the evening light"
# side -> (flags, bytes of memory for each byte of the bf16 transformer, whose float result it is compared with)
OURS = {
    "aerogel-float": ([], 1.3, None),
    "aerogel-w8a8": (["--online", "W8A8_DYNAMIC"], 0.7, "aerogel-float"),
    "aerogel-w8a8-int8-attention": (["--online", "W8A8_DYNAMIC", "--fa", "INT8_DYNAMIC"], 0.7, "aerogel-float"),
    "aerogel-w8a8-sparse": (["--online", "W8A8_DYNAMIC", "--sparse", "rf_v2", "--sparsity", "0.8"], 0.7, "aerogel-float"),
}
PEERS = {
    "diffusers-f32": (["--dtype", "f32"], 2.2, None),
    "diffusers-bf16": (["--dtype", "bf16"], 1.3, None),
    "sdnq-int8": (["--dtype", "bf16", "--sdnq"], 1.6, "diffusers-bf16"),
    "sdnq-int8-f32": (["--dtype", "f32", "--sdnq"], 2.4, "diffusers-f32"),  # where the CPU does not multiply bf16
}


def weight_bytes(folder):
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def does_not_fit(folder, times):
    needed, (free,) = times * weight_bytes(folder / "transformer"), [
        int(line.split()[1]) << 10 for line in pathlib.Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable")]
    return f"needs some {needed / 1e9:.0f} GB, {free / 1e9:.0f} GB are free" if needed > free else ""


def run(command, environ, stop_after):
    """(stdout, seconds) of a process, which is killed with its children after so many seconds."""
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environ}, process_group=0) as process:
        try:
            out, said = process.communicate(timeout=stop_after)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise RuntimeError(f"stopped after {stop_after:g} s") from None
            raise
    seconds = time.perf_counter() - start
    if process.returncode != 0:
        raise RuntimeError((said.strip() or f"exit status {process.returncode}").splitlines()[-1])
    return out, seconds


def peak_of(command):
    """The command, told to report its peak memory on the last line of stdout."""
    program = ("import resource,subprocess,sys; code = subprocess.call(sys.argv[1:]); "
               "print('peak', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)")
    return [sys.executable, "-c", program, *map(str, command)]


def call(side, args, embeds, work):
    """What one call took: {seconds, step_seconds, stages, peak_bytes, values}."""
    text = ["--prompt-embeds" if side in OURS else "--embeds", embeds] if embeds else ["--prompt", PROMPT]
    size = ["--size", args.size, "--steps", args.steps, "--frames", args.frames, "--guidance", 1 if args.video else 0]
    if side in OURS:
        output = work / f"{side}.safetensors"
        command = [args.aerogel, "generate", args.folder, *text, *size, "--json", "-o", output, *OURS[side][0]]
        environ = {"AEROGEL_CPU": args.cpu} if args.cpu else {}
        if args.threads:
            environ["AEROGEL_NUM_THREADS"] = str(args.threads)
    else:
        output = work / f"{side}.npy"
        threads = ["--threads", args.threads] if args.threads else []
        command = [environment.FOLDER / "bin/python", "-m", "peers.whole_call", args.folder, output, *text, *size, *threads, *PEERS[side][0]]
        environ = {"PYTHONPATH": str(ROOT / "bench"), **settings_of(args.cpu or "")}
    out, seconds = run(peak_of(command), environ, args.stop_after)
    *lines, peak = out.strip().splitlines()
    report = json.loads("\n".join(lines) if side in OURS else lines[-1])
    stages = report["stages"] if side in PEERS else {one["stage"]: one["seconds"] for one in report["stages"]}
    values = load_file(output)["video"] if side in OURS else np.load(output).astype(np.float32) * 2 - 1
    step_seconds = report["step_seconds"]
    return {"seconds": seconds, "step_seconds": step_seconds, "stages": stages, "peak_bytes": int(peak.split()[1]) << 10, "values": values}


def relative_error(values, exact):
    return float(np.linalg.norm(values.astype(np.float64) - exact) / np.linalg.norm(exact.astype(np.float64)))


def summary(calls, results):
    """A row for each side: medians, error against the side's float result."""
    rows = []
    for side, made in calls.items():
        row = {"side": side, "seconds": statistics.median(one["seconds"] for one in made),
               "step": statistics.median(step for one in made for step in one["step_seconds"][1:]),
               "peak_bytes": max(one["peak_bytes"] for one in made), "stages": made[-1]["stages"]}
        against = {**OURS, **PEERS}[side][2]
        if against in results:
            row["error"] = relative_error(results[side], results[against])
        rows.append(row)
    return rows


def table(rows, left_out, steps):
    lines = [f"| side | call of {steps} steps, s | a step, s | peak memory, GB | error | stages, s |", "| --- | ---: | ---: | ---: | ---: | --- |"]
    for row in rows:
        stages = ", ".join(f"{name} {seconds:.1f}" for name, seconds in row["stages"].items())
        error = f"{row['error']:.2e}" if "error" in row else ""
        lines.append(f"| {row['side']} | {row['seconds']:.1f} | {row['step']:.1f} | {row['peak_bytes'] / 1e9:.1f} | {error} | {stages} |")
    return "\n".join([*lines, *(f"\n{side}: left out, {reason}" for side, reason in left_out.items())])


def measure(args, sides, embeds, work):
    calls, results, left_out = {side: [] for side in sides}, {}, {}
    for side in sides:
        if reason := does_not_fit(args.folder, {**OURS, **PEERS}[side][1]):
            left_out[side] = reason
    for turn in range(args.rounds):
        for side in sides:
            if side in left_out:
                continue
            try:
                found = call(side, args, embeds, work)
            except RuntimeError as error:
                left_out[side] = str(error)
                continue
            print(f"round {turn + 1}, {side}: {found['seconds']:.1f} s", file=sys.stderr)
            results[side] = found.pop("values")
            calls[side].append(found)
    for side in left_out:
        calls.pop(side)
    return calls, results, left_out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--aerogel", default=str(ROOT / "build/release/aerogel"))
    parser.add_argument("--size", default="512x512")
    parser.add_argument("--frames", type=int, default=1)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--cpu", choices=[*HOLDS], help="hold all sides to this level")
    parser.add_argument("--only", nargs="+", choices=[*OURS, *PEERS])
    parser.add_argument("--stop-after", type=float, metavar="SECONDS", help="stop a call that takes longer: the side is left out, and how long it ran is said")
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    if args.steps < 2:
        parser.error("--steps must be at least 2: the first one also packs weights and compiles")
    index = json.loads((args.folder / "model_index.json").read_text())
    args.video = index["_class_name"].startswith("Wan")
    sides = args.only or [side for side in {**OURS, **PEERS} if args.video or not side.endswith("sparse")]
    if any(side in PEERS for side in sides) and (said := environment.make()):
        print(said, file=sys.stderr)
        sides = [side for side in sides if side in OURS]
    with tempfile.TemporaryDirectory() as name:
        work, embeds = pathlib.Path(name), None
        if not (args.folder / "text_encoder").is_dir():
            config = json.loads((args.folder / "transformer/config.json").read_text())
            width = config.get("text_dim") or config.get("cap_feat_dim") or config["joint_attention_dim"]
            embeds = work / "embeds.safetensors"
            save_file({"prompt_embeds": np.random.default_rng(0).standard_normal((1, 512, width), dtype=np.float32)}, embeds)
        calls, results, left_out = measure(args, sides, embeds, work)
        rows = summary(calls, results)
    print(table(rows, left_out, args.steps))
    if args.json:
        about = {"model": index["_class_name"], "size": args.size, "frames": args.frames, "steps": args.steps, "cpu": args.cpu}
        args.json.write_text(json.dumps({**about, "rows": rows, "left_out": left_out, "calls": calls}, indent=1))


if __name__ == "__main__":
    main()
