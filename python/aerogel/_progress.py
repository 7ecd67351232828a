"""Progress of long work: the caller's function, or a tqdm bar on terminals and in notebooks."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .ranks import current_rank

Report = Callable[[int, int, str], object]


@contextmanager
def reporter(op: str, progress: bool | Report) -> Iterator[Report | None]:
    """progress: a function of (done, total, name); True: a bar if tqdm is installed, on rank 0; False: nothing."""
    if not isinstance(progress, bool):
        if not callable(progress):
            raise ValueError(f"[{op}] progress must be True, False or a function of (done, total, name), got {progress!r}")
        yield progress
        return
    bar = _bar(op) if progress and current_rank() <= 0 else None
    if bar is None:
        yield None
        return

    def report(done: int, total: int, name: str) -> None:
        bar.total = total
        bar.set_postfix_str(name, refresh=False)
        bar.update(done - bar.n)

    try:
        yield report
    finally:
        bar.close()


def _bar(op: str) -> Any:
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    # None: no bar where stderr is no terminal; notebooks always have one.
    return tqdm(desc=op, unit="B", unit_scale=True, disable=None)
