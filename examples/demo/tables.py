"""The two tables of the demo, as cells, for the terminal and in Markdown."""

from rich.table import Table

QUALITY_HEADERS = ["run", "PSNR dB", "SSIM", "cosine", "attention computed", "weights", "peak memory", "s / step"]
SPEED_HEADERS = ["run", "time of the block", "speed", "error", "cosine", "attention computed"]


def decibels(value: float | str) -> str:
    return "same" if value == "inf" else f"{float(value):.1f}"


def quality_rows(part: dict) -> list[list[str]]:
    """The rows under QUALITY_HEADERS."""
    return [
        [
            row["name"],
            decibels(row["psnr"]),
            f"{row['ssim']:.3f}",
            f"{row['cosine']:.4f}",
            f"{100 * row['density']:.0f} %",
            f"{row['weight_bytes'] / 1e6:.1f} MB",
            f"{row['peak_memory_bytes'] / 1e6:.0f} MB",
            f"{row['seconds_per_step']:.2f}",
        ]
        for row in part["runs"]
    ]


def speed_rows(part: dict) -> list[list[str]]:
    """The rows under SPEED_HEADERS; the error is the relative L2 distance to float."""
    return [
        [
            row["name"],
            f"{row['seconds']:.2f} s",
            f"{row['speed']:.2f} x",
            f"{100 * row['relative_l2']:.1f} %",
            f"{row['cosine']:.5f}",
            f"{100 * row['density']:.0f} %",
        ]
        for row in part["runs"]
    ]


def machine(part: dict) -> str:
    cpu = part["cpu"]
    return f"{cpu['name']}, {cpu['level'].upper().replace('AVX512', 'AVX-512')}, {cpu['threads']} threads"


def as_rich(headers: list[str], rows: list[list[str]], title: str) -> Table:
    table = Table(title=title)
    for index, header in enumerate(headers):
        table.add_column(header, justify="right" if index else "left")
    for cells in rows:
        table.add_row(*cells)
    return table


def as_markdown(headers: list[str], rows: list[list[str]]) -> str:
    lines = [headers, ["---"] + ["---:"] * (len(headers) - 1), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def markdown(results: dict) -> str:
    """Both tables, each under a line that names the machine."""
    quality, speed = results["quality"], results["speed"]
    return "\n\n".join(
        [
            f"Quality, {machine(quality)}:",
            as_markdown(QUALITY_HEADERS, quality_rows(quality)),
            f"Speed, {machine(speed)}, median of {speed['turns']} turns:",
            as_markdown(SPEED_HEADERS, speed_rows(speed)),
        ]
    )
