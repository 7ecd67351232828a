"""The peak memory and the seconds of each stage of a call of `aerogel generate`: memory that is resident is looked at twenty times a second, pages of
mapped files included, and the bar on the terminal says which stage it is.

    python bench/random_pipeline.py z-image-turbo /tmp/z-image --zeros
    python bench/stage_memory.py /tmp/z-image --prompt "a cat" --size 512x512 --steps 2 --online W4A8 -o /tmp/cat.png
"""
import argparse
import json
import os
import pathlib
import pty
import re
import select
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
BAR = re.compile(rb"\r([a-z_][a-z0-9_ ]*) \[")
STAGES = {"generate": "denoise"}  # what the bar calls otherwise


def resident(process):
    """Bytes; 0 once it has ended."""
    try:
        status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    found = re.search(r"^VmRSS:\s+(\d+) kB", status, re.M)
    return int(found[1]) << 10 if found else 0


def watch(command):
    """(report of the command, {stage: bytes})."""
    leader, follower = pty.openpty()
    with subprocess.Popen([*map(str, command), "--json"], stdout=subprocess.PIPE, stderr=follower) as process:
        os.close(follower)
        peaks, stage, said = {}, "begin", b""
        while True:
            if select.select([leader], [], [], 0.05)[0]:
                try:
                    said = said[-100:] + os.read(leader, 65536)
                except OSError:  # its end, on Linux
                    break
                for name in BAR.findall(said)[-1:]:
                    stage = STAGES.get(name.decode(), name.decode())
            peaks[stage] = max(peaks.get(stage, 0), resident(process))
        os.close(leader)
        out = process.stdout.read()
    if process.returncode != 0:
        raise SystemExit(said.decode().strip().splitlines()[-1])
    return json.loads(out), peaks


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aerogel", default=str(ROOT / "build/release/aerogel"))
    args, flags = parser.parse_known_args()
    report, peaks = watch([args.aerogel, "generate", *flags])
    seconds = {}
    for stage in report["stages"]:
        seconds[stage["stage"]] = seconds.get(stage["stage"], 0.0) + stage["seconds"]
    print("| stage | seconds | peak memory |\n| --- | ---: | ---: |")
    for stage, taken in seconds.items():
        print(f"| {stage} | {taken:.1f} s | {peaks.get(stage, 0) / 1e9:.1f} GB |")
    print(f"\nweights {report['weight_bytes'] / 1e9:.1f} GB, at any time {report['peak_memory_bytes'] / 1e9:.1f} GB", file=sys.stderr)


if __name__ == "__main__":
    main()
