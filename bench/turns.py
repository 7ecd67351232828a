"""Calls that take turns, so that a change of the machine's speed meets all of them."""
import statistics
import sys
import time
from dataclasses import dataclass, field

from rich.progress import track


@dataclass
class Turns:
    """What calls of several names took, turn by turn, and what they returned in the last one."""

    seconds: dict = field(default_factory=dict)
    results: dict = field(default_factory=dict)

    def median(self, name):
        return statistics.median(self.seconds[name])

    def spread(self, name):
        return max(self.seconds[name]) / min(self.seconds[name]) - 1

    def ratio(self, name, other):
        """Seconds of `name` over those of `other`: the median of the ratios within one turn, which neighbours on the machine disturb less than the
        ratio of the medians."""
        return statistics.median(a / b for a, b in zip(self.seconds[name], self.seconds[other], strict=True))


def take_turns(calls, rounds, may_fail=False):
    """Turns of functions by name; a round before the first warms up and compiles. `may_fail`: a call that raises, in any round, is said to do so and
    left out."""
    calls, turns = dict(calls), Turns({name: [] for name in calls})
    for turn in track(range(rounds + 1), "measuring", disable=not sys.stderr.isatty()):
        for name, call in list(calls.items()):
            start = time.perf_counter()
            try:
                turns.results[name] = call()
            except Exception as error:
                if not may_fail:
                    raise
                said = str(error).strip() or type(error).__name__
                print(f"{name}: left out, it fails: {said.splitlines()[0]}", file=sys.stderr)
                del calls[name], turns.seconds[name]
                turns.results.pop(name, None)
                continue
            if turn:
                turns.seconds[name].append(time.perf_counter() - start)
            else:
                print(f"{name}: ready after {time.perf_counter() - start:.1f} s", file=sys.stderr)
    return turns
