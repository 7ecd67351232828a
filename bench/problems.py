"""The files of tests/problems, which tests and benchmarks share: lines of words "key=value"; '#' starts a comment."""

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "tests/problems"


def lines(kind: str) -> list[dict[str, str]]:
    """Of tests/problems/KIND.txt, in their order."""
    text = (FOLDER / f"{kind}.txt").read_text().splitlines()
    return [dict(word.split("=", 1) for word in line.split()) for line in text if line and not line.startswith("#")]


def size(text: str) -> tuple[int, ...]:
    """(21, 30, 52) of "21x30x52"."""
    return tuple(int(part) for part in text.split("x"))


@dataclass
class Model:
    """A line of models.txt."""

    name: str
    class_name: str  # of diffusers
    blocks: int
    heads: int
    head_dim: int
    layers: list[tuple[int, int]]  # the Linears of a block, [n, k]
    latent: tuple[int, int, int]  # frames, height and width in tokens
    measured: tuple[int, int, int]  # what benchmarks take instead, or the same
    text: int  # tokens of text in the same attention
    cross: int  # tokens of text in an attention of their own; 0: none

    @property
    def width(self) -> int:
        return self.heads * self.head_dim


def models(class_name: str | None = None) -> dict[str, Model]:
    """By name; of one class only."""
    found = {}
    for line in lines("models"):
        model = Model(line["model"], line["class"], int(line["blocks"]), int(line["heads"]), int(line["head_dim"]),
                      [size(layer) for layer in line["layers"].split(",")], size(line["latent"]), size(line.get("measured", line["latent"])),
                      int(line.get("text", 0)), int(line.get("cross", 0)))
        if class_name in (None, model.class_name):
            found[model.name] = model
    return found
