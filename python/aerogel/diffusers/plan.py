"""RainFusion for diffusers' video transformers: finds the latent shape, the text and the sampling step by itself.

A hook on the transformer reads the latent shape and the timestep, hooks on its self-attention layers tell which layer runs; the attention
call itself comes in through diffusers' dispatcher or, from processors that call torch directly, through torch's function mode. What
cannot be sparse is computed dense, counted, and said once in the log "aerogel". torch.compile sees attention as a custom op, and the
hooks of a layer as the number that it is given.
"""
from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import prod
from typing import Any, Self, cast

import torch

from ..attention import sparse_attention
from ..attention.layers import RunningLayer, dense, nobody_runs, why_float
from ..attention.problem import Problem
from ..attention.quantized import FORMATS
from ..attention.sparse import attend_sparsely, check_settings
from ..attention.sparse_options import FURTHER, TYPES
from .._values import whole
from ..layer_choice import unwrapped
from .backend import with_backend
from .models import ANY_MODEL, NOT_SPARSE, TIMESTEPS, VIDEO_MODELS, VideoModel, timestep_name, video_model

_OP = "sparse_attention"
_log = logging.getLogger("aerogel")
_FOUND = ("q", "k", "v", "attn_mask", "scale", "is_causal", "head_num", "input_layout", "txt_len", "latent_shape_q", "latent_shape_k",
          "return_report", "kwargs", "mask", "cached_mask", "video_spans", "txt_first", "return_mask")  # what the plan gives itself


@dataclass
class LayerCount:
    """How often a layer ran sparse and dense, and the density summed over the sparse calls."""

    sparse: int = 0
    dense: int = 0
    density_sum: float = 0.0


@dataclass
class AttentionReport:
    """What became of the attention layers: layers {name: LayerCount}; why {reason: calls} of those that stayed dense; in_float {reason:
    calls} of dense ones that dense_format could not compute."""

    layers: dict[str, LayerCount] = field(default_factory=dict)
    why: dict[str, int] = field(default_factory=dict)
    in_float: dict[str, int] = field(default_factory=dict)

    @property
    def density(self) -> float:
        """Computed share of the attention maps, over the sparse calls; 1 without any."""
        calls = sum(count.sparse for count in self.layers.values())
        return sum(count.density_sum for count in self.layers.values()) / calls if calls else 1.0

    def __str__(self) -> str:
        sparse, whole = (sum(getattr(count, kind) for count in self.layers.values()) for kind in ("sparse", "dense"))
        text = f"{sparse} of {sparse + whole} attention calls sparse, computing {100 * self.density:.0f} % of their maps"
        dense = [f"{count} dense: {why}" for why, count in self.why.items()]
        return "; ".join([text, *dense, *(f"{count} of these in float, not in dense_format: {why}" for why, count in self.in_float.items())])


