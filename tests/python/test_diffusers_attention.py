"""Sparse and dense attention inside whole pipelines of diffusers, against the same pipelines in torch."""
import copy
import logging

import aerogel
import numpy as np
import pytest
import torch
from aerogel.attention import layers as backend
from aerogel.diffusers import plan as sparse_plan
from aerogel.diffusers.models import VIDEO_MODELS, VideoModel
from diffusers import WanTransformer3DModel
from tiny_pipelines import GRID, STEPS, VIDEO, build, latents, relative
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

pytestmark = pytest.mark.usefixtures("one_thread")

TOKENS = GRID[0] * GRID[1] * GRID[2]
TEXT_IN_ATTENTION = {"wan": ("none", 0), "hunyuan": ("behind", 6), "cogvideox": ("front", 9), "ltx": ("none", 0)}
LAYERS = {"wan": 2, "hunyuan": 2, "cogvideox": 2, "ltx": 2}
FORWARDS = {"wan": 2 * STEPS, "hunyuan": STEPS, "cogvideox": STEPS, "ltx": STEPS}  # Wan runs guidance as a forward of its own
ALL_KEPT = {"sparsity": 1e-6, "block_size": 16}  # through the sparse kernel, with every block
HALF = {"sparsity": 0.7, "block_size": 16}


class ByHand(TorchFunctionMode):
    """Sparse attention at every call of torch's attention that has the tokens of the whole video, text put in front by hand."""

    def __init__(self, text, **options):
        super().__init__()
        (self.place, self.text), self.options, self.calls = text, options, 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is not scaled_dot_product_attention:
            return function(*args, **(kwargs or {}))
        given = {**dict(zip(("query", "key", "value"), args)), **(kwargs or {})}
        q, k, v = (given[n] for n in ("query", "key", "value"))
        if min(q.shape[2], k.shape[2]) < TOKENS:
            return function(*args, **(kwargs or {}))
        self.calls += 1
        if self.place == "spans":
            return aerogel.sparse_attention(q, k, v, sparse_type="rf_v2", video_spans=self.text, **self.options)
        if self.place == "behind":  # what lies behind video and text is padding
            q, k, v = (torch.cat([t[:, :, TOKENS:TOKENS + self.text], t[:, :, :TOKENS]], 2) for t in (q, k, v))
        o = aerogel.sparse_attention(q, k, v, sparse_type="rf_v2", latent_shape_q=GRID, txt_len=self.text, **self.options)
        if self.place == "behind":
            padding = torch.full_like(given["query"][:, :, TOKENS + self.text:], 7.0)
            o = torch.cat([o[:, :, self.text:], o[:, :, :self.text], padding], 2)
        return o


@pytest.mark.parametrize("name", VIDEO)
def test_every_block_kept_is_dense_attention(name):
    pipe, arguments = build(name)
    exact = latents(pipe, arguments)
    plan = aerogel.enable_sparse_attention(pipe, **ALL_KEPT)
    assert relative(latents(pipe, arguments), exact) < 1e-5
    assert len(plan.report.layers) == LAYERS[name] and plan.report.why == {} and plan.report.density == 1
    assert all(c.sparse == FORWARDS[name] and c.dense == 0 for c in plan.report.layers.values())
    plan.disable()
    assert torch.equal(latents(pipe, arguments), exact)


@pytest.mark.parametrize("name", VIDEO)
def test_latent_shape_and_text_are_found(name):
    pipe, arguments = build(name)
    exact = latents(pipe, arguments)
    with ByHand(TEXT_IN_ATTENTION[name], **HALF) as by_hand:
        wanted = latents(pipe, arguments)
    assert by_hand.calls == LAYERS[name] * FORWARDS[name]
    plan = aerogel.enable_sparse_attention(pipe, **HALF)
    y = latents(pipe, arguments)
    assert relative(y, wanted) < 1e-5 < 0.01 < relative(y, exact)
    assert 0.3 < plan.report.density < 0.6 and "of their maps" in str(plan.report)


