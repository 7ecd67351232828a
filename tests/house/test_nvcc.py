"""cmake/cuda.cmake takes an nvcc that is new enough, and says what it found where there is none."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = """cmake_minimum_required(VERSION 3.25)
project(found NONE)
include({root}/cmake/cuda.cmake)
message(STATUS "CUDA is ${{AEROGEL_CUDA}}")
"""


def tool(folder, release=None, name="nvcc"):
    """A program that says its release and, as an nvcc, where its companions are."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "Cuda compilation tools, release {release}, V{release}.1" || echo "#$ _HERE_={folder}" >&2\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def configure(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "CMakeLists.txt").write_text(PROJECT.format(root=ROOT))

    def run(*options, **environment):
        done = subprocess.run(["cmake", "-S", source, "-B", tmp_path / "build", *options], capture_output=True, text=True,
                              env={**{k: v for k, v in os.environ.items() if k not in ("CUDACXX", "CUDA_HOME")}, **environment})
        return done.returncode, " ".join((done.stdout + done.stderr).split())

    return run


def test_an_old_nvcc_is_refused(configure, tmp_path):
    old = tool(tmp_path / "old", "11.8")
    code, said = configure(f"-DAEROGEL_NVCC={old}")
    assert code == 0 and f"CUDA kernels: off, {old} is 11.8, needed is 13.0" in said and "CUDA is OFF" in said
    code, said = configure("-DAEROGEL_CUDA=ON")
    assert code != 0 and f"{old} is 11.8, needed is 13.0" in said


def test_a_newer_one_is_found_behind_it(configure, tmp_path):
    old, new = tool(tmp_path / "old", "12.6"), tool(tmp_path / "new", "13.1", "nvcc-13")
    tool(tmp_path / "new", name="fatbinary")
    code, said = configure(CUDACXX=str(new), PATH=f"{old.parent}:{os.environ['PATH']}")
    assert code == 0 and f"CUDA kernels: on, {new}" in said and "CUDA is ON" in said, said
    cache = (tmp_path / "build/CMakeCache.txt").read_text()
    assert f"AEROGEL_FATBINARY:FILEPATH={new.parent}/fatbinary" in cache


def test_fatbinary_follows_nvcc(configure, tmp_path):
    for release in ("13.0", "13.2"):
        nvcc = tool(tmp_path / release, release)
        fatbinary = tool(tmp_path / release, name="fatbinary")
        code, said = configure(f"-DAEROGEL_NVCC={nvcc}")
        assert code == 0 and "CUDA is ON" in said, said
        assert f"AEROGEL_FATBINARY:FILEPATH={fatbinary}" in (tmp_path / "build/CMakeCache.txt").read_text()
