"""The figures as a table of all rows, and as the summary of one line a problem that stands in the README."""
import math
import statistics

from .measure import ratio

INTEGERS = {True: "exact", False: "not exact"}


def completed(rows: list[dict], operations: float) -> list[dict]:
    """The rows of one problem with medians, rates and ratios: a peer is compared with our row of the same type (at the machine's own level), ours of a
    lesser level or in int8 with our first one."""
    good = [row for row in rows if "failed" not in row]
    ours = {row["variant"]: row for row in good if row["ours"] and not row["lesser"]}
    for row in good:
        row["median"] = statistics.median(row["seconds"])
        row["spread"] = max(row["seconds"]) / min(row["seconds"]) - 1
        row["gops"] = operations / row["median"] / 1e9
        row["exact"] = row["wrong_integers"] == 0 if row["integers"] else None
        base = ours.get(row["dtype"])
        if base is not None:
            row["times"] = ratio(row, base)  # its time over ours
        if not row["ours"] and row["dtype"] == "f32" and "int8" in ours:
            row["times_int8"] = ratio(row, ours["int8"])
    return rows


def verdict(row: dict) -> str:
    if row.get("exact") is None:
        return "-"
    return "exact" if row["exact"] else f"not exact ({100 * row['wrong_integers']:.3g} %)"


def cells(row: dict) -> list[str]:
    """Of the table of all rows."""
    if "failed" in row:
        return [row["side"], *["-"] * 5, row["failed"]]
    error = "NaN" if math.isnan(row["error"]) else f"{row['error']:.1e}"
    return [row["side"], f"{1e3 * row['median']:.1f}", f"{100 * row['spread']:.0f} %", f"{row['gops']:.0f}",
            f"{row['times']:.2f} x" if "times" in row else "-", error, verdict(row)]


HEADERS = ("side", "ms", "spread", "GOPS", "its time / ours", "error", "integers")


def columns(problems: list[dict]) -> list[str]:
    """The peers that any of these problems has, in the order of the table."""
    return list(dict.fromkeys(row["peer"] for problem in problems for row in problem["rows"] if not row["ours"]))


def cell(problem: dict, peer: str) -> str:
    """The lowest of our ratios to a peer's rows, over its types; a star: its integers are not exact."""
    rows = [row for row in problem["rows"] if row["peer"] == peer and not row["ours"]]
    if not rows:
        return ""
    good = [row for row in rows if "times" in row]
    if not good:
        return "fails"
    times = min(row["times"] for row in good)
    star = "\\*" if any(row.get("exact") is False for row in good) else ""
    return f"{times:.2f}{star}" if all(math.isfinite(row["error"]) for row in good) else f"{times:.2f}, NaN"


TITLES = {"linear W8A8_DYNAMIC (m x n x k)": ("linear",),
          "attention (heads x tokens x head_dim; cross: with those of the text)": ("attention", "cross", "sparse")}


def line(problem: dict, level: str, peers: list[str]) -> list[str]:
    """Of a problem at a level: its name, the ratios to the peers, and our own figures."""
    ours = {row["variant"]: row for row in problem["rows"] if row["ours"] and not row["lesser"] and "failed" not in row}
    kind = f"{problem['kind']}, " if problem["kind"] in ("cross", "sparse") else ""
    name = f"{problem['model']}, {kind}{' x '.join(map(str, problem['sizes']))}"
    first = ours.get("f32")
    own = ["fails"] * 3
    if first is not None and problem["kind"] == "linear":
        own = [f"{first['gops']:.0f}", f"{first['error']:.1e}", verdict(first)]
    elif first is not None:
        own = [f"{first['gops']:.0f}", f"{first['error']:.1e}", f"{ratio(first, ours['int8']):.2f}" if "int8" in ours else "-"]
    return [name, level, *(cell(problem, peer) for peer in peers), *own]


def markdown(results: list[dict]) -> str:
    """Tables of several runs, each held to another level: a line a problem and level, the peers as columns."""
    lines = []
    for title, kinds in TITLES.items():
        found = [(problem, result["cpu"]["level"]) for result in results for problem in result["problems"] if problem["kind"] in kinds]
        if not found:
            continue
        peers = columns([problem for problem, _ in found])
        header = [title, "level", *peers, "GOPS", "error", "integers" if "linear" in kinds else "int8"]
        order = list(dict.fromkeys(problem["name"] for problem, _ in found))
        rows = [line(problem, level, peers) for problem, level in sorted(found, key=lambda one: order.index(one[0]["name"]))]
        lines += [f"| {' | '.join(header)} |", "| --- | --- |" + " ---: |" * (len(header) - 2), *(f"| {' | '.join(row)} |" for row in rows), ""]
    return "\n".join(lines)