def test_hunyuan_batches_with_different_padding():
    pipe, arguments = build("hunyuan")
    arguments["prompt_embeds"] = arguments["prompt_embeds"].repeat(2, 1, 1)
    arguments["pooled_prompt_embeds"] = arguments["pooled_prompt_embeds"].repeat(2, 1)
    arguments["prompt_attention_mask"] = torch.tensor([[True] * 6 + [False] * 3, [True] * 8 + [False]])
    exact = latents(pipe, arguments)
    plan = aerogel.enable_sparse_attention(pipe, **ALL_KEPT)
    assert relative(latents(pipe, arguments), exact) < 1e-5 and plan.report.why == {}


def test_steps_and_layers_that_stay_dense(caplog):
    pipe, arguments = build("wan")
    exact = latents(pipe, arguments)
    plan = aerogel.enable_sparse_attention(pipe, start_step=1, end_step=3, skip_layers=[0], **HALF)
    with caplog.at_level(logging.WARNING, "aerogel"):
        latents(pipe, arguments, num_inference_steps=4)
    first, second = plan.report.layers.values()
    assert (first.sparse, first.dense, second.sparse, second.dense) == (0, 8, 4, 4)
    assert plan.report.why == {"the step is before start_step 1": 4, "the step is not before end_step 3": 4,
                               "the layer is one of skip_layers": 4}
    assert not caplog.records  # all of it was asked for
    plan.disable()
    plan = aerogel.enable_sparse_attention(pipe, start_step=2, **HALF)
    for _ in range(2):  # the count begins anew with each video
        assert relative(latents(pipe, arguments), exact) < 1e-5
    plan.disable()
    plan = aerogel.enable_sparse_attention(pipe, skip_layers=["blocks.1.*"], **HALF)
    latents(pipe, arguments)
    assert [c.sparse for c in plan.report.layers.values()] == [4, 0]


@pytest.mark.parametrize("sparse_type, options", [("rf_v3", {}), ("rf_v3", {"precision": "mix"}), ("ada_bsa", {"cdf_threshold": 0.9}),
                                                  ("rf_v1", {"min_recall": 0.1}), ("rf_v2", {"protect_first_frame": False})])
def test_the_other_patterns_and_their_options(sparse_type, options):
    pipe, arguments = build("hunyuan")
    exact = latents(pipe, arguments)
    plan = aerogel.enable_sparse_attention(pipe, sparse_type=sparse_type, sparsity=0.5, block_size=16, **options)
    assert 1e-4 < relative(latents(pipe, arguments), exact) < 0.2
    assert plan.report.why == {} and 0.1 < plan.report.density < 0.95


@pytest.mark.parametrize("sparse_type", ["rf_v2", "ada_bsa"])
def test_masks_serve_for_several_steps(sparse_type, monkeypatch):
    calls, original = [], sparse_plan.attend_sparsely

    def recorded(q, k, v, options, plan=None):
        o, made, seconds = original(q, k, v, {**options, "return_mask": True}, plan)
        calls.append((plan, made))
        return o, made, seconds

    pipe, arguments = build("wan")
    plan = aerogel.enable_sparse_attention(pipe, sparse_type=sparse_type, mask_refresh_steps=2, sparsity=0.5, block_size=16)
    monkeypatch.setattr(sparse_plan, "attend_sparsely", recorded)
    for _ in range(2):  # the second video begins with masks of its own
        calls.clear()
        latents(pipe, arguments, num_inference_steps=3)
        first, second, third = calls[:4], calls[4:8], calls[8:]  # guided and not, two layers each
        assert len(third) == 4 and all(given is None for given, _ in first + third)
        assert all(given is made for (given, _), (_, made) in zip(second, first, strict=True))
        assert not any(np.array_equal(a.cells, b.cells) for (_, a), (_, b) in zip(first, third, strict=True))
    assert plan.report.why == {} and 0.3 < plan.report.density < 0.9


