"""Quantized transformers and the sampling step in whole pipelines of diffusers."""
import copy
import importlib.util
from pathlib import Path

import aerogel
import pytest
import torch
import transformers
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


ENCODERS = {  # class, configuration, blocks that stay float
    "T5EncoderModel": (dict(d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu"), "wo"),
    "UMT5EncoderModel": (dict(d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4), "wo"),
    "CLIPTextModel": (dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4), None),
    "LlamaModel": (dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2), None),
}


@pytest.mark.parametrize("name", ENCODERS)
@torch.no_grad()
def test_text_encoders(name):
    """Those of transformers that the pipelines use. T5 asks its layers `wo` for their dtype, and names them to be kept in float32."""
    config, float_layer = ENCODERS[name]
    cls = getattr(transformers, name)
    model, ids = cls(cls.config_class(vocab_size=50, bos_token_id=1, eos_token_id=2, **config)).eval(), torch.randint(3, 49, (1, 7))
    exact = model(ids).last_hidden_state
    for scheme in ("W8A16", "W8A16_FP8"):
        light = copy.deepcopy(model)
        report = aerogel.quantize(light, scheme=scheme)
        stays = {layer.name.rpartition(".")[2]: layer.why for layer in report.layers if layer.scheme == "FLOAT"}
        assert stays == ({float_layer: "the model keeps it in float32"} if float_layer else {}) and len(report.quantized) > 10
        assert 1e-4 < relative(light(ids).last_hidden_state, exact) < 0.1


def test_example():
    spec = importlib.util.spec_from_file_location("example", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    psnr, report = example.main(frames=8, steps=2)
    assert psnr > 20 and report.density < 0.7
    assert {count.sparse for count in report.layers.values()} == {4} and report.why == {}
