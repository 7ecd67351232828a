"""Safetensors both ways with the reference implementation: its files are read, ours are read by it.

Every file goes in from the Python package, through our reader and writer, and back into the package.
"""

import json
import subprocess

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

DTYPES = [
    torch.bool, torch.uint8, torch.int8, torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu, torch.int16,
    torch.uint16, torch.float16, torch.bfloat16, torch.int32, torch.uint32, torch.float32, torch.int64, torch.uint64,
    torch.float64,
]  # fmt: skip


def random_tensor(dtype, shape):
    count = int(np.prod(shape)) * dtype.itemsize
    raw = np.random.default_rng(count + dtype.itemsize).integers(0, 256, count, dtype=np.uint8)
    if dtype is torch.bool:
        raw &= 1
    return torch.from_numpy(raw).view(dtype).reshape(shape)


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and bytes_of(a) == bytes_of(b)


def bytes_of(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.fixture
def copied(build, tmp_path):
    def run(source):
        target = tmp_path / "copy.safetensors"
        result = subprocess.run(
            [build / "tests/safetensors_copy", source, target], capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        with safetensors.safe_open(target, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()

    return run


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype(copied, tmp_path, dtype):
    tensors = {
        "matrix": random_tensor(dtype, (3, 7)),
        "deep": random_tensor(dtype, (2, 1, 3, 1, 2)),
        "one": random_tensor(dtype, (1,)),
    }
    safetensors.torch.save_file(tensors, tmp_path / "in.safetensors")
    got, _ = copied(tmp_path / "in.safetensors")
    assert got.keys() == tensors.keys()
    assert all(same(got[name], tensors[name]) for name in tensors)


def test_scalars_empty_tensors_names_and_metadata(copied, tmp_path):
    tensors = {
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 4, dtype=torch.bfloat16),
        'ümlaut "quoted" \\ \n': torch.ones(3, dtype=torch.int8),
    }
    metadata = {"format": "pt", "clé": "värde\n"}
    safetensors.torch.save_file(tensors, tmp_path / "in.safetensors", metadata)
    got, got_metadata = copied(tmp_path / "in.safetensors")
    assert got.keys() == tensors.keys()
    assert all(same(got[name], tensors[name]) for name in tensors)
    assert got_metadata == metadata


def test_odd_sizes_of_small_types_leave_large_ones_on_their_boundary(copied, tmp_path):
    tensors = {f"{i:02}": random_tensor(dtype, (3,)) for i, dtype in enumerate(DTYPES)}
    safetensors.torch.save_file(tensors, tmp_path / "in.safetensors")
    got, _ = copied(tmp_path / "in.safetensors")
    assert all(same(got[name], tensors[name]) for name in tensors)


def test_no_tensors(copied, tmp_path):
    safetensors.torch.save_file({}, tmp_path / "in.safetensors")
    assert copied(tmp_path / "in.safetensors")[0] == {}


def test_shards(copied, tmp_path):
    tensors = {f"layer.{i}.weight": random_tensor(torch.bfloat16, (4, i + 1)) for i in range(6)}
    weight_map = {}
    for part in range(3):
        shard = f"model-0000{part + 1}-of-00003.safetensors"
        names = [f"layer.{i}.weight" for i in (part, part + 3)]
        safetensors.torch.save_file({name: tensors[name] for name in names}, tmp_path / shard)
        weight_map.update(dict.fromkeys(names, shard))
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    got, _ = copied(index)
    assert got.keys() == tensors.keys()
    assert all(same(got[name], tensors[name]) for name in tensors)
