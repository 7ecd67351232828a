"""Runs the command with one file-system call going wrong, by the preloaded tests/fault/fault_shim.cpp."""
import dataclasses
import errno
import os
import pathlib
import subprocess

# What a signal may interrupt, and what may do less than it was asked to.
INTERRUPTIBLE = {"open", "openat", "read", "write", "pread", "pwrite", "ftruncate", "fallocate", "fsync", "flock", "close"}
SHORT = {"read", "write", "pread", "pwrite"}


@dataclasses.dataclass
class Faults:
    """Runs `command`; calls on files in `folder` count."""

    build: pathlib.Path
    command: list
    folder: pathlib.Path
    log: pathlib.Path
    program: str = "aerogel"  # whose calls count: the command's, or of one that it starts

    def run(self, at=0, kind="", command="") -> subprocess.CompletedProcess:
        self.log.unlink(missing_ok=True)
        settings = {"LD_PRELOAD": self.build / "libfault_shim.so", "FAULT_FOLDER": self.folder, "FAULT_LOG": self.log, "FAULT_AT": at,
                    "FAULT_PROGRAM": self.program,
                    "FAULT_KIND": kind, "FAULT_COMMAND": command, "AEROGEL_NUM_THREADS": 1}
        return subprocess.run([str(self.build / "aerogel"), *map(str, self.command)], capture_output=True, text=True, check=False, timeout=120,
                              env={**os.environ, **{k: str(v) for k, v in settings.items()}})

    def calls(self) -> list[str]:
        """The calls of the last run, "name" or "name path"."""
        return self.log.read_text().splitlines()

    def first(self, name: str) -> int:
        """Number of the first such call of the last run."""
        return 1 + [call.split()[0] for call in self.calls()].index(name)

    def cases(self, calls):
        """(number, kind) of every fault that these calls can have."""
        for number, call in enumerate(calls, 1):
            name = call.split()[0]
            yield number, errno.ENOSPC if name in ("fallocate", "pwrite") else errno.EIO
            yield number, "kill"
            if name in INTERRUPTIBLE:
                yield number, errno.EINTR
            if name in SHORT:
                yield number, "short"


def is_harmless(kind) -> bool:
    """True for what has to be tried again, not told."""
    return kind in (errno.EINTR, "short")


def check_exit(done, kind, where):
    """A run ends well, with one clear line, or killed because it was; never in another way."""
    allowed = {"kill": (-9,)}.get(kind, (0,) if is_harmless(kind) else (0, 1))
    assert done.returncode in allowed, (where, done.returncode, done.stderr)
    if done.returncode == 1:
        assert done.stderr.startswith("aerogel: [") and done.stderr.count("\n") == 1, (where, done.stderr)
    elif done.returncode == 0:
        assert done.stderr == "", (where, done.stderr)


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir()}
