"""Fixtures of the package's tests: a seed for torch, and one thread for tiny models, which threads only hold up."""
import aerogel as aerogel_package
import pytest

torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(7)


@pytest.fixture
def one_thread():
    before = torch.get_num_threads(), aerogel_package.num_threads()
    torch.set_num_threads(1), aerogel_package.set_num_threads(1)
    yield
    torch.set_num_threads(before[0]), aerogel_package.set_num_threads(before[1])


@pytest.fixture
def aerogel_command(aerogel):
    """The command, which must succeed."""

    def run(*arguments):
        done = aerogel(*arguments)
        assert done.returncode == 0, done.stderr
        return done

    return run