def test_two_transformers_share_the_count_of_steps():
    pipe, arguments = build("wan")
    pipe.register_modules(transformer_2=copy.deepcopy(pipe.transformer))
    pipe.register_to_config(boundary_ratio=0.7)
    plan = aerogel.enable_sparse_attention(pipe, start_step=3, **HALF)
    latents(pipe, arguments, num_inference_steps=4)
    assert len(plan.report.layers) == 4 and sum(c.sparse for c in plan.report.layers.values()) == 4
    assert plan.report.layers["transformer_2.blocks.0.attn1"].sparse == 2


def test_why_it_stays_dense_is_said_once(caplog):
    pipe, arguments = build("wan")
    exact = latents(pipe, arguments)
    plan = aerogel.enable_sparse_attention(pipe, sparsity=0.5)  # 5 blocks of 128 tokens
    with caplog.at_level(logging.WARNING, "aerogel"):
        assert relative(latents(pipe, arguments), exact) < 1e-5
    assert len(caplog.records) == 1 and "attention stays dense: " in caplog.text
    (why, count), = plan.report.why.items()
    assert count == 8 and "block" in why and plan.report.density == 1


def test_what_does_not_fit_stays_dense():
    model = build("ltx")[0].transformer
    plan = aerogel.enable_sparse_attention(model, **HALF)

    def run(tokens, **size):
        return model(torch.randn(1, tokens, 8), torch.randn(1, 9, 24), torch.tensor([9.0]), torch.ones(1, 9), **size, return_dict=False,
                     video_coords=torch.zeros(1, 3, tokens))[0]

    size = {"num_frames": GRID[0], "height": GRID[1], "width": GRID[2]}
    run(TOKENS, **size).sum().backward()
    assert model.proj_in.weight.grad.abs().sum() > 0
    with torch.no_grad():
        run(TOKENS), run(TOKENS - 8, **size), run(TOKENS, **size)
    assert plan.report.why == {"gradients are wanted": 2, "num_frames, height and width were not given to the transformer": 2,
                               "552 queries and 552 keys are not 560 tokens of video": 2}
    assert [c.sparse for c in plan.report.layers.values()] == [1, 1]


def test_masks_other_than_padding_stay_dense():
    model = build("hunyuan")[0].transformer
    plan = aerogel.enable_sparse_attention(model, **HALF)
    masks = [torch.tensor([[True, False, True]]), torch.tensor([[True, True, True]])]
    with torch.no_grad():
        for mask in masks:
            model(torch.randn(1, 4, 7, 20, 16), torch.tensor([9]), torch.randn(1, 3, 24), mask, torch.randn(1, 16), torch.tensor([6.0]))
    # Hunyuan counts the mask: [1, 0, 1] is two tokens and one of padding to it.
    assert plan.report.why == {} and sum(c.sparse for c in plan.report.layers.values()) == 4
    layer = model.transformer_blocks[0].attn

    def holes(module, args, kwargs):
        kwargs["attention_mask"] = kwargs["attention_mask"].clone()
        kwargs["attention_mask"][..., 5] = False
        return args, kwargs

    layer.register_forward_pre_hook(holes, with_kwargs=True)
    with torch.no_grad():
        model(torch.randn(1, 4, 7, 20, 16), torch.tensor([9]), torch.randn(1, 3, 24), masks[0], torch.randn(1, 16), torch.tensor([6.0]))
    assert plan.report.why == {"the attention mask is more than padding behind the text": 1}


def test_every_row_of_a_mask_of_padding_is_looked_at():
    q, seen = torch.randn(2, 1, 12, 8), torch.arange(12) < torch.tensor([[9], [12]])
    whole = seen[:, None, None].expand(-1, -1, 12, -1).clone()
    both = whole & whole.mT  # padding sees nothing
    more = whole.clone()
    more[1, 0, 5, 2] = False
    for mask in (seen, seen[:, None, None], whole, both):
        assert sparse_plan._lengths(backend.Problem(*[q.transpose(1, 2)] * 3, "BSND", mask), 8, "behind") == ([9, 12], "")
    assert sparse_plan._lengths(backend.Problem(q, q, q, "BNSD", whole[0, 0]), 8, "behind") == ([9, 9], "")
    for mask in (more, whole[0, 0].tril()):
        assert "more than padding" in sparse_plan._lengths(backend.Problem(q, q, q, "BNSD", mask), 8, "behind")[1]


