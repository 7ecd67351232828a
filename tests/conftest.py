"""Fixtures shared by the Python tests: where the built programs are, and how to run the command."""

import os
import pathlib
import signal
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]

# A shell starts what runs in its background with Ctrl-C ignored, and children would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def build() -> pathlib.Path:
    """The build folder: AEROGEL_BUILD, or build/release."""
    return pathlib.Path(os.environ.get("AEROGEL_BUILD", ROOT / "build/release"))


@pytest.fixture(scope="session")
def aerogel(build):
    """Runs the command: aerogel("inspect", path, env={...}) -> CompletedProcess with text output."""

    def run(*arguments, env=None, **options) -> subprocess.CompletedProcess:
        command = [str(build / "aerogel"), *map(str, arguments)]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, **(env or {})}, **options
        )

    return run
