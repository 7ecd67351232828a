"""Which Linear layers `aerogel.quantize` takes by itself, which it leaves float and why, and what of a layer outlives the exchange."""
import copy

import aerogel
import pytest
import torch
from aerogel import _core
from aerogel.layer_choice import chosen_linears
from diffusers import BriaFiboTransformer2DModel, ChromaTransformer2DModel, ConsisIDTransformer3DModel, GlmImageTransformer2DModel, HiDreamImageTransformer2DModel
from tiny_pipelines import build, wan_transformer
from torch import nn
from torch.nn.utils import parametrizations, prune

X = torch.randn(5, 64, generator=torch.Generator().manual_seed(2))


class Block(nn.Module):
    def __init__(self, make=nn.Linear):
        super().__init__()
        self.up, self.down = make(64, 96), nn.Linear(96, 64)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(x)))


class Model(nn.Module):
    def __init__(self, make=nn.Linear):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList([Block(make), Block(make)])

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


def relative(a, b):
    return float((a - b).detach().norm() / b.detach().norm())


def whys(report):
    return {layer.name: layer.why for layer in report.layers if layer.why}


class Scaled(nn.Linear):
    def forward(self, x):
        return 3 * super().forward(x)


def with_buffer(*sizes):
    linear = nn.Linear(*sizes)
    linear.register_buffer("seen", torch.zeros(1))
    return linear


def patched(*sizes):
    linear = nn.Linear(*sizes)
    linear.forward = lambda x: 3 * nn.functional.linear(x, linear.weight, linear.bias)
    return linear


def pruned(*sizes):
    return prune.l1_unstructured(nn.Linear(*sizes), "weight", amount=0.3)


@pytest.mark.parametrize("make, why", [
    (Scaled, "Scaled has a forward of its own"), (lambda *n: parametrizations.weight_norm(nn.Linear(*n)), "its weight is computed"),
    (pruned, "its weight is computed"), (with_buffer, "parameters, buffers or modules beside"), (patched, "its forward has been exchanged")])
def test_layers_that_would_lose_something_stay_float(make, why):
    """Everything that they do is still done: the model is as exact as with `down` alone in few bits."""
    model = Model(make).eval()
    exact = model(X)
    report = aerogel.quantize(model, scheme="W8A16")
    assert report.quantized == ["blocks.0.down", "blocks.1.down"]
    assert whys(report).keys() == {"blocks.0.up", "blocks.1.up"} and all(text.startswith(why) or why in text for text in whys(report).values())
    assert 0 < relative(model(X), exact) < 0.01


def test_a_subclass_without_a_forward_of_its_own_is_a_linear_and_map_takes_others():
    class Named(nn.Linear):
        pass

    assert len(aerogel.quantize(Model(Named), scheme="W8A16").quantized) == 4
    assert len(aerogel.quantize(Model(Scaled), scheme="W8A16", map=[Scaled]).quantized) == 4


@pytest.mark.parametrize("train", [False, True])
def test_layers_whose_weights_torch_reads_stay_float(train):
    """torch's fast path takes linear1, linear2 and out_proj as arrays."""
    torch.manual_seed(0)
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 4, 96, dropout=0.0, batch_first=True), 2)
    model = nn.ModuleDict({"encoder": encoder, "blocks": Model().blocks}).train(train)
    exact = encoder(X[None])
    report = aerogel.quantize(model, scheme="W8A8_DYNAMIC")
    assert report.quantized == [f"blocks.{i}.{name}" for i in (0, 1) for name in ("up", "down")]
    assert len(whys(report)) == 6 and all("reads its weight instead of calling it" in why for why in whys(report).values())
    with torch.no_grad():
        torch.testing.assert_close(encoder(X[None]), exact.detach())


def test_nothing_that_can_be_quantized_is_an_error():
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 4, 96, batch_first=True), 2)
    with pytest.raises(ValueError, match="no layer can be quantized; layers.0.self_attn.out_proj: torch's"):
        aerogel.quantize(encoder, scheme="W8A16")


def test_a_weight_shared_with_an_embedding_stays_float():
    model = nn.ModuleDict({"table": nn.Embedding(96, 64), "blocks": Model().blocks})
    model["blocks"][1].up.weight = model["table"].weight
    report = aerogel.quantize(model, scheme="W8A16")
    assert whys(report) == {"blocks.1.up": "it shares its weight with 'table'"} and len(report.quantized) == 3


