"""A problem that all sides get, its arrays, and its result in float64."""
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

BLOCK = 128  # of masks
DENSITY = 0.2  # of masks
SAMPLED = 64  # rows of the result that are compared with float64
MOST_ROWS, MOST_HEADS = 1024, 12  # of a Linear and of an attention: so that a call of a side takes at most seconds


@dataclass(frozen=True)
class Problem:
    """kind linear: sizes m, n, k. kind attention and sparse: sizes heads, tokens, head_dim; cross: heads, tokens, those of k and v, head_dim."""

    kind: str
    model: str
    sizes: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.kind}/{self.model}/{'x'.join(map(str, self.sizes))}"

    @property
    def operations(self) -> float:
        if self.kind in ("linear", "cross"):
            return (2.0 if self.kind == "linear" else 4.0) * math.prod(self.sizes)
        heads, tokens, head_dim = self.sizes
        return 4.0 * heads * tokens * tokens * head_dim * (self.density if self.kind == "sparse" else 1)

    @property
    def density(self) -> float:
        return float(self.mask().mean())

    @property
    def sampled(self) -> np.ndarray:
        """The rows (queries) of the result that are compared."""
        count = self.sizes[0] if self.kind == "linear" else self.sizes[1]
        return np.unique(np.linspace(0, count - 1, SAMPLED).astype(int))

    def mask(self) -> np.ndarray:
        """bool [heads, blocks, blocks]: the diagonal, and others at random."""
        heads, tokens, _ = self.sizes
        blocks = -(-tokens // BLOCK)
        kept = np.random.default_rng(7).random((heads, blocks, blocks)) < DENSITY - 1 / blocks
        return kept | np.eye(blocks, dtype=bool)

    def arrays(self) -> dict[str, np.ndarray]:
        """Normal values in float32."""
        random = np.random.default_rng(1)
        normal = lambda *shape: random.standard_normal(shape, dtype=np.float32)
        if self.kind == "linear":
            m, n, k = self.sizes
            return {"x": normal(m, k), "weight": normal(n, k) / np.float32(math.sqrt(k)), "bias": normal(n)}
        heads, tokens, head_dim = self.sizes[0], self.sizes[1], self.sizes[-1]
        arrays = {name: normal(tokens if name == "q" else self.sizes[-2 if self.kind == "cross" else 1], heads, head_dim) for name in "qkv"}  # as Linears make them
        return arrays | ({"mask": self.mask()} if self.kind == "sparse" else {})

    def integer_arrays(self, grid: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """(the arrays that a side gets, the whole numbers that it must make of them): in every row some values are the largest, so that every scale,
        also of a group of columns, is 1. Sums of two products leave int16, as saturating instructions show; float32 holds all sums.

        grid: how the side rounds. "symmetric": -127 to 127. "asymmetric": activations -128 to 127, with one scale for the call. "half": the largest
        value is 127.5, which is clamped to 127."""
        m, n, k = self.sizes
        random = np.random.default_rng(2)

        def whole(rows: int) -> np.ndarray:
            values = random.integers(-127, 128, (rows, k)).astype(np.float32)
            if grid == "half":
                values[:, ::64] = 127
            else:
                values[:, ::16] = random.choice(np.array([-127, 127], np.float32), values[:, ::16].shape)
            return values

        integers = {"x": whole(m), "weight": whole(n), "bias": np.zeros(n, np.float32)}
        if grid == "asymmetric":
            integers["x"][integers["x"] == -127] = -128
        given = {name: np.where(array == 127, np.float32(127.5), array) if grid == "half" else array for name, array in integers.items()}
        return given, integers

    def exact(self, arrays: dict[str, np.ndarray]) -> np.ndarray:
        """The sampled rows in float64 (for attention: of the first head)."""
        rows = self.sampled
        if self.kind == "linear":
            return arrays["x"][rows].astype(np.float64) @ arrays["weight"].T.astype(np.float64) + arrays["bias"]
        q, k, v = (arrays[name][:, 0].astype(np.float64) for name in "qkv")
        scores = q[rows] @ k.T / math.sqrt(self.sizes[-1])
        if "mask" in arrays:
            seen = arrays["mask"][0][rows // BLOCK].repeat(BLOCK, axis=1)[:, : len(k)]
            scores[~seen] = -np.inf
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        return weights @ v / weights.sum(axis=1, keepdims=True)

    def sample(self, result: np.ndarray) -> np.ndarray:
        """What exact() computes, out of the whole result: [m, n], or [tokens, heads, head_dim]."""
        return result[self.sampled] if self.kind == "linear" else result[self.sampled, 0]


def relative_error(result: np.ndarray, exact: np.ndarray) -> float:
    """Relative L2 distance; NaN where the result has one."""
    return float(np.linalg.norm(result.astype(np.float64) - exact) / np.linalg.norm(exact))


def wrong_integers(result: np.ndarray, exact: np.ndarray, dtype: str) -> float:
    """The share of results that are no exact product of the integers: off by more than a half besides the rounding of the result to its type."""
    assert result.shape == exact.shape
    allowed = 0.5 + (2.0**-8 if dtype == "bf16" else 2.0**-22) * np.abs(exact)
    return float((~(np.abs(result.astype(np.float64) - exact) <= allowed)).mean())


def save(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


def load(folder: Path) -> dict[str, np.ndarray]:
    return {file.stem: np.load(file) for file in sorted(folder.glob("*.npy"))}
