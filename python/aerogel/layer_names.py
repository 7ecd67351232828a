"""Patterns of layer names: the name itself, or wildcards with braces as in "blocks.{0,1}.*"."""
from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase


def _without_braces(pattern: str) -> list[str]:
    start = pattern.find("{")
    end = pattern.find("}", start + 1)
    if start < 0 or end < 0:
        return [pattern]
    tails = _without_braces(pattern[end + 1:])
    return [pattern[:start] + item + tail for item in pattern[start + 1:end].split(",") for tail in tails]


def matches(name: str, pattern: str) -> bool:
    """True when the pattern is the name or matches all of it."""
    return name == pattern or any(fnmatchcase(name, plain) for plain in _without_braces(pattern))


def matches_any(name: str, patterns: Iterable[str]) -> bool:
    return any(matches(name, pattern) for pattern in patterns)
