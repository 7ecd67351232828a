"""Quantized transformers and the sampling step in whole pipelines of diffusers."""
import importlib.util
from pathlib import Path

import aerogel
import pytest
import torch
from tiny_pipelines import IMAGE, VIDEO, build, latents, relative

pytestmark = pytest.mark.usefixtures("one_thread")

EXAMPLE = Path(__file__).parents[2] / "examples/python/diffusers_pipeline.py"


@pytest.fixture(autouse=True)
def unset():
    yield
    aerogel.TimestepManager.set_timestep_idx(None)
    aerogel.TimestepManager.set_timestep_idx_max(None)


@pytest.mark.parametrize("name", [*VIDEO, *IMAGE])
def test_quantized_pipelines_stay_near_float(name):
    pipe, arguments = build(name)
    exact = latents(pipe, arguments)
    report = aerogel.quantize(pipe.transformer, scheme="W8A8_DYNAMIC")
    assert len(report.quantized) > 10 and all("." in n for n in report.quantized)
    assert 1e-5 < relative(latents(pipe, arguments), exact) < 0.03


@pytest.mark.parametrize("name", [*VIDEO, *IMAGE])
def test_the_callback_tells_every_forward_its_step(name):
    pipe, arguments = build(name)
    seen = []
    pipe.transformer.register_forward_pre_hook(lambda *_: seen.append(aerogel.TimestepManager.get_timestep_idx()))
    for steps in (3, 2):
        seen.clear()
        latents(pipe, arguments, num_inference_steps=steps, callback_on_step_end=aerogel.timestep_callback(steps))
        forwards = len(seen) // steps
        assert seen == [step for step in range(steps) for _ in range(forwards)] and forwards in (1, 2)


def test_calibrated_scales_change_with_the_step():
    """A layer with static scales per step, one of them far too coarse: only the step that it belongs to suffers."""
    results = []
    for coarse in (None, 0, 2):
        pipe, arguments = build("wan")
        aerogel.quantize(pipe.transformer, scheme="W8A8_DYNAMIC", include=["blocks.0.ffn.net.2"])
        pipe.transformer.blocks[0].ffn.net[2] = static(pipe.transformer.blocks[0].ffn.net[2], 3, coarse)
        seen = []

        def keep(pipe, step, timestep, kwargs, seen=seen):
            seen.append(kwargs["latents"].clone())
            return kwargs

        latents(pipe, arguments, num_inference_steps=3, callback_on_step_end=aerogel.timestep_callback(3, keep))
        results.append(seen)
    fine, first, last = results
    assert not torch.equal(first[0], fine[0])
    assert torch.equal(last[0], fine[0]) and torch.equal(last[1], fine[1]) and not torch.equal(last[2], fine[2])


def static(layer, steps, coarse):
    """The layer with static activation scales, 0.02, but 2.0 in the step `coarse`."""
    arrays = {n: b.clone() for n, b in layer.named_buffers()}
    input_scale = torch.full((steps,), 0.02)
    if coarse is not None:
        input_scale[coarse] = 2.0
    deq_scale = input_scale[:, None] * arrays["weight_scale"][:, 0]
    arrays |= {"input_scale": input_scale, "input_offset": torch.zeros(steps), "deq_scale": deq_scale,
               "quant_bias": (arrays["bias"] / deq_scale).round().to(torch.int32)}
    new = aerogel.QuantizedLinear.from_arrays("W8A8_TIMESTEP", layer.in_features, arrays)
    new.timestep_policy = aerogel.TimestepPolicyConfig(default_strategy="static")
    return new


def test_example():
    spec = importlib.util.spec_from_file_location("example", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    psnr, report = example.main(frames=8, steps=2)
    assert psnr > 20 and report.density < 0.7
    assert {count.sparse for count in report.layers.values()} == {4} and report.why == {}
