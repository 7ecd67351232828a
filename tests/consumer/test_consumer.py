"""Installs the library into an empty prefix and builds a project against it with find_package(aerogel)."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = (ROOT / os.environ.get("AEROGEL_BUILD", "build/release")).resolve()
VERSION = re.search(r"project\(aerogel VERSION ([\d.]+)", (ROOT / "CMakeLists.txt").read_text())[1]


def run(*command, cwd=None):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False, cwd=cwd)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prefix")
    run("cmake", "--install", BUILD, "--prefix", folder)
    return folder


def test_a_project_finds_builds_and_runs(prefix, tmp_path):
    run("cmake", "-G", "Ninja", "-S", ROOT / "tests/consumer", "-B", tmp_path, f"-DCMAKE_PREFIX_PATH={prefix}",
        "-DCMAKE_BUILD_TYPE=Release",
        "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror -fvisibility=hidden -fno-rtti -flto=auto")
    run("cmake", "--build", tmp_path)
    assert run(tmp_path / "consumer") == f"aerogel {VERSION}\n[linear] the weight must be a matrix, got f32[1]\n"


def test_the_cpp_example_makes_a_video(prefix, tmp_path):
    model = ROOT / "examples/shapes_dit"
    run("cmake", "-G", "Ninja", "-S", ROOT / "examples/cpp", "-B", tmp_path, f"-DCMAKE_PREFIX_PATH={prefix}",
        "-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror")
    run("cmake", "--build", tmp_path)
    printed = run(tmp_path / "make_video", model, "red circle moves right", "video.gif", 2, cwd=tmp_path)
    assert "step 2/2" in printed and "denoise" in printed
    assert (tmp_path / "video.gif").read_bytes().startswith(b"GIF89a")


def test_another_minor_version_is_refused(prefix, tmp_path):
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.25)\nproject(x NONE)\nfind_package(aerogel 99.0 REQUIRED)\n")
    done = subprocess.run(["cmake", "-S", tmp_path, "-B", tmp_path / "b", f"-DCMAKE_PREFIX_PATH={prefix}"],
                          capture_output=True, text=True, check=False)
    assert done.returncode != 0 and VERSION in done.stderr


def test_without_a_dependency_nothing_is_found_or_changed(prefix, tmp_path):
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.25)\nproject(x CXX)\nset(CMAKE_MODULE_PATH mine)\n"
        "set(CMAKE_DISABLE_FIND_PACKAGE_Pcre2 ON)\nfind_package(aerogel QUIET)\n"
        'message(STATUS "found: ${aerogel_FOUND}, modules: ${CMAKE_MODULE_PATH}.")\n')
    printed = run("cmake", "-G", "Ninja", "-S", tmp_path, "-B", tmp_path / "b", f"-DCMAKE_PREFIX_PATH={prefix}")
    assert re.search(r"found: (0|FALSE), modules: mine\.", printed), printed


def test_exactly_the_public_headers_are_installed(prefix):
    installed = {p.name for p in (prefix / "include").rglob("*") if p.is_file()}
    assert installed == {p.name for p in (ROOT / "include/aerogel").glob("*.h")} | {"version.h"}


def test_the_licence_is_installed(prefix):
    assert (prefix / "share/doc/aerogel/LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_the_build_machine_is_not_in_the_package(prefix):
    for file in prefix.rglob("*.cmake"):
        assert str(ROOT) not in file.read_text(), file
