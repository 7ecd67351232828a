"""QuantizedAttention: the module that a model's attention calls instead of its float product, and where models get it from.

A description or a configuration names attention modules; each gets one of these as `layer.fa_quant` (`layer.fa3` for the older
calibrated int8 form), as MindIE SD hangs them in. The attention's own forward calls it."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from os import PathLike, fspath
from typing import Any

import torch
from torch import nn

from . import _core
from .attention import attention
from .layer_names import matches_any
from .quantized_attention import quantized_attention
from .timestep import TimestepManager, TimestepPolicyConfig

_ROWS = _core.attention_formats()
FORMATS = {row.file_type: row.name for row in _ROWS if row.rotates}
ROTATION_SEED = 1234  # of the rotations in the files of msModelSlim
_STATIC_TYPES = [name for row in _ROWS for name in row.static_types if name != "INT8"]
_BY_STEP = {row.strategy: None if row.name == "none" else row.name for row in _ROWS}
_WHOLE = 2147483647  # "all tokens before" and "all tokens after" in calls made for Ascend


def _heads_like(q: torch.Tensor, t: torch.Tensor, axis: int) -> torch.Tensor:
    """Keys or values with fewer heads, each repeated for the query heads that share it (GQA)."""
    heads, own = q.shape[axis], t.shape[axis]
    if heads == own:
        return t
    if own == 0 or heads % own:
        raise ValueError(f"[fa_quant] the {heads} heads of q must be a multiple of those of k and v, got {own}")
    return t.repeat_interleave(heads // own, dim=axis)


def _refuse(further: dict[str, Any]) -> None:
    """What calls for other machines may ask for and nothing here computes."""
    neutral = {"pre_tokens": _WHOLE, "next_tokens": _WHOLE, "win_left": _WHOLE, "win_right": _WHOLE, "mask_mode": 0, "return_softmax_lse": 0}
    accepted = {"metadata", "max_seqlen_q", "max_seqlen_kv", "num_key_value_heads"}
    asked = [n for n, value in further.items() if n not in accepted and value is not None and value != neutral.get(n)]
    if asked:
        raise NotImplementedError(f"[fa_quant] {', '.join(sorted(asked))}: quantized attention is dense and unmasked here; use "
                                  "attention_forward with attn_mask, or sparse_attention")


class QuantizedAttention(nn.Module):
    """Dense attention with quantized q, k and v: `forward(query, key, value, layout="BNSD", softmax_scale=None)`, or packed
    `forward(query, key, value, seq_len)` on [tokens, heads, head_dim].

    format: of `quantized_attention`. q_rot, k_rot: [head_dim, head_dim] or None. scales: calibrated, int8 only. policy: a
    TimestepPolicyConfig whose target "fa" chooses MXFP4, FP8 or FLOAT per step; None = the format always. k may have fewer heads than q.
    Keys are not smoothed: the numbers are those the files were made for. The output has q's dtype and layout (or layout_out)."""

    def __init__(self, format: str, *, q_rot: torch.Tensor | None = None, k_rot: torch.Tensor | None = None,
                 scales: Mapping[str, torch.Tensor] | None = None, policy: TimestepPolicyConfig | None = None) -> None:
        super().__init__()
        self.format, self.timestep_config = format, policy
        for name, array in {"q_rot": q_rot, "k_rot": k_rot, **(scales or {})}.items():
            self.register_buffer(name, array, persistent=False)
        self._scales = tuple(scales or ())

    def _format_now(self) -> str | None:
        if self.timestep_config is None:
            return self.format
        return _BY_STEP[self.timestep_config.get_strategy(TimestepManager.get_timestep_idx(), "fa")]

    def _call(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **where: Any) -> torch.Tensor:
        format = self._format_now()
        if format is None:
            return attention(q, k, v, **where)
        rotation = None if self.q_rot is None else (self.q_rot, self.k_rot)
        scales = {name: getattr(self, name) for name in self._scales} or None
        return quantized_attention(q, k, v, format, smooth_k=False, rotation=rotation, scales=scales, **where)

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, seq_len: Iterable[int] | None = None, *,
                layout: str = "BNSD", layout_kv: str | None = None, layout_out: str | None = None, softmax_scale: float | None = None,
                **further: Any) -> torch.Tensor:
        _refuse(further)
        if seq_len is not None or query.ndim == 3:
            return self._packed(query, key, value, [len(query)] if seq_len is None else seq_len, softmax_scale)
        layouts = [layout, layout_kv or layout, layout_out or layout]
        if query.ndim != 4 or not set(layouts) <= {"BNSD", "BSND"}:
            raise ValueError(f"[fa_quant] q must have 4 axes in layout BNSD or BSND, got {list(query.shape)} in {'/'.join(layouts)}")
        if layouts[1] != layout:
            key, value = key.transpose(1, 2), value.transpose(1, 2)
        axis = 1 if layout == "BNSD" else 2
        key, value = _heads_like(query, key, axis), _heads_like(query, value, axis)
        o = self._call(query, key, value, input_layout=layout, scale=softmax_scale)
        return o if layouts[2] == layout else o.transpose(1, 2)

    def _packed(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, seq_len: Iterable[int], scale: float | None) -> torch.Tensor:
        key, value = _heads_like(query, key, 1), _heads_like(query, value, 1)
        lengths = [int(n) for n in (seq_len.tolist() if isinstance(seq_len, torch.Tensor) else seq_len)]
        if self._format_now() is not None:
            return self._call(query, key, value, scale=scale, seq_len=lengths)
        parts = zip(*(t.split(lengths) for t in (query, key, value)), strict=True)
        return torch.cat([attention(*(t[None] for t in part), input_layout="BSND", scale=scale)[0] for part in parts])

    def extra_repr(self) -> str:
        return f"format={self.format}, rotated={self.q_rot is not None}"


