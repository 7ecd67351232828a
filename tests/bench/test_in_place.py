"""bench/in_place.py on a small model: the sides it compares and the goal it checks."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytest.importorskip("torchao")
pytest.importorskip("diffusers")


def test_sides_errors_and_goal(build, tmp_path):
    command = [sys.executable, ROOT / "bench/in_place.py", "--aerogel", build / "aerogel", "--heads", 1, "--grid", "4x8x8", "--rounds", 1, "--no-compile",
               "--json", tmp_path / "out.json", "--check"]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(build / "python")}
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, env=environment)
    result = json.loads((tmp_path / "out.json").read_text())
    error = {row["name"]: row["error"] for row in result["rows"]}
    assert error["torch float32"] == 0 and 0 < error["torch bfloat16"] < 0.05
    assert 0 < error["aerogel W8A8_DYNAMIC"] < 0.05 and 0 < error["torchao int8, bfloat16"] < 0.1
    goal = result["goal"]
    best = min(row["seconds"] for row in result["rows"] if row["name"] in goal["peers"])
    ours = min(row["seconds"] for row in result["rows"] if row["name"].startswith("aerogel"))
    assert goal["peers"] and abs(goal["reached"] - best / ours) < 1e-9
    assert (done.returncode == 1) == bool(goal["wanted"] and goal["reached"] < goal["wanted"]), done.stderr


def test_blocks_of_every_family_run_and_peers_quantize_the_same_layers(build):
    sys.path[:0] = [str(ROOT / "bench"), str(build / "python")]
    try:
        import aerogel
        import blocks
        import in_place
        import torch
    finally:
        del sys.path[:2]
    assert in_place.best_of_ours([{"name": "torch float32", "ratio": 1.0}]) is None
    assert in_place.best_of_ours([{"name": "torch float32", "ratio": 9.0}, {"name": "aerogel", "ratio": 2.0}]) == 2
    families = {}
    for name in blocks.offered():
        families.setdefault(blocks.models()[name].class_name, blocks.models()[name])
    assert set(families) == set(blocks.BUILDERS) and len(families) == 3
    for model in families.values():
        one, inputs = blocks.build(blocks.Shape(model, 2, 1, (1, 4, 4)))
        with torch.no_grad():
            assert torch.isfinite(in_place.output_of(one(**inputs, return_dict=False))).all()
        linears = {name for name, module in one.named_modules() if isinstance(module, torch.nn.Linear) and in_place.in_blocks(name)}
        quantized = in_place.ours(one)
        assert {name for name, module in quantized.named_modules() if isinstance(module, aerogel.QuantizedLinear)} == linears, model.name
        assert sum(type(module.weight).__name__ == "Int8Tensor" for module in in_place.torchao_int8(one).modules() if hasattr(module, "in_features")) == len(linears)
