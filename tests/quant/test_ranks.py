"""Tensor-parallel shards: each rank's own file is quantized by itself, and its pair carries the rank in both names."""
import json

import pytest
import torch
from format_reference import quantize_model, raw
from safetensors.torch import load_file, save_file

LAYERS = ["blocks.0.ffn.net.0.proj", "blocks.0.ffn.net.2"]
RANKS = 3


@pytest.fixture
def shards(tmp_path):
    """A feed-forward cut as tensor parallelism does: rows of the first layer, columns of the second."""
    generator = torch.Generator().manual_seed(8)
    first, second = (torch.randn(*shape, generator=generator).bfloat16() for shape in ((96, 40), (40, 96)))
    bias, end = torch.randn(96, generator=generator).bfloat16(), torch.randn(40, generator=generator).bfloat16()
    parts = []
    for rank in range(RANKS):
        part = slice(32 * rank, 32 * rank + 32)
        parts.append({f"{LAYERS[0]}.weight": first[part].clone(), f"{LAYERS[0]}.bias": bias[part].clone(),
                      f"{LAYERS[1]}.weight": second[:, part].contiguous(), f"{LAYERS[1]}.bias": end.clone(), "norm.weight": torch.ones(40)})
    folder = tmp_path / "model"
    folder.mkdir()
    return folder, parts


def quantize(aerogel, *arguments):
    done = aerogel("quantize", *arguments, "--scheme", "W8A8_DYNAMIC", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("given", ["folder", "file", "index"])
def test_each_shard_on_its_own(aerogel, shards, tmp_path, given):
    folder, parts = shards
    out = tmp_path / "out"
    for rank, part in enumerate(parts):
        name = f"diffusion_pytorch_model_{rank}.safetensors"
        if given == "index":
            save_file(part, folder / f"part{rank}.safetensors")
            (folder / f"{name}.index.json").write_text(json.dumps({"weight_map": {k: f"part{rank}.safetensors" for k in part}}))
        else:
            save_file(part, folder / name)
    for rank in range(RANKS):
        model = folder / "diffusion_pytorch_model.safetensors" if given == "file" else folder
        quantize(aerogel, model, "-o", out, "--rank", rank)
    assert len(list(out.iterdir())) == 2 * RANKS
    for rank, part in enumerate(parts):
        tensors, types = quantize_model(part, LAYERS, "W8A8_DYNAMIC", layout="v1")
        written = load_file(out / f"quant_model_weight_w8a8_dynamic_{rank}.safetensors")
        assert written.keys() == tensors.keys() and all(raw(written[k]) == raw(v) for k, v in tensors.items())
        description = json.loads((out / f"quant_model_description_w8a8_dynamic_{rank}.json").read_text())
        assert description == {**types, "model_quant_type": "W8A8_DYNAMIC"}
        report = json.loads(aerogel("inspect", out, "--rank", rank, "--json").stdout)
        assert report["problems"] == [] and report["weights"].endswith(f"_{rank}.safetensors")
        assert aerogel("dequantize", out / f"quant_model_description_w8a8_dynamic_{rank}.json", "-o", tmp_path / "f.safetensors").returncode == 0
        assert load_file(tmp_path / "f.safetensors")[f"{LAYERS[1]}.weight"].shape == (40, 32)


def test_one_file_for_all_ranks(aerogel, shards, tmp_path):
    """Sequence parallelism copies the layers: every rank reads the same file."""
    folder, parts = shards
    save_file(parts[0], folder / "diffusion_pytorch_model.safetensors")
    reports = [quantize(aerogel, folder, "-o", tmp_path / "out", "--rank", rank) for rank in (0, 12)]
    first, second = (open(report["weights"], "rb").read() for report in reports)
    assert first == second and [r["weights"].rpartition("_")[2] for r in reports] == ["0.safetensors", "12.safetensors"]


def test_missing_rank(aerogel, shards, tmp_path):
    folder, parts = shards
    save_file(parts[0], folder / "diffusion_pytorch_model_0.safetensors")
    done = aerogel("quantize", folder, "-o", tmp_path / "out", "--scheme", "W8A16", "--rank", 1)
    assert done.returncode == 1 and "has shards of other ranks, but no diffusion_pytorch_model_1.safetensors" in done.stderr
    done = aerogel("quantize", folder, "-o", tmp_path / "out", "--scheme", "W8A16")
    assert done.returncode == 1 and "has no diffusion_pytorch_model.safetensors" in done.stderr
