"""torch gets its fake GPU before anything imports it. Where that cannot be (aerogel was built without CUDA, torch is there already), tests are skipped."""
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))


def _begin() -> str:
    if "torch" in sys.modules:
        return "torch was imported before: run this folder by itself"
    try:
        import fake_cuda  # noqa: F401
    except OSError as error:
        return f"no fake GPU: {error}"
    return ""


WHY_NOT = _begin()


def pytest_collection_modifyitems(items):
    for item in items:
        if WHY_NOT and item.path.is_relative_to(pathlib.Path(__file__).parent):
            item.add_marker(pytest.mark.skip(reason=WHY_NOT))


@pytest.fixture(autouse=True)
def seeded():
    import torch

    torch.manual_seed(7)
    yield
    if "fake_cuda" in sys.modules:
        torch.cuda.synchronize()  # what a kernel did wrong is told here at the latest


@pytest.fixture
def cuda():
    import fake_cuda

    return fake_cuda
