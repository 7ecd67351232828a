"""One run on a machine with an NVIDIA GPU, under five minutes on an H200: are the CUDA kernels right there, and how fast are they?

The suites of the kernels compare every CUDA row with the CPU's results, and with the golden answers of --golden FILE, what a card answered before;
their own answers are left in OUT/golden.safetensors, a few numbers of each problem (as tests/problems/golden.safetensors that file is compared with
in every test run, by the emulator). Where PyTorch has CUDA, the tests of the Python package on CUDA tensors (tests/torch_cuda) run on the card;
then `aerogel bench --device cuda` measures problems, with PyTorch (bf16, fp8 by _scaled_mm, int8 by _int_mm and by torchao, scaled_dot_product_attention, flex_attention) and
sageattention beside it where they are installed. Shares are of the peak that PyTorch's own products reach here. Results go to OUT/gpu.json
and OUT/gpu.md.

    python bench/gpu.py --build build/release --out build/gpu
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROBLEMS = ["linear/BF16/512x5120x5120", "linear/W8A8_DYNAMIC/512x5120x5120", "wan2.1-14b"]
REPEAT = 20
TORCH_TESTS_SECONDS = 900


def device() -> dict:
    """What nvidia-smi says of the first GPU; empty without it."""
    fields = ["name", "driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.draw", "power.limit", "temperature.gpu"]
    try:
        done = subprocess.run(["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader", "--id=0"], capture_output=True, text=True)
    except FileNotFoundError:
        return {}
    return dict(zip(fields, done.stdout.strip().split(", "))) if done.returncode == 0 else {}


def suites() -> str:
    """The filter of the suites that walk the CUDA rows, as the tests have it."""
    return re.search(r'set\(cuda_suites "([^"]+)"', (ROOT / "tests/cuda.cmake").read_text())[1]


def programs() -> dict:
    """What checks the rows of this GPU: {what it checks: program of the build and filter}. Attention has suites of its own."""
    return {"primitives": ("tests/emulator/aerogel_cuda_tests", "Cuda/Primitives.*"), "elementwise, rotations, convolutions and linear": ("tests/aerogel_tests", suites()), "attention": ("tests/emulator/aerogel_cuda_tests", "Cuda*-Cuda/Primitives.*")}


def conformance(build: Path, answers: Path, golden: "Path | None" = None) -> dict:
    """The suites of the kernels over the rows of this GPU: beside the CPU, and beside golden answers. What they answer goes to `answers`."""
    start, failed, said, agree, compared = time.perf_counter(), set(), "", [], 0
    answers.unlink(missing_ok=True)
    environment = {**os.environ, "AEROGEL_TEST_MACHINE": "cuda", "AEROGEL_GOLDEN_WRITE": str(answers.resolve())}
    if golden:
        environment["AEROGEL_GOLDEN"] = str(golden.resolve())
    for name, (program, chosen) in programs().items():
        if not (build / program).exists():
            said += f"{build / program} is not built\n"
            continue
        done = subprocess.run([build / program, f"--gtest_filter={chosen}", "--gtest_brief=1"], cwd=ROOT, env=environment, capture_output=True, text=True)
        compared += sum(int(count) for count in re.findall(r"^golden: (\d+) answers compared", done.stdout, re.M))
        failed.update(re.findall(r"^\[  FAILED  \] (\S+)", done.stdout, re.M))
        if done.returncode == 0:
            agree.append(name)
        else:
            said += (done.stdout + done.stderr)[-4000:]
    if golden and not compared:
        said += f"no answer of {golden} was given here: it is of other kernels or problems\n"
    return {"passed": not said and len(agree) == len(programs()), "agree": agree, "failed": sorted(failed), "golden": compared,
            "seconds": time.perf_counter() - start, "said": said}


def torch_path(build: Path) -> dict:
    """The tests of the Python package on CUDA tensors, on this card: what they say at the end."""
    start = time.perf_counter()
    paths = [str(build.resolve() / "python"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "AEROGEL_TEST_GPU": "1", "AEROGEL_BUILD": str(build.resolve()), "PYTHONPATH": os.pathsep.join(paths)}
    try:
        done = subprocess.run([sys.executable, "-m", "pytest", "-q", "--tb=short", "tests/torch_cuda"], cwd=ROOT, env=environment, capture_output=True, text=True,
                              timeout=TORCH_TESTS_SECONDS)
    except subprocess.TimeoutExpired as error:
        return {"passed": False, "last": f"not done after {error.timeout:.0f} s", "seconds": error.timeout, "said": (error.stdout or b"").decode()[-8000:]}
    lines = done.stdout.strip().splitlines() or [done.stderr.strip()[-300:]]
    return {"passed": done.returncode == 0, "last": lines[-1], "seconds": time.perf_counter() - start, "said": "" if done.returncode == 0 else done.stdout[-8000:]}


def times(build: Path, only: list) -> list:
    """Rows of `aerogel bench` on the GPU."""
    chosen = [word for part in only for word in ("--only", part)]
    done = subprocess.run([build / "aerogel", "bench", "--device", "cuda", "--json", "--repeat", str(REPEAT), *chosen], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"aerogel bench: {done.stderr.strip()}")
    return json.loads(done.stdout)["results"]


class Torch:
    """PyTorch and what is built on it, on the same problems."""

    def __init__(self):
        """ImportError, OSError and others where there is none that works."""
        import torch

        self.torch = torch
        if not torch.cuda.is_available():
            raise ImportError("this PyTorch has no CUDA")

    @classmethod
    def found(cls) -> "Torch | None":
        """None, with a word of why, where nothing can be measured beside."""
        try:
            return cls()
        except Exception as error:  # not installed, broken, or without a GPU: Aerogel is measured alone
            print(f"gpu: nothing is measured beside: {(str(error).splitlines() or [type(error).__name__])[0]}", file=sys.stderr)
            return None

    def seconds(self, call) -> float:
        """Median of a call, several between two events."""
        torch, found = self.torch, []
        for _ in range(3):
            call()
        torch.cuda.synchronize()
        for _ in range(REPEAT):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for _ in range(5):
                call()
            end.record()
            end.synchronize()
            found.append(begin.elapsed_time(end) / 5e3)
        return statistics.median(found)

    def random(self, *shape):
        return self.torch.randn(*shape, device="cuda", dtype=self.torch.bfloat16)

    def linear(self, m: int, n: int, k: int) -> dict:
        """Calls by name: one complete layer each, activations quantized where the name says int8 or fp8."""
        torch, x, w = self.torch, self.random(m, k), self.random(n, k) * 0.02
        w8, ws = (w.float() / (s := w.float().abs().amax(1, keepdim=True) / 127)).round().to(torch.int8), s

        def int8():
            xs = x.abs().amax(1, keepdim=True).float() / 127
            return (torch._int_mm((x / xs).round().to(torch.int8), w8.T).float() * xs * ws.T).to(torch.bfloat16)

        f8, one = torch.float8_e4m3fn, torch.ones((), device="cuda")
        wf = w.to(f8)
        return {"torch bf16": lambda: torch.nn.functional.linear(x, w), "torch int8 (_int_mm, eager)": int8,
                "torch int8 (_int_mm, compiled)": torch.compile(int8),
                "torch fp8 (_scaled_mm)": lambda: torch._scaled_mm(x.to(f8), wf.T, scale_a=one, scale_b=one, out_dtype=torch.bfloat16),
                **self.torchao(x, w)}

    def torchao(self, x, w) -> dict:
        try:
            from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
        except ImportError:
            return {}
        layer = self.torch.nn.Linear(w.shape[1], w.shape[0], bias=False, device="cuda", dtype=self.torch.bfloat16)
        layer.weight.data.copy_(w)
        quantize_(layer, Int8DynamicActivationInt8WeightConfig())
        return {"torchao int8 (eager)": lambda: layer(x), "torchao int8 (compiled)": lambda compiled=self.torch.compile(layer): compiled(x)}

    def attention(self, heads: int, tokens: int, head_dim: int) -> dict:
        q, k, v = (self.random(1, heads, tokens, head_dim) for _ in range(3))
        sdpa, backends = self.torch.nn.functional.scaled_dot_product_attention, self.torch.nn.attention
        calls = {}
        for name in ("FLASH_ATTENTION", "CUDNN_ATTENTION"):
            def call(backend=getattr(backends.SDPBackend, name)):
                with backends.sdpa_kernel(backend):
                    return sdpa(q, k, v)
            calls[f"SDPA {name.split('_')[0].lower()}"] = call
        from torch.nn.attention.flex_attention import flex_attention

        calls["flex_attention bf16"] = lambda compiled=self.torch.compile(flex_attention): compiled(q, k, v)
        try:
            from sageattention import sageattn

            calls["sageattention"] = lambda: sageattn(q, k, v)
        except ImportError:
            pass
        return calls

    def peers(self, name: str) -> dict:
        """{name of a peer: seconds, or why it did not run}."""
        kind, variant, *rest = name.split("/")
        size = [int(part) for part in rest[-1].split("x")]
        calls = self.linear(*size) if kind == "linear" else self.attention(*size) if variant == "dense" else {}
        found = {}
        with self.torch.inference_mode():
            for peer, call in calls.items():
                try:
                    found[peer] = self.seconds(call)
                except Exception as error:  # a peer that this card or version does not have
                    found[peer] = str(error).splitlines()[0][:200]
        return found

    def peaks(self) -> dict:
        """Operations per second of its own large products."""
        size = 8192
        a, b = self.random(size, size), self.random(size, size)
        a8, b8 = (t.to(self.torch.int8) for t in (a, b))
        return {"bf16": 2 * size**3 / self.seconds(lambda: a @ b), "int8": 2 * size**3 / self.seconds(lambda: self.torch._int_mm(a8, b8.T))}


def row_of(result: dict, peers: dict, peaks: dict) -> dict:
    """A problem's line: our median, its share of the measured peak, and what is fastest beside it."""
    measured = {peer: value for peer, value in peers.items() if isinstance(value, float)}
    bf16 = min((value for peer, value in measured.items() if "bf16" in peer or peer.startswith("SDPA")), default=None)
    best = min(measured, key=measured.get, default=None)
    peak = peaks.get("bf16" if re.search("/(BF16|bf16)/", result["name"]) else "int8")
    seconds = result["median_seconds"]
    return {"problem": result["name"], "seconds": seconds, "tops": result["gops"] / 1e3, "of_peak": result["gops"] * 1e9 / peak if peak else None,
            "error": result["error"], "over_bf16": bf16 / seconds if bf16 else None, "best_peer": best, "over_best": measured[best] / seconds if best else None, "peers": peers}


