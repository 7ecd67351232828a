#!/usr/bin/env python3
"""Writes docs/python_api.md from the signatures and docstrings of the package; with --check it only tells whether that page is current.

The built package must be importable (PYTHONPATH=build/release/python)."""
import argparse
import inspect
import sys
import textwrap
from pathlib import Path

import aerogel

PAGE = Path(__file__).resolve().parents[1] / "docs/python_api.md"
HEAD = """# Python API

Everything that `import aerogel` offers, from the docstrings; `make docs` writes this page. [python.md](python.md) is the introduction.
`Array` is a `numpy.ndarray` or a `torch.Tensor`. `ArrayT` is the same, but all of a call, and its result, are of one kind.
"""
WIDTH = 110


class _Annotation:
    """A type as it is written in the source."""

    def __init__(self, text):
        self.text = str(text)

    def __repr__(self):
        return self.text


def signature(name, thing):
    """name(parameters) -> type; one parameter per line where the line would be long."""
    found = inspect.signature(thing)
    parameters = [p.replace(annotation=_Annotation(p.annotation) if isinstance(p.annotation, str) else p.annotation)
                  for p in found.parameters.values() if p.name not in ("self", "cls") and not p.name.startswith("_")]
    returned = f" -> {found.return_annotation}" if isinstance(found.return_annotation, str) and not inspect.isclass(thing) else ""
    line = f"{name}{inspect.Signature(parameters)}{returned}"
    if len(line) <= WIDTH:
        return line
    parts = [*map(str, parameters)]
    kinds = [p.kind for p in parameters]
    if inspect.Parameter.KEYWORD_ONLY in kinds and inspect.Parameter.VAR_POSITIONAL not in kinds:
        parts.insert(kinds.index(inspect.Parameter.KEYWORD_ONLY), "*")
    return "\n".join([f"{name}(", *(f"    {part}," for part in parts), f"){returned}"])


def escaped(line):
    """Markdown's own signs made plain outside of code."""
    pieces = line.split("`")
    pieces[::2] = [p.replace("*", r"\*").replace("<", r"\<") for p in pieces[::2]]
    return "`".join(pieces)


def prose(thing):
    lines = textwrap.dedent(inspect.getdoc(thing) or "").splitlines()
    return "\n".join(line if line.startswith("    ") else escaped(line) for line in lines)


def own_members(cls):
    """(name, function or property) of the documented public members that the class itself defines, in the order of the source."""
    for name, member in vars(cls).items():
        function = getattr(member, "__func__", member)
        if not name.startswith("_") and (inspect.isfunction(function) or isinstance(member, property)) and function.__doc__:
            yield name, member if isinstance(member, property) else function


def property_title(name, member):
    returned = inspect.signature(member.fget).return_annotation
    return f"{name}: {returned}" if isinstance(returned, str) else name


def class_parts(name, cls):
    parts = [f"```python\nclass {signature(name, cls) if '__init__' in vars(cls) else name}\n```", prose(cls)]
    for member_name, member in own_members(cls):
        write = property_title if isinstance(member, property) else signature
        title = write(f"{name}.{member_name}", member)
        parts += [f"```python\n{title}\n```", prose(member)]
    return parts


def page():
    parts = [HEAD]
    for name in aerogel.__all__:
        thing = getattr(aerogel, name)
        parts.append(f"## {name}")
        if inspect.isclass(thing):
            parts += class_parts(name, thing)
        elif inspect.isfunction(thing):
            parts += [f"```python\n{signature(name, thing)}\n```", prose(thing)]
        else:  # of the extension, whose docstrings begin with the signature
            first, _, rest = thing.__doc__.partition("\n")
            parts += [f"```python\n{first}\n```", escaped(rest.strip())]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail when the page is not current")
    options = parser.parse_args()
    text = page()
    if not options.check:
        PAGE.write_text(text)
        return 0
    if PAGE.exists() and PAGE.read_text() == text:
        return 0
    print(f"{PAGE} is not current: run make docs", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
