"""Quantized attention of diffusers' layers: threads keep apart, plans know their sizes, a layer that attends in its own way stays float, and what
cannot be recorded or saved says so."""
import copy
import pickle
import subprocess
import sys
import threading
import warnings

import aerogel
import diffusers
import pytest
import torch
import torch._dynamo.testing
from aerogel.attention.layers import Problem, attend, by_torch, compute_with, dense, running
from aerogel.attention.module import QuantizedAttention
from tiny_pipelines import TEXT, wan_transformer
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import _get_current_function_mode_stack


def cogvideox():
    torch.manual_seed(0)
    return diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=32, in_channels=4, out_channels=4, time_embed_dim=8, text_embed_dim=TEXT, num_layers=2,
        sample_width=8, sample_height=8, sample_frames=5, max_text_seq_length=7).eval()


def wan():
    torch.manual_seed(0)
    return wan_transformer().eval()


def quantized(model, pattern="*.attn1", kind="MXFP4_DYNAMIC", scheme="W8A8_DYNAMIC"):
    return aerogel.quantize(model, online_config=aerogel.OnlineQuantConfig(scheme, fa_layers=pattern, fa_quant_type=kind),
                            include=["*.ff*.*"])


def inputs(model):
    torch.manual_seed(1)
    sizes = (1, 2, 4, 8, 8) if isinstance(model, diffusers.CogVideoXTransformer3DModel) else (1, 4, 2, 8, 8)
    return dict(hidden_states=torch.randn(sizes), timestep=torch.tensor([3]), encoder_hidden_states=torch.randn(1, 7, TEXT), return_dict=False)


class Dispatching:
    """A processor that calls diffusers' dispatcher."""

    _attention_backend = None

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        q, k, v = (layer(hidden_states).unflatten(2, (attn.heads, -1)) for layer in (attn.to_q, attn.to_k, attn.to_v))
        o = diffusers.models.attention_dispatch.dispatch_attention_fn(q, k, v, backend=self._attention_backend)
        return attn.to_out[0](o.flatten(2))


