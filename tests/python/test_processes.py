"""Processes and threads around the package: forked children, workers of a DataLoader, pools that are replaced, signals in the middle of
a call, systems that refuse threads. Most of it runs in an interpreter of its own, against a time-out, because a failure is a hang."""

import os
import resource
import subprocess
import sys

import pytest

SOON = 120  # seconds, against hangs
PREPARE = """
import os, signal, sys, threading, time, warnings
import torch
import aerogel
torch.manual_seed(0)
torch.set_num_threads(1)
aerogel.set_num_threads(3)
q = torch.randn(1, 2, 300, 32)
linear = aerogel.QuantizedLinear.from_linear(torch.nn.Linear(64, 64))
x = torch.randn(40, 64)

def compute():
    return aerogel.attention(q, q, q).sum().item(), linear(x).sum().item()

wanted = compute()

def child_is_right(pid):
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status) == 0

def fork_and_compute():
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if compute() == wanted else 1)
        finally:
            os._exit(2)
    return child_is_right(pid)

def long_call(seconds=600):
    # One call that takes far longer than anybody waits; its tasks are short.
    n = int(2**15 * max(1, seconds) ** 0.5)
    big = torch.zeros(1, 1, n, 64)
    return aerogel.attention(big, big, big)

def after(seconds, signal_number=signal.SIGINT):
    timer = threading.Timer(seconds, lambda: os.kill(os.getpid(), signal_number))
    timer.daemon = True
    timer.start()
"""


def run(script, **options):
    done = subprocess.run([sys.executable, "-c", PREPARE + script], capture_output=True, text=True, timeout=SOON, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_fork_after_use():
    run("""
assert fork_and_compute()
aerogel.set_num_threads(2)
assert fork_and_compute() and compute() == wanted
""")


def test_fork_while_other_threads_compute_and_replace_the_pool():
    run("""
done = False
wrong = []
def busy():
    while not done:
        if compute() != wanted: wrong.append(1)
def replace():
    for i in range(10**9):
        if done: break
        aerogel.set_num_threads(1 + i % 4)
threads = [threading.Thread(target=busy), threading.Thread(target=busy), threading.Thread(target=replace)]
for thread in threads: thread.start()
for i in range(12): assert fork_and_compute(), i
done = True
for thread in threads: thread.join()
assert not wrong
""")


def test_multiprocessing_with_fork():
    run("""
import multiprocessing
def work(_): return compute()
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(work, range(6)) == [wanted] * 6
""")


def test_workers_of_a_data_loader():
    run("""
class Rows(torch.utils.data.Dataset):
    def __len__(self): return 6
    def __getitem__(self, index): return linear(x)[index]
loader = torch.utils.data.DataLoader(Rows(), batch_size=2, num_workers=2, multiprocessing_context="fork")
for epoch in range(2):
    assert torch.equal(torch.cat(list(loader)), linear(x)[:6])
""")


def test_a_lock_held_by_another_thread_is_free_in_the_child():
    """Layers register themselves under a lock."""
    run("""
import aerogel.linear
if hasattr(aerogel.linear, "_lock"):
    held, done = threading.Event(), threading.Event()
    def hold():
        with aerogel.linear._lock:
            held.set()
            done.wait()
    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        copy = aerogel.QuantizedLinear.from_linear(torch.nn.Linear(64, 64))
        os._exit(0 if copy(x).shape == (40, 64) else 1)
    right = child_is_right(pid)
    done.set()
    thread.join()
    assert right
""")


def test_ctrl_c_ends_a_call():
    run("""
after(1.0)
try:
    long_call()
except KeyboardInterrupt:
    pass
else:
    sys.exit("the call came to its end")
assert compute() == wanted
""")


def test_ctrl_c_while_another_thread_has_the_pool():
    run("""
stop = []
def other():
    try:
        long_call()
    except BaseException as error:
        stop.append(error)
thread = threading.Thread(target=other, daemon=True)
begin = os.times().user
thread.start()
while os.times().user < begin + 0.5: time.sleep(0.05)  # until it computes: making its arrays takes the system's time
after(1.0)
try:
    compute()  # waits for its turn
except KeyboardInterrupt:
    pass
else:
    sys.exit("no interrupt")
assert not stop and thread.is_alive()  # only the main thread is interrupted
os._exit(0)
""")


def test_handlers_run_in_the_middle_and_may_compute():
    run("""
seen = []
def handler(*_):
    seen.append(compute() == wanted)
    if len(seen) == 3:
        signal.setitimer(signal.ITIMER_REAL, 0)  # or a fourth one may come while the call is left
        raise TimeoutError("enough")
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.3, 0.3)
try:
    long_call()
except TimeoutError as error:
    assert str(error) == "enough"
else:
    sys.exit("the call came to its end")
assert seen == [True] * 3, seen
""")


def test_a_handler_that_raises_nothing_changes_nothing():
    run("""
big = torch.randn(1, 1, 6000, 64)
aerogel.set_num_threads(1)
quiet = aerogel.attention(big, big, big)
seen = []
signal.signal(signal.SIGALRM, lambda *_: seen.append(compute() == wanted))
signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
while len(seen) < 5:
    assert torch.equal(aerogel.attention(big, big, big), quiet)
signal.setitimer(signal.ITIMER_REAL, 0)
assert all(seen)
""")


def test_a_handler_may_fork():
    """Its child cannot finish the call, which other threads were computing with it, and learns so."""
    run("""
child = []
def handler(*_):
    child.append(os.fork())
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.3)
after(2.5)
try:
    long_call()
except KeyboardInterrupt:
    assert child[0] > 0 and child_is_right(child[0])
except RuntimeError as error:
    os._exit(0 if child == [0] and "forked in the middle" in str(error) and compute() == wanted else 1)
""")


def test_ctrl_c_ends_a_program_that_hangs(tmp_path):
    (tmp_path / "ffprobe").write_text("#!/bin/sh\nexec sleep 1000\n")
    (tmp_path / "ffprobe").chmod(0o755)
    (tmp_path / "v.mp4").write_bytes(b"video")
    run(f"""
after(1.0)
try:
    aerogel.compare({str(tmp_path / "v.mp4")!r}, {str(tmp_path / "v.mp4")!r})
except KeyboardInterrupt:
    sys.exit(0)
sys.exit("no interrupt")
""", env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"})


def test_few_threads_are_a_warning(tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_STACK, (8 << 20, 8 << 20))

    done = run("""
import resource
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * 4096 + (320 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
aerogel.set_num_threads(1000)
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    assert compute() == wanted and compute() == wanted
(warning,) = seen
assert warning.category is RuntimeWarning
assert str(warning.message).startswith(f"aerogel: only {aerogel.num_threads()} of 1000 threads could be started"), warning.message
assert aerogel.num_threads() < 1000
""", preexec_fn=limit)
    assert done.stderr == ""


@pytest.mark.parametrize("count", [0, 1025])
def test_wrong_numbers_of_threads(count):
    import aerogel

    with pytest.raises(ValueError, match=f"between 1 and 1024, got {count}"):
        aerogel.set_num_threads(count)