class AttentionPlan:
    """Sparse attention of the transformers of one pipeline; made by `enable_sparse_attention`.

    report: an AttentionReport that grows with every call. disable() takes everything off again; meanwhile the layers have processors of
    the plan's, copies of their own with the backend "aerogel" (Wan: with RMSNorm and rotary embedding in one pass)."""

    def __init__(self, options: dict[str, Any], *, steps: tuple[int, int | None] = (0, None), skip_layers: Iterable[int | str] = (),
                 refresh: int = 1, dense_format: str | None = None) -> None:
        self.report, self.dense_format = AttentionReport(), dense_format
        self._options, self._steps, self._skip, self._refresh = options, steps, skip_layers, refresh
        self._said: set[str] = set()
        self._undo: list[tuple[Any, ...]] = []
        self._plans: dict[tuple[Any, ...], tuple[int, Any]] = {}
        self._step, self._forward = 0, 0
        self._timestep: float | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # a copied model keeps to the plan of the original

    def attach(self, model: torch.nn.Module, video: VideoModel, prefix: str = "") -> None:
        """Hooks on the model and on the layers that its row of VIDEO_MODELS names. prefix: of the layers' names in the report."""
        layers = {n: m for n, m in model.named_modules() if any(fnmatchcase(n, p) for p in video.layers) and hasattr(m, "processor")}
        if not layers:
            raise ValueError(f"[sparse_attention] {type(model).__name__} has no attention layers named {', '.join(video.layers)}")
        if any(isinstance(getattr(hook, "__self__", None), _Now) for hook in model._forward_pre_hooks.values()):
            raise ValueError(f"[sparse_attention] {type(model).__name__} has a plan already: disable() it first")
        now = _Now(self, model, video)
        self._hook(model, now.enter_model, now.leave_model)
        for index, (name, layer) in enumerate(layers.items()):
            self.report.layers[prefix + name] = LayerCount()
            skipped = any(s == index or isinstance(s, str) and fnmatchcase(name, s) for s in self._skip)
            here = _Layer(now, prefix + name, skipped, layer)
            if not hasattr(layer.processor, "_attention_backend"):
                self._hook(layer, here.enter_catching, here.leave_catching)
            else:  # not always_call, which makes torch.compile guard on the hooks of each layer
                self._hook(layer, here.enter, here.leave, always_call=False)
                before = layer.processor
                layer.processor = with_backend(before)
                self._undo.append((_put_back, layer, layer.processor, before))

    def _hook(self, module: torch.nn.Module, enter: Callable[..., None], leave: Callable[..., None], always_call: bool = True) -> None:
        self._undo.append((module.register_forward_pre_hook(enter, with_kwargs=True).remove,))
        self._undo.append((module.register_forward_hook(leave, always_call=always_call).remove,))

    def disable(self) -> None:
        """Gives the models the attention they had before. The report stays."""
        while self._undo:
            function, *arguments = self._undo.pop()
            function(*arguments)

    def next_step(self, timestep: torch.Tensor | float | None, rising: bool) -> int:
        """The index of the sampling step. Timesteps fall (or rise) while a video is made; the other way begins the next video. Where none is
        told, the step stays; so it does where nobody needs it and the timestep is on a GPU, which would be waited for."""
        if timestep is None or (isinstance(timestep, torch.Tensor) and timestep.is_cuda and not self.counts_steps()):
            return self._step
        now = float(torch.as_tensor(timestep).max()) * (-1 if rising else 1)
        self._forward = self._forward + 1 if now == self._timestep else 0
        if self._timestep is None or now > self._timestep:
            self._step = 0
            self._plans.clear()
        elif now < self._timestep:
            self._step += 1
        self._timestep = now
        return self._step

    def counts_steps(self) -> bool:
        """Whether the outcome depends on the step."""
        return self._options["sparse_type"] is not None and (self._steps != (0, None) or self._refresh > 1)

    def asked_dense(self, step: int, skipped: bool) -> str:
        """Why the caller wants this call dense; empty if not."""
        first, end = self._steps
        if self._options["sparse_type"] is None:
            return "sparse_type is None"
        if step < first:
            return f"the step is before start_step {first}"
        if end is not None and step >= end:
            return f"the step is not before end_step {end}"
        return "the layer is one of skip_layers" if skipped else ""

    def sparse(self, p: Problem, place: dict[str, Any], key: tuple[Any, ...]) -> tuple[torch.Tensor, float, str]:
        """(output, density, why dense). place: where the video is, as keywords of sparse_attention. key: of a call that comes again in
        the next step, whose mask may then be used again."""
        options = {**place, "input_layout": p.layout, "scale": p.scale, **self._options}
        key = (*key, self._forward, tuple(p.q.shape), p.q.dtype, str(place))
        made, plan = self._plans.get(key, (-self._refresh, None))
        if self._step - made >= self._refresh:
            made, plan = self._step, None
        o, plan, _ = attend_sparsely(p.q, p.k, p.v, options, plan)
        if self._refresh > 1:
            self._plans[key] = (made, plan)
        return o, plan.density, plan.dense_because

    def stays_dense(self, why: str, level: int = logging.WARNING) -> None:
        """Counts it, and tells it the first time."""
        self._count(self.report.why, why, f"attention stays dense: {why}", level)

    def stays_float(self, why: str) -> None:
        """The same for a call that dense_format cannot compute."""
        self._count(self.report.in_float, why, f"attention stays in float, not in {self.dense_format}: {why}", logging.WARNING)

    def _count(self, counts: dict[str, int], why: str, text: str, level: int) -> None:
        counts[why] = counts.get(why, 0) + 1
        if text not in self._said:
            self._said.add(text)
            _log.log(level, "%s", text)


