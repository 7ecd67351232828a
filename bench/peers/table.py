"""Everything that bench/compare.py measures: ours first, then the peers.

To add a peer, write a module with `prepare(problem, arrays, variant)` and `about()` as in worker.py, and add a row."""
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    name: str  # in reports
    module: str  # the file in this folder
    kinds: tuple[str, ...]  # of problems: "linear", "attention" (dense), "cross" (of few keys), "sparse" (under a mask of blocks)
    variant: str  # what the module makes of it: the type of what goes in and comes out, or a format
    integers: bool = False  # multiplies int8 by int8, so that its products can be compared with exact ones
    held: bool = True  # can be held to a CPU level from outside (HOLDS in side.py)
    grid: str = "symmetric"  # how it rounds to int8 (Problem.integer_arrays)

    @property
    def ours(self) -> bool:
        return self.module == "ours"

    @property
    def peer(self) -> str:
        """What a column of the summary shows: the name without the type of what is quantized."""
        return self.name if self.module == "torch_float" else self.name.removesuffix(" bf16").removesuffix(" f32")

    @property
    def dtype(self) -> str:
        return "bf16" if self.variant == "bf16" else "f32"


LINEAR, DENSE, SPARSE = ("linear",), ("attention", "cross"), ("sparse",)
ROWS = (
    Row("aerogel W8A8_DYNAMIC", "ours", LINEAR, "f32", integers=True),
    Row("aerogel W8A8_DYNAMIC bf16", "ours", LINEAR, "bf16", integers=True),
    Row("aerogel", "ours", (*DENSE, *SPARSE), "f32"),
    Row("aerogel bf16", "ours", (*DENSE, *SPARSE), "bf16"),
    Row("aerogel int8", "ours", (*DENSE, *SPARSE), "int8"),
    Row("torch f32", "torch_float", (*LINEAR, *DENSE), "f32"),
    Row("torch bf16", "torch_float", (*LINEAR, *DENSE), "bf16"),
    Row("torchao int8", "torchao_int8", LINEAR, "f32", integers=True, grid="half"),
    Row("torchao int8 bf16", "torchao_int8", LINEAR, "bf16", integers=True, grid="half"),
    Row("onnxruntime int8", "onnxruntime_int8", LINEAR, "f32", integers=True, held=False, grid="asymmetric"),
    Row("OpenVINO int8", "openvino_int8", LINEAR, "f32", integers=True),
    Row("SDNQ int8", "sdnq_int8", LINEAR, "f32", integers=True),
    Row("SDNQ int8 bf16", "sdnq_int8", LINEAR, "bf16", integers=True),
    Row("flex_attention", "flex", SPARSE, "f32"),
    Row("flex_attention bf16", "flex", SPARSE, "bf16"),
)


def rows_of(kind: str, only: list[str], rows: tuple[Row, ...] = ROWS) -> list[Row]:
    """Rows that take such problems; ours, and those of the peers whose name contains one of `only`, if that is not empty."""
    return [row for row in rows if kind in row.kinds and (row.ours or not only or any(part.lower() in row.name.lower() for part in only))]
