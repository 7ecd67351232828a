"""The names of algorithms, and what becomes of each: run, kept float, or refused with what to use."""
from enum import StrEnum

from aerogel.attention.module import FILE_TYPES


class QuantAlgorithm(StrEnum):
    """Names as MindIE SD and the files spell them."""

    W8A8 = "W8A8"
    W8A8_TIMESTEP = "W8A8_TIMESTEP"
    W8A8_DYNAMIC = "W8A8_DYNAMIC"
    W4A4_DYNAMIC = "W4A4_DYNAMIC"
    W8A8_MXFP8 = "W8A8_MXFP8"
    W4A4_MXFP4_DYNAMIC = "W4A4_MXFP4"
    W8A16 = "W8A16"
    W4A16 = "W4A16"
    W4A16_AWQ = "W4A16_AWQ"
    W4A8_AWQ = "W4A8_AWQ"
    W8A16_GPTQ = "W8A16_GPTQ"
    W4A16_GPTQ = "W4A16_GPTQ"
    W8A8_PER_CHANNEL = "W8A8_PER_CHANNEL"
    W8A8_PER_TENSOR = "W8A8_PER_TENSOR"
    W8A8_PER_CHANNEL_PER_TOKEN = "W8A8_PER_CHANNEL_PER_TOKEN"
    W8A8_PER_CHANNEL_PER_TENSOR = "W8A8_PER_CHANNEL_PER_TENSOR"
    W8A8_PER_TENSOR_PER_TOKEN = "W8A8_PER_TENSOR_PER_TOKEN"
    INT8 = "INT8"
    MIXED_PERCISION = "MIXED_PERCISION"
    FP8_DYNAMIC = "FP8_DYNAMIC"
    MXFP8_DYNAMIC = "MXFP8_DYNAMIC"
    MXFP4_DYNAMIC = "MXFP4_DYNAMIC"
    NO_QUANT = "NO_QUANT"
    W4A4_MXFP4_SVD = "W4A4_MXFP4_SVD"
    W4A4_MXFP4_DUALSCALE = "W4A4_MXFP4_DUALSCALE"
    W4A8 = "W4A8"
    W16A16 = "W16A16"


class FP8FAMode(StrEnum):
    """Which values share a scale in FP8 attention: docs/attention.md has the blocks."""

    HIGH_PRECISION = "HIGH_PRECISION"
    C8V16_TILING512 = "C8V16_TILING512"


FLOAT_NAMES = ("NO_QUANT", "MIXED_PERCISION", "W16A16")
_DATA = "it needs data: export files with `aerogel quantize` and give their description"
# In memory: why a name does not run on a float model. All others do, without data.
NOT_ONLINE = {
    "W8A8": f"its activation ranges are calibrated; use W8A8_DYNAMIC, or: {_DATA}",
    "W8A8_TIMESTEP": f"its activation ranges are calibrated per step; use W8A8_DYNAMIC, or: {_DATA}",
    "W8A8_PER_CHANNEL": "its activation ranges are calibrated; use W8A8_DYNAMIC",
    "W8A8_PER_TENSOR": "its activation ranges are calibrated; use W8A8_DYNAMIC",
    "W8A8_PER_CHANNEL_PER_TENSOR": "its activation ranges are calibrated; use W8A8_DYNAMIC",
    "W8A8_PER_CHANNEL_PER_TOKEN": "use W8A8_DYNAMIC, which is the same",
    "W8A8_PER_TENSOR_PER_TOKEN": "use W8A8_DYNAMIC, whose weights have a scale per channel",
    "W4A16_AWQ": f"{_DATA}, or use W4A16",
    "W4A8_AWQ": f"{_DATA}, or use W4A8",
    "W8A16_GPTQ": f"{_DATA}, or use W8A16",
    "W4A16_GPTQ": f"{_DATA}, or use W4A16",
    "MIXED_PERCISION": "name the layers and what becomes of them in fallback_layers",
    "NO_QUANT": "leave quantize out",
    "W16A16": "leave quantize out, or keep single layers float by fallback_layers",
    "FP8_DYNAMIC": "it is of attention: give it as fa_quant_type, with fa_layers",
    "MXFP8_DYNAMIC": "it is of attention: give it as fa_quant_type, with fa_layers",
    "MXFP4_DYNAMIC": "it is of attention: give it as fa_quant_type, with fa_layers",
}


def algorithm(name: str | None) -> QuantAlgorithm | None:
    """The QuantAlgorithm of a name in any case, or None of None. ValueError for others."""
    return name if name is None or isinstance(name, QuantAlgorithm) else QuantAlgorithm(str(name).upper())


def require_online(algo: QuantAlgorithm) -> None:
    """NotImplementedError, with what to use, for an algorithm that needs more than a float model."""
    if algo.value in NOT_ONLINE:
        raise NotImplementedError(f"[quantize] {algo.value} does not run in memory: {NOT_ONLINE[algo.value]}")


def scheme_of_file(stored: str, wanted: str | None = None) -> str:
    """The scheme to run a layer of a file by: what the file says or what is wanted instead; "FLOAT" to leave the layer as it is."""
    name = str(wanted or stored)
    if name in FLOAT_NAMES:
        return "FLOAT"
    if name in FILE_TYPES:
        raise NotImplementedError(f"[quantize] {name} is of attention, not of Linear layers; for 8-bit floats in these use WFP8AFP8_DYNAMIC")
    if name == "W4A8" and stored.startswith("W4A4_MXFP4"):
        return "W4A8_MXFP"  # the same weights, activations in fp8
    return name
