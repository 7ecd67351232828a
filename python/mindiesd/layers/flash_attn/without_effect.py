"""Keywords of flash attention that callers hand on with values that ask for nothing."""
from typing import Any

import torch

from ...utils.exception import ParametersInvalid

_NOTHING: dict[str, Any] = {"window_size": (-1, -1), "softcap": 0.0, "dropout_p": 0.0, "causal": False, "is_causal": False, "deterministic": False,
                            "return_attn_probs": False, "alibi_slopes": None, "block_table": None}


def asks_for_something(name: str, value: Any) -> bool:
    """Whether a keyword has another value than None and the one that asks for nothing."""
    if value is None or isinstance(value, torch.Tensor):
        return value is not None
    return bool((tuple(value) if isinstance(value, list) else value) != _NOTHING[name])


def shown(value: Any) -> str:
    """For messages; of a tensor its shape."""
    return f"tensor{list(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)


def refuse_requests(op: str, keywords: dict[str, Any]) -> None:
    """ParametersInvalid for keywords that ask for something, TypeError for unknown ones."""
    for name, value in keywords.items():
        if name not in _NOTHING:
            raise TypeError(f"{op}() got an unexpected keyword argument {name!r}")
        if asks_for_something(name, value):
            raise ParametersInvalid(f"[{op}] {name}={shown(value)} is not supported: leave it out, or say it by attn_mask")
