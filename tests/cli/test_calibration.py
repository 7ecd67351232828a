"""Calibration kept in files, merged, inspected, measured in chosen steps, and from recorded inputs."""
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file


def one_line(done):
    assert done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1, done
    return done.stderr


@pytest.fixture
def captions(tmp_path):
    def write(*lines):
        path = tmp_path / f"captions{len(list(tmp_path.iterdir()))}.txt"
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


@pytest.fixture
def measure(aerogel, tiny_pipeline, tmp_path):
    """measure("name", options ...) -> (statistics file, its tensors)."""
    def run(name, *options):
        path = tmp_path / f"{name}.safetensors"
        done = aerogel("quantize", tiny_pipeline, "-o", tmp_path / name, "--scheme", "W8A8_TIMESTEP", "--save-calibration", path, *options)
        assert done.returncode == 0 and done.stderr == "", done.stderr
        return path, load_file(path)

    return run


def weights(folder, scheme="w8a8_timestep"):
    return (folder / f"quant_model_weight_{scheme}.safetensors").read_bytes()


def test_several_files_are_merged(aerogel, tiny_pipeline, tmp_path, captions, measure):
    """Two machines with a caption each measure what one machine with both does: sums of the same numbers, in this order."""
    both, together = measure("both", "--captions", captions("red circle moves left", "blue star turns"))
    one, first = measure("one", "--captions", captions("red circle moves left"))
    two, second = measure("two", "--captions", captions("blue star turns"), "--seed", 1)
    for key, value in together.items():
        assert torch.allclose(first[key].double() + second[key].double(), value.double(), rtol=1e-14), key
        assert not key.endswith("forwards") or torch.equal(first[key] + second[key], value)
    done = aerogel("quantize", tiny_pipeline, "-o", tmp_path / "merged", "--scheme", "W8A8_TIMESTEP", "--calibration", one, two)
    assert done.returncode == 0 and f"calibration from {one}, {two}, 3 steps" in done.stdout
    assert weights(tmp_path / "merged") == weights(tmp_path / "both")
    assert weights(tmp_path / "merged") != weights(tmp_path / "one")


def test_files_that_do_not_fit_together(aerogel, tiny_pipeline, tmp_path, captions, measure):
    one, _ = measure("one", "--captions", captions("red"))
    two, _ = measure("two", "--captions", captions("red"), "--steps", 2)
    text = one_line(aerogel("quantize", tiny_pipeline, "-o", tmp_path / "out", "--scheme", "W8A8", "--calibration", one, two))
    assert "statistics of 2 steps cannot be merged with those of 3" in text and str(two) in text and str(one) in text
    text = one_line(aerogel("quantize", tiny_pipeline, "-o", tmp_path / "out", "--scheme", "W8A8", "--calibration", one, "--timesteps", "0"))
    assert "--timesteps says nothing with --calibration, which runs nothing" in text


