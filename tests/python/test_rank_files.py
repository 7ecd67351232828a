"""Two processes under torchrun: each writes and reads the files of its own rank, and names the one that is missing."""
import json
import os
import subprocess
import sys
from pathlib import Path

import aerogel
import pytest
import torch
from torch import nn


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         Path(__file__).parent / "rank_files_program.py", folder],
        capture_output=True, text=True, check=False, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1", "AEROGEL_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("scheme", ["W8A8_DYNAMIC", "W8A8"])
def test_each_rank_has_its_own_files(ranks, scheme):
    folder, results = ranks
    for rank, result in enumerate(results):
        name = f"{scheme.lower()}_{rank}"
        assert result[f"{scheme} written"] == [f"quant_model_description_{name}.json", f"quant_model_weight_{name}.safetensors"]
        assert result[f"{scheme} inspected"] == f"quant_model_weight_{name}.safetensors"
        for how in ("folder", "path"):
            assert result[f"{scheme} {how}"] < 0.05, "the halves do not add up to the whole"
            assert result[f"{scheme} {how} weight"] < 0.01, "these are not the weights of this rank"


def test_replicated_layers_share_one_pair(ranks):
    _, results = ranks
    assert results[0]["shared"] == results[1]["shared"] == [
        "quant_model_description_w8a8_dynamic.json", "quant_model_weight_w8a8_dynamic.safetensors"]


def test_a_missing_file_is_named(ranks):
    _, (_, result) = ranks
    assert "quant_model_weight_w8a8_1.safetensors" in result["no weights"]
    assert "quant_model_description_w8a8_1.json does not exist; there are: quant_model_description_w8a8_0.json" in result["no description"]
    assert "quant_model_description_w8a8_1.json" in result["no description by path"]


def test_a_rank_may_be_named_without_torch_distributed(tmp_path):
    model = nn.ModuleDict({"a": nn.Linear(8, 6)})
    for rank in (0, 3):
        torch.nn.init.constant_(model["a"].weight, rank + 1.0)
        report = aerogel.export(model, tmp_path, "W8A16", include="a", rank=rank, progress=False)
        assert report.weights.endswith(f"quant_model_weight_w8a16_{rank}.safetensors")
    other = nn.ModuleDict({"a": nn.Linear(8, 6)})
    aerogel.quantize(other, tmp_path, rank=3)
    torch.testing.assert_close(other["a"].dequantized(), torch.full((6, 8), 4.0))
    with pytest.raises(OSError, match="quant_model_description_w8a16_1.json does not exist"):
        aerogel.quantize(other, tmp_path, rank=1)
    with pytest.raises(ValueError, match="has 2 descriptions"):
        aerogel.quantize(other, tmp_path)
