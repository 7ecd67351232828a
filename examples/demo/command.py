"""Runs the command `aerogel`: its report on success, its own message otherwise; Ctrl-C stops it and waits for it."""

import json
import signal
import subprocess
import sys

GRACE_SECONDS = 20  # for the command to tidy up after Ctrl-C


def stop_on_terminate() -> None:
    """SIGTERM ends the demo as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def run(command: list, quiet: bool = False) -> dict:
    """The JSON that a command prints ({} for none). `quiet` keeps its progress bar off the terminal."""
    words = [str(part) for part in command]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE if quiet else None, text=True)
    try:
        printed, complaint = process.communicate()
    except KeyboardInterrupt:
        stop(process)
        raise
    if process.returncode != 0:
        sys.exit(f"{complaint or ''}demo: failed ({process.returncode}): {' '.join(words)}")
    return json.loads(printed) if "--json" in words else {}


def stop(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.communicate(timeout=GRACE_SECONDS)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.kill()
        process.communicate()
