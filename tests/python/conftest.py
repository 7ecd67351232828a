"""Fixtures of the package's tests: a seed for torch and one thread where results are compared with torch's own."""
import pytest

torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(7)


@pytest.fixture
def aerogel_command(aerogel):
    """The command, which must succeed."""

    def run(*arguments):
        done = aerogel(*arguments)
        assert done.returncode == 0, done.stderr
        return done

    return run
