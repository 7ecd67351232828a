"""The memory of large results: that of results that are gone, never of one that somebody has."""
import gc
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from aerogel import _arrays, _core

LARGE = (3, 1 << 18)  # 3 MiB


def made(shape=LARGE, dtype=torch.float32):
    return _arrays.empty(shape, torch.empty(0, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("inference", [False, True])
def test_what_is_gone_serves_the_next_of_its_size(dtype, inference):
    with torch.inference_mode(inference):
        first = made((2, 5, 1 << 17), dtype).fill_(3)
        assert first.dtype == dtype and first.shape == (2, 5, 1 << 17) and first.is_contiguous() and first.data_ptr() % 4096 == 0
        assert first.is_inference() == inference and not first.requires_grad and first._base is None
        place = first.data_ptr()
        view = first[1, 2:]
        del first
        assert made((2, 5, 1 << 17), dtype).data_ptr() != place and bool((view == 3).all())  # a view holds it
        del view
        assert made((10, 1 << 17), dtype).data_ptr() == place
        assert made((10, (1 << 17) + 4096), dtype).data_ptr() != place


def test_results_of_layers_and_attention_come_from_there():
    import aerogel

    layer = torch.nn.Sequential(torch.nn.Linear(32, 2048))
    aerogel.quantize(layer, scheme="W8A8_DYNAMIC", include=["*"])
    x = torch.randn(256, 32)
    with torch.no_grad():
        first = layer(x)
        kept, place = first.clone(), first.data_ptr()
        del first
        for _ in range(3):
            again = layer(x)
            assert again.data_ptr() == place and torch.equal(again, kept)
            del again
        other, third = layer(-x), layer(x)
        assert other.data_ptr() != third.data_ptr() and torch.equal(third, kept)


def test_other_threads_and_owners_may_let_go():
    places = {made().data_ptr()}
    results = [made() for _ in range(3)]
    places = {y.data_ptr() for y in results}
    thread = threading.Thread(target=results.clear)
    thread.start()
    thread.join()
    assert {y.data_ptr() for y in [made() for _ in range(3)]} == places
    array = made().fill_(7).numpy()  # NumPy's view owns it now
    gc.collect()
    assert made().data_ptr() != array.__array_interface__["data"][0] and bool((array == 7).all())


def test_capsules_that_nobody_takes_are_freed():
    before = {made().data_ptr()}
    capsules = [_core.output(LARGE, False) for _ in range(2)]
    del capsules
    held = [made() for _ in range(2)]
    assert before <= {y.data_ptr() for y in held}


def test_what_waits_has_an_end_and_may_be_taken_by_the_system(monkeypatch):
    """Pages that wait are clean in the eyes of the system ("LazyFree"): it takes them before it takes anything else."""
    def lazily_freed():
        with open("/proc/self/smaps_rollup") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("LazyFree")), None)

    if lazily_freed() is None:
        pytest.skip("the system does not tell")
    y = made((64, 1 << 18)).fill_(1)  # 64 MiB
    before = lazily_freed()
    del y
    assert lazily_freed() - before > 56 << 10
    y = made((64, 1 << 18)).fill_(2)
    assert lazily_freed() - before < 8 << 10 and bool((y == 2).all())


def test_what_waits_is_freed_where_memory_is_limited():
    done = subprocess.run([sys.executable, "-c", """
import resource
import torch
from aerogel import _arrays
like = torch.empty(0)
_arrays.empty((1, 64 << 20), like).fill_(1)  # waits now
with open("/proc/self/statm") as file:
    size = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (128 << 20),) * 2)
_arrays.empty((1, 80 << 20), like).fill_(2)  # 320 MiB: 256 wait
try:
    _arrays.empty((4, 80 << 20), like)
except MemoryError:
    print("enough")
"""], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "enough\n", done.stderr


def test_others_are_made_by_torch_or_numpy():
    assert made((3, 5)).untyped_storage().resizable() and made((1 << 20,), torch.float16).dtype == torch.float16
    assert isinstance(_arrays.empty(LARGE, np.empty(0, np.float32)), np.ndarray)
    assert made((0, 1 << 20)).shape == (0, 1 << 20)
    with pytest.raises(MemoryError):
        made((1 << 40, 1 << 10))
