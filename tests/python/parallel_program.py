"""Run by test_parallel.py under torchrun: two processes share the tokens (Ulysses, ring), the heads (tensor parallel) or the weights (FSDP) of a model
with sparse attention and quantized layers, and compare with what one process computes. Usage: parallel_program.py FOLDER; writes FOLDER/rank{r}.json."""
import json
import logging
import sys
from pathlib import Path

import aerogel
import torch
import torch.distributed as dist
from aerogel.diffusers import enable_parallelism
from diffusers import CogVideoXTransformer3DModel, ContextParallelConfig
from diffusers.models.attention_dispatch import dispatch_attention_fn
from tiny_pipelines import TEXT, relative, wan_transformer
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

HALF = {"sparsity": 0.7, "block_size": 16}


def enlarged(model):
    for name, value in model.eval().named_parameters():
        if name.endswith(("norm_q.weight", "norm_k.weight")):
            value.data.mul_(4)
    return model


def wan():
    torch.manual_seed(3)
    return enlarged(wan_transformer())


def wan_inputs(size):
    generator = torch.Generator().manual_seed(1)
    return (torch.randn(1, 4, 7, *size, generator=generator), torch.tensor([500.0]), torch.randn(1, 9, TEXT, generator=generator))


def pair(results, name, *, context, size=(20, 16), sparse=True, scheme=None, plan_first=False):
    """One Wan in one process and in two."""
    model, inputs = wan(), wan_inputs(size)
    exact = model(*inputs, return_dict=False)[0]
    if scheme:
        aerogel.quantize(model, scheme=scheme)
    options = HALF if sparse else {"sparse_type": None}
    plan = aerogel.enable_sparse_attention(model, **options)
    wanted = model(*inputs, return_dict=False)[0]
    if not plan_first:
        plan.disable()
    enable_parallelism(model, config=context)
    if not plan_first:
        plan = aerogel.enable_sparse_attention(model, **options)
    plan.report.why.clear()
    y = model(*inputs, return_dict=False)[0]
    plan.disable()
    results[name] = {"error": relative(y, wanted), "of sparsity": relative(wanted, exact), "why": dict(plan.report.why),
                     "sparse": [count.sparse for count in plan.report.layers.values()], "density": plan.report.density,
                     "after": relative(model(*inputs, return_dict=False)[0], exact)}


def context_parallel(results):
    pair(results, "ulysses", context=ContextParallelConfig(ulysses_degree=2))
    pair(results, "ulysses, the plan first", context=ContextParallelConfig(ulysses_degree=2), plan_first=True)
    pair(results, "ulysses, quantized", context=ContextParallelConfig(ulysses_degree=2), scheme="W8A8_DYNAMIC")
    pair(results, "ulysses anything", context=ContextParallelConfig(ulysses_degree=2, ulysses_anything=True), size=(20, 18))  # equal parts: gloo gathers no others
    pair(results, "ring", context=ContextParallelConfig(ring_degree=2), sparse=False)
    pair(results, "ring, sparse", context=ContextParallelConfig(ring_degree=2))
    pair(results, "ring anything", context=ContextParallelConfig(ring_degree=2, ring_anything=True), size=(20, 18), sparse=False)
    model, inputs = wan(), wan_inputs((20, 16))
    enable_parallelism(model, config=ContextParallelConfig(ulysses_degree=2))
    with torch.enable_grad():
        y = model(*inputs, return_dict=False)[0]
        try:
            y.square().sum().backward()
            results["gradients"] = "no error"
        except NotImplementedError as error:
            results["gradients"] = str(error)


def masked(results, rank):
    """A mask of padding, of which each process has the part of its own keys."""
    q, mask = torch.randn(1, 24, 2, 32, generator=torch.Generator().manual_seed(1)), torch.arange(24).expand(1, 1, 1, 24) < 19
    mine = slice(12 * rank, 12 * rank + 12)
    wanted = dispatch_attention_fn(q, q, q, attn_mask=mask, backend="native")[:, mine]
    for name, context in (("ulysses", ContextParallelConfig(ulysses_degree=2)), ("ring", ContextParallelConfig(ring_degree=2))):
        model = wan()
        enable_parallelism(model, config=context)
        config = model.blocks[0].attn1.processor._parallel_config
        try:
            y = dispatch_attention_fn(*[q[:, mine]] * 3, attn_mask=mask[..., mine], backend="aerogel", parallel_config=config)
            results[f"{name}, masked"] = relative(y, wanted)
        except NotImplementedError as error:
            results[f"{name}, masked"] = str(error)