def head_dim_of(layer: nn.Module) -> int | None:
    """Columns per head of an attention module, from `head_dim`, a width and a number of heads, or its query projection; None if unknown."""
    def number(*names: str) -> int | None:
        return next((n for n in (getattr(layer, name, None) for name in names) if isinstance(n, int) and n > 0), None)

    width, heads = number("hidden_size", "inner_dim", "dim"), number("num_heads", "heads", "num_attention_heads")
    projection = next((p for p in (getattr(layer, name, None) for name in ("q_proj", "to_q", "q")) if p is not None), None)
    columns = width or getattr(projection, "out_features", None)
    return number("head_dim") or (columns // heads if heads and columns and columns % heads == 0 else None)


def named_by(name: str, layer: nn.Module, patterns: Iterable[str]) -> bool:
    """Whether patterns name this module: by its name, its class, or module.class."""
    kind = type(layer)
    return any(n and matches_any(n, patterns) for n in (name, kind.__name__, f"{kind.__module__}.{kind.__name__}"))


def in_memory(model: nn.Module, patterns: Iterable[str], quant_type: str, *, policy: TimestepPolicyConfig | None = None,
              skip: Iterable[str] = ()) -> dict[str, QuantizedAttention]:
    """{name: QuantizedAttention} for the modules that patterns name and skip does not; q and k share one seeded Hadamard rotation.

    quant_type: FP8_DYNAMIC, MXFP8_DYNAMIC or MXFP4_DYNAMIC; only the last follows the policy. Raises ValueError when nothing matches or a
    head's size cannot be told or is no power of two."""
    if quant_type not in FORMATS:
        raise ValueError(f"[quantize] fa_quant_type must be one of {', '.join(FORMATS)}, got {quant_type!r}")
    found = {}
    for name, layer in model.named_modules():
        if not named_by(name, layer, patterns) or matches_any(name, skip):
            continue
        head_dim = head_dim_of(layer)
        if head_dim is None:
            raise ValueError(f"[quantize] {name}: the size of its heads is unknown: give it head_dim, or inner_dim and heads")
        rotation = torch.from_numpy(_core.hadamard_rotation(head_dim, ROTATION_SEED))
        found[name] = QuantizedAttention(FORMATS[quant_type], q_rot=rotation, k_rot=rotation.clone(), policy=_policy(quant_type, policy))
    if not found:
        raise ValueError(f"[quantize] no module is named by fa_layers {list(patterns)}")
    return found


def _policy(quant_type: str, policy: TimestepPolicyConfig | None) -> TimestepPolicyConfig | None:
    return (policy or TimestepPolicyConfig()) if quant_type == "MXFP4_DYNAMIC" else None


def _tensor(pair: _core.QuantizedPair, name: str) -> torch.Tensor | None:
    return torch.from_numpy(pair.tensor(name)) if pair.has(name) else None


def _rotated(pair: _core.QuantizedPair, name: str, quant_type: str, policy: TimestepPolicyConfig | None) -> QuantizedAttention:
    q_rot, k_rot = _tensor(pair, f"{name}.q_rot"), _tensor(pair, f"{name}.k_rot")
    if (q_rot is None) != (k_rot is None) or (q_rot is None and quant_type != "MXFP4_DYNAMIC"):
        raise ValueError(f"[quantize] {pair.weights_path}: {name} is {quant_type} and needs {name}.q_rot and {name}.k_rot")
    return QuantizedAttention(FORMATS[quant_type], q_rot=q_rot, k_rot=k_rot, policy=_policy(quant_type, policy))


def _calibrated(pair: _core.QuantizedPair, name: str, form: str, layer: nn.Module) -> QuantizedAttention:
    heads = getattr(layer, "heads", None) or getattr(layer, "num_heads", None)
    if not isinstance(heads, int):
        raise ValueError(f"[quantize] {name}: calibrated attention needs a module with `heads` (and `inner_dim`)")
    scales = {}
    for part in "qkv":
        scale, offset = (_tensor(pair, f"{name}.{form}_{part}.{kind}") for kind in ("scale", "offset"))
        if scale is None or (heads % scale.shape[0] if part != "q" else heads != scale.shape[0]):
            raise ValueError(f"[quantize] {pair.weights_path}: {name}.{form}_{part}.scale must be [heads,1] for {heads} heads, got "
                             f"{'nothing' if scale is None else list(scale.shape)}; a file with one scale per token was made in the wrong layout")
        own = heads // scale.shape[0]  # fewer heads of k and v: each serves several of q
        scales[f"{part}_scale"] = scale.reshape(-1).repeat_interleave(own)
        scales[f"{part}_offset"] = None if offset is None else offset.reshape(-1).repeat_interleave(own)
    return QuantizedAttention("int8", scales={n: t for n, t in scales.items() if t is not None})


def from_files(model: nn.Module, quant_des_path: str | PathLike[str], *, policy: TimestepPolicyConfig | None = None,
               type_of: Callable[[str, str], str] | None = None, rank: int = -1) -> tuple[dict[str, tuple[str, QuantizedAttention]], dict[str, str]]:
    """({name: (attribute, QuantizedAttention)}, {name: why it stays float}) for the attention that a description names.

    type_of: (name, type) -> the type to use, "FLOAT" to leave it. Raises ValueError for what does not fit, OSError for files."""
    pair = _core.QuantizedPair.open(fspath(quant_des_path), rank)
    found, kept = {}, {}
    modules = dict(model.named_modules())
    for key in pair.attention_keys:
        name, _, last = key.rpartition(".")
        form = next((f for f in ("fa", "fa3") if last == "scale" and name.endswith(f".{f}_q")), None)
        if form is None and last != "quant_type":
            continue
        name = name.removesuffix(f".{form}_q")
        stored = pair.type_of(key).upper()
        kind = type_of(name, stored) if type_of else stored
        if kind == "FLOAT":
            kept[name] = "chosen float"
        elif name not in modules:
            raise ValueError(f"[quantize] {pair.path}: the model has no module '{name}'")
        elif kind in FORMATS:
            found[name] = ("fa_quant", _rotated(pair, name, kind, policy))
        elif kind in _STATIC_TYPES and form and pair.type_of(f"{name}.quant_type").upper() in ("", "INT8"):
            found[name] = ("fa3", _calibrated(pair, name, form, modules[name]))
        elif kind == "INT8" and pair.has(f"{name}.fa3_q.scale"):
            continue
        else:
            kept.setdefault(name, f"{kind} is not there; there are: {', '.join(FORMATS)} and calibrated int8")
    return found, kept
