"""An export that is killed or stopped leaves no file under a final name, goes on where it was, and gives the same bytes."""
import itertools
import json
import os
import signal
import subprocess
import time

import pytest
import torch
from safetensors.torch import save_file

BLOCKS = 24
NAMES = {"quant_model_description_w8a16.json", "quant_model_weight_w8a16.safetensors"}
PART, JOURNAL = "quant_model_weight_w8a16.safetensors.part", "quant_model_weight_w8a16.safetensors.journal"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("resume") / "m.safetensors"
    generator = torch.Generator().manual_seed(3)
    save_file({f"blocks.{i}.ffn.{kind}": torch.randn(*shape, generator=generator).bfloat16()
               for i in range(BLOCKS) for kind, shape in (("weight", (1024, 1024)), ("bias", (1024,)), ("norm", (1 << 18,)))}, path)
    return path


def command(build, model, out, *options):
    return [str(x) for x in (build / "aerogel", "quantize", model, "-o", out, "--scheme", "W8A16", "--include", "*", *options)]


def run(build, model, out, *options):
    done = subprocess.run([*command(build, model, out, "--json"), *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(build, model, tmp_path_factory):
    """The files of a run that nothing disturbs."""
    out = tmp_path_factory.mktemp("whole")
    assert run(build, model, out)["bytes_resumed"] == 0
    assert contents(out).keys() == NAMES
    return contents(out)


def notes(out):
    path = out / JOURNAL
    return path.read_bytes().count(b"\n") - 1 if path.exists() else -1


def stop_at(build, model, out, wanted, how):
    """Starts an export and sends it a signal once its journal has so many notes. Returns (process, its stderr)."""
    process = subprocess.Popen(command(build, model, out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env={**os.environ, "AEROGEL_NUM_THREADS": "1"})
    deadline = time.monotonic() + 60
    while notes(out) < wanted and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.0005)
    process.send_signal(how)
    _, error = process.communicate(timeout=60)
    return process, error


@pytest.mark.parametrize("stop", list(itertools.product([0, 1, 9, 30, 45], [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])), ids=str)
def test_stopped_and_continued(build, model, whole, tmp_path, stop):
    wanted, how = stop
    process, error = stop_at(build, model, tmp_path, wanted, how)
    if process.returncode == 0:
        pytest.skip("the export was faster than the signal")
    assert process.returncode == (-9 if how == signal.SIGKILL else 130)
    just_begun = how == signal.SIGKILL and notes(tmp_path) == 0  # the journal comes before the data
    assert contents(tmp_path).keys() in ([{PART, JOURNAL}, {JOURNAL}] if just_begun else [{PART, JOURNAL}])
    if how != signal.SIGKILL:
        assert "interrupted with" in error and "give the same command again to continue" in error and error.count("\n") == 1
    finished = notes(tmp_path)
    assert finished >= wanted
    report = run(build, model, tmp_path)
    assert contents(tmp_path) == whole
    assert report["bytes_resumed"] >= finished * (1 << 19) and (report["bytes_resumed"] > 0) == (finished > 0)
    assert len(report["layers"]) == BLOCKS and all(0 < layer["relative_error"] < 0.02 for layer in report["layers"])


def test_several_kills(build, model, whole, tmp_path):
    reached = []
    for wanted in (3, 12, 20, 33):
        process, _ = stop_at(build, model, tmp_path, wanted, signal.SIGKILL)
        reached.append(notes(tmp_path) if process.returncode == -9 else None)
    kills = [n for n in reached if n is not None]
    assert kills and kills == sorted(kills)
    run(build, model, tmp_path)
    assert contents(tmp_path) == whole


def killed(build, model, out, wanted=20):
    process, _ = stop_at(build, model, out, wanted, signal.SIGKILL)
    assert process.returncode == -9
    return notes(out)


def test_damaged_bytes_are_written_anew(build, model, whole, tmp_path):
    """What the journal calls finished counts only if its bytes are there."""
    finished = killed(build, model, tmp_path)
    data = bytearray((tmp_path / PART).read_bytes())
    length = int.from_bytes(data[:8], "little")
    info = json.loads(data[8 : 8 + length])
    place = 8 + length + info[min(k for k in info if k.endswith(".weight"))]["data_offsets"][0]
    data[place + 5] ^= 1
    (tmp_path / PART).write_bytes(data)
    report = run(build, model, tmp_path)
    assert contents(tmp_path) == whole
    undisturbed = [n for n in range(finished)]
    assert 0 < report["bytes_resumed"] <= (len(undisturbed) - 1) * (1 << 21)


@pytest.mark.parametrize("damage", [b"", b"nonsense", b"aerogel journal 1 0123456789abcdef\n0 0 0\n"])
def test_damaged_journal(build, model, whole, tmp_path, damage):
    killed(build, model, tmp_path)
    (tmp_path / JOURNAL).write_bytes(damage)
    assert run(build, model, tmp_path)["bytes_resumed"] == 0
    assert contents(tmp_path) == whole


def test_torn_last_line(build, model, whole, tmp_path):
    finished = killed(build, model, tmp_path)
    text = (tmp_path / JOURNAL).read_bytes()
    (tmp_path / JOURNAL).write_bytes(text[:-5])
    run(build, model, tmp_path)
    assert contents(tmp_path) == whole and finished > 1


@pytest.mark.parametrize("options", [["--asymmetric"], ["--group-size", "32"], ["--algorithm", "ssz"], ["--layout", "v0"], ["--exclude", "blocks.3.*"]])
def test_other_options_begin_anew(build, model, tmp_path, options):
    killed(build, model, tmp_path / "out")
    assert run(build, model, tmp_path / "out", *options)["bytes_resumed"] == 0
    run(build, model, tmp_path / "plain", *options)
    assert contents(tmp_path / "out") == contents(tmp_path / "plain")


def test_other_model_begins_anew(build, model, tmp_path):
    """The same names, sizes and times of change, but other numbers."""
    own = tmp_path / "m.safetensors"
    own.write_bytes(model.read_bytes())
    times = os.stat(own)
    killed(build, own, tmp_path / "out")
    save_file({f"blocks.{i}.ffn.{kind}": torch.full(shape, 0.5).bfloat16()
               for i in range(BLOCKS) for kind, shape in (("weight", (1024, 1024)), ("bias", (1024,)), ("norm", (1 << 18,)))}, own)
    os.utime(own, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert own.stat().st_size == times.st_size
    assert run(build, own, tmp_path / "out")["bytes_resumed"] == 0


def test_killed_between_the_two_names(build, model, whole, tmp_path):
    """The weights have their name, and the description waits for its own: both are verified, nothing is made anew."""
    killed(build, model, tmp_path)
    journal = (tmp_path / JOURNAL).read_bytes()
    run(build, model, tmp_path)
    (tmp_path / JOURNAL).write_bytes(journal + b"complete\n")
    description = tmp_path / "quant_model_description_w8a16.json"
    description.rename(f"{description}.next")
    assert run(build, model, tmp_path)["bytes_resumed"] > 0
    assert contents(tmp_path) == whole


def test_two_at_once(build, model, tmp_path):
    first = subprocess.Popen(command(build, model, tmp_path), stdout=subprocess.DEVNULL, env={**os.environ, "AEROGEL_NUM_THREADS": "1"})
    while notes(tmp_path) < 1 and first.poll() is None:
        time.sleep(0.0005)
    first.send_signal(signal.SIGSTOP)
    second = subprocess.run(command(build, model, tmp_path), capture_output=True, text=True)
    first.send_signal(signal.SIGCONT)
    assert first.wait(60) == 0
    assert second.returncode == 1 and "another process is writing it" in second.stderr
    assert contents(tmp_path).keys() == NAMES


def test_an_old_pair_stays_until_the_new_one_is_complete(build, model, whole, tmp_path):
    run(build, model, tmp_path)
    killed(build, model, tmp_path)
    old = contents(tmp_path)
    assert {k: old[k] for k in NAMES} == whole and old.keys() == {*NAMES, PART, JOURNAL}
    run(build, model, tmp_path)
    assert contents(tmp_path) == whole
