"""The small number types against ml_dtypes and NumPy, bit for bit.

Every code of every type is decoded. Encoded are: every f16 and bf16 pattern, every midpoint between
neighbouring values of every type with the floats around it, the edges of the float range, and a
million random bit patterns. Deviations that are meant to be there are tested apart.
"""

import subprocess

import ml_dtypes
import numpy as np
import pytest

TYPES = {
    "bf16": ml_dtypes.bfloat16,
    "f16": np.float16,
    "f8_e4m3": ml_dtypes.float8_e4m3fn,
    "f8_e5m2": ml_dtypes.float8_e5m2,
    "f8_e8m0": ml_dtypes.float8_e8m0fnu,
    "f4_e2m1": ml_dtypes.float4_e2m1fn,
}
CODES = {"bf16": 65536, "f16": 65536, "f8_e4m3": 256, "f8_e5m2": 256, "f8_e8m0": 256, "f4_e2m1": 16, "int4": 16}
LARGEST = {"f8_e4m3": 448.0, "f8_e5m2": 57344.0}
ENCODED = ["bf16", "f16", "f8_e4m3", "f8_e5m2", "f4_e2m1"]


def unsigned(name):
    return np.uint16 if CODES[name] == 65536 else np.uint8


def all_values(name):
    codes = np.arange(CODES[name], dtype=unsigned(name))
    with np.errstate(all="ignore"):
        return codes.view(TYPES[name]).astype(np.float32)


def midpoints(name):
    values = all_values(name)
    values = np.unique(values[np.isfinite(values)]).astype(np.float64)
    exact = (values[1:] + values[:-1]) / 2
    # Half a step beyond the largest value is where overflow begins.
    step = values[-1] - values[-2]
    exact = np.concatenate([exact, [values[-1] + step / 2, -values[-1] - step / 2]])
    with np.errstate(over="ignore"):
        middle = exact.astype(np.float32)
    return np.concatenate([np.nextafter(middle, np.float32(-np.inf)), middle, np.nextafter(middle, np.float32(np.inf))])


def inputs():
    random = np.random.default_rng(7).integers(0, 1 << 32, 1_000_000, dtype=np.uint32).view(np.float32)
    # Patterns drawn evenly hardly ever fall in the narrow range of the 8- and 4-bit types.
    near = (np.random.default_rng(8).standard_normal(1_000_000) * 8).astype(np.float32)
    edges = np.array([0.0, -0.0, np.inf, -np.inf, 1e-45, -1e-45, 3.4028235e38, -3.4028235e38], np.float32)
    nans = np.array([0x7FC00000, 0xFFC00000, 0x7F800001, 0xFF800001, 0x7FFFFFFF, 0xFFFFFFFF], np.uint32).view(np.float32)
    parts = [all_values("f16"), all_values("bf16"), random, near, edges, nans]
    parts += [midpoints(name) for name in ENCODED]
    halves = np.arange(-24, 24, 0.25, dtype=np.float32)
    return np.concatenate([*parts, halves])


@pytest.fixture(scope="module")
def decoded(build, tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoded")
    subprocess.run([build / "tests/number_types_dump", "decode", folder], check=True)
    return {name: np.fromfile(folder / f"{name}.f32", np.float32) for name in CODES}


@pytest.fixture(scope="module")
def encoded(build, tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoded")
    floats = inputs()
    floats.tofile(folder / "in.f32")
    subprocess.run([build / "tests/number_types_dump", "encode", folder / "in.f32", folder], check=True)
    names = [*ENCODED, "int4"]
    codes = {name: np.fromfile(folder / f"{name}.code", unsigned(name)) for name in names}
    for name in LARGEST:
        codes[name + "_saturated"] = np.fromfile(folder / f"{name}_saturated.code", np.uint8)
    return floats, codes


def same_bits(got, want, shown):
    wrong = np.flatnonzero(got != want)
    assert wrong.size == 0, (
        f"{wrong.size} of {got.size} differ; first: {shown[wrong[0]]!r} gives {got[wrong[0]]:#x}, not {want[wrong[0]]:#x}"
    )


@pytest.mark.parametrize("name", TYPES)
def test_every_code_decodes_as_the_reference_does(decoded, name):
    got, want = decoded[name].view(np.uint32), all_values(name).view(np.uint32)
    assert got.size == CODES[name]
    nan = np.isnan(want.view(np.float32))
    assert np.array_equal(nan, np.isnan(decoded[name]))
    same_bits(got[~nan], want[~nan], np.arange(got.size)[~nan])
    if name not in ("bf16", "f16"):  # NumPy keeps signalling NaNs of f16; they become quiet here
        same_bits(got[nan] & 0x7FFFFFFF, want[nan] & 0x7FFFFFFF, np.arange(got.size)[nan])
    signs = got >> 31
    if name != "f8_e8m0":
        assert np.array_equal(signs, np.arange(got.size) // (got.size // 2))


def test_half_precision_nans_keep_sign_and_payload_and_become_quiet(decoded):
    codes = np.arange(65536, dtype=np.uint32)
    nan = ((codes & 0x7C00) == 0x7C00) & ((codes & 0x3FF) != 0)
    want = ((codes & 0x8000) << 16) | 0x7FC00000 | ((codes & 0x3FF) << 13)
    same_bits(decoded["f16"].view(np.uint32)[nan], want[nan], codes[nan])


@pytest.mark.parametrize("name", ENCODED)
def test_encoding_rounds_as_the_reference_does(encoded, name):
    floats, codes = encoded
    with np.errstate(all="ignore"):
        want = floats.astype(TYPES[name]).view(unsigned(name))
    got = codes[name]
    if name == "f4_e2m1":
        want = want & 0xF
    finite = ~np.isnan(floats)
    same_bits(got[finite], want[finite], floats[finite])
    if name not in ("f16", "f4_e2m1"):  # see the next tests
        same_bits(got[~finite], want[~finite], floats[~finite])


def test_half_precision_takes_nans_as_the_processor_does(encoded):
    floats, codes = encoded
    bits = floats.view(np.uint32)
    nan = np.isnan(floats)
    want = (((bits >> 16) & 0x8000) | 0x7E00 | ((bits >> 13) & 0x3FF)).astype(np.uint16)
    same_bits(codes["f16"][nan], want[nan], bits[nan])


def test_fp4_takes_nans_of_either_sign_as_negative_zero(encoded):
    floats, codes = encoded
    assert (codes["f4_e2m1"][np.isnan(floats)] == 8).all()  # ml_dtypes: 8 or 0, by the sign of the NaN


@pytest.mark.parametrize("name", LARGEST)
def test_saturation_differs_only_where_the_plain_form_overflows(encoded, name):
    floats, codes = encoded
    with np.errstate(all="ignore"):
        plain = floats.astype(TYPES[name])
    overflown = ~np.isnan(floats) & ~np.isfinite(plain.astype(np.float32))
    assert overflown.any()
    want = np.where(overflown, np.copysign(LARGEST[name], floats).astype(TYPES[name]), plain).view(np.uint8)
    same_bits(codes[name + "_saturated"], want, floats)


def test_int4_clamps_where_the_reference_wraps(encoded, decoded):
    floats, codes = encoded
    with np.errstate(all="ignore"):
        want = np.nan_to_num(np.clip(np.rint(floats), -8, 7), nan=0.0).astype(np.int64) & 0xF
    same_bits(codes["int4"].astype(np.int64), want, floats)
    every = np.arange(16, dtype=np.uint8).view(ml_dtypes.int4).astype(np.float32)
    assert np.array_equal(decoded["int4"], every)
