"""torchao's quantization of the trained model in PyTorch, for the fidelity table: the same layers, captions and seeds."""
import time

import held_out
import torch

demo = held_out.demo
BATCH = 8  # captions at a time: one video is too small for PyTorch's threads
GROUP = 32  # divides the model's 160 and 640 columns


def configs() -> dict:
    """{name: torchao config}: what runs on a CPU (float8 activations need a GPU)."""
    from torchao import quantization as q

    return {
        "torchao int8 dynamic": q.Int8DynamicActivationInt8WeightConfig(),
        "torchao int8 weight-only": q.Int8WeightOnlyConfig(),
        f"torchao int4 weight-only, groups of {GROUP}": q.IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=q.PerGroup(GROUP)),
        f"torchao int8 dynamic, int4 weights, groups of {GROUP}":
            q.Int8DynamicActivationIntxWeightConfig(weight_dtype=torch.int4, weight_granularity=q.PerGroup(GROUP)),
        "torchao float8 weight-only": q.Float8WeightOnlyConfig(),
    }


def quantized(folder, config) -> "demo.DemoModel":
    """The model with the Linears of its blocks quantized, those that Aerogel quantizes by default."""
    from torchao.quantization import quantize_

    model = demo.load_folder(folder)
    quantize_(model.transformer.blocks, config, filter_fn=lambda module, name: isinstance(module, torch.nn.Linear))
    return model


@torch.no_grad()
def weight_errors(model, original) -> list:
    """Relative error of each quantized weight."""
    errors = []
    for name, module in original.transformer.blocks.named_modules():
        if isinstance(module, torch.nn.Linear):
            found = model.transformer.blocks.get_submodule(name).weight.dequantize().float()
            errors.append(float((found - module.weight).norm() / module.weight.norm()))
    return errors


def stored_bytes(model) -> int:
    """Bytes that the transformer's tensors need when saved: int4 packed, everything that is not quantized in bfloat16."""
    total = 0
    for parameter in model.transformer.parameters():
        parts = getattr(parameter, "tensor_data_names", None)
        if parts is None:
            total += 2 * parameter.numel()
            continue
        for part in parts:
            tensor = getattr(parameter, part)
            four_bits = part == "qdata" and getattr(parameter, "target_dtype", None) is torch.int4
            total += tensor.numel() // 2 if four_bits else tensor.numel() * tensor.element_size()
    return total


@torch.no_grad()
def videos(model, captions, steps, frames, guidance=None) -> tuple[list, float]:
    """A video per caption, caption i from seed i, and the seconds of a step."""
    chosen = {} if guidance is None else {"guidance": guidance}
    start, made = time.perf_counter(), []
    for first in range(0, len(captions), BATCH):  # the seeds of a batch follow each other, as those of captions one by one
        made += demo.sample(model, captions[first:first + BATCH], seed=first, steps=steps, frames=frames, **chosen)
    return made, (time.perf_counter() - start) / (steps * len(captions))
