"""What the house tests know about the source tree: which files there are, their layers, their includes,
and where the functions of a C++ file begin and end. No compiler needed: clang-format's layout is assumed."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE_FOLDERS = ("include", "src", "bench", "examples", "fuzz", "python", "scripts", "tests")
CPP_SUFFIXES = (".cpp", ".h", ".cu", ".cuh")
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', re.M)
LAYER_LINE = re.compile(r"^// layer: (\w+)\s*$", re.M)
CONTROL = {"if", "for", "while", "switch", "catch", "return", "sizeof", "alignof", "decltype", "static_assert"}


def source_files(suffixes, root=ROOT, folders=SOURCE_FOLDERS):
    """Every file with one of the suffixes, as paths relative to root, sorted."""
    found = []
    for folder in folders:
        found += [p.relative_to(root) for p in (root / folder).rglob("*") if p.suffix in suffixes]
    return sorted(p for p in found if "__pycache__" not in p.parts)


def includes(text):
    """The includes of a C++ text as (is_quoted, name) pairs, comments ignored."""
    return [(m[1] == '"', m[2]) for m in INCLUDE.finditer(strip_comments(text))]


_TOKEN = re.compile(
    r"""//[^\n]*|/\*.*?\*/|R"(?P<tag>[^()\\\s]{0,16})\(.*?\)(?P=tag)"|"(?:\\.|[^"\\\n])*"|(?<![0-9A-Fa-f])'(?:\\.|[^'\\\n])+'""",
    re.S,
)


def strip_comments(text):
    """Replaces comments by spaces; keeps strings and line numbers."""
    def blank(match):
        return re.sub(r"[^\n]", " ", match[0]) if match[0].startswith("/") else match[0]

    return _TOKEN.sub(blank, text)


def strip_to_code(text):
    """Replaces comments, literals and preprocessor lines by spaces; keeps line numbers."""
    def blank(match):
        return re.sub(r"[^\n]", " ", match[0])

    text = _TOKEN.sub(blank, text)
    return re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", blank, text, flags=re.M)


def report(errors):
    """Fails the running test with one line per broken rule, if there is any."""
    if errors:
        pytest.fail("\n".join(errors), pytrace=False)


@dataclass
class Function:
    """One function definition or declaration of a C++ file; lines count from the signature to the brace."""

    name: str
    line: int
    lines: int
    parameters: int
    is_definition: bool


def split_arguments(text):
    """Splits at commas outside of any bracket: "int a, map<int, int> b" gives two."""
    parts, depth, start = [], 0, 0
    for i, c in enumerate(text):
        if c in "([{<":
            depth += 1
        elif c in ")]}" or (c == ">" and text[i - 1] != "-"):
            depth -= 1
        elif c == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    parts.append(text[start:])
    return [p for p in (p.strip() for p in parts) if p and p != "void"]


def _closing(code, start):
    """Index just after the bracket that closes code[start]."""
    opens, closes = code[start], {"{": "}", "(": ")"}[code[start]]
    depth = 0
    for match in re.compile(r"[%s%s]" % (re.escape(opens), closes)).finditer(code, start):
        depth += 1 if match[0] == opens else -1
        if depth == 0:
            return match.end()
    return len(code)


def _signature(header):
    """(name, parameters) of a function header, or None when the header is something else."""
    header = re.sub(r"\[\[.*?\]\]|__attribute__\s*\(\(.*?\)\)|\b(?:alignas|requires|explicit|noexcept)\s*\([^()]*\)",
                    lambda m: " " * len(m[0]), header)
    match = re.search(r"(operator\s*(?:\(\)|\[\]|[^\s\w(]+|\w+)|~?\w+)\s*\(", header)
    if not match or match[1] in CONTROL:
        return None
    before = header[: match.start()]
    if re.search(r"(?<![=!<>])=(?!=)", before) or re.match(r"\s*(using|typedef|friend class|namespace)\b", header):
        return None
    close = _closing(header, match.end() - 1)
    return match[1], split_arguments(header[match.end() : close - 1])


def functions(text):
    """Every function at namespace or class scope; lambdas and local classes count as part of theirs."""
    code = re.sub(r"\b(public|private|protected)\s*:(?!:)", lambda m: " " * len(m[0]), strip_to_code(text))
    found, start, i = [], 0, 0
    while i < len(code):
        c = code[i]
        if c == "(":
            i = _closing(code, i)
            continue
        if c == "{":
            header = code[start:i]
            if _is_initializer(code, i, header):
                i = _closing(code, i)
                continue
            signature = None if _opens_scope(header) else _signature(header)
            end = _closing(code, i)
            if signature:
                found.append(_function(code, start, end, signature, True))
                i = start = end
                continue
            if not _opens_scope(header):
                i = end
                continue
            start = i + 1
        elif c in ";}":
            signature = _signature(code[start:i]) if c == ";" else None
            if signature and code[start:i].strip():
                found.append(_function(code, start, i, signature, False))
            start = i + 1
        i += 1
    return found


def _function(code, start, end, signature, is_definition):
    first = start + len(code[start:end]) - len(code[start:end].lstrip())
    line = code.count("\n", 0, first) + 1
    return Function(signature[0], line, code.count("\n", first, end) + 1, len(signature[1]), is_definition)


def _opens_scope(header):
    header = re.sub(r"^\s*(template\s*<[^{]*?>\s*(?=class|struct|union))?", "", header)
    return bool(re.match(r"(inline\s+)?namespace\b|extern\s*$|(typedef\s+)?(class|struct|union)\b(?!.*\)\s*(const)?\s*(noexcept)?\s*$)",
                         header, re.S))


def _is_initializer(code, brace, header):
    """A brace that starts a value: after =, an operator or (as clang-format lays it out) glued to a name."""
    stripped = header.rstrip()
    if stripped.endswith(("=", ",", "return")) or re.match(r"\s*enum\b", header):
        return True
    if re.search(r"(?<![=!<>])=\s*\[", header) and "operator" not in header:
        return True
    return brace > 0 and (code[brace - 1].isalnum() or code[brace - 1] in "_>")
