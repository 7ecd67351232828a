"""The command where threads cannot be had: it computes with those it gets, the same numbers, and says so once."""

import os
import re
import resource
import shutil
import subprocess
import tempfile

import pytest

PROMPT = "red circle moves left"
WARNING = re.compile(r"aerogel: warning: only (\d+) of (\d+) threads could be started \(.+\)\n")


def run(command, limits, **environment):
    def limit():
        for what, value in limits.items():
            resource.setrlimit(what, (value, value))

    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, preexec_fn=limit,
                          env={**os.environ, **environment}, timeout=300)


def test_a_little_address_space(build, tiny_pipeline, tmp_path):
    """As `ulimit -v`: stacks of 1000 threads do not fit."""
    limits = {resource.RLIMIT_STACK: 8 << 20, resource.RLIMIT_AS: 2 << 30}
    for name, threads in (("some", "1000"), ("two", "2")):
        done = run([build / "aerogel", "generate", tiny_pipeline, "--prompt", PROMPT, "--steps", 1, "-o", tmp_path / f"{name}.safetensors"],
                   limits, AEROGEL_NUM_THREADS=threads)
        assert done.returncode == 0, done.stderr
        if name == "some":
            started, wanted = map(int, WARNING.fullmatch(done.stderr).groups())
            assert 1 <= started < wanted == 1000
        else:
            assert done.stderr == ""
    assert (tmp_path / "some.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


@pytest.fixture
def without_threads(build):
    """Runs the command where no further thread or process is allowed (a container's limit of processes)."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        shutil.copy(build / "aerogel", folder)
        root = os.geteuid() == 0  # whom the limit does not bind

        def limit():
            resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
            if root:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)

        def run(*arguments, **environment):
            return subprocess.run([f"{folder}/aerogel", *map(str, arguments)], capture_output=True, text=True, check=False, preexec_fn=limit,
                                  env={**os.environ, "AEROGEL_NUM_THREADS": "8", **environment}, timeout=300, cwd="/")

        yield run


def test_no_thread_at_all(without_threads):
    for quiet in (["quantize", "--list"], ["inspect", "--kernels"], ["bench", "--list"], ["--version"]):
        done = without_threads(*quiet)
        assert (done.returncode, done.stderr) == (0, ""), done
    done = without_threads("bench", "--only", "attention/dense/f32/4x4096x64", "--repeat", 1)
    assert done.returncode == 0
    started, wanted = WARNING.fullmatch(done.stderr).groups()
    assert int(started) < int(wanted) == 8 and f" {started} thread" in done.stdout


def test_the_setting_is_checked_without_threads(without_threads):
    done = without_threads("quantize", "--list", AEROGEL_NUM_THREADS="many")
    assert (done.returncode, done.stderr) == (1, "aerogel: [environment] AEROGEL_NUM_THREADS must be a whole number >= 1, got 'many'\n")
