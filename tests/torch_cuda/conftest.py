"""torch gets its fake GPU before anything imports it (fake_cuda.py). Tests are skipped where aerogel was built without CUDA.

With AEROGEL_TEST_GPU=1 they run on a real card, with a torch that has CUDA (bench/gpu.py does that); those that look into the fake one are
skipped then."""
import contextlib
import os
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
REAL = os.environ.get("AEROGEL_TEST_GPU") == "1"
BUILD = pathlib.Path(os.environ.get("AEROGEL_BUILD", pathlib.Path(__file__).resolve().parents[2] / "build/release"))
NO_GPU = "" if REAL or (BUILD / "libfake_cuda_guard.so").exists() else f"no fake GPU in {BUILD}"
TOO_LATE = not REAL and not NO_GPU and "torch" in sys.modules and "fake_cuda" not in sys.modules
if not REAL and not NO_GPU and not TOO_LATE:
    try:
        import fake_cuda
    except (OSError, ImportError) as error:
        NO_GPU = f"no fake GPU: {error}"


@pytest.fixture(autouse=True)
def seeded():
    if TOO_LATE:
        pytest.fail("torch was imported before fake_cuda: run this folder by itself, as tests/run_files.py does")
    if NO_GPU:
        pytest.skip(NO_GPU)
    import torch

    torch.manual_seed(7)
    yield
    torch.cuda.synchronize()  # what a kernel did wrong is told here at the latest


@pytest.fixture
def cuda():
    """The fake GPU, to look into it."""
    if REAL:
        pytest.skip("looks into the fake GPU")
    return fake_cuda


class _RealGraph:
    """What fake_cuda.Graph is, of the real torch."""

    def __init__(self):
        import torch

        self.torch, self.graph = torch, torch.cuda.CUDAGraph()

    @contextlib.contextmanager
    def capture(self):
        with self.torch.cuda.graph(self.graph):
            yield

    def replay(self):
        self.graph.replay()
        self.torch.cuda.synchronize()


@pytest.fixture
def new_graph():
    """A function that gives a CUDA graph: capture() is a context, replay() runs it and waits."""
    return _RealGraph if REAL else fake_cuda.Graph


@pytest.fixture
def second():
    """The name of another GPU."""
    import torch

    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")
    return "cuda:1"