def test_16_bits_and_copies():
    pipe, arguments = build("wan")
    pipe.transformer.to(torch.bfloat16)
    exact = latents(pipe, arguments)
    plan = aerogel.enable_sparse_attention(pipe, **ALL_KEPT)
    assert relative(latents(pipe, arguments), exact) < 0.02 and plan.report.why == {}
    pipe.transformer = copy.deepcopy(pipe.transformer)  # keeps to the plan
    assert relative(latents(pipe, arguments), exact) < 0.02 and sum(c.sparse for c in plan.report.layers.values()) == 16


@pytest.mark.parametrize("name", ["wan", "flux", "qwen"])
def test_the_backend_of_diffusers(name):
    pipe, arguments = build(name)
    exact = latents(pipe, arguments)
    calls = Counted(lambda: pipe.transformer.set_attention_backend("aerogel"))
    with calls:
        y = latents(pipe, arguments)
    assert relative(y, exact) < 1e-5 and calls.count > 0
    pipe.transformer.set_attention_backend("native")
    with calls:
        assert torch.equal(latents(pipe, arguments), exact)
    assert calls.count == 0


@pytest.mark.parametrize("name", ["sd3", "flux", "qwen", "cogvideox"])
def test_dense_attention_of_any_model(name):
    pipe, arguments = build(name)
    exact = latents(pipe, arguments)
    plan = aerogel.enable_sparse_attention(pipe, sparse_type=None)
    with Counted() as calls:
        assert relative(latents(pipe, arguments), exact) < 1e-5
    assert list(plan.report.why) == ["sparse_type is None"]
    assert calls.count == plan.report.why["sparse_type is None"] == STEPS * len(plan.report.layers)


@pytest.mark.parametrize("name", ["sd3", "flux", "qwen", "wan"])
def test_dense_attention_in_int8(name):
    pipe, arguments = build(name)
    exact = latents(pipe, arguments)
    plan = aerogel.enable_sparse_attention(pipe, sparse_type=None, dense_format="int8")
    with Counted(of="quantized_attention") as calls:
        assert 1e-7 < relative(latents(pipe, arguments), exact) < 0.02
    assert calls.count == sum(c.dense for c in plan.report.layers.values()) > 0


@pytest.mark.parametrize("native, own", [(False, False), (True, False), (True, True)])
def test_16_bits_go_to_torch_where_it_alone_has_instructions_for_them(native, own, monkeypatch):
    monkeypatch.setattr(backend, "TORCH_MULTIPLIES_16_BITS", native)
    monkeypatch.setattr(backend, "MULTIPLIES_BF16", own)
    q, k, v = torch.randn(3, 2, 50, 2, 32).to(torch.bfloat16)
    with Counted() as calls:
        y = backend.dense(backend.Problem(q, k, v, "BSND", scale=0.3))
    exact = scaled_dot_product_attention(*(t.double().transpose(1, 2) for t in (q, k, v)), scale=0.3).transpose(1, 2)
    assert calls.count == (0 if native and not own else 1) and y.dtype == torch.bfloat16 and relative(y.double(), exact) < 0.01


def test_fewer_heads_of_keys():
    q, k, v = torch.randn(1, 50, 4, 32), torch.randn(1, 40, 2, 32), torch.randn(1, 40, 2, 32)
    problem = backend.Problem(q, k, v, "BSND", gqa=True)
    with Counted() as calls:
        torch.testing.assert_close(backend.dense(problem), backend.by_torch(problem))
    assert calls.count == 1
    with Counted(of="quantized_attention") as calls:
        assert 1e-4 < relative(backend.dense(problem, "int8"), backend.by_torch(problem)) < 0.03
    assert calls.count == 1


