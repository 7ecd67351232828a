"""A side as the measurement sees it: a process that is stopped unless it is its turn.

All sides get the same number of threads and the same cores, so none can use more than asked for. A library's threads may go on spinning for a while
after a call (OpenMP's and onnxruntime's do); stopping the process keeps that out of the turns of the others, and leaves the library its own
settings in its own turn."""
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .table import Row

BENCH = Path(__file__).resolve().parents[1]
# What holds PyTorch, oneDNN (also OpenVINO's) and MKL to the instruction set of an Aerogel level.
HOLDS = {
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "avxvnni": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2_VNNI"},
    "avx512": {"ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"},
    "avx512_bf16": {"ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"},
    "amx": {},
}


def settings_of(level: str) -> dict[str, str]:
    """The environment of a peer held to a level ("" = to nothing). What torch.compile has made is kept apart: it takes code for AVX-512 from its cache for
    a process that is held to AVX2, and then gives NaN."""
    return {"TORCHINDUCTOR_CACHE_DIR": str(Path(tempfile.gettempdir()) / f"torchinductor-{os.getuid()}-{level or 'native'}"), **HOLDS.get(level, {})}


THREAD_SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "AEROGEL_NUM_THREADS")
MOST_SECONDS = 300  # that a request may take: compilers are slow, a hanging library must not hold up the others


def cores(count: int) -> set[int]:
    """So many of the cores that this process may use, on different physical ones as far as there are."""
    allowed = sorted(os.sched_getaffinity(0))

    def first_sibling(cpu: int) -> int:
        try:
            text = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
        except OSError:
            return cpu
        return int(text.replace("-", ",").split(",")[0])

    seen: set[int] = set()
    order = sorted(allowed, key=lambda cpu: (first_sibling(cpu) in seen or seen.add(first_sibling(cpu)), cpu))
    return set(order[:count])


class Failure(Exception):
    """A side that is missing or fails: a line of the report."""


@dataclass(frozen=True)
class Start:
    """How processes begin."""

    python: Path
    threads: int
    pythonpath: str = ""  # of the extension


class Side:
    """One row of the table at one CPU level ("" = what the machine has); lesser: than that of the run."""

    def __init__(self, row: Row, start: Start, level: str = "", lesser: bool = False):
        self.row, self.level, self.lesser = row, level, lesser
        self.name = f"{row.name} at {level}" if lesser else row.name
        threads = start.threads
        environment = {**os.environ, **dict.fromkeys(THREAD_SETTINGS, str(threads)), "PYTHONPATH": os.pathsep.join([str(BENCH), *filter(None, [start.pythonpath])]),
                       "TORCHINDUCTOR_COMPILE_THREADS": "1", "BENCH_THREADS": str(threads), **settings_of(level)}
        if level and row.ours:
            environment["AEROGEL_CPU"] = level
        self.log = tempfile.TemporaryFile()
        # The process inherits the cores, before any library can count them.
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cores(threads))
        try:
            self.process = subprocess.Popen([str(start.python), "-m", "peers.worker", row.module, row.variant], env=environment, stdin=subprocess.PIPE,
                                            stdout=subprocess.PIPE, stderr=self.log, process_group=0)
        finally:
            os.sched_setaffinity(0, before)

    def ask(self, **request) -> dict:
        """The answer; Failure where there is none."""
        try:
            self._signal(signal.SIGCONT)
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
            ready, _, _ = select.select([self.process.stdout], [], [], MOST_SECONDS)
            line = self.process.stdout.readline() if ready else b""
        except BrokenPipeError:
            ready, line = True, b""
        if not line:
            self.close()
            raise Failure(f"no answer in {MOST_SECONDS} seconds" if not ready else f"ended with {self.process.returncode}{self._said()}")
        self._signal(signal.SIGSTOP)
        answer = json.loads(line)
        if "error" in answer:
            raise Failure(answer["error"])
        return answer

    def _signal(self, number: int) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)

    def _said(self) -> str:
        self.log.seek(0)
        lines = self.log.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1][:200]}" if lines else ""

    def close(self) -> None:
        self._signal(signal.SIGKILL)
        self.process.wait()


def python_of(environment: Path) -> Path:
    """The interpreter of the peers' environment, or the one that runs where there is none."""
    python = environment / "bin/python"
    return python if python.exists() else Path(sys.executable)
