"""Ranges that `aerogel quantize` measures by its own pipeline, and ranges that aerogel.calibrate measures on diffusers' model over the same
noise and captions: two implementations of everything but the format."""
import aerogel
import pytest
from safetensors.torch import load_file
from test_pipeline import caption, generate, pipeline, unipc  # noqa: F401 (a fixture)
from wan_models import PROGRAMS

STEPS, SEED, CAPTIONS = 3, 5, ["red circle moves left", "blue star turns, red circle turns"]
BOUND = 1e-4  # float32 forwards of two implementations


def sampling(model, folder, noises):
    """The loop of diffusers' WanPipeline, telling the step."""
    for text, noise in zip(CAPTIONS, noises):
        scheduler, x = unipc(6.0), noise[None]
        scheduler.set_timesteps(STEPS)
        scheduler.set_begin_index(0)
        aerogel.TimestepManager.set_timestep_idx(None)
        aerogel.TimestepManager.set_timestep_idx_max(STEPS)
        for step, t in enumerate(scheduler.timesteps):
            aerogel.TimestepManager.set_timestep_idx(step)
            time = t.float().expand(1)
            prompt, null = (model(x, time, embeds, return_dict=False)[0] for embeds in (caption(folder, *text.split(", ")), caption(folder)))
            x = scheduler.step(null + 3.0 * (prompt - null), t, x, return_dict=False)[0]


@pytest.fixture(scope="module")
def both(pipeline, tmp_path_factory):  # noqa: F811
    """(what the command measured, what Python measured, folder of the command's files, the model)."""
    import subprocess

    folder, model = pipeline
    work = tmp_path_factory.mktemp("calibration")
    noises = [generate(folder, work, prompt=text, seed=SEED + i, steps=1)["noise"] for i, text in enumerate(CAPTIONS)]
    (work / "captions.txt").write_text("\n".join(CAPTIONS))
    done = subprocess.run([PROGRAMS.parent / "aerogel", "quantize", folder, "-o", work / "native", "--scheme", "W8A8_TIMESTEP", "--steps",
                           str(STEPS), "--seed", str(SEED), "--captions", work / "captions.txt", "--save-calibration", work / "c.safetensors"],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ours = aerogel.calibrate(model, lambda: sampling(model, folder, noises), "W8A8_TIMESTEP")
    aerogel.TimestepManager.set_timestep_idx(None)
    aerogel.TimestepManager.set_timestep_idx_max(None)
    return aerogel.Calibration.load(work / "c.safetensors"), ours, work, model


def test_both_measure_the_same_ranges(both):
    native, ours, _, _ = both
    assert ours.steps == native.steps == STEPS and set(ours.layers) <= set(native.layers) and len(ours) == 20
    for layer in ours.layers:
        assert ours.forwards(layer) == native.forwards(layer) == [2 * len(CAPTIONS)] * STEPS
        for mine, theirs in zip(ours.ranges(layer), native.ranges(layer)):
            assert mine == pytest.approx(theirs, rel=BOUND, abs=BOUND), layer
    assert len(set(ours.ranges("blocks.1.ffn.net.2"))) == STEPS


def test_both_write_the_same_scales(both):
    _, ours, work, model = both
    aerogel.export(model, work / "python", "W8A8_TIMESTEP", calibration=ours, progress=False)
    name = "quant_model_weight_w8a8_timestep.safetensors"
    a, b = load_file(work / "native" / name), load_file(work / "python" / name)
    assert a.keys() == b.keys() and sum(key.endswith("input_scale") for key in a) == 20
    for key in a:
        if key.endswith("input_scale"):
            assert (a[key] / b[key] - 1).abs().max() < 2 * BOUND, key
        elif key.endswith("input_offset"):  # rounded: one apart at most
            assert (a[key] - b[key]).abs().max() <= 1, key
        elif key.endswith(("weight", "weight_scale")):
            assert a[key].equal(b[key]), key
