"""What `aerogel bench` says of this machine."""
import json
import subprocess


def machine(command):
    """Its description {name, level, threads} and its measured peaks in GOPS, {"f32": ..., "bf16": ..., "int8": ...}. `command`: the path of aerogel."""
    done = subprocess.run([str(command), "bench", "--only", "/4x4096x64", "--repeat", "1", "--json"], check=True, capture_output=True, text=True)
    report = json.loads(done.stdout)
    kind_of = lambda name: next((kind for kind in ("int8", "bf16") if kind in name), "f32")
    return report["cpu"], {kind_of(row["name"]): row["peak_gops"] for row in report["results"]}