def test_it_samples_as_the_folder_and_the_flags_say(aerogel, tiny_pipeline, tmp_path, captions, measure):
    lines = ["--captions", captions("red circle moves left")]
    _, together = measure("together", *lines)
    folder = tmp_path / "model"
    shutil.copytree(tiny_pipeline, folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["generation"] |= {"image_first": True, "stagger": 0.5}
    (folder / "model_index.json").write_text(json.dumps(index))

    def of_folder(*flags):
        path = tmp_path / "stats.safetensors"
        done = aerogel("quantize", folder, "-o", tmp_path / "out", "--scheme", "W8A8_TIMESTEP", "--save-calibration", path, *lines, *flags)
        assert done.returncode == 0, done.stderr
        return load_file(path)

    same = lambda a, b: all(torch.equal(a[name], b[name]) for name in a.keys() | b.keys())
    assert same(of_folder("--no-image-first", "--stagger", 0), together)
    others = [of_folder(), of_folder("--stagger", 0), of_folder("--no-image-first")]
    assert not any(same(a, b) for a in [together, *others] for b in [together, *others] if a is not b)


def test_inspect(aerogel, captions, measure):
    path, tensors = measure("one", "--captions", captions("red circle moves left"), "--timesteps", "0,2")
    report = json.loads(aerogel("inspect", path, "--json").stdout)
    assert (report["kind"], report["steps"], len(report["layers"])) == ("calibration", 3, 26)
    for layer in report["layers"]:
        forwards = tensors[f"{layer['name']}.forwards"]
        assert layer["forwards"] == forwards.tolist() == [2, 0, 2]
        for i, kind in enumerate(("min", "max")):
            mean = float(tensors[f"{layer['name']}.{kind}_sum"].sum() / forwards.sum())
            assert layer["range"][i] == pytest.approx(mean, rel=1e-6)
            assert layer["range_from_step"][0][i] == layer["range"][i]
    done = aerogel("inspect", path)
    assert done.returncode == 0 and "calibration statistics: 26 layers, 3 steps" in done.stdout
    assert "26 layers did not run in every step" in done.stdout and done.stdout.count("forwards") == 10
    widest = max(report["layers"], key=lambda layer: layer["range"][1] - layer["range"][0])["name"]
    assert done.stdout.splitlines()[4].endswith(widest)
    assert aerogel("inspect", path, "--all").stdout.count("forwards") == 26


def test_timesteps(captions, measure):
    """The chosen steps are measured as in a full run; those after the last one are not run at all."""
    caption = captions("red circle moves left")
    _, full = measure("full", "--captions", caption)
    for chosen, steps in (("0", [0]), ("0-1", [0, 1]), ("2", [2]), ("1-", [1, 2]), ("2,0", [0, 2])):
        _, part = measure("part" + chosen, "--captions", caption, "--timesteps", chosen)
        assert part.keys() == full.keys()
        mask = torch.zeros(3).index_fill(0, torch.tensor(steps), 1)
        for key, value in full.items():
            assert torch.equal(part[key], (value * mask).to(value.dtype)), (chosen, key)


@pytest.mark.parametrize("chosen", ["3", "-1", "0-3", "2-1", "a", "0,", "0;1"])
def test_wrong_timesteps(aerogel, tiny_pipeline, tmp_path, captions, chosen):
    done = aerogel("quantize", tiny_pipeline, "-o", tmp_path / "out", "--scheme", "W8A8", "--captions", captions("red"), f"--timesteps={chosen}")
    assert "--timesteps must be steps and ranges in [0, 3)" in one_line(done)


@pytest.fixture
def records(tiny_pipeline, tmp_path):
    """Recorded inputs of 4 forward passes at 2 timesteps, and what the first layers see."""
    generator = torch.Generator().manual_seed(5)
    tensors = {"hidden_states": torch.randn(4, 3, 2, 16, 16, generator=generator), "timestep": torch.tensor([900.0, 400.0, 900.0, 400.0]),
               "encoder_hidden_states": torch.randn(4, 8, 16, generator=generator)}
    save_file(tensors, tmp_path / "records.safetensors")
    return tmp_path / "records.safetensors", tensors


def test_recorded_inputs(measure, records):
    """Each record is one forward in the step of its timestep's rank, the largest first."""
    path, inputs = records
    _, stats = measure("recorded", "--recorded-inputs", path)
    layer = "condition_embedder.text_embedder.linear_1"
    text = inputs["encoder_hidden_states"].double()
    for step, rows in ((0, [0, 2]), (1, [1, 3])):
        assert stats[f"{layer}.forwards"][step] == 2
        assert stats[f"{layer}.min_sum"][step] == sum(text[r].min() for r in rows)
        assert stats[f"{layer}.max_sum"][step] == sum(text[r].max() for r in rows)
    assert all(v.tolist() == [2, 2] for k, v in stats.items() if k.endswith(".forwards")) and len(stats) == 26 * 3


def test_recorded_steps_and_types(measure, records, tmp_path):
    path, inputs = records
    save_file(inputs | {"step": torch.tensor([4, 0, 4, 1]), "hidden_states": inputs["hidden_states"].bfloat16()}, path)
    _, stats = measure("recorded", "--recorded-inputs", path)
    assert stats["proj_out.forwards"].tolist() == [1, 1, 0, 0, 2]
    _, stats = measure("chosen", "--recorded-inputs", path, "--timesteps", "1-")
    assert stats["proj_out.forwards"].tolist() == [0, 1, 0, 0, 2]


@pytest.mark.parametrize("wrong", [
    ({"timestep": None}, "must have the tensor 'timestep', it has none"),
    ({"timestep": torch.zeros(3)}, "'timestep' must be of 4 records, got f32[3]"),
    ({"hidden_states": torch.zeros(4, 3, 2, 16)}, "'hidden_states' must be f32, bf16 or f16 of 5 axes, got f32[4,3,2,16]"),
    ({"hidden_states": torch.zeros(4, 5, 2, 16, 16)}, "hidden_states"),
    ({"encoder_hidden_states": torch.zeros(4, 8, 17)}, "encoder_hidden_states"),
    ({"step": torch.tensor([0, 1, 2])}, "'step' must be i32 or i64 [4], got i64[3]"),
    ({"step": torch.tensor([0, 1, 2, -1])}, "'step' must be in [0, 100000)"),
])
def test_records_that_do_not_fit(aerogel, tiny_pipeline, tmp_path, records, wrong):
    (path, inputs), (change, message) = records, wrong
    save_file({k: v for k, v in (inputs | change).items() if v is not None}, path)
    done = aerogel("quantize", tiny_pipeline, "-o", tmp_path / "out", "--scheme", "W8A8", "--recorded-inputs", path)
    assert message in one_line(done) and not (tmp_path / "out").exists()


def test_one_source(aerogel, tiny_pipeline, tmp_path, records, captions):
    base = ["quantize", tiny_pipeline, "-o", tmp_path / "out", "--scheme", "W8A8", "--recorded-inputs", records[0]]
    assert "give one of --captions" in one_line(aerogel(*base, "--captions", captions("red")))
    assert "--steps says nothing with --recorded-inputs" in one_line(aerogel(*base, "--steps", 3))
    assert "--frames says nothing with --recorded-inputs" in one_line(aerogel(*base, "--frames", 3))
    assert "none of its 4 records is of a chosen timestep" in one_line(aerogel(*base, "--timesteps", "7"))
