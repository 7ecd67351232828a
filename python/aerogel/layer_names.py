"""Patterns of layer names: the name itself, or wildcards with braces as in "blocks.{0,1}.*"."""
from __future__ import annotations

from collections.abc import Iterable

from aerogel import _core


def matches(name: str, pattern: str) -> bool:
    """True when the pattern is the name or matches all of it, as in select_layers. ValueError on a brace that is not closed."""
    return name == pattern or _core.name_matches(pattern, name)


def matches_any(name: str, patterns: Iterable[str]) -> bool:
    return any(matches(name, pattern) for pattern in patterns)