def _put_back(layer: Any, ours: Any, before: Any) -> None:
    if layer.processor is ours:  # nobody has set another one meanwhile
        layer.processor = before
        if hasattr(before, "_parallel_config"):
            before._parallel_config = ours._parallel_config


class _Now:
    """What is known of the forward that runs: the latent shape, or why there is none, and the step."""

    def __init__(self, plan: AttentionPlan, model: torch.nn.Module, video: VideoModel) -> None:
        self.plan, self.video, self.signature = plan, video, inspect.signature(type(model).forward)
        self.timestep = timestep_name(self.signature.parameters)
        if self.timestep is None and plan.counts_steps():
            raise ValueError(f"[sparse_attention] {type(model).__name__}.forward has no argument {', '.join(TIMESTEPS)}: its steps cannot be counted "
                             "for start_step, end_step and mask_refresh_steps")
        self.videos: list[tuple[int, Any]] = []  # (first token, (frames, height, width)); in front of them is text unless the model has spans
        self.step: Any = None  # a number while the model runs
        self.why = ""

    @torch.compiler.disable
    def enter_model(self, model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.compiler.is_exporting():
            raise NotImplementedError(_Layer.refusal)
        inputs = self.signature.bind(model, *args, **kwargs).arguments
        self.step = self.plan.next_step(None if self.timestep is None else inputs.get(self.timestep), self.video.rising)
        config = getattr(model, "config", None)
        try:
            found = [(0, self.video.grid(config, inputs))] if self.video.spans is None else self.video.spans(config, inputs)
            self.videos, self.why = [(start, tuple(int(n) for n in grid)) for start, grid in found], ""
        except ValueError as error:
            self.videos, self.why = [], str(error)

    @torch.compiler.disable
    def leave_model(self, model: torch.nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.videos, self.step = [], None
        nobody_runs()

    @property
    def tokens(self) -> int:
        """Of the videos, with all that must stand before their end."""
        if self.video.spans is None:
            return prod(self.videos[0][1])
        return max(start + prod(grid) for start, grid in self.videos)

    def place(self, tokens: int) -> dict[str, Any]:
        """Where the videos are among so many tokens, as keywords of sparse_attention."""
        if self.video.spans is not None:
            return {"video_spans": [{"start": start, "latent_shape": grid} for start, grid in self.videos]}
        return {"latent_shape_q": self.videos[0][1], "txt_len": tokens - self.tokens, "txt_first": self.video.text != "behind"}


class _Layer(RunningLayer):
    """One self-attention layer while it runs."""

    refusal = ("[attention] a plan of sparse attention lives in this process and cannot leave it in a recorded program: disable it before the "
               "export")

    def __init__(self, now: _Now, name: str, skipped: bool, layer: torch.nn.Module) -> None:
        super().__init__()
        self.now, self.name, self.skipped, self.layer = now, name, skipped, layer

    def enter_catching(self, layer: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.now.step is not None:
            super().enter_catching(layer, args, kwargs)

    def _dense(self, p: Problem, format: str | None) -> torch.Tensor:
        """By the layer's own quantized attention, if it has one."""
        quantized = vars(self.layer).get("_aerogel_attention")
        return dense(p, format) if quantized is None else quantized.attend(p)

    def attend(self, p: Problem) -> torch.Tensor:
        plan, now = self.now.plan, self.now
        if now.step is None:  # outside of the model's forward
            return self._dense(p, None)
        asked = plan.asked_dense(now.step, self.skipped)
        lengths: list[int] = []
        why = asked or now.why or p.why_torch()
        if not why:
            lengths, why = _lengths(p, now.tokens, now.video.text)
        if not why and p.gathered and now.video.text != "none":
            why = "text and video are gathered from several processes in parts"
        if not why:
            o, density, why = self._sparse(p, lengths)
        else:
            o = self._dense(p, plan.dense_format)
            if plan.dense_format is not None and (reason := why_float(p)):
                plan.stays_float(reason)
        count = plan.report.layers[self.name]
        if why:
            count.dense += 1
            plan.stays_dense(why, logging.INFO if asked else logging.WARNING)
        else:
            count.sparse += 1
            count.density_sum += density
        return o

    def stays(self, why: str) -> None:
        self.now.plan.report.layers[self.name].dense += 1
        self.now.plan.stays_dense(why)

    def _sparse(self, p: Problem, lengths: Sequence[int]) -> tuple[torch.Tensor, float, str]:
        """lengths: tokens of each batch item that are no padding. Padding behind them gets zeros: nothing reads it."""
        if len(set(lengths)) == 1:
            parts = [(slice(None), lengths[0])]
        else:
            parts = [(slice(b, b + 1), n) for b, n in enumerate(lengths)]

        def computed(part: Problem, rows: slice, n: int) -> tuple[torch.Tensor, float, str]:
            return self.now.plan.sparse(part, self.now.place(n), (self.name, rows.start, n))

        if len(parts) == 1 and lengths[0] == p.q.shape[p.axis]:
            return computed(p, *parts[0])
        o, densities = torch.zeros_like(p.q), []
        for rows, n in parts:
            q, k, v = (t[rows].narrow(p.axis, 0, n) for t in (p.q, p.k, p.v))
            y, density, why = computed(Problem(q, k, v, p.layout, scale=p.scale), rows, n)
            o[rows].narrow(p.axis, 0, n).copy_(y)
            densities.append(density)
        return o, sum(densities) / len(densities), why


def _lengths(p: Problem, video_len: int, text: str) -> tuple[list[int], str]:
    """(tokens that are no padding, per batch item; why the problem does not fit the model's layout)."""
    batch, total, keys = p.q.shape[0], p.q.shape[p.axis], p.k.shape[p.axis]
    if total != keys or total < video_len or (text == "none" and total != video_len):
        return [], f"{total} queries and {keys} keys are not {video_len} tokens of video{'' if text == 'none' else ' and text'}"
    if p.mask is None:
        return [total] * batch, ""
    mask = cast(torch.Tensor, p.given_mask)
    if text != "behind" or mask.dtype != torch.bool or mask.ndim not in (2, 4) or mask.shape[-1] != keys:
        return [], "an attention mask is given"
    mask = mask.expand(batch, *mask.shape[1:]) if mask.ndim == 4 else mask.expand(batch, 1, *mask.shape)
    seen = mask[:, 0, 0]  # of a video token: it sees all that is no padding, and so do all others that are none
    lengths = seen.sum(-1).tolist()
    if any(n < video_len or not row[:n].all() or not (rows[:, :n] == row).all() for n, row, rows in zip(lengths, seen, mask)):
        return [], "the attention mask is more than padding behind the text"
    return lengths, ""


def _transformers(target: Any) -> dict[str, torch.nn.Module]:
    """{prefix: transformer (or UNet)} of a pipeline, or of the model itself."""
    if isinstance(target, torch.nn.Module):
        return {"": unwrapped(target)}
    found = [(name, getattr(target, name, None)) for name in ("transformer", "unet", "transformer_2")]
    models = [(name, model) for name, model in found if isinstance(model, torch.nn.Module)]
    return {f"{name}." if index else "": unwrapped(model) for index, (name, model) in enumerate(models)}


def _keeps_masks(sparse_type: str | None) -> bool:
    row = TYPES.get(sparse_type or "none")
    return row is not None and row.predicts and row.takes_mask


def enable_sparse_attention(target: Any, *, sparse_type: str | None = "rf_v2", sparsity: float = 0.8, start_step: int = 0,
                            end_step: int | None = None, skip_layers: Iterable[int | str] = (), mask_refresh_steps: int = 1,
                            dense_format: str | None = None, **options: Any) -> AttentionPlan:
    """Makes the self-attention of a diffusers video transformer sparse and returns an AttentionPlan (report, disable()).

    target: a transformer, or a pipeline (its transformer or UNet, and transformer_2). sparse_type, sparsity and further options as in
    `aerogel.sparse_attention`; latent shape and text length are found from the model's class, see `aerogel.diffusers.VIDEO_MODELS`. sparse_type
    None means dense attention by Aerogel, in every layer of any model. Steps before start_step and from end_step on stay dense, counted from the
    timesteps that the pipeline passes. skip_layers: indices of the attention layers in order, or patterns of their names.
    mask_refresh_steps: masks are predicted every so many steps and reused in between (rf_v2, rf_v3, ada_bsa). dense_format: what stays
    dense is computed in this format of `aerogel.quantized_attention` ("int8"); None: in float.
    Raises ValueError and NotImplementedError for what is not supported, TypeError for unknown keywords."""
    allowed = {*inspect.signature(sparse_attention).parameters, *FURTHER} - set(_FOUND)
    if unknown := set(options) - allowed:
        raise TypeError(f"enable_sparse_attention() got unexpected keyword arguments: {', '.join(sorted(unknown))}")
    check_settings({"sparse_type": sparse_type, "sparsity": sparsity, **options})
    start_step, mask_refresh_steps = whole(_OP, "start_step", start_step, 0), whole(_OP, "mask_refresh_steps", mask_refresh_steps)
    if end_step is not None and whole(_OP, "end_step", end_step) < start_step:
        raise ValueError(f"[sparse_attention] start_step and end_step must be 0 <= start <= end, got {start_step} and {end_step}")
    if mask_refresh_steps < 1 or (mask_refresh_steps > 1 and not _keeps_masks(sparse_type)):
        raise ValueError(f"[sparse_attention] mask_refresh_steps must be at least 1, and 1 for {sparse_type}, got {mask_refresh_steps}")
    if dense_format not in (None, *FORMATS):
        raise ValueError(f"[sparse_attention] dense_format must be None or one of {', '.join(FORMATS)}, got {dense_format!r}")
    models = _transformers(target)
    found = {prefix: ANY_MODEL if sparse_type is None else video_model(model) for prefix, model in models.items()}
    rows = {prefix: row for prefix, row in found.items() if row is not None}
    if len(rows) < len(models) or not models:
        names = ", ".join(type(model).__name__ for model in models.values()) or type(target).__name__
        why = next((NOT_SPARSE[c.__name__] for model in models.values() for c in type(model).__mro__ if c.__name__ in NOT_SPARSE),
                   "no video transformer whose tokens are known")
        raise NotImplementedError(f"[sparse_attention] {names}: {why}; there are: "
                                  f"{', '.join(VIDEO_MODELS)}. For dense attention: sparse_type=None or set_attention_backend('aerogel')")
    plan = AttentionPlan({"sparse_type": sparse_type, "sparsity": sparsity, **options}, steps=(start_step, end_step),
                         skip_layers=tuple(skip_layers), refresh=mask_refresh_steps, dense_format=dense_format)
    for prefix, model in models.items():
        plan.attach(model, rows[prefix], prefix)
    return plan
