"""The layouts of tensor cores, as the emulator and the primitives have them, against CuTe: the headers of PyPI's nvidia-cutlass,
compiled for the host."""

import os
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CUTE = Path(sysconfig.get_path("purelib")) / "cutlass_library/source/include"


def cuda_headers():
    """Where cuda_runtime.h is: of nvcc, or of PyPI's packages."""
    found = list(Path(sysconfig.get_path("purelib")).glob("nvidia/cu*/include/cuda_runtime.h"))
    found += Path("/usr/local").glob("cuda*/targets/x86_64-linux/include/cuda_runtime.h")
    return found[0].parent if found else None


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    if not (CUTE / "cute/tensor.hpp").exists():
        pytest.skip("no CuTe: scripts/setup.sh installs it")
    headers = cuda_headers()
    if headers is None:
        pytest.skip("CuTe needs the headers of CUDA's runtime, which come with nvcc")

    def build(defines=()):
        program = tmp_path_factory.mktemp("cute") / "oracle"
        flags = ["-std=c++20", "-O0", "-w", *defines, f"-I{ROOT}/tests", f"-I{ROOT}/src", f"-isystem{CUTE}", f"-isystem{headers}"]
        cccl = headers / "cccl"
        flags += [f"-isystem{cccl}"] if cccl.exists() else []
        subprocess.run([os.environ.get("AEROGEL_CXX", "g++"), *flags, ROOT / "tests/emulator/cute_oracle.cpp", "-o", program], check=True)
        return subprocess.run([program], capture_output=True, text=True)

    return build


def test_every_layout_agrees(oracle):
    result = oracle()
    assert result.returncode == 0, result.stdout
    compared = int(re.search(r"(\d+) compared, 0 different", result.stdout)[1])
    assert compared > 50_000