def moved(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("prepare", [quantized, lambda model: aerogel.enable_sparse_attention(model, sparse_type=None)],
                         ids=["quantized", "plan"])
@torch.no_grad()
def test_threads_leave_nothing_behind(prepare):
    model = cogvideox()
    prepare(model)
    x = dict(hidden_states=torch.randn(1, 2, 4, 8, 8), timestep=torch.tensor([3]), encoder_hidden_states=torch.randn(1, 7, TEXT), return_dict=False)
    want, left = model(**x)[0], []

    @torch.no_grad()
    def work():
        same = all(torch.allclose(model(**x)[0], want, atol=1e-4) for _ in range(20))  # a plan that another thread has left attends by torch
        left.append((same, len(_get_current_function_mode_stack()), running.get()))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert left == [(True, 0, None)] * 4
    q = torch.randn(1, 2, 16, 32)
    assert torch.equal(scaled_dot_product_attention(q, q, q), scaled_dot_product_attention(q.clone(), q, q))


@torch.no_grad()
def test_an_error_inside_of_a_layer_does_not_reach_the_next_model():
    broken, model = wan(), wan()
    quantized(broken)
    quantized(model, kind="FP8_DYNAMIC")
    x = dict(hidden_states=torch.randn(1, 4, 2, 8, 8), timestep=torch.tensor([3]), encoder_hidden_states=torch.randn(1, 7, TEXT), return_dict=False)
    want = model(**x)[0]
    broken.blocks[1].attn1.to_out[0].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        broken(**x)
    assert torch.equal(model(**x)[0], want)


@torch.no_grad()
def test_a_processor_that_attends_in_its_own_way_stays_float():
    torch.manual_seed(0)
    attention = diffusers.models.attention_processor.Attention(64, heads=2, dim_head=32)
    attention.set_processor(diffusers.models.attention_processor.AttnProcessor())
    model = torch.nn.ModuleDict({"blocks": torch.nn.ModuleList([torch.nn.ModuleDict({"attn1": attention, "ff": torch.nn.Linear(64, 64)})])})
    report = aerogel.quantize(model, online_config=aerogel.OnlineQuantConfig("W8A8_DYNAMIC", fa_layers="*.attn1", fa_quant_type="FP8_DYNAMIC"),
                              include=["*.ff"])
    assert report.attention == {}
    assert list(report.attention_in_float) == ["blocks.0.attn1"] and "AttnProcessor" in report.attention_in_float["blocks.0.attn1"]


@torch.no_grad()
def test_kept_plans_are_of_one_grid():
    def x(height, width, batch=2, timestep=900):
        torch.manual_seed(1)
        return dict(hidden_states=torch.randn(batch, 4, 4, height, width), timestep=torch.full((batch,), timestep),
                    encoder_hidden_states=torch.randn(batch, 7, TEXT), return_dict=False)

    fresh, used = wan(), wan()
    for model in (fresh, used):
        aerogel.enable_sparse_attention(model, sparsity=0.5, block_size=16, mask_refresh_steps=10)
    used(**x(32, 32))
    want = fresh(**x(16, 64, timestep=800))[0]
    assert torch.equal(used(**x(16, 64, timestep=800))[0], want)
    assert used(**x(16, 64, batch=1, timestep=700))[0].shape == (1, 4, 4, 16, 64)


@pytest.mark.parametrize("make", [cogvideox, wan])
@pytest.mark.parametrize("gradients", [False, True])
def test_quantized_attention_is_not_exported_as_float(make, gradients):
    model = make()
    quantized(model)
    with torch.set_grad_enabled(gradients), pytest.raises(NotImplementedError, match="quantized attention of .*blocks.0.attn1 lives in this") as error:
        torch.export.export(model, (), inputs(model), strict=False)
    assert "plan" not in str(error.value)


@pytest.mark.parametrize("make", [cogvideox, wan])
@torch.no_grad()
def test_a_plan_is_not_exported(make):
    model = make()
    aerogel.enable_sparse_attention(model, sparse_type=None)
    with pytest.raises(NotImplementedError, match="a plan of sparse attention lives in this process"):
        torch.export.export(model, (), inputs(model), strict=False)


@torch.no_grad()
def test_strict_exports_refuse_too():
    model = wan()
    quantized(model)
    with pytest.raises(Exception, match="quantized attention of|Observed exception"):
        torch.export.export(model, (), inputs(model), strict=True)


@torch.no_grad()
def test_an_error_inside_of_a_layer_does_not_reach_a_float_model():
    broken, model, other = wan(), wan(), cogvideox()
    quantized(broken)
    want = model(**inputs(model))[0]
    model.set_attention_backend("aerogel")
    quantized(other, kind="FP8_DYNAMIC")
    want_other = other(**inputs(other))[0]
    broken.blocks[0].attn1.to_out[0].register_forward_pre_hook(lambda *_: 1 / 0)
    for broken in (broken, copy.deepcopy(broken)):
        with pytest.raises(ZeroDivisionError):
            broken(**inputs(broken))
        assert running.get() is None
        assert moved(model(**inputs(model))[0], want) < 1e-5
        with pytest.raises(ZeroDivisionError):
            broken.blocks[0](torch.randn(1, 32, 64), torch.randn(1, 7, 64), torch.randn(1, 6, 64), None)  # not through its model
        assert torch.equal(other(**inputs(other))[0], want_other)
        running.set(None)
    model.set_attention_backend("native")  # diffusers keeps the last one for all models


@torch.no_grad()
def test_quantized_layers_within_a_compiled_model_are_one_graph():
    model = wan()
    quantized(model)
    want = model(**inputs(model))[0]
    torch._dynamo.reset()
    counted = torch._dynamo.testing.CompileCounter()
    outer = torch.nn.ModuleDict({"inner": model})
    outer.forward = lambda **given: outer["inner"](**given)[0] * 1
    compiled = torch.compile(outer, backend=counted, fullgraph=True)
    for _ in range(2):
        assert moved(compiled(**inputs(model)), want) < 1e-5
    assert counted.frame_count == 1
    torch._dynamo.reset()
    counted = torch._dynamo.testing.CompileCounter()
    model.compile_repeated_blocks(backend=counted, fullgraph=True)
    assert moved(model(**inputs(model))[0], want) < 1e-5 and counted.frame_count == 1


@torch.no_grad()
def test_a_plan_over_quantized_layers_leaves_nothing_behind():
    model = cogvideox()
    quantized(model)
    want = model(**inputs(model))[0]
    for _ in range(2):
        plan = aerogel.enable_sparse_attention(model, sparse_type=None)
        assert torch.equal(model(**inputs(model))[0], want)
        assert (len(_get_current_function_mode_stack()), running.get()) == (0, None)
        plan.disable()
        assert torch.equal(model(**inputs(model))[0], want)
        quantized(model)  # behind the plan's hooks the next time
        plan = aerogel.enable_sparse_attention(model, sparse_type=None)
        quantized(model)
        assert torch.equal(model(**inputs(model))[0], want)
        assert (len(_get_current_function_mode_stack()), running.get()) == (0, None)
        plan.disable()


@pytest.mark.parametrize("make", [cogvideox, wan])
@torch.no_grad()
def test_quantizing_again_puts_the_attention_back(make):
    model = make()
    aerogel.quantize(model, scheme="W8A16", include=["*.ff*.*"])
    exact = model(**inputs(model))[0]
    quantized(model, scheme="W8A16")
    want = model(**inputs(model))[0]
    assert moved(want, exact) > 1e-4
    for model in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        if make is wan:
            model.set_attention_backend("native")
            assert moved(model(**inputs(model))[0], exact) < 1e-5
        quantized(model, scheme="W8A16")
        assert torch.equal(model(**inputs(model))[0], want)
        hooks = [h for m in model.modules() for h in (*m._forward_pre_hooks.values(), *m._forward_hooks.values())]
        assert len(hooks) == 2 * 2 + 1  # of two layers, and of the model


@torch.no_grad()
def test_quantizing_again_after_a_processor_of_another_kind():
    model = torch.nn.ModuleDict({"blocks": torch.nn.ModuleList([torch.nn.ModuleDict({
        "attn1": diffusers.models.attention_processor.Attention(64, heads=2, dim_head=32), "ff": torch.nn.Linear(64, 64)})])})
    attention, x = model["blocks"][0]["attn1"], torch.randn(1, 16, 64)
    exact = attention(x)
    processors = diffusers.models.attention_processor
    for processor in (processors.AttnProcessor2_0(), Dispatching(), processors.AttnProcessor2_0()):
        attention.set_processor(processor)
        aerogel.quantize(model, online_config=aerogel.OnlineQuantConfig("W8A16", fa_layers="*.attn1", fa_quant_type="MXFP4_DYNAMIC"), include=["*.ff"])
        assert moved(attention(x), exact) > 1e-4
        assert len(_get_current_function_mode_stack()) == 0


@torch.no_grad()
def test_saving_says_that_quantized_attention_is_not_saved(tmp_path):
    model = wan()
    quantized(model)
    with pytest.warns(UserWarning, match=r"\[quantize\] the quantized attention of 2 layers is not saved .*blocks.0.attn1, blocks.1.attn1"):
        model.save_pretrained(tmp_path)
    again = diffusers.WanTransformer3DModel.from_pretrained(tmp_path)
    quantized(again)
    assert torch.equal(again(**inputs(again))[0], model(**inputs(model))[0])
    plain = wan()
    aerogel.quantize(plain, scheme="W8A8_DYNAMIC", include=["*.ff*.*"])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        plain.save_pretrained(tmp_path)


def test_processors_that_call_torch_need_no_diffusers():
    code = """
import sys
import aerogel, torch
class Processor:
    def __call__(self, attn, x):
        return torch.nn.functional.scaled_dot_product_attention(*(t.unflatten(2, (2, 32)).transpose(1, 2) for t in (x, x, x)))
class Attention(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.processor, self.ff, self.heads, self.inner_dim = Processor(), torch.nn.Linear(64, 64), 2, 64
    def forward(self, x):
        return self.processor(self, x)
model, x = torch.nn.ModuleList([Attention(), Attention()]), torch.randn(1, 20, 64)
exact = model[0](x)
report = aerogel.quantize(model, online_config=aerogel.OnlineQuantConfig("W8A16", fa_layers="?", fa_quant_type="MXFP4_DYNAMIC"), include=["*.ff"])
assert len(report.attention) == 2 and float((model[0](x) - exact).norm() / exact.norm()) > 1e-3, report
assert not [name for name in sys.modules if name.split(".")[0] in ("diffusers", "peft")]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@torch.no_grad()
def test_a_mask_of_two_axes_is_what_the_caller_means():
    """torch's [queries, keys], but [batch, keys] for a dispatcher's arrays; here both have the same shape."""
    torch.manual_seed(0)
    q, mask = torch.randn(4, 2, 4, 16), torch.rand(4, 4) < 0.6
    mask.fill_diagonal_(True)
    torch.testing.assert_close(by_torch(Problem(q, q, q, "BNSD", mask)), scaled_dot_product_attention(q, q, q, mask))
    wanted = scaled_dot_product_attention(q, q, q, mask[:, None, None])
    torch.testing.assert_close(by_torch(Problem(*[q.transpose(1, 2)] * 3, "BSND", mask)), wanted.transpose(1, 2))
    k, mask = torch.randn(4, 2, 7, 16), torch.ones(4, 7, dtype=torch.bool).tril(3)
    short = torch.randn(2, 2, 4, 16)
    wanted = scaled_dot_product_attention(short, k[:2], k[:2], mask)
    torch.testing.assert_close(by_torch(Problem(*(t.transpose(1, 2) for t in (short, k[:2], k[:2])), "BSND", mask)), wanted.transpose(1, 2))


@pytest.mark.parametrize(("dim", "v_dim"), [(288, 288), (32, 16)])
@torch.no_grad()
def test_sizes_of_heads_that_aerogel_does_not_compute_go_to_torch(dim, v_dim):
    q, v = torch.randn(1, 2, 5, dim), torch.randn(1, 2, 5, v_dim)
    wanted = scaled_dot_product_attention(q, q, v)
    for format in (None, "int8"):
        assert torch.equal(dense(Problem(q, q, v, "BNSD"), format), wanted)
    assert f"head_dim is {dim}" in Problem(q, q, v, "BNSD").why_torch()


@pytest.mark.parametrize(("shapes", "scale"), [([(2, 5, 32)] * 3, None), ([(2, 1, 5, 32), (1, 1, 7, 32), (1, 1, 7, 32)], None), ([(2, 1, 5, 32)] * 3, 0.0),
                                               ([(2, 1, 5, 32)] * 3, -0.3)])
@torch.no_grad()
def test_calls_that_only_torch_knows_go_to_torch(shapes, scale):
    q, k, v = map(torch.randn, shapes)
    wanted = scaled_dot_product_attention(q, k, v, scale=scale)
    for format in (None, "int8"):
        assert torch.equal(dense(Problem(q, k, v, "BNSD", scale=scale), format), wanted)
    model = Nested(lambda *_: scaled_dot_product_attention(q, k, v, scale=scale))
    compute_with(model, "", model, QuantizedAttention("int8"))
    assert torch.equal(model(q)[-1], wanted)


class Nested(torch.nn.Module):
    """Attention with attention inside of it."""

    def __init__(self, call, inner=None):
        super().__init__()
        self.call, self.inner = call, inner

    def forward(self, q):
        return *(self.inner(q) if self.inner else ()), self.call(q, q, q)


@pytest.mark.parametrize("catching", [[True, True], [True, False], [False, True], [False, False]])
@torch.no_grad()
def test_attention_inside_of_attention(catching):
    calls = [scaled_dot_product_attention if catches else lambda q, k, v: attend(Problem(q, k, v, "BNSD")) for catches in catching]
    model, q = torch.nn.ModuleDict({"outer": Nested(calls[0], Nested(calls[1])), "next": Nested(calls[0])}), torch.randn(1, 2, 40, 32)
    for name, catches, format in (("outer", catching[0], "int8"), ("outer.inner", catching[1], "mxfp4"), ("next", catching[0], "fp8")):
        compute_with(model, name, model.get_submodule(name), QuantizedAttention(format), catching=catches)
    wanted = [aerogel.quantized_attention(q, q, q, format, smooth_k=False) for format in ("mxfp4", "int8")]
    for mine, exact in zip(model["outer"](q), wanted, strict=True):
        assert torch.equal(mine, exact)
    assert (len(_get_current_function_mode_stack()), running.get()) == (0, None)
    model["outer"].inner.call = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        model["outer"](q)
    assert torch.equal(model["next"](q)[0], aerogel.quantized_attention(q, q, q, "fp8", smooth_k=False))
    assert (len(_get_current_function_mode_stack()), running.get()) == (0, None)


@torch.no_grad()
def test_the_scale_of_mxfp4_reaches_the_attention_of_a_model():
    q = torch.randn(1, 2, 64, 32)
    config = dict(fa_layers="*.attn1", fa_quant_type="MXFP4_DYNAMIC")
    for given in (dict(mxfp4_scale_alg=2), dict(mxfp4_scale_alg=0), {}):
        model = wan()
        aerogel.quantize(model, online_config=aerogel.OnlineQuantConfig("W8A8_DYNAMIC", **config, **given))
        attention = model.blocks[0].attn1.fa_quant
        rotation = (attention.q_rot, attention.k_rot)
        scale = dict(mxfp4_scale_alg=2, mxfp4_dst_type_max=7.25) if given.get("mxfp4_scale_alg") else {}
        assert torch.equal(attention(q, q, q), aerogel.quantized_attention(q, q, q, "mxfp4", smooth_k=False, rotation=rotation, **scale)), given
    for wrong in (dict(mxfp4_scale_alg=1), dict(mxfp4_scale_alg="2"), dict(mxfp4_dst_type_max=5.0), dict(mxfp4_dst_type_max="6")):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            aerogel.OnlineQuantConfig(**wrong)
    with pytest.raises(ValueError, match="mxfp4_dst_type_max must be 0 or in"):
        aerogel.quantized_attention(q, q, q, "mxfp4", mxfp4_scale_alg=0, mxfp4_dst_type_max=13)
