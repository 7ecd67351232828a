"""The machine code of the CUDA kernels, for every target: the products are those of the tensor cores that the kernel is
for, nothing is spilled to local memory, fp8 is not multiplied in half precision, and wgmma is not waited for one by one."""

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

# Kernel -> the instructions that multiply, where every target has the same; None: it multiplies nothing.
PRODUCTS = {"elementwise": None, "convolution": "HMMA", "quantize": None, "linear_int8": "IMMA", "linear_int4": "IMMA", "linear_bf16": "HMMA",
            "linear_int8_sm90": "IGMMA", "linear_bf16_sm90": "HGMMA", "linear_int4_sm90": "IGMMA", "linear_codes_sm90": "HGMMA", "linear_fp8": "QMMA", "linear_fp8_sm90": "QGMMA", "linear_mx_sm120": "QMMA",
            "linear_mxfp4_sm120": "OMMA",
            "attention": "HMMA", "int8_attention": "IMMA", "int8_qk_attention": "HMMA IMMA", "attention_sm90": "HGMMA", "int8_qk_sm90": "HGMMA IGMMA", "int8_scales": None, "attention_rounding": None, "planning": "HMMA"}
CARDS = (80, 86, 89, 90, 100, 120)
LOAD = """
import ctypes, sys
driver, context, module = ctypes.CDLL(sys.argv[1]), ctypes.c_void_p(), ctypes.c_void_p()
assert driver.cuInit(0) == driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == driver.cuCtxPushCurrent_v2(context) == 0
for path in sys.argv[2:]:
    if driver.cuModuleLoadData(ctypes.byref(module), open(path, "rb").read()) == 0:
        print(path)
"""
PRODUCT = re.compile(r"\b([IHQO]G?MMA)\b")


def cuobjdump():
    found = sorted(Path(sysconfig.get_paths()["purelib"]).glob("nvidia/cu*/bin/cuobjdump"))
    assert found, "make setup installs cuobjdump (requirements.txt)"
    return found[-1]


def problems(name, sass, usage):
    """What is wrong with the code of one kernel source for one target."""
    found = [f"{name}: {m[1]} uses local memory: {m[2]}" for m in
             re.finditer(r"Function (\w+):\s*\n\s*(.*(?:STACK|LOCAL):[1-9].*)", usage)]
    kernel = name.partition(".")[0]
    products = set(PRODUCT.findall(sass))
    if kernel in PRODUCTS and products != set((PRODUCTS[kernel] or "").split()):
        found.append(f"{name}: multiplies with {sorted(products)}, expected is {PRODUCTS[kernel]}")
    if "fp8" in kernel and "HMMA" in products:
        found.append(f"{name}: fp8 is multiplied in half precision")
    for body in re.split(r"Function : ", sass)[1:]:
        groups, waits = len(re.findall(r"\b[IHQ]GMMA\b", body)), len(re.findall(r"\bWARPGROUP\.ARRIVE\b", body))
        if groups > 1 and waits >= groups:
            found.append(f"{name}: {body.split()[0]} waits for each wgmma")
    return found


def test_machine_code(build):
    folder = build / "cuda"
    if not folder.exists():
        pytest.skip("built without CUDA kernels (no nvcc)")
    sources = {p.stem for p in (Path(__file__).parents[2] / "src/kernels/cuda").glob("*.cu")}
    cubins = [p for p in sorted(folder.glob("*.cubin")) if p.name.partition(".")[0] in sources]
    assert {p.name.partition(".")[0] for p in cubins} == sources
    tool = cuobjdump()
    dump = lambda flag, path: subprocess.run([tool, flag, path], capture_output=True, text=True, check=True).stdout
    found = [problem for path in cubins for problem in problems(path.name, dump("-sass", path), dump("-res-usage", path))]
    assert found == []


def cards_of(image):
    """The cards that an image is for, as src/kernels/cuda/list.cpp says of its rows."""
    if image in ("linear_fp8", "primitives_sm89"):
        return (89, 120)
    return next((cards for end, cards in (("_sm90", (90,)), ("_sm120", (120,))) if image.endswith(end)), CARDS)


@pytest.mark.parametrize("card", CARDS)
def test_every_card_finds_its_images(build, card):
    driver, images = build / "libaerogel_fake_driver.so", sorted((build / "cuda").glob("*.fatbin"))
    if not images or not driver.exists():
        pytest.skip("built without CUDA kernels (no nvcc), or no emulator in this build")
    loaded = subprocess.run([sys.executable, "-c", LOAD, driver, *images], env=os.environ | {"AEROGEL_FAKE_SM": str(card)},
                            capture_output=True, text=True, check=True).stdout.split()
    assert {Path(p).stem for p in loaded} == {p.stem for p in images if card in cards_of(p.stem)}


USAGE = " Function aerogel_f:\n  REG:22 STACK:0 SHARED:0 LOCAL:0\n"
SASS = "\tFunction : aerogel_f\n  /*0000*/ IMMA.16832.S8.S8 R1 ;\n"


@pytest.mark.parametrize("name, sass, usage, says", [
    ("linear_int8.sm_80.cubin", SASS, USAGE, []),
    ("linear_int8.sm_80.cubin", SASS.replace("IMMA", "HMMA"), USAGE, ["multiplies with ['HMMA'], expected is IMMA"]),
    ("linear_int8.sm_80.cubin", "", USAGE, ["multiplies with [], expected is IMMA"]),
    ("elementwise.sm_80.cubin", SASS, USAGE, ["expected is None"]),
    ("linear_int8.sm_80.cubin", SASS, USAGE.replace("STACK:0", "STACK:8"), ["aerogel_f uses local memory"]),
    ("linear_fp8.sm_89.cubin", SASS.replace("IMMA", "HMMA"), USAGE, ["expected is QMMA", "in half precision"]),
    ("linear_int8_sm90.sm_90a.cubin", "Function : aerogel_g\n" + "WARPGROUP.ARRIVE ;\nIGMMA R1 ;\n" * 3, USAGE, ["aerogel_g waits for each wgmma"]),
])
def test_what_is_wrong_is_seen(name, sass, usage, says):
    found = problems(name, sass, usage)
    assert len(found) == len(says) and all(part in text for part, text in zip(says, found, strict=True))
