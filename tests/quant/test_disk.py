"""Exports that cannot fit: refused before anything is taken, and what was taken is given back."""
import json
import os
import resource
import struct
import subprocess

import pytest
import torch
from safetensors.torch import save_file


def write_sparse(path, shapes, dtype="F32"):
    """A model whose bytes are a hole in the file."""
    info, at = {}, 0
    for name, shape in shapes.items():
        size = 4
        for extent in shape:
            size *= extent
        info[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    header = json.dumps(info).encode()
    header += b" " * (-len(header) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        try:
            file.truncate(8 + len(header) + at)
        except OSError as error:
            pytest.skip(f"this file system has no such large files: {error}")


def command(aerogel, model, out, *options, **more):
    return aerogel("quantize", model, "-o", out, "--scheme", "W8A16", "--include", "*", *options, **more)


@pytest.mark.parametrize("options", [[], ["--group-size", "64"]])
@pytest.mark.parametrize("shape", [[1 << 40, 0], [0, 1 << 40], [0, 0]], ids=str)
def test_a_weight_without_elements(aerogel, tmp_path, shape, options):
    write_sparse(tmp_path / "m.safetensors", {"a.weight": shape})
    done = command(aerogel, tmp_path / "m.safetensors", tmp_path / "out", *options, timeout=60, preexec_fn=no_large_files)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and not done.stdout
    assert "'a': the weight must be f32, bf16 or f16 with at least one row and one column, got f32" in done.stderr
    assert not (tmp_path / "out").exists()


def no_large_files():
    """Protects the disk of whoever runs these tests on a version that fails them."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 24, 1 << 24))


def test_too_large_for_the_disk(aerogel, tmp_path):
    """An honest model of 13 TB, of which the disk holds nothing."""
    if free(tmp_path) > 3 * 10**12:
        pytest.skip("this disk is too large")
    write_sparse(tmp_path / "m.safetensors", {f"{i}.weight": [1 << 20, 1 << 20] for i in range(3)})
    done = command(aerogel, tmp_path / "m.safetensors", tmp_path / "out", timeout=60, preexec_fn=no_large_files)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "bytes (3.3 TB) of the disk, " in done.stderr and "are free" in done.stderr, done.stderr
    assert list((tmp_path / "out").iterdir()) == []


@pytest.fixture
def model(tmp_path):
    generator = torch.Generator().manual_seed(1)
    save_file({f"{i}.weight": torch.randn(512, 1024, generator=generator) for i in range(8)}, tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


def test_a_limit_of_the_process(aerogel, model, tmp_path):
    """SIGXFSZ would end the program without a word."""
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    done = command(aerogel, model, tmp_path / "out", preexec_fn=limit)
    assert done.returncode == 1 and "File too large" in done.stderr and done.stderr.count("\n") == 1
    assert list((tmp_path / "out").iterdir()) == []
    done = aerogel("dequantize", tmp_path / "out", "-o", tmp_path / "f.safetensors", preexec_fn=limit)
    assert done.returncode == 1


@pytest.fixture
def small_disk(tmp_path):
    """small_disk("size=4m") -> a folder on a disk of that size."""
    mounted = []

    def mount(options):
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    try:
        yield mount
    finally:
        for folder in mounted:
            subprocess.run(["umount", folder], check=False)


def free(folder):
    disk = os.statvfs(folder)
    return disk.f_bfree * disk.f_frsize


def test_a_full_disk(aerogel, model, tmp_path, small_disk):
    disk = small_disk("size=3m")
    before = free(disk)
    done = command(aerogel, model, disk / "out")
    assert done.returncode == 1 and "of the disk, " in done.stderr and done.stderr.count("\n") == 1
    assert list((disk / "out").iterdir()) == [] and before - free(disk) < 1 << 16
    assert command(aerogel, model, tmp_path / "out").returncode == 0
    done = aerogel("dequantize", tmp_path / "out", "-o", disk / "f.safetensors")
    assert done.returncode == 1 and "of the disk, " in done.stderr
    assert list(disk.iterdir()) == [disk / "out"]


def test_no_inodes(aerogel, model, small_disk):
    disk = small_disk("size=32m,nr_inodes=3")
    done = command(aerogel, model, disk / "out")
    assert done.returncode == 1 and "No space left on device" in done.stderr and done.stderr.count("\n") == 1
    assert {path.name.rsplit(".", 1)[1] for path in (disk / "out").iterdir()} <= {"part", "journal"}


def test_a_disk_that_may_only_be_read(aerogel, model, tmp_path, small_disk):
    disk = small_disk("size=32m")
    (disk / "old").write_text("old")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    assert command(aerogel, model, tmp_path / "out").returncode == 0
    for arguments in (["quantize", model, "-o", disk / "out", "--scheme", "W8A16", "--include", "*"], ["dequantize", tmp_path / "out", "-o", disk / "old"]):
        done = aerogel(*arguments)
        assert done.returncode == 1 and done.stderr.startswith("aerogel: [") and done.stderr.count("\n") == 1, done.stderr
    assert (disk / "old").read_text() == "old"
