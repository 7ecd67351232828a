"""torch gets its fake GPU before anything imports it (fake_cuda.py). Tests are skipped where aerogel was built without CUDA."""
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
TOO_LATE, NO_GPU = "torch" in sys.modules and "fake_cuda" not in sys.modules, ""
if not TOO_LATE:
    try:
        import fake_cuda
    except OSError as error:
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
    return fake_cuda
