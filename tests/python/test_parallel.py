"""Two processes under torchrun compute what one does: context parallel (Ulysses, ring), tensor parallel shards, FSDP, with sparse attention and
quantized layers."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parallel")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", Path(__file__).parent / "parallel_program.py", folder],
        capture_output=True, text=True, check=False, timeout=900, env={**os.environ, "OMP_NUM_THREADS": "1", "AEROGEL_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("name, calls", [("ulysses", 1), ("ulysses, the plan first", 2), ("ulysses, quantized", 1), ("ulysses anything", 1)])
def test_heads_in_two_processes_are_as_sparse_as_in_one(ranks, name, calls):
    for result in ranks:
        assert result[name]["error"] < 1e-5 and 0.01 < result[name]["of sparsity"] < 0.2, result[name]
        assert result[name]["why"] == {} and result[name]["sparse"] == [calls, calls] and 0.3 < result[name]["density"] < 0.6
    assert all(result["ulysses, the plan first"]["after"] < 1e-5 for result in ranks), "disable() forgot the other process"


@pytest.mark.parametrize("name", ["ring", "ring anything"])
def test_keys_of_two_processes_are_put_together(ranks, name):
    for result in ranks:
        assert result[name]["error"] < 1e-5 and result[name]["after"] < 1e-5
        assert result[name]["why"]["its keys come in parts (ring attention)"] == 4


def test_ring_attention_stays_dense_and_says_so(ranks):
    for result in ranks:
        assert result["ring, sparse"]["after"] < 1e-5 and result["ring, sparse"]["sparse"] == [0, 0]
        assert result["ring, sparse"]["why"] == {"its keys come in parts (ring attention)": 4}


def test_masks_go_with_ulysses_and_not_with_a_ring(ranks):
    for result in ranks:
        assert result["ulysses, masked"] < 1e-5
        assert "ring attention takes no attention mask" in result["ring, masked"] and "ulysses_degree" in result["ring, masked"]


def test_gradients_are_refused(ranks):
    assert all("use the backend \"native\"" in result["gradients"] for result in ranks)


def test_shards_of_the_heads(ranks):
    """torch's parallelize_module, and layers cut by hand that are quantized then: scales of the output's rows are those of half a row."""
    for result in ranks:
        assert result["tensor parallel"] == {"error": result["tensor parallel"]["error"], "why": {}} and result["tensor parallel"]["error"] < 1e-5
        assert result["of sparsity"] > 0.01
        assert result["shards, quantized"]["error"] < 0.005 and result["shards, quantized"]["quantized"] == 8 and result["shards, quantized"]["why"] == {}
        after = result["tensor parallel, then quantized"]
        assert after["quantized"] == [] and len(after["whys"]) == 1 and "DTensor" in after["whys"][0] and after["error"] < 0.01


def test_fully_sharded_models_compute_and_save(ranks):
    for result in ranks:
        assert result["fsdp"]["error"] < 1e-5 and result["fsdp"]["why"] == {} and result["fsdp"]["sparse"] == [2, 2]
    assert ranks[0]["fsdp"]["loaded"] < 1e-5
