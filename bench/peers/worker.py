"""One side in a process of its own: reads a request a line on standard input, answers with a line of JSON each.

    {"prepare": {kind, model, sizes}, "arrays": FOLDER}   loads the arrays, prepares and calls once -> {"seconds": ...}
    {"turn": SECONDS}                  one call that is not timed, then calls for so long, at least one -> {"seconds": [...]}
    {"output": FILE}                   the sampled rows of the last result, as .npy -> {}
    {"about": true}                    -> what the module tells of its library

A module has `about() -> str` and `prepare(problem, arrays, variant) -> (call, result)`: call() computes once, all conversions done before;
result(what call gave) is the NumPy array in float32, as problem.sample takes it. What fails is an answer {"error": ...}."""
import ctypes
import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from .problem import Problem, load


class Worker:
    def __init__(self, module: str, variant: str):
        self.module, self.variant = importlib.import_module(module if "." in module else f"peers.{module}"), variant
        self.problem = self.call = self.result = self.last = None

    def answer(self, request: dict) -> dict:
        if "prepare" in request:
            return self.prepare(Problem(**{**request["prepare"], "sizes": tuple(request["prepare"]["sizes"])}), Path(request["arrays"]))
        if "turn" in request:
            return self.turn(request["turn"])
        if "output" in request:
            np.save(request["output"], self.problem.sample(self.result(self.last)).astype(np.float32))
            return {}
        return {"about": self.module.about()}

    def prepare(self, problem: Problem, folder: Path) -> dict:
        self.call = self.result = self.last = None  # so that only one problem needs memory
        begin = time.perf_counter()
        self.problem = problem
        self.call, self.result = self.module.prepare(problem, load(folder), self.variant)
        self.last = self.call()
        return {"seconds": time.perf_counter() - begin}

    def turn(self, long: float) -> dict:
        self.call()
        seconds, end = [], time.perf_counter() + long
        while not seconds or time.perf_counter() < end:
            begin = time.perf_counter()
            self.last = self.call()
            seconds.append(time.perf_counter() - begin)
        return {"seconds": seconds}


def one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines()]
    said = next((line for line in lines if line and not line.startswith("Exception from ")), "")  # OpenVINO names its files first
    return f"{type(error).__name__}: {said}"[:200]


def main() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: a stopped process would stay for ever
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print
    try:
        worker, broken = Worker(sys.argv[1], sys.argv[2]), ""
    except Exception as error:  # not installed, or not for this machine
        worker, broken = None, one_line(error)
    for line in sys.stdin:
        try:
            answer = {"error": broken} if broken else worker.answer(json.loads(line))
        except Exception as error:
            answer = {"error": one_line(error)}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
