"""Every function of primitives/ has a check against plain arithmetic (tests/kernels/cuda/primitive_checks)."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
# No number to compare: how much there is of registers, addresses, fences (without which checks fail on the emulator), and what no kernel uses.
WITHOUT = {"shared", "address", "set_registers_up", "set_registers_down", "wgmma_hold", "tma_prefetch", "tma_load_2d", "tma_load_3d", "tma_load_4d"}


def test_every_primitive_is_checked():
    headers = "".join(p.read_text() for p in (ROOT / "src/kernels/cuda/primitives").glob("*.h"))
    functions = set(re.findall(r"^AEROGEL_DEVICE [\w:]+ (\w+)\(", headers, re.M)) | set(re.findall(r"AEROGEL_WGMMA_[SR]S\((wgmma_\w+),", headers))
    functions |= set(re.findall(r"__forceinline__ [\w:]+ (\w+)\(", headers))
    checks = "".join(p.read_text() for p in (ROOT / "tests/kernels/cuda/primitive_checks").glob("*.cu*"))
    assert len(functions) > 40
    assert {f for f in functions - WITHOUT if not re.search(rf"\b{f}\b", checks)} == set()
