"""Ctrl-C and SIGTERM end the command soon, with exit code 130, one line and nothing left behind, whatever it is doing."""

import os
import pathlib
import signal
import subprocess
import threading
import time

import pytest

PROMPT = "red circle moves left"
SIGNALS = [signal.SIGINT, signal.SIGTERM]
SOON = 60  # seconds: against hangs, on a busy machine


def start(command, **options):
    return subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def until(condition, what):
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def interrupted(process, how=signal.SIGINT):
    process.send_signal(how)
    _, messages = process.communicate(timeout=SOON)
    assert (process.returncode, messages) == (130, "aerogel: interrupted\n")


def start_stage(build, folder, stage, **options):
    process = start([build / "tests/interrupted_work", stage, folder], **options)
    if stage != "read":
        assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("how", SIGNALS, ids=str)
@pytest.mark.parametrize("stage", ["loop", "write", "kernel", "read"])
def test_every_stage(build, tmp_path, stage, how):
    os.mkfifo(tmp_path / "pipe")
    process = start_stage(build, tmp_path, stage)
    if stage == "read":  # a pipe with a writer that is slow: the program is in the middle of a read
        assert process.stdout.readline() == "ready\n"
        with (tmp_path / "pipe").open("w") as writer:
            print("line", file=writer, flush=True)
            assert process.stdout.readline() == "ready\n"
            interrupted(process, how)
    else:
        interrupted(process, how)
    assert [p.name for p in tmp_path.iterdir()] == ["pipe"]


def test_a_pipe_that_nobody_opens(build, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    process = start_stage(build, tmp_path, "read")
    assert process.stdout.readline() == "ready\n"
    interrupted(process)


@pytest.mark.parametrize("how", SIGNALS, ids=str)
def test_the_second_signal_kills_at_once(build, tmp_path, how):
    process = start_stage(build, tmp_path, "loop")
    process.send_signal(signal.SIGINT)

    def default():  # SIGINT and SIGTERM are no longer caught
        (caught,) = [line.split()[1] for line in pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines() if line.startswith("SigCgt")]
        return int(caught, 16) & (1 << (how - 1)) == 0

    until(default, "the first signal was not taken")
    process.send_signal(how)
    process.wait(timeout=SOON)
    assert process.returncode in (-how, 130)  # 130: a very slow machine, where the second in between was over


def test_an_ignored_signal_stays_ignored(build, tmp_path):
    process = start_stage(build, tmp_path, "loop", preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    process.send_signal(signal.SIGINT)
    time.sleep(1.5)
    assert process.poll() is None
    interrupted(process, signal.SIGTERM)


@pytest.mark.parametrize("threads", [1, 3])
def test_in_the_middle_of_a_kernel(build, tiny_pipeline, tmp_path, threads):
    """One call of the reference's attention would take minutes here."""
    process = start(
        [build / "aerogel", "generate", tiny_pipeline, "--prompt", PROMPT, "--frames", 64, "--size", "256x256", "-o", tmp_path / "v.safetensors"],
        env={**os.environ, "AEROGEL_NUM_THREADS": str(threads), "AEROGEL_KERNEL": "reference.attention"},
    )
    stat = pathlib.Path(f"/proc/{process.pid}/stat")
    until(lambda: int(stat.read_text().rsplit(")", 1)[1].split()[11]) > 100, "it does not compute")
    assert process.poll() is None
    interrupted(process)
    assert not list(tmp_path.iterdir())


def hanging_program(folder, name):
    """A program that says its process number and hangs."""
    (folder / "bin").mkdir()
    program = folder / "bin" / name
    program.write_text(f"#!/bin/sh\necho $$ > {folder}/pid.new\nmv {folder}/pid.new {folder}/pid\nexec sleep 1000\n")
    program.chmod(0o755)
    return {**os.environ, "PATH": f"{folder}/bin:{os.environ['PATH']}"}


def gone(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize("how", [*SIGNALS, signal.SIGKILL], ids=str)
@pytest.mark.parametrize("name", ["ffmpeg", "ffprobe"])
def test_a_program_that_hangs_ends_with_us(build, tiny_pipeline, tmp_path, name, how):
    env = hanging_program(tmp_path, name)
    out = tmp_path / "out"
    out.mkdir()
    if name == "ffmpeg":
        command = ["generate", tiny_pipeline, "--prompt", PROMPT, "--steps", 1, "-o", out / "v.mp4"]
    else:
        (tmp_path / "v.mp4").write_bytes(b"video")
        command = ["compare", tmp_path / "v.mp4", tmp_path / "v.mp4"]
    process = start([build / "aerogel", *command], env=env)
    until((tmp_path / "pid").exists, "the program was not started")
    if how == signal.SIGKILL:
        process.kill()
        process.wait()
    else:
        interrupted(process, how)
        assert not list(out.iterdir())
    pid = int((tmp_path / "pid").read_text())
    until(lambda: gone(pid), "the program outlived us")


def test_ctrl_c_of_a_terminal_reaches_us_first(build, tiny_pipeline, tmp_path):
    """The terminal sends the signal to the whole group: ffmpeg must not end by itself and be blamed for it."""
    env = hanging_program(tmp_path, "ffmpeg")
    process = start([build / "aerogel", "generate", tiny_pipeline, "--prompt", PROMPT, "--steps", 1, "-o", tmp_path / "v.mp4"], env=env, start_new_session=True)
    until((tmp_path / "pid").exists, "ffmpeg was not started")
    os.killpg(process.pid, signal.SIGINT)
    _, messages = process.communicate(timeout=SOON)
    assert (process.returncode, messages) == (130, "aerogel: interrupted\n")


def test_signals_at_any_moment(build, tiny_pipeline, tmp_path):
    """Whenever the signal comes, the video is there or not, complete, and the exit code says which."""
    for delay in (0.02, 0.05, 0.1, 0.2, 0.3, 0.45, 0.6):
        out = tmp_path / "v.mp4"
        process = start([build / "aerogel", "generate", tiny_pipeline, "--prompt", PROMPT, "--steps", 20, "--frames", 8, "-o", out])
        timer = threading.Timer(delay, lambda: process.poll() is None and process.send_signal(signal.SIGTERM))
        timer.start()
        _, messages = process.communicate(timeout=SOON)
        timer.join()
        assert process.returncode in (0, 130, -signal.SIGTERM)  # the last: before main()
        assert (process.returncode == 0) == out.exists() or process.returncode == 130
        assert [p.name for p in tmp_path.iterdir()] in ([], ["v.mp4"])
        if out.exists():
            subprocess.run(["ffprobe", "-v", "error", out], check=True)
            out.unlink()
