"""Names of MindIE SD that aerogel does not offer. Calling one raises NotImplementedError with what to use instead."""
from collections.abc import Callable
from typing import Any, NoReturn

_EXPERTS = "there are no mixtures of experts here; quantize the Linear layers of a plain torch implementation"
_INSTEAD = {
    "frequency_regulator": "it sets the clock of an Ascend card; leave the call out",
    "fused_moe": _EXPERTS,
    "SparseLinearAttention": "use sparse_attention(..., sparse_type='rf_v2')",
    "MindieSDBackend": "quantized layers go through torch.compile(model); leave backend= out",
    "CompilationConfig": "use the options of torch.compile",
    "enable_offload": "weights lie in the CPU's memory already; leave the call out",
    "share_memory": "torch.multiprocessing shares the CPU's memory (model.share_memory())",
    "ExpertLoadCollector": _EXPERTS,
    "DynamicDispatcher": _EXPERTS,
    "construct_expert_info_transfer_pool": _EXPERTS,
    "run_scheduler": _EXPERTS,
}


def not_offered(name: str) -> Callable[..., NoReturn]:
    """A callable that stands under this name and refuses."""

    def refused(*args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError(f"[mindiesd] {name} is not offered on a CPU: {_INSTEAD[name]}")

    refused.__name__ = refused.__qualname__ = name
    refused.__doc__ = f"Not offered: {_INSTEAD[name]}."
    return refused
