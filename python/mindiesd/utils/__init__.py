"""Errors and the logger under the names of MindIE SD."""
from .exception import ConfigError, ModelExecError, ModelInitError, ParametersInvalid, TorchError
from .logs import logger
from .utils import is_npu_available

__all__ = ["ParametersInvalid", "ConfigError", "TorchError", "ModelInitError", "ModelExecError", "logger",
           "is_npu_available"]