def test_weights_that_are_not_there_are_an_error_with_the_name():
    for make, message in ((lambda n, k: nn.LazyLinear(k), "blocks.0.up has no weights yet"), (lambda n, k: nn.Linear(n, k, device="meta"), "blocks.0.up: .*meta"),
                          (lambda n, k: nn.Linear(n, k, dtype=torch.float64), "blocks.0.up: .*f64|blocks.0.up: .*float64|blocks.0.up")):
        model = Model(make)
        with pytest.raises((ValueError, NotImplementedError), match=message):
            aerogel.quantize(model, scheme="W8A16")
        assert not any(isinstance(m, aerogel.QuantizedLinear) for m in model.modules())


def test_a_layer_with_several_names_is_one_layer_still():
    model = Model()
    model.first, model.blocks[1].up = model.blocks[0].up, model.blocks[0].up
    exact, before = model(X), sum(p.numel() * 4 for p in model.parameters())
    report = aerogel.quantize(model, scheme="W8A8_DYNAMIC")
    layer = model.blocks[0].up
    assert isinstance(layer, aerogel.QuantizedLinear) and model.first is layer and model.blocks[1].up is layer
    assert report.quantized == ["blocks.0.up", "blocks.0.down", "blocks.1.up", "blocks.1.down", "first"] and report.bytes_before == before
    assert 0 < relative(model(X), exact) < 0.05


def test_a_layer_excluded_under_one_of_its_names_is_excluded():
    model = Model()
    model.blocks[1].up = model.blocks[0].up
    report = aerogel.quantize(model, scheme="W8A8_DYNAMIC", exclude="blocks.1.up")
    assert report.quantized == ["blocks.0.down", "blocks.1.down"] and set(whys(report).values()) == {"excluded"}


def test_a_block_that_is_used_twice(tmp_path):
    """ALBERT's: one block under several names, in memory and from files."""
    model = Model()
    model.blocks[1] = model.blocks[0]
    other = copy.deepcopy(model)
    aerogel.export(other, tmp_path, "W8A16")
    aerogel.quantize(other, tmp_path)
    assert len(aerogel.quantize(model, scheme="W8A16").quantized) == 4
    assert other.blocks[1].up is other.blocks[0].up and torch.equal(other(X), model(X))


def test_hooks_attributes_and_mode_outlive_the_exchange():
    model, seen = Model(), []
    up, down = model.blocks[0].up, model.blocks[0].down
    up.register_forward_pre_hook(lambda module, args: seen.append("pre"))
    up.register_forward_hook(lambda module, args, kwargs, y: 2 * y, with_kwargs=True)
    up.register_full_backward_hook(lambda module, *grads: seen.append("back"))
    handle = up.register_forward_hook(lambda *call: seen.append("removed"))
    up.note, down.training = "mine", False
    exact = model(X).detach()
    seen.clear()
    aerogel.quantize(model, scheme="W8A16")
    handle.remove()
    y = model(X.clone().requires_grad_())
    y.sum().backward()
    new = model.blocks[0].up
    assert isinstance(new, aerogel.QuantizedLinear) and seen == ["pre", "back"] and relative(y, exact) < 0.01
    assert new.note == "mine" and new.training and not model.blocks[0].down.training


def test_quantizing_again():
    """The same again changes nothing, what is float still may follow, and a scheme that would change nothing is an error."""
    model = Model()
    aerogel.quantize(model, scheme="W8A16", include="*.up")
    kept = model.blocks[0].up
    report = aerogel.quantize(model, scheme="W8A8_DYNAMIC")
    assert {layer.name: layer.scheme for layer in report.layers} == {f"blocks.{i}.{n}": s for i in (0, 1) for n, s in (("up", "W8A16"), ("down", "W8A8_DYNAMIC"))}
    assert whys(report) == {f"blocks.{i}.up": "quantized before, as W8A16, and not anew as W8A8_DYNAMIC" for i in (0, 1)}
    assert model.blocks[0].up is kept
    assert not whys(aerogel.quantize(model, scheme="W8A16", include="*.up")) and model.blocks[0].up is kept
    with pytest.raises(ValueError, match="no layer can be quantized; blocks.0.up: quantized before, as W8A16, and not anew as W4A16"):
        aerogel.quantize(model, scheme="W4A16", include="*.up")


def test_a_compiled_model_is_the_model():
    model = Model().eval()
    compiled = torch.compile(model, backend="eager")
    exact = compiled(X)
    report = aerogel.quantize(compiled, scheme="W8A8_DYNAMIC")
    assert report.quantized[0] == "blocks.0.up" and isinstance(model.blocks[0].up, aerogel.QuantizedLinear)
    with torch.no_grad():
        assert torch.equal(compiled(X), model(X)) and 0 < relative(compiled(X), exact) < 0.05


