"""quantize(model, ...): exchanges the Linear layers of a torch model for quantized ones, in place."""
from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from os import PathLike, fspath
from typing import Any, cast

from torch import nn

from . import _core
from .attention.module import QuantizedAttention, hang, must_be_told, why_no_attention
from .attention.module import planned as planned_attention
from .layer_choice import Listed, listed, put, unwrapped
from .linear import QuantizedLinear, place_of
from .model_plan import LayerReport, OnlineQuantConfig, QuantizeReport, float_layer, plan_from_files, plan_from_weights, plan_in_memory
from .ranks import rank_of
from .timestep import TimestepPolicyConfig
from .weight_files import check_all_there, is_weight_file, load_floats, open_weights, read_layers


def schemes() -> list[tuple[str, str, bool]]:
    """Every supported scheme: [(name, what it computes, whether it needs calibration)]."""
    return [(row.name, row.summary, row.needs_calibration) for row in _core.schemes()]


def _bytes(module: nn.Module) -> int:
    if isinstance(module, QuantizedLinear):
        return module.weight_bytes()
    return sum(p.numel() * p.element_size() for p in module.parameters(recurse=False))


def quantize(model: nn.Module, quant_des_path: str | PathLike[str] | None = None, online_config: OnlineQuantConfig | None = None, *,
             scheme: str | None = None, timestep_config: TimestepPolicyConfig | None = None,
             timestep_policy: TimestepPolicyConfig | None = None, map: Iterable[type] | None = None, include: str | Iterable[str] | None = None,
             exclude: str | Iterable[str] = (), rank: int | None = None, scheme_of: Callable[[str, str], str] | None = None) -> QuantizeReport:
    """Replaces Linear layers of `model` in place and returns a QuantizeReport. Give exactly one of:

    quant_des_path: a description file (or its folder) as `aerogel quantize` and msModelSlim write them; or a .gguf file, or a .safetensors
        file (or its index) that another program quantized (ComfyUI, AutoRound, GPTQ, AWQ: docs/files.md), from which the model takes all
        its weights: layers of type Q8_0 and Q4_0 (W8A16 and W4A16 in groups of 32) and those of the other programs run as they are stored,
        everything else becomes float in the dtypes of the model, whose parameters may be on the meta device;
    scheme: the name of a scheme that needs no data ("W8A8_DYNAMIC", "W8A16", see `schemes()`), quantized in memory;
    online_config: an OnlineQuantConfig, the same with more to choose.

    map: further classes to treat as Linear layers (an iterable, or a dict with them as keys). include, exclude: patterns of layer
    names ("blocks.*.ffn.*", braces allowed), exclude wins; in memory the default is every Linear inside the model's repeated blocks except
    modulation, norms and embeddings. With a description exclude also keeps attention float. timestep_config (or timestep_policy): a TimestepPolicyConfig for W8A8_TIMESTEP layers; with none
    every step is static. rank: the file of that rank, `_{rank}`; None: where files carry a rank, this process's in torch.distributed;
    -1: the file as it is named. Attention that the description quantizes is quantized too where it is a layer of diffusers or calls its
    `fa_quant` itself; report.attention_in_float names what stays float, and why.
    scheme_of: with quant_des_path, a function (layer name, its scheme in the description) -> the scheme to run the stored arrays by (for
    example W8A8_DYNAMIC for W8A8_TIMESTEP), or "FLOAT"; it is asked for attention too, and only "FLOAT" changes anything there. With a
    .gguf file it gets the stored type ("Q4_K"), and a layer that is to have another scheme is quantized while it is read.
    On an error nothing is replaced. Raises ValueError (what does not fit), NotImplementedError (a scheme that is not supported),
    OSError (files)."""
    given = [n for n, v in (("quant_des_path", quant_des_path), ("online_config", online_config), ("scheme", scheme)) if v is not None]
    if len(given) != 1:
        raise ValueError(f"[quantize] give exactly one of quant_des_path, online_config, scheme; got {', '.join(given) or 'none'}")
    if timestep_config is not None and timestep_policy is not None and timestep_config is not timestep_policy:
        raise ValueError("[quantize] timestep_config and timestep_policy mean the same: give one of them")
    policy = timestep_config if timestep_config is not None else timestep_policy
    model = unwrapped(model)
    found = listed(model, (nn.Linear, QuantizedLinear, *(map or ())), why_no_attention)
    if quant_des_path is not None and is_weight_file(quant_des_path):
        file = open_weights(model, quant_des_path)
        check_all_there(model, file)
        return _from_weights(model, found, file, plan_from_weights(found, file, include, exclude, _type_of(scheme_of)), policy)
    if quant_des_path is not None:
        pair = _core.QuantizedPair.open(fspath(quant_des_path), rank_of(quant_des_path, rank))
        return apply(model, found, plan_from_files(found, pair, include, exclude, _type_of(scheme_of)), pair, policy=policy)
    config = online_config or OnlineQuantConfig(cast(str, scheme))
    return apply(model, found, plan_in_memory(found, config, include, exclude), policy=policy or config.timestep_config,
                 mxfp4=config._mxfp4())


