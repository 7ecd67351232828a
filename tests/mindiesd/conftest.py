"""A seed for every test, and no sampling step left behind."""
import pytest

torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def seeded():
    from mindiesd import TimestepManager

    torch.manual_seed(11)
    yield
    TimestepManager.set_timestep_idx(None)
    TimestepManager.set_timestep_idx_max(None)