HIDREAM = dict(patch_size=2, in_channels=4, out_channels=4, num_layers=2, num_single_layers=2, attention_head_dim=8, num_attention_heads=4, caption_channels=[32, 16],
               text_emb_dim=64, num_routed_experts=4, num_activated_experts=2, axes_dims_rope=(4, 2, 2), max_resolution=(32, 32), llama_layers=(0, 1, 0, 1))
# What is chosen begins with these, and what else the model has in ModuleLists is named behind.
CHOSEN = {
    ChromaTransformer2DModel: (dict(num_layers=2, num_single_layers=2), ("transformer_blocks.", "single_transformer_blocks."), "distilled_guidance_layer.layers.0.linear_1"),
    GlmImageTransformer2DModel: (dict(num_layers=2), ("transformer_blocks.",), "glyph_projector.net.0.proj"),
    HiDreamImageTransformer2DModel: (HIDREAM, ("double_stream_blocks.", "single_stream_blocks."), "caption_projection.0.linear"),
    BriaFiboTransformer2DModel: (dict(num_layers=2, num_single_layers=2), ("transformer_blocks.", "single_transformer_blocks."), "caption_projection.0.linear"),
    ConsisIDTransformer3DModel: (dict(num_layers=4, is_train_face=True, is_kps=False), ("transformer_blocks.", "perceiver_cross_attention."), "local_facial_extractor.layers.0.0.to_q"),
}


@pytest.mark.parametrize("kind", CHOSEN, ids=lambda kind: kind.__name__)
def test_repeated_blocks_of_diffusers(kind):
    config, beginnings, small = CHOSEN[kind]
    with torch.device("meta"):
        model = kind(**config)
    names = list(chosen_linears(model))
    assert small in dict(model.named_modules()) and {next((b for b in beginnings if n.startswith(b)), n) for n in names} == set(beginnings)


def test_wan_is_chosen_as_the_command_chooses_it(tmp_path):
    model = wan_transformer()
    model.save_pretrained(tmp_path)
    stored = _core.FloatModel.open(tmp_path)
    assert list(chosen_linears(model)) == _core.select_layers([n for n, m in model.named_modules() if isinstance(m, nn.Linear)], [stored.default_layers], [])


def test_a_single_block_counts_and_projections_in_lists_do_not():
    model = nn.ModuleDict({"blocks": nn.ModuleList([Block()]), "heads": nn.ModuleList([nn.Linear(64, 64) for _ in range(3)]),
                           "mixed": nn.ModuleList([nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)), nn.Identity()])})
    report = aerogel.quantize(model, scheme="W8A16")
    assert report.quantized == ["blocks.0.up", "blocks.0.down"]
    assert set(whys(report).values()) == {"outside of the repeated blocks; include= chooses it"}


def test_what_is_no_model_or_has_no_place():
    pipe, _ = build("wan")
    for call in (lambda: aerogel.quantize(pipe, scheme="W8A16"), lambda: aerogel.export(pipe, "nowhere"), lambda: aerogel.calibrate(pipe, print)):
        with pytest.raises(ValueError, match="must be an nn.Module, got WanPipeline: give its .transformer"):
            call()
    with pytest.raises(ValueError, match="the model is a Linear itself"):
        aerogel.quantize(nn.Linear(64, 64), scheme="W8A16", include="*")
    with pytest.raises(ValueError, match="no layer can be quantized; up: Scaled has a forward of its own"):
        aerogel.export(nn.ModuleDict({"up": Scaled(64, 64)}), "nowhere", include="*")
    model = Model()
    model.blocks[0].up.weight = nn.Parameter(torch.eye(96, 64).to_sparse(), requires_grad=False)
    assert "not a plain tensor" in whys(aerogel.quantize(model, scheme="W8A16"))["blocks.0.up"]


def test_what_is_float_by_default_may_be_excluded():
    model = nn.ModuleDict({"proj_out": nn.Linear(64, 64), "blocks": Model().blocks})
    report = aerogel.quantize(model, scheme="W8A16", exclude=["proj_out"])
    assert "proj_out" not in report.quantized and report.quantized
    with pytest.raises(ValueError, match="matches none"):
        aerogel.quantize(nn.ModuleDict({"blocks": Model().blocks}), scheme="W8A16", exclude=["proj_outt"])


def test_exchanged_forwards_are_not_calibrated_either():
    model = Model()
    up = model.blocks[0].up
    up.forward = lambda x: nn.Linear.forward(up, x)
    report = aerogel.quantize(copy.deepcopy(model), scheme="W8A16")
    assert "blocks.0.up" not in report.quantized
    assert list(chosen_linears(model)) == report.quantized