def markdown(report: dict) -> str:
    gpu, check = report["device"], report["conformance"]
    text = [f"# {gpu.get('name', 'an unknown GPU')}", "", f"Driver {gpu.get('driver_version', '?')}, {gpu.get('clocks.sm', '?')} of {gpu.get('clocks.max.sm', '?')}, "
            f"{gpu.get('power.limit', '?')}. " + (f"Every row agrees with the CPU ({' and '.join(check['agree'])})" + (f" and {check['golden']} answers with the golden ones." if check.get("golden") else ".") if check["passed"] else f"**Wrong: {', '.join(check['failed']) or check['said'][-300:]}**"), ""]
    if path := report.get("torch"):
        text += [f"aerogel on tensors of PyTorch: {path['last'] if path['passed'] else '**Wrong: ' + path['last'] + '**'}", ""]
    show = lambda value, form: "-" if value is None else format(value, form)
    text += ["| problem | ms | TOPS | of measured peak | x best bf16 | fastest peer | x it | error |", "| --- | --- | --- | --- | --- | --- | --- | --- |"]
    for r in report["rows"]:
        text.append(f"| {r['problem']} | {r['seconds'] * 1e3:.3f} | {r['tops']:.0f} | {show(r['of_peak'], '.0%')} | {show(r['over_bf16'], '.2f')} | "
                    f"{r['best_peer'] or '-'} | {show(r['over_best'], '.2f')} | {r['error']:.1e} |")
    text += ["", *(f"{name}: {why}" for name, why in report.get("refused", {}).items())]
    return "\n".join(text).rstrip() + "\n"


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=ROOT / "build/release")
    parser.add_argument("--out", type=Path, default=ROOT / "build/gpu")
    parser.add_argument("--golden", type=Path, metavar="FILE", help="compare with the answers that a card left there before")
    parser.add_argument("--only", action="append", help="problems as `aerogel bench --only` takes them; repeatable")
    parser.add_argument("--no-peers", action="store_true", help="measure Aerogel alone")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    report = {"device": device(), "conformance": conformance(options.build, options.out / "golden.safetensors", options.golden)}
    (options.out / "gpu.json").write_text(json.dumps(report, indent=1) + "\n")  # whatever becomes of the timing
    torch = None if options.no_peers else Torch.found()
    report["torch"] = torch_path(options.build) if torch else {}
    report["peaks"] = torch.peaks() if torch else {}
    results = times(options.build, options.only or PROBLEMS)
    report["refused"] = {result["name"]: result["refused"] for result in results if "refused" in result}
    report["rows"] = [row_of(result, torch.peers(result["name"]) if torch else {}, report["peaks"]) for result in results if "refused" not in result]
    report["device_after"] = device()  # clocks under load
    (options.out / "gpu.json").write_text(json.dumps(report, indent=1) + "\n")
    (options.out / "gpu.md").write_text(markdown(report))
    print(markdown(report))
    return 0 if report["conformance"]["passed"] and report["torch"].get("passed", True) else 1


if __name__ == "__main__":
    sys.exit(main())
