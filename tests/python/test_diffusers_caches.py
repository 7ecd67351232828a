"""diffusers' own caches of steps, blocks and attention (model.enable_cache) on quantized models with sparse attention: what they skip is skipped,
what they compute is computed by Aerogel, and the result is near that of the float model with the same cache."""
import re

import aerogel
import pytest
import torch
from aerogel.diffusers import attention_identifiers
from diffusers import (FirstBlockCacheConfig, FluxTransformer2DModel, MagCacheConfig, PyramidAttentionBroadcastConfig, SeaCacheConfig,
                       TaylorSeerCacheConfig)
from diffusers.hooks import taylorseer_cache
from tiny_pipelines import VIDEO, build, latents, relative

pytestmark = pytest.mark.usefixtures("one_thread")
STEPS = 6


def _broadcast(pipe):
    return PyramidAttentionBroadcastConfig(spatial_attention_block_skip_range=2, spatial_attention_timestep_skip_range=(-1, 1001),
                                           current_timestep_callback=lambda: pipe.current_timestep)


CACHES = {
    "first block": lambda pipe: FirstBlockCacheConfig(threshold=100.0),
    "taylor": lambda pipe: TaylorSeerCacheConfig(cache_interval=2, disable_cache_before_step=2, taylor_factors_dtype=torch.float32,
                                                 cache_identifiers=[r"(single_)?(transformer_)?blocks\.\d+\.attn1?"]),
    "magnitudes": lambda pipe: MagCacheConfig(threshold=0.5, max_skip_steps=2, num_inference_steps=STEPS, mag_ratios=torch.ones(STEPS)),
    "broadcast": _broadcast,
}


def counted(pipe, kind):
    """{name: calls} of modules of a kind, from now on."""
    counts = {}

    def count(name):
        def hook(*_):
            counts[name] = counts.get(name, 0) + 1
        return hook

    for name, module in pipe.transformer.named_modules():
        if isinstance(module, kind):
            module.register_forward_pre_hook(count(name))
    return counts


def pipeline(name, *, light):
    """(pipeline, arguments, plan); light: quantized, with sparse attention."""
    pipe, arguments = build(name)
    plan = None
    if light:
        aerogel.quantize(pipe.transformer, scheme="W8A8_DYNAMIC")
        plan = aerogel.enable_sparse_attention(pipe, sparse_type="rf_v2", sparsity=0.3, block_size=16)
    return pipe, arguments, plan


def run(pipe, arguments):
    return latents(pipe, arguments, num_inference_steps=STEPS)


ONLY_WAN = {
    "spectra": lambda pipe: SeaCacheConfig(threshold=100.0, max_consecutive_cached=0),  # knows Wan and Cosmos 3
    "taylor, found": lambda pipe: TaylorSeerCacheConfig(cache_interval=2, disable_cache_before_step=2, taylor_factors_dtype=torch.float32,
                                                        cache_identifiers=attention_identifiers(pipe.transformer)),
}


@pytest.mark.parametrize("name, cache", [*((name, cache) for name in VIDEO for cache in CACHES), *(("wan", cache) for cache in ONLY_WAN)])
def test_caches_compose_with_quantized_layers_and_sparse_attention(name, cache):
    outputs, skipped = [], []
    for light in (False, True):
        pipe, arguments, plan = pipeline(name, light=light)
        kind = aerogel.QuantizedLinear if light else torch.nn.Linear
        calls = counted(pipe, kind)
        plain = run(pipe, arguments)
        without = dict(calls)
        calls.clear()
        pipe.transformer.enable_cache({**CACHES, **ONLY_WAN}[cache](pipe))
        outputs.append(run(pipe, arguments))
        skipped.append({n: without[n] - calls.get(n, 0) for n in without})
        assert torch.isfinite(outputs[-1]).all() and not torch.equal(outputs[-1], plain)
        if light:
            assert {count.sparse for count in plan.report.layers.values()} != {0} and plan.report.why == {}
        pipe.transformer.disable_cache()
        assert torch.equal(run(pipe, arguments), plain)  # and nothing stays behind
    assert relative(outputs[1], outputs[0]) < 0.2
    common = skipped[0].keys() & skipped[1].keys()
    assert sum(skipped[1].values()) > 0 and {n: skipped[0][n] for n in common} == {n: skipped[1][n] for n in common}


@pytest.mark.parametrize("name", VIDEO)
def test_a_cache_that_skips_nothing_changes_no_bit(name):
    pipe, arguments, _ = pipeline(name, light=True)
    plain = run(pipe, arguments)
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.0))
    assert torch.equal(run(pipe, arguments), plain)


def test_names_of_attention_layers_for_taylorseer():
    """Its own patterns, matched whole, end in "attn"."""
    pipe, _ = build("wan")
    names = [f"blocks.{i}.attn{j}" for i in (0, 1) for j in (1, 2)]
    assert attention_identifiers(pipe.transformer) == [re.escape(name) for name in names]
    assert not any(re.fullmatch(pattern, name) for pattern in taylorseer_cache._TRANSFORMER_BLOCK_IDENTIFIERS for name in names)
    flux = FluxTransformer2DModel(in_channels=16, num_layers=1, num_single_layers=1, num_attention_heads=2, attention_head_dim=32, joint_attention_dim=24,
                                  pooled_projection_dim=16, axes_dims_rope=(4, 14, 14))
    assert len(attention_identifiers(flux)) == 2


def test_masks_that_are_used_again_keep_their_layers_when_blocks_are_skipped():
    """mask_refresh_steps counts steps of the video, not calls of a layer."""
    pipe, arguments = build("wan")
    plan = aerogel.enable_sparse_attention(pipe, sparse_type="rf_v2", sparsity=0.3, block_size=16, mask_refresh_steps=3)
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=100.0))
    first, again = run(pipe, arguments), run(pipe, arguments)
    assert torch.equal(first, again) and plan.report.why == {}
    calls = [count.sparse for count in plan.report.layers.values()]
    assert calls[0] == 2 * 2 * STEPS and calls[1] < calls[0]
