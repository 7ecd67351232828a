"""Errors under the names of MindIE SD."""
from .exception import ConfigError, ModelExecError, ModelInitError, ParametersInvalid, TorchError

__all__ = ["ParametersInvalid", "ConfigError", "TorchError", "ModelInitError", "ModelExecError"]
