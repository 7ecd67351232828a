"""Runs clang-tidy on every source of the library and the command, and remembers what was clean.

It configures a build tree of its own. Sources of a folder are looked at together, as they are compiled: what their headers have in common is read
once, which takes a third of the time. --alone looks at each by itself, so that each must include what it uses.
A file is looked at again when it, a source or header of the project it includes, its compile command, a .clang-tidy or
clang-tidy itself changed; so the first run costs minutes and the next one seconds."""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from source_tree import ROOT, includes

EXTRA = ["--extra-arg=-Wno-unknown-warning-option", "--extra-arg=-Wno-unused-command-line-argument"]


def project_headers(source, include_folders):
    """The source and everything of this project that it includes, directly or not."""
    seen, todo = set(), [source]
    while todo:
        path = todo.pop()
        if path in seen:
            continue
        seen.add(path)
        for quoted, name in includes(path.read_text()):
            if quoted:
                todo += [p for p in (f / name for f in include_folders) if p.is_file()][:1]
    return sorted(seen)


def fingerprint(entry, include_folders, salt):
    digest = hashlib.sha256(salt)
    command = re.sub(r"\S*ccache\S* ", "", entry["command"])
    digest.update(command.encode())
    for path in project_headers(Path(entry["file"]), include_folders):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def check(tidy, build, entry):
    """clang-tidy's complaint about one source, or an empty string."""
    command = [tidy, "--quiet", "-p", str(build), *EXTRA, entry["file"]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr) if done.returncode else ""


def configure(build, alone):
    options = [f"-DAEROGEL_UNITY={'OFF' if alone else 'ON'}", "-DAEROGEL_BUILD_TESTS=OFF", "-DAEROGEL_BUILD_PYTHON=OFF"]
    done = subprocess.run(["cmake", "-S", ROOT, "-B", build, "-G", "Ninja", *options], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"tidy: cannot configure {build}: {done.stderr}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=Path, default=ROOT / "build/tidy", help="folder for its build tree and what it remembers")
    parser.add_argument("--alone", action="store_true", help="each source by itself")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("files", nargs="*", help="only sources whose path contains one of these, each by itself")
    options = parser.parse_args()

    tidy = shutil.which("clang-tidy-14") or shutil.which("clang-tidy")
    if not tidy:
        sys.exit("tidy: clang-tidy-14 is missing: run make setup")
    version = subprocess.run([tidy, "--version"], capture_output=True, check=True).stdout
    rules = [ROOT / ".clang-tidy", *sorted(ROOT.glob("src/**/.clang-tidy"))]
    salt = version + b"".join(path.read_bytes() for path in rules) + " ".join(EXTRA).encode()
    options.build = options.build.resolve() / ("alone" if options.alone or options.files else "together")
    configure(options.build, options.build.name == "alone")
    folders = [ROOT / "src", ROOT / "include", options.build / "include"]
    entries = json.loads((options.build / "compile_commands.json").read_text())
    entries = [e for e in entries if e["file"].startswith((f"{ROOT}/src/", f"{options.build}/CMakeFiles/"))]
    entries = [e for e in entries if not options.files or any(f in e["file"] for f in options.files)]

    cache = options.build / "clean"
    cache.mkdir(exist_ok=True)
    prints = {e["file"]: fingerprint(e, folders, salt) for e in entries}
    todo = [e for e in entries if not (cache / prints[e["file"]]).exists()]
    failed, start = 0, time.monotonic()
    with ThreadPoolExecutor(options.jobs) as pool:
        for entry, complaint in zip(todo, pool.map(lambda e: check(tidy, options.build, e), todo)):
            if complaint:
                failed += 1
                print(complaint)
            else:
                (cache / prints[entry["file"]]).touch()
    print(f"tidy: {len(entries)} sources, {len(todo)} checked in {time.monotonic() - start:.0f} s, {failed} with findings")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
