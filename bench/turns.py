"""Calls that take turns, so that a change of the machine's speed meets all of them."""
import statistics
import sys
import time

from rich.progress import track


def take_turns(calls, rounds, may_fail=False):
    """({name: median seconds}, {name: spread}, {name: last result}) of functions by name; a round before the first warms up and compiles.
    `may_fail`: a call that raises in that round is said to do so and left out."""
    calls = dict(calls)
    seconds, results = {name: [] for name in calls}, {}
    for turn in track(range(rounds + 1), "measuring", disable=not sys.stderr.isatty()):
        for name, call in list(calls.items()):
            start = time.perf_counter()
            try:
                results[name] = call()
            except Exception as error:
                if not may_fail or turn:
                    raise
                print(f"{name}: left out, it fails: {str(error).strip().splitlines()[0]}", file=sys.stderr)
                del calls[name], seconds[name]
                continue
            if turn:
                seconds[name].append(time.perf_counter() - start)
            else:
                print(f"{name}: ready after {time.perf_counter() - start:.1f} s", file=sys.stderr)
    medians = {name: statistics.median(all_of_it) for name, all_of_it in seconds.items()}
    return medians, {name: max(all_of_it) / min(all_of_it) - 1 for name, all_of_it in seconds.items()}, results
