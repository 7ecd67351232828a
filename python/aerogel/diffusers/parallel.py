"""Several processes on CPUs: diffusers' `enable_parallelism`, which counts accelerators only."""
from __future__ import annotations

from typing import Any

import torch

from .backend import NAME, register


def enable_parallelism(model: Any, *, config: Any, cp_plan: Any = None) -> None:
    """`model.set_attention_backend("aerogel")` and `model.enable_parallelism(config=config, cp_plan=cp_plan)` of diffusers, also on a machine without
    an accelerator, where diffusers 0.42 divides by their number. torch.distributed must be initialized ("gloo" on CPUs)."""
    register()
    model.set_attention_backend(NAME)
    counts = torch.accelerator.device_count
    if counts() == 0:
        torch.accelerator.device_count = lambda: 1
    try:
        model.enable_parallelism(config=config, cp_plan=cp_plan)
    finally:
        torch.accelerator.device_count = counts
