"""Wan transformers of diffusers: compiled with sparse attention, with norms and rotary embedding in one pass, after an error."""
import copy

import accelerate
import aerogel
import pytest
import torch
from aerogel.attention import layers as backend
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from tiny_pipelines import GRID, build, relative
from torch._dynamo.testing import CompileCounter
from torch.overrides import TorchFunctionMode

pytestmark = pytest.mark.usefixtures("one_thread")

TOKENS = GRID[0] * GRID[1] * GRID[2]
HALF = {"sparsity": 0.7, "block_size": 16}


def small_wan(layers):
    model = WanTransformer3DModel.from_config({**build("wan")[0].transformer.config, "num_layers": layers}).eval()
    inputs = {"hidden_states": torch.randn(1, 4, 7, 20, 16), "timestep": torch.tensor([9.0]), "encoder_hidden_states": torch.randn(1, 9, 24)}
    return model, lambda model: model(**inputs, return_dict=False)[0]


def test_compiled_models_are_one_graph():
    model, forward = small_wan(3)
    graphs = []
    with torch.no_grad():
        exact = forward(model)
        plan = aerogel.enable_sparse_attention(model, **HALF)
        sparse = forward(model)
        assert relative(sparse, exact) > 1e-3

        def backend(graph, inputs):
            graphs.append([str(node.target) for node in graph.graph.nodes])
            return graph

        assert relative(forward(torch.compile(model, backend=backend, fullgraph=True)), sparse) < 1e-5
    assert len(graphs) == 1 and graphs[0].count("aerogel.attend") == 3
    assert [count.sparse for count in plan.report.layers.values()] == [2, 2, 2] and plan.report.why == {}


def test_compiled_blocks_share_a_graph():
    model, forward = small_wan(4)
    with torch.no_grad():
        plan = aerogel.enable_sparse_attention(model, skip_layers=[2], **HALF)
        sparse = forward(model)
        torch._dynamo.reset()
        counted, copied = CompileCounter(), copy.deepcopy(model)
        copied.compile_repeated_blocks(backend=counted, fullgraph=True)
        assert relative(forward(copied), sparse) < 1e-5
        assert counted.frame_count == 1
    assert [count.sparse for count in plan.report.layers.values()] == [2, 2, 0, 2] and plan.report.why == {"the layer is one of skip_layers": 2}


class Norms(TorchFunctionMode):
    """Counts torch's RMSNorm over x with the tokens of the whole video."""

    count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.nn.functional.rms_norm and args[0].shape[1] == TOKENS
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_and_rotary_embedding_of_wan_are_one_pass(dtype):
    model, forward = small_wan(2)
    for layer in model.blocks:
        torch.nn.init.normal_(layer.attn1.norm_q.weight)
    fused, inputs = copy.deepcopy(model).to(dtype), []
    model.blocks[1].attn1.register_forward_pre_hook(lambda _, args: inputs.append(args))
    with torch.no_grad():
        forward(model)
        aerogel.enable_sparse_attention(fused, sparse_type=None)
        args = [x.to(dtype) if isinstance(x, torch.Tensor) else x and tuple(t.to(dtype) for t in x) for x in inputs[0]]
        layer, other = model.to(dtype).blocks[1].attn1, fused.blocks[1].attn1
        with Norms() as norms:
            wanted, half = layer(*args), norms.count
            got = other(*args)
        assert half == 2 and norms.count == half  # only torch's own layer came by
        exact = layer.float()(*[x.float() if isinstance(x, torch.Tensor) else x and tuple(t.float() for t in x) for x in args])
        assert relative(got.float(), exact) < (1e-5 if dtype == torch.float32 else 1.2 * relative(wanted.float(), exact))


@pytest.mark.parametrize("watch", ["hook", "offload"])
def test_norms_that_are_watched_or_elsewhere_run_themselves(watch):
    model, forward = small_wan(1)
    with torch.no_grad():
        exact, calls = forward(model), []
        if watch == "hook":
            model.blocks[0].attn1.norm_q.register_forward_hook(lambda *_: calls.append(1))
        else:
            accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
        aerogel.enable_sparse_attention(model, sparse_type=None)
        assert relative(forward(model), exact) < 1e-5
    assert len(calls) == (watch == "hook")


def test_gradients_in_a_compiled_model_are_counted():
    model, forward = small_wan(1)
    plan = aerogel.enable_sparse_attention(model, **HALF)
    forward(torch.compile(model, backend="eager")).sum().backward()
    assert plan.report.why == {"gradients are wanted": 1}


def test_processors_that_are_set_meanwhile_stay():
    model, _ = small_wan(2)
    first, second = (block.attn1 for block in model.blocks)
    before, mine = first.processor, WanAttnProcessor()
    plan = aerogel.enable_sparse_attention(model)
    second.processor = mine
    plan.disable()
    assert first.processor is before and second.processor is mine


def test_fused_projections_and_gradients_keep_their_way():
    model, _ = small_wan(1)
    layer = model.blocks[0].attn1
    x, tables = torch.randn(1, 5, layer.inner_dim), tuple(torch.randn(1, 5, 1, layer.inner_dim // layer.heads) for _ in range(2))
    wanted = layer(x, None, None, tables)
    plan = aerogel.enable_sparse_attention(model, sparse_type=None)
    assert relative(layer(x, None, None, tables), wanted) < 1e-5
    model.requires_grad_(False)
    layer.to_q.weight.requires_grad_(True)  # as with an adapter on a frozen model
    layer(x, None, None, tables).square().sum().backward()
    grad, layer.to_q.weight.grad = layer.to_q.weight.grad, None
    WanAttnProcessor()(layer, x, None, None, tables).square().sum().backward()
    assert relative(grad, layer.to_q.weight.grad) < 1e-4
    layer.fuse_projections()
    with torch.no_grad():
        assert relative(layer(x, None, None, tables), wanted) < 1e-5
        for heads_apart in (torch.randn(1, 5, layer.heads, tables[0].shape[3]), tables[0][:, :, :, :1].expand_as(tables[0])):
            given = (heads_apart, tables[1])
            by_torch = WanAttnProcessor()(layer, x, None, None, given)
            assert relative(layer(x, None, None, given), by_torch) < 1e-5
    plan.disable()
    assert type(layer.processor) is WanAttnProcessor


def test_a_failed_forward_leaves_nothing_behind():
    model, forward = small_wan(2)
    with torch.no_grad():
        aerogel.enable_sparse_attention(model, **HALF)
        sparse = forward(model)
        failing = model.blocks[1].attn1.register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            forward(model)
        assert backend.running.get() is None and backend.traced.layer is None
        failing.remove()
        assert torch.equal(forward(model), sparse)


def test_compiled_calls_outside_of_a_model_stay_dense_and_differentiable():
    model, _ = small_wan(1)
    plan = aerogel.enable_sparse_attention(model, **HALF)
    attention = model.blocks[0].attn1
    x = torch.randn(1, 20, attention.inner_dim)
    compiled = torch.compile(attention, backend="aot_eager")
    with torch.no_grad():
        assert relative(compiled(x), attention(x)) < 1e-5
    x.requires_grad_(True)
    compiled(x).sum().backward()
    assert x.grad.isfinite().all() and x.grad.abs().sum() > 0
    assert plan.report.layers["blocks.0.attn1"].sparse == plan.report.layers["blocks.0.attn1"].dense == 0