def test_int8_where_it_is_not_sparse():
    pipe, arguments = build("wan")
    plan = aerogel.enable_sparse_attention(pipe, start_step=1, dense_format="int8", **HALF)
    with Counted(of="quantized_attention") as calls:
        latents(pipe, arguments)
    assert calls.count == plan.report.why["the step is before start_step 1"] == sum(c.sparse for c in plan.report.layers.values()) == 4


class Counted:
    """Counts the calls of a function of Aerogel from the backend."""

    def __init__(self, prepare=lambda: None, of="attention"):
        prepare()
        self.name, self.count = of, 0

    def __enter__(self):
        self.count, self.original = 0, getattr(backend, self.name)

        def counting(*args, **kwargs):
            self.count += 1
            return self.original(*args, **kwargs)

        setattr(backend, self.name, counting)
        return self

    def __exit__(self, *error):
        setattr(backend, self.name, self.original)


def test_a_model_of_ones_own(monkeypatch):
    class Mine(WanTransformer3DModel):
        pass

    class Other(torch.nn.Module):
        pass

    monkeypatch.setitem(VIDEO_MODELS, "Mine", VideoModel(("blocks.1.attn1",), lambda config, inputs: GRID))
    pipe, arguments = build("wan")
    mine = Mine.from_config(pipe.transformer.config)
    pipe.transformer = mine.eval()
    plan = aerogel.enable_sparse_attention(pipe, **HALF)
    latents(pipe, arguments)
    assert list(plan.report.layers) == ["blocks.1.attn1"] and plan.report.layers["blocks.1.attn1"].sparse == 4
    with pytest.raises(NotImplementedError, match="Other: no video transformer.*WanTransformer3DModel"):
        aerogel.enable_sparse_attention(Other())


@pytest.mark.parametrize("options, error, message", [
    (dict(latent_shape_q=GRID), TypeError, "latent_shape_q"),
    (dict(sparsness=0.5), TypeError, "sparsness"),
    (dict(start_step=3, end_step=2), ValueError, "start_step"),
    (dict(mask_refresh_steps=0), ValueError, "mask_refresh_steps"),
    (dict(sparse_type="rf_v1", mask_refresh_steps=2), ValueError, "1 for rf_v1"),
    (dict(cached_mask=None), TypeError, "cached_mask"),
    (dict(dense_format="int4"), ValueError, "dense_format must be None or one of int8"),
])
def test_wrong_requests(options, error, message):
    pipe, arguments = build("wan")
    before = [m.processor._attention_backend for m in pipe.transformer.modules() if hasattr(m, "processor")]
    with pytest.raises(error, match=message):
        aerogel.enable_sparse_attention(pipe, **options)
    assert before == [m.processor._attention_backend for m in pipe.transformer.modules() if hasattr(m, "processor")]


def test_one_plan_at_a_time():
    pipe, _ = build("wan")
    plan = aerogel.enable_sparse_attention(pipe, **HALF)
    with pytest.raises(ValueError, match="WanTransformer3DModel has a plan already"):
        aerogel.enable_sparse_attention(pipe, **HALF)
    plan.disable()
    aerogel.enable_sparse_attention(pipe, **HALF)


@pytest.mark.parametrize("name", ["wan", "cogvideox"])
def test_an_error_in_a_layer_leaves_nothing_behind(name):
    pipe, arguments = build(name)
    exact = latents(pipe, arguments)
    plan = aerogel.enable_sparse_attention(pipe, **ALL_KEPT)

    def fail(*_):
        raise RuntimeError("out of luck")

    layer = pipe.transformer.get_submodule(next(iter(plan.report.layers)))
    handle = layer.to_out[0].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of luck"):
        latents(pipe, arguments)
    assert backend.running.get() is None and torch._C._len_torch_function_stack() == 0
    handle.remove()
    assert relative(latents(pipe, arguments), exact) < 1e-5


def test_images_say_what_there_is():
    with pytest.raises(NotImplementedError, match="FluxTransformer2DModel: no video transformer.*set_attention_backend"):
        aerogel.enable_sparse_attention(build("flux")[0], **HALF)
