"""The exceptions of MindIE SD, with its codes in front of the message. Those about arguments are ValueErrors here as well, as everywhere in
aerogel."""
from collections.abc import Callable
from functools import wraps
from typing import ClassVar, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class _Coded:
    CODE: ClassVar[str]

    def __init__(self, message: str) -> None:
        self.message = f"{self.CODE} {message}"
        super().__init__(self.message)  # type: ignore[call-arg]  # of the exception that stands beside it


class ParametersInvalid(_Coded, ValueError):
    """An argument that does not fit."""

    CODE = "[MIE06E000001] Parameters invalid."


class ConfigError(_Coded, ValueError):
    """A configuration that does not fit."""

    CODE = "[MIE06E000002] Config parameter err."


class TorchError(_Coded, RuntimeError):
    """Never raised here; scripts may catch it."""

    CODE = "[MIE06E000003] Torch exec err."


class ModelInitError(_Coded, ValueError):
    """A configuration object with a value that does not fit."""

    CODE = "[MIE06E000004] Model init err."


class ModelExecError(_Coded, RuntimeError):
    """A function of the caller's whose result does not fit."""

    CODE = "[MIE06E000005] Model exec err."


_OURS = (ParametersInvalid, ConfigError, ModelInitError)


def invalid_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """aerogel's ValueErrors come out of the function as ParametersInvalid."""

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except _OURS:
            raise
        except ValueError as error:
            raise ParametersInvalid(str(error)) from error

    return wrapped


def require(op: str, name: str, value: object, kind: type | tuple[type, ...]) -> None:
    """ParametersInvalid unless value is of a kind."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        wanted = " or ".join(k.__name__ for k in kind) if isinstance(kind, tuple) else kind.__name__
        raise ParametersInvalid(f"[{op}] {name} must be of type {wanted}, got {type(value).__name__}")
