"""Which rank's files a process reads and writes: each one its own, `..._{rank}.json` and `..._{rank}.safetensors`."""
from __future__ import annotations

import sys
from os import PathLike
from pathlib import Path

from ._values import whole


def current_rank() -> int:
    """The rank in torch.distributed's default group, or -1 where it is not initialized."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return -1
    return int(torch.distributed.get_rank())


def _has_rank(name: str) -> bool:
    return name.rpartition("_")[2].isdigit()


def rank_of(path: str | PathLike[str], rank: int | None) -> int:
    """The rank whose files are read from `path`. None: this process's own where the path (or a description in the folder) carries a
    rank, else -1, which takes the path as it is."""
    if rank is not None:
        return whole("quantize", "rank", rank, -1)
    place = Path(path)
    stems = [p.stem for p in place.glob("quant_model_description*.json")] if place.is_dir() else [place.stem]
    return current_rank() if any(_has_rank(stem) for stem in stems) else -1