def cogvideox():
    torch.manual_seed(3)
    return enlarged(CogVideoXTransformer3DModel(in_channels=4, out_channels=4, text_embed_dim=TEXT, num_layers=2, time_embed_dim=8, sample_width=16,
                                                sample_height=20, sample_frames=25, max_text_seq_length=9, use_rotary_positional_embeddings=True,
                                                num_attention_heads=2, attention_head_dim=32))


def slice_heads(model, rank):
    """The rows of q, k and v and the columns of the output that belong to one rank's head (Megatron-LM, arXiv 1909.08053)."""
    for block in model.transformer_blocks:
        attn, mine = block.attn1, slice(rank * 32, rank * 32 + 32)
        for name in ("to_q", "to_k", "to_v"):
            layer = getattr(attn, name)
            layer.weight, layer.bias, layer.out_features = (torch.nn.Parameter(layer.weight[mine].clone()), torch.nn.Parameter(layer.bias[mine].clone()), 32)
        out = attn.to_out[0]
        out.weight, out.in_features = torch.nn.Parameter(out.weight[:, mine].clone()), 32
        if rank:
            out.bias.data.zero_()
        attn.heads = 1


def sum_outputs(model):
    def hook(layer, args, output):
        output = output.contiguous()
        dist.all_reduce(output)
        return output
    for block in model.transformer_blocks:
        block.attn1.to_out[0].register_forward_hook(hook)


def tensor_parallel(results, rank):
    generator = torch.Generator().manual_seed(1)
    inputs = dict(hidden_states=torch.randn(1, 7, 4, 20, 16, generator=generator), timestep=torch.tensor([9]),
                  encoder_hidden_states=torch.randn(1, 9, TEXT, generator=generator), return_dict=False)
    model = cogvideox()
    plan = aerogel.enable_sparse_attention(model, **HALF)
    wanted = model(**inputs)[0]
    plan.disable()
    exact = model(**inputs)[0]
    results["of sparsity"] = relative(wanted, exact)
    mesh = init_device_mesh("cpu", (2,))
    for block in model.transformer_blocks:
        parallelize_module(block.attn1, mesh, {"to_q": ColwiseParallel(), "to_k": ColwiseParallel(), "to_v": ColwiseParallel(), "to_out.0": RowwiseParallel()})
        block.attn1.heads = 1
    plan = aerogel.enable_sparse_attention(model, **HALF)
    results["tensor parallel"] = {"error": relative(model(**inputs)[0], wanted), "why": dict(plan.report.why)}
    plan.disable()
    report = aerogel.quantize(model, scheme="W8A16")
    results["tensor parallel, then quantized"] = {"error": relative(model(**inputs)[0], exact), "whys": sorted(
        {layer.why for layer in report.layers if ".attn1." in layer.name}), "quantized": [n for n in report.quantized if ".attn1." in n]}

    whole = cogvideox()
    aerogel.quantize(whole, scheme="W8A16")
    aerogel.enable_sparse_attention(whole, **HALF)
    shards = cogvideox()
    slice_heads(shards, rank)
    report = aerogel.quantize(shards, scheme="W8A16")
    sum_outputs(shards)
    plan = aerogel.enable_sparse_attention(shards, **HALF)
    results["shards, quantized"] = {"error": relative(shards(**inputs)[0], whole(**inputs)[0]), "why": dict(plan.report.why),
                                    "quantized": len([n for n in report.quantized if ".attn1." in n])}


def fsdp(results):
    inputs = wan_inputs((20, 16))
    model = wan()
    aerogel.quantize(model, scheme="W8A8_DYNAMIC")
    plan = aerogel.enable_sparse_attention(model, **HALF)
    wanted = model(*inputs, return_dict=False)[0]
    mesh = init_device_mesh("cpu", (2,))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    y = model(*inputs, return_dict=False)[0]
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    results["fsdp"] = {"error": relative(y, wanted), "why": dict(plan.report.why), "sparse": [c.sparse for c in plan.report.layers.values()]}
    if dist.get_rank() == 0:
        other = wan()
        for value in other.parameters():
            value.data.mul_(0.5)
        aerogel.quantize(other, scheme="W8A8_DYNAMIC")
        aerogel.enable_sparse_attention(other, **HALF)
        other.load_state_dict(state)
        results["fsdp"]["loaded"] = relative(other(*inputs, return_dict=False)[0], wanted)


def main(folder):
    torch.set_num_threads(1)
    logging.getLogger("aerogel").setLevel(logging.ERROR)
    dist.init_process_group("gloo")
    rank, results = dist.get_rank(), {}
    with torch.no_grad():
        for work in (context_parallel, lambda results: masked(results, rank), lambda results: tensor_parallel(results, rank), fsdp):
            work(results)
            (folder / f"rank{rank}.json").write_text(json.dumps(results, indent=1))
    dist.destroy_process_group()


main(Path(sys.argv[1]))