def _from_weights(model: nn.Module, found: Listed, file: _core.WeightFile, plan: _core.ModelPlan,
                  policy: TimestepPolicyConfig | None) -> QuantizeReport:
    """All weights of a model from one file. Its floats are overwritten last, when everything has been read but them."""
    new = read_layers(found, plan, file)
    for layer in new.values():
        layer.timestep_policy = policy
    load_floats(model, file, new)
    report = _exchange(model, found, plan, new)
    if new:
        tell_libraries(model)
    return report


def _type_of(scheme_of: Callable[[str, str], str] | None) -> Callable[[str, str, bool], str] | None:
    """scheme_of as the plan asks; of attention it decides no more than whether it is float."""
    if scheme_of is None:
        return None

    def type_of(name: str, stored: str, is_attention: bool) -> str:
        wanted = scheme_of(name, stored) or stored
        if not isinstance(wanted, str):
            raise ValueError(f"[quantize] scheme_of must return the name of a scheme, got {wanted!r} for {name}")
        return stored if is_attention and wanted.upper() != "FLOAT" else wanted

    return type_of


def apply(model: nn.Module, found: Listed, plan: _core.ModelPlan, pair: _core.QuantizedPair | None = None, *,
          policy: TimestepPolicyConfig | None = None, mxfp4: Mapping[str, Any] | None = None) -> QuantizeReport:
    """Does what the plan says: all new modules are made first, then they take their places. mxfp4: of attention, as `planned` takes it."""
    new: dict[int, QuantizedLinear] = {}  # id of the old module -> what takes its place, under all names of it
    attention: dict[str, QuantizedAttention] = {}
    for decision in plan.decisions:
        name, module = found.names[decision.module], found.modules[decision.module]
        if decision.attention is not None:
            attention[name] = planned_attention(decision, policy, mxfp4)
        elif decision.quantizes and id(module) not in new:
            layer = float_layer(name, module, decision) if pair is None else QuantizedLinear(plan.read(pair, decision))
            layer.timestep_policy, new[id(module)] = policy, layer
    report = _exchange(model, found, plan, new)
    for name, quantized in attention.items():
        module = model.get_submodule(name)
        hang(module, quantized.to(place_of(module)))
        if must_be_told(module):
            _compute_with(model, name, module, quantized)
        report.attention[name] = quantized.format
    if any(isinstance(layer, QuantizedLinear) for layer in model.modules()):
        tell_libraries(model)
    return report


def _exchange(model: nn.Module, found: Listed, plan: _core.ModelPlan, new: Mapping[int, QuantizedLinear]) -> QuantizeReport:
    report, seen = QuantizeReport(), set()
    for decision in plan.decisions:
        name, linear, why = found.names[decision.module], found.modules[decision.module], decision.why
        if decision.is_attention:
            report.attention_in_float |= {name: why} if decision.attention is None else {}
            continue
        layer = new.get(id(linear), linear)
        if id(linear) not in seen:
            seen.add(id(linear))
            report.bytes_before += _bytes(linear)
            report.bytes_after += _bytes(layer)
        if isinstance(layer, QuantizedLinear):
            report.layers.append(LayerReport(name, layer.scheme, why, layer.group_size))
        else:
            report.layers.append(LayerReport(name, "FLOAT", why))
        if layer is not linear:
            take_over(linear, layer)
            layer.beside(linear)
            put(model, name, layer)
    return report


def _compute_with(model: nn.Module, name: str, module: nn.Module, quantized: QuantizedAttention) -> None:
    """For a layer that does not call its fa_quant or fa3. What is of diffusers is loaded only where a processor calls diffusers' dispatcher."""
    if hasattr(getattr(module, "processor", None), "_attention_backend"):
        from .diffusers.backend import compute_with
    else:
        from .attention.layers import compute_with
    compute_with(model, name, module, quantized)


_HOOKS = ("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs",
          "_backward_hooks", "_backward_pre_hooks", "_is_full_backward_hook")


def take_over(linear: nn.Module, layer: nn.Module) -> None:
    """The mode of the old module, its own attributes and its hooks; their handles go on working, for the dictionaries are the same."""
    layer.train(linear.training)
    own = {name: value for name, value in vars(linear).items() if name in _HOOKS or name not in vars(layer)}
    vars(layer).update({name: value for name, value in own.items() if name not in ("forward", "_compiled_call_impl")})


def tell_libraries(model: nn.Module) -> None:
    """peft learns of quantized layers, and a model of diffusers that it is quantized: LoRA adapters and save_pretrained then work."""
    diffusers = sys.modules.get("diffusers")
    if find_spec("peft") and (diffusers or "peft" in sys.modules):
        from . import lora

        lora.register()
        lora.adopt(model)
    if diffusers is not None and isinstance(model, diffusers.ModelMixin):
        from .diffusers import describe

        describe(model)
