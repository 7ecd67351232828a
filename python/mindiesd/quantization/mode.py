"""Names of algorithms and their flags, where MindIE SD has them."""
from ..utils.exception import ParametersInvalid
from .algorithms import FLOAT_NAMES, NOT_ONLINE, FP8FAMode, QuantAlgorithm, algorithm, require_online, scheme_of_file
from .quant_mode import QuantFlag, QuantMode, QuantModeDescriptor

W8A8_LIST = [QuantAlgorithm.W8A8, QuantAlgorithm.W8A8_TIMESTEP, QuantAlgorithm.W8A8_DYNAMIC, QuantAlgorithm.W8A8_PER_CHANNEL,
             QuantAlgorithm.W8A8_PER_TENSOR, QuantAlgorithm.W8A8_PER_CHANNEL_PER_TOKEN, QuantAlgorithm.W8A8_PER_CHANNEL_PER_TENSOR,
             QuantAlgorithm.W8A8_PER_TENSOR_PER_TOKEN, QuantAlgorithm.W8A8_MXFP8]
W4A4_LIST = [QuantAlgorithm.W4A4_MXFP4_SVD, QuantAlgorithm.W4A4_MXFP4_DUALSCALE, QuantAlgorithm.W4A4_DYNAMIC, QuantAlgorithm.W4A4_MXFP4_DYNAMIC]


def normalize_fp8_fa_mode(mode: str | FP8FAMode | None) -> FP8FAMode | None:
    """The FP8FAMode of a name in any case, or None of None. ParametersInvalid for others."""
    if mode is None or isinstance(mode, FP8FAMode):
        return mode
    try:
        return FP8FAMode(str(mode).upper())
    except ValueError:
        raise ParametersInvalid(f"[quant_attention] fp8_fa_mode must be one of {', '.join(FP8FAMode)}, got {mode!r}") from None


__all__ = ["FLOAT_NAMES", "NOT_ONLINE", "FP8FAMode", "QuantAlgorithm", "QuantFlag", "QuantMode", "QuantModeDescriptor", "W4A4_LIST", "W8A8_LIST",
           "algorithm", "normalize_fp8_fa_mode", "require_online", "scheme_of_file"]
