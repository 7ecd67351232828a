#!/usr/bin/env python3
"""Checks what is in a wheel of aerogel (usage: check_wheel.py WHEEL): every module of the package, the extension, its types, the command,
and nothing else; and that neither needs a library of CUDA or PyTorch, so that one wheel serves every machine."""
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "python"
EXTENSION = re.compile(r"aerogel/_core\.[\w-]+\.so")
BUILT = ("aerogel/_core.pyi", "aerogel/bin/aerogel")


def problems(names):
    """names: the paths in the wheel. What is missing and what should not be there."""
    files = [name for name in names if not name.endswith("/") and ".dist-info/" not in name and "aerogel.libs/" not in name]
    packages = sorted({name.split("/")[0] for name in files})
    wanted = {str(path.relative_to(SOURCE)) for package in packages for path in (SOURCE / package).rglob("*")
              if path.suffix in (".py", ".pyi") or path.name == "py.typed"} | set(BUILT)
    found = [f"{name} is missing" for name in sorted(wanted - set(files))]
    found += [f"{name} does not belong there" for name in sorted(set(files) - wanted) if not EXTENSION.fullmatch(name)]
    extensions = sum(EXTENSION.fullmatch(name) is not None for name in files)
    if extensions != 1:
        found.append(f"there must be one extension aerogel/_core.*.so, got {extensions}")
    if "aerogel" not in packages:
        found.append("there is no package aerogel")
    if not any(name.endswith(".dist-info/entry_points.txt") for name in names):
        found.append("there are no entry points (the command aerogel)")
    return found


FOREIGN = re.compile(r"cuda|cudart|cublas|cudnn|nvrtc|nvidia|torch|c10")


def foreign_libraries(path):
    """The libraries of CUDA and PyTorch that the dynamic linker would look for with this program or library."""
    told = subprocess.run(["readelf", "-d", path], capture_output=True, text=True, check=True).stdout
    return [name for name in re.findall(r"\(NEEDED\).*\[(.+)\]", told) if FOREIGN.search(name)]


def needed_problems(wheel):
    with tempfile.TemporaryDirectory() as folder:
        programs = [name for name in wheel.namelist() if ".so" in Path(name).name or name == "aerogel/bin/aerogel"]
        return [f"{name} needs {library}" for name in programs for library in foreign_libraries(wheel.extract(name, folder))]


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with zipfile.ZipFile(sys.argv[1]) as wheel:
        names = wheel.namelist()
        foreign = needed_problems(wheel)
        mode = wheel.getinfo("aerogel/bin/aerogel").external_attr >> 16 if "aerogel/bin/aerogel" in names else 0
    found = problems(names) + foreign
    if not mode & 0o100:
        found.append("aerogel/bin/aerogel is not executable")
    for problem in found:
        print(f"{sys.argv[1]}: {problem}", file=sys.stderr)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
