"""Values that callers give, as the types that the core takes. What is of another kind is an error with the name, instead of what Python's
int(), float() and bool() make of it: 64.5 tokens would be 64, and "no" would be true."""
from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from typing import Any, NoReturn


def _refuse(op: str, name: str, expected: str, value: object) -> NoReturn:
    raise ValueError(f"[{op}] {name} must be {expected}, got {value!r}")


def whole(op: str, name: str, value: Any, least: int | None = None) -> int:
    """Integers of Python, NumPy and torch."""
    expected = "a whole number" if least is None else f"a whole number of at least {least}"
    try:
        found = operator.index(value)
    except (TypeError, RuntimeError):
        _refuse(op, name, expected, value)
    return found if not isinstance(value, bool) and (least is None or found >= least) else _refuse(op, name, expected, value)


def number(op: str, name: str, value: Any, expected: str = "a number") -> float:
    """Numbers of Python, NumPy and torch."""
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        _refuse(op, name, expected, value)
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        _refuse(op, name, expected, value)


def positive(op: str, name: str, value: Any) -> float:
    """A number that is finite and above 0."""
    expected = "a positive number or None"
    found = number(op, name, value, expected)
    return found if 0 < found < math.inf else _refuse(op, name, expected, value)


def switch(op: str, name: str, value: Any) -> bool:
    """True and False of Python, NumPy and torch, and 1 and 0."""
    try:
        known = bool(value in (0, 1))
    except (TypeError, ValueError, RuntimeError):
        known = False
    return bool(value) if known else _refuse(op, name, "True or False", value)


def word(op: str, name: str, value: Any) -> str:
    return value if isinstance(value, str) else _refuse(op, name, "a word", value)


def words(op: str, name: str, value: Any) -> list[str]:
    """One word, or several."""
    if isinstance(value, str):
        return [value]
    found = list(value) if isinstance(value, Iterable) else [value]
    return found if all(isinstance(one, str) for one in found) else _refuse(op, name, "a pattern or a list of patterns", value)


def group(op: str, value: Any) -> int | None:
    """A group_size: None is the scheme's default."""
    return None if value is None else whole(op, "group_size", value, 0)
