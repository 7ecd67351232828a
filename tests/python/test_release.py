"""The wheel, built from the source distribution and installed where nothing else is: `make wheel` and what it leaves."""
import hashlib
import pathlib
import re
import subprocess
import sys
import tarfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build/wheel"


@pytest.fixture(scope="module")
def release():
    """scripts/release.sh looks at what is in the wheel and what it links to, runs the smoke test with NumPy alone, then an example with PyTorch."""
    done = subprocess.run([ROOT / "scripts/release.sh", "wheel"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def one(pattern):
    (path,) = FOLDER.glob(pattern)
    return path


def test_the_wheel_works_where_nothing_else_is(release):
    assert "works" in release and "PASSED" in release
    version = re.search(r"project\(aerogel VERSION ([0-9.]+)", (ROOT / "CMakeLists.txt").read_text()).group(1)
    tag = f"cp3{sys.version_info.minor}" if sys.version_info < (3, 12) else "cp312"
    assert re.fullmatch(rf"aerogel-{version}-{tag}-.*manylinux_2_\d+_x86_64\.whl", one("*.whl").name)
    assert one("*.tar.gz").name == f"aerogel-{version}.tar.gz"


def test_sums(release):
    lines = (FOLDER / "SHA256SUMS").read_text().splitlines()
    assert {line.split("  ")[1] for line in lines} == {path.name for path in FOLDER.glob("aerogel-*")}
    for line in lines:
        digest, name = line.split("  ")
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == digest


def test_the_source_distribution_is_small_and_whole(release):
    with tarfile.open(one("*.tar.gz")) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"CMakeLists.txt", "LICENSE", "README.md", "pyproject.toml", "tests/problems/linear.txt"} <= names
    assert not any(name.startswith(("build/", ".venv", "fuzz/", "dist/")) for name in names)
    assert one("*.tar.gz").stat().st_size < 3_000_000
