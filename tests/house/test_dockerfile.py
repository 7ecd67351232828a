"""The container's second stage has the libraries that the command needs, and no others."""
import pathlib
import platform
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def is_debian_12():
    release = pathlib.Path("/etc/os-release")
    return platform.machine() == "x86_64" and release.exists() and 'PRETTY_NAME="Debian GNU/Linux 12' in release.read_text()


def packages():
    """Those that the last stage installs."""
    stage = (ROOT / "Dockerfile").read_text().split("\nFROM ")[-1].replace("\\\n", " ")
    listed = re.search(r"apt-get install -y --no-install-recommends (.*?)&&", stage, re.DOTALL)
    return set(listed.group(1).split())


def package_of(library):
    """The Debian package of a library by its soname."""
    path = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    place = next(line.split("=> ")[1] for line in path.splitlines() if line.strip().startswith(library + " ") and "x86-64" in line)
    for name in (place, f"/usr{place}", place.removeprefix("/usr")):  # /lib is a link to /usr/lib
        done = subprocess.run(["dpkg", "-S", name], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return done.stdout.split(":")[0]
    raise AssertionError(f"no package has {place}")


@pytest.mark.skipif(not is_debian_12(), reason="the names of the packages are those of Debian 12 on x86-64")
def test_the_last_stage_has_what_the_command_needs(build):
    done = subprocess.run(["readelf", "-d", build / "aerogel"], capture_output=True, text=True, check=True)
    needed = set(re.findall(r"\(NEEDED\).*\[(.*)\]", done.stdout))
    always = {"libc6", "libgcc-s1"}  # of every Debian
    assert {package_of(library) for library in needed} - always == packages() - {"ffmpeg"}
