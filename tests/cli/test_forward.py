"""`aerogel forward`: the transformer alone on recorded inputs, against diffusers, quantized and sparse."""
import json

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file


@pytest.fixture
def recorded(tmp_path):
    """record(per_token) -> (file, its tensors): three records of 16 x 8 x 8 tokens."""
    def write(per_token=False, **changes):
        generator = torch.Generator().manual_seed(5)
        tensors = {"hidden_states": torch.randn(3, 3, 16, 32, 32, generator=generator),
                   "timestep": 1000 * torch.rand((3, 1024) if per_token else (3,), generator=generator),
                   "encoder_hidden_states": torch.randn(3, 8, 16, generator=generator)} | changes
        save_file(tensors, tmp_path / "records.safetensors")
        return tmp_path / "records.safetensors", tensors

    return write


@pytest.fixture
def velocity(aerogel, tiny_pipeline, tmp_path):
    def run(path, *flags):
        out = tmp_path / "velocity.safetensors"
        done = aerogel("forward", tiny_pipeline, "--inputs", path, "-o", out, "--json", *flags)
        assert done.returncode == 0, done.stderr
        return load_file(out)["velocity"], json.loads(done.stdout)

    return run


def distance(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("per_token", [False, True])
def test_as_diffusers(velocity, recorded, tiny_pipeline, per_token):
    path, tensors = recorded(per_token)
    ours, report = velocity(path)
    model = WanTransformer3DModel.from_pretrained(tiny_pipeline / "transformer")
    with torch.no_grad():
        exact = model(**tensors, return_dict=False)[0]
    assert distance(ours, exact) < 1e-5
    assert report["records"] == len(report["record_seconds"]) == 3 and min(report["record_seconds"]) > 0
    assert report["cpu"].keys() == {"name", "level", "threads"} and report["peak_memory_bytes"] > report["weight_bytes"]
    assert "density" not in report  # nothing is sparse


def test_first_static_step(recorded, tiny_pipeline, aerogel, tmp_path):
    path, _ = recorded()
    done = aerogel("quantize", tiny_pipeline, "-o", tmp_path / "q", "--scheme", "W8A8_TIMESTEP", "--recorded-inputs", path)
    assert done.returncode == 0, done.stderr
    for step, code in ((3, 0), (500, 1)):
        done = aerogel("forward", tiny_pipeline, "--inputs", path, "-o", tmp_path / "v.safetensors", "--quantized", tmp_path / "q",
                       "--first-static-step", step)
        assert done.returncode == code, done.stderr
    assert "the first static step must be in [0, 3] (the file's steps), got 500" in done.stderr


def test_quantized_and_sparse(velocity, recorded, tiny_pipeline, aerogel, tmp_path):
    path, _ = recorded()
    plain, whole = velocity(path)
    online, small = velocity(path, "--online", "W8A8_DYNAMIC")
    assert 1e-4 < distance(online, plain) < 0.05 and small["weight_bytes"] < whole["weight_bytes"]
    assert aerogel("quantize", tiny_pipeline, "-o", tmp_path / "q", "--scheme", "W8A8_DYNAMIC").returncode == 0
    files, _ = velocity(path, "--quantized", tmp_path / "q/quant_model_description_w8a8_dynamic.json")
    assert torch.equal(files, online)
    sparse, report = velocity(path, "--sparse", "rf_v2", "--sparsity", 0.7, "--block-size", 16)
    assert 1e-4 < distance(sparse, plain) < 0.5 and 0.25 < report["density"] < 0.5
    centroids, again = velocity(path, "--sparse", "rf_v2", "--sparsity", 0.7, "--block-size", 16, "--centroids")
    assert 0 < distance(centroids, sparse) < 0.5 > distance(centroids, plain) and again["density"] == pytest.approx(report["density"], abs=0.01)


def test_timings(velocity, recorded, tiny_pipeline, aerogel, tmp_path):
    path, _ = recorded()
    _, report = velocity(path, "--online", "W8A8_DYNAMIC", "--timings")
    timings = report["timings"]
    assert timings["seconds"] == pytest.approx(sum(report["record_seconds"]))
    calls = {}
    for operation in timings["operations"]:
        calls[operation["op"]] = calls.get(operation["op"], 0) + operation["calls"]
        assert ("percent_of_peak" in operation) == (operation["operations"] > 0), operation
    layers = len(WanTransformer3DModel.from_pretrained(tiny_pipeline / "transformer").blocks)
    assert calls["attention"] == 3 * 2 * layers and calls["rope"] == 3 * 2 * layers  # records, attn1 and attn2, q and k of attn1
    multiplied = sum(operation["operations"] for operation in timings["operations"] if operation["op"] == "attention")
    tokens = 16 * 8 * 8
    assert multiplied > 3 * layers * 4 * tokens**2
    assert timings["seconds_between"] + sum(o["seconds"] for o in timings["operations"]) == pytest.approx(timings["seconds"], rel=1e-3)
    done = aerogel("forward", tiny_pipeline, "--inputs", path, "-o", tmp_path / "v.safetensors", "--timings")
    assert done.returncode == 0 and "of peak" in done.stdout and "GB/s" in done.stdout and "linear" in done.stdout, done.stderr


def test_steps_of_records_count(velocity, recorded, tmp_path):
    """Sparse from step 1 on: the records of step 0 stay dense."""
    flags = ["--online", "W8A8_DYNAMIC", "--sparse", "rf_v2", "--sparsity", 0.7, "--block-size", 16, "--start-step", 1]
    path, tensors = recorded(step=torch.tensor([1, 0, 2]))
    sparse, _ = velocity(path, *flags)
    dense, _ = velocity(path, "--online", "W8A8_DYNAMIC")
    assert [torch.equal(a, b) for a, b in zip(sparse, dense)] == [False, True, False]
    path, tensors = recorded(timestep=torch.tensor([500.0, 900.0, 500.0]))  # without steps: the rank of the timestep
    assert [torch.equal(a, b) for a, b in zip(velocity(path, *flags)[0], velocity(path, "--online", "W8A8_DYNAMIC")[0])] == [False, True, False]


def test_the_rank_of_a_timestep_per_token_is_that_of_its_largest(velocity, recorded):
    times = torch.tensor([[0.0] * 64 + [t] * 960 for t in (500.0, 900.0, 500.0)])  # the first frame is given
    path, _ = recorded(timestep=times)
    flags = ["--sparse", "rf_v2", "--sparsity", 0.7, "--block-size", 16, "--start-step", 1]
    assert [torch.equal(a, b) for a, b in zip(velocity(path, *flags)[0], velocity(path)[0])] == [False, True, False]


@pytest.mark.parametrize("wrong", [
    ({"timestep": torch.zeros(2)}, "'timestep' must be of 3 records, got f32[2]"),
    ({"hidden_states": torch.zeros(3, 3, 16, 33, 32)}, "hidden_states"),
    ({"encoder_hidden_states": torch.zeros(3, 8, 17)}, "encoder_hidden_states"),
    ({"step": torch.tensor([0.0, 1.0, 2.0])}, "'step' must be i32 or i64 [3], got f32[3]"),
])
def test_records_that_do_not_fit(aerogel, tiny_pipeline, recorded, tmp_path, wrong):
    change, message = wrong
    path, _ = recorded(**change)
    done = aerogel("forward", tiny_pipeline, "--inputs", path, "-o", tmp_path / "out.safetensors")
    assert done.returncode == 1 and message in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("case", [
    (["--rotate", 32], "[forward] --rotate says nothing without --online"),
    (["--rank", 0], "[forward] --rank says nothing without --quantized"),
    (["--sparsity", 0.5], "[forward] --sparsity says nothing without --sparse"),
    (["--online", "W8A16", "--quantized", "x.json"], "[forward] --quantized reads files and --online needs none"),
    (["--online", "W8A16", "--fallback", "blocks"], "[forward] --fallback must be PATTERN=SCHEME, got 'blocks'"),
    (["--lora", "x.safetensors=much"], "[forward] --lora must be FILE[=WEIGHT], got 'x.safetensors=much'"),
])
def test_flags_that_do_not_fit(aerogel, tiny_pipeline, recorded, tmp_path, case):
    flags, message = case
    done = aerogel("forward", tiny_pipeline, "--inputs", recorded()[0], "-o", tmp_path / "out.safetensors", *flags)
    assert done.returncode == 1 and message in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "out.safetensors").exists()
