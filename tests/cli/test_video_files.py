"""Videos and the programs behind them: what ffmpeg and ffprobe may open, what they say and leave, and sizes nobody means."""

import os
import shutil
import struct
import subprocess
import zlib

import pytest

PROMPT = "red circle moves left"


def fake(folder, name, script):
    """PATH with a program `name` that does what the shell script says."""
    bin = folder / "bin"
    bin.mkdir(exist_ok=True)
    (bin / name).write_text("#!/bin/sh\n" + script)
    (bin / name).chmod(0o755)
    return {"PATH": f"{bin}:{os.environ['PATH']}"}


def failure(done):
    """The message of a command that failed as it should: one line of printable text."""
    assert (done.returncode, done.stdout) == (1, ""), done
    assert done.stderr.startswith("aerogel: ") and done.stderr.endswith("\n")
    assert done.stderr[:-1].isprintable(), done.stderr
    return done.stderr.removeprefix("aerogel: ").rstrip("\n")


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "real.mp4"
    subprocess.run(["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc=size=64x32:rate=4:duration=1", path], check=True)
    return path


PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1.0,\n{}\n#EXT-X-ENDLIST\n"
LISTS = {"playlist": PLAYLIST, "concat": "ffconcat version 1.0\nfile '{}'\n", "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n{}\n"}


@pytest.mark.parametrize("kind", LISTS)
def test_a_list_called_mp4_leads_nowhere(aerogel, video, tmp_path, kind):
    if kind == "playlist":
        other = tmp_path / "other.ts"
        subprocess.run(["ffmpeg", "-v", "error", "-i", video, "-c", "copy", other], check=True)
    else:
        other = shutil.copy(video, tmp_path / "other.mp4")
    (tmp_path / "v.mp4").write_text(LISTS[kind].format(other))
    assert failure(aerogel("compare", tmp_path / "v.mp4", video)).startswith("[ffprobe] failed: ")


def test_only_regular_files(aerogel, video, tmp_path):
    os.mkfifo(tmp_path / "v.mp4")
    assert "not a regular file" in failure(aerogel("compare", tmp_path / "v.mp4", video, timeout=60))
    (tmp_path / "frames").mkdir()
    os.mkfifo(tmp_path / "frames/0.png")
    assert "not a regular file" in failure(aerogel("compare", tmp_path / "frames", video, timeout=60))


def test_a_turned_video_is_read_as_it_is_stored(aerogel, video, tmp_path):
    turned = tmp_path / "turned.mp4"
    subprocess.run(["ffmpeg", "-v", "error", "-display_rotation", "90", "-i", video, "-c", "copy", turned], check=False)
    if not turned.exists():
        subprocess.run(["ffmpeg", "-v", "error", "-i", video, "-metadata:s:v", "rotate=90", "-c", "copy", turned], check=True)
    done = aerogel("compare", turned, video)
    assert done.returncode == 0 and "inf" in done.stdout, done


ERRORS = r"printf '\033[1;31mfirst\033[0m line\nsecond \007line\r\n' >&2; exit 1"


def test_errors_are_one_plain_line(aerogel, tiny_pipeline, video, tmp_path):
    said = "failed: first line; second ?line"
    env = fake(tmp_path, "ffprobe", ERRORS)
    assert failure(aerogel("compare", video, video, env=env)) == f"[ffprobe] {said}"
    env = fake(tmp_path, "ffprobe", f"exec {shutil.which('ffprobe')} \"$@\"")
    fake(tmp_path, "ffmpeg", ERRORS)
    assert failure(aerogel("compare", video, video, env=env)) == f"[ffmpeg] {said}"
    fake(tmp_path, "ffmpeg", "cat > /dev/null; " + ERRORS)
    out = tmp_path / "out"
    out.mkdir()
    assert failure(aerogel("generate", tiny_pipeline, "--prompt", PROMPT, "--steps", 1, "-o", out / "v.mp4", env=env)) == f"[ffmpeg] {said}"
    assert not list(out.iterdir())


def test_a_program_that_writes_nothing_is_an_error(aerogel, tiny_pipeline, tmp_path):
    env = fake(tmp_path, "ffmpeg", "cat > /dev/null")
    out = tmp_path / "out"
    out.mkdir()
    (out / "v.gif").write_bytes(b"what was there")
    for name in ("v.mp4", "v.gif"):
        done = aerogel("generate", tiny_pipeline, "--prompt", PROMPT, "--steps", 1, "-o", out / name, env=env)
        assert failure(done) == f"[ffmpeg] ended without an error but wrote nothing to {out / name}"
    assert [(p.name, p.read_bytes()) for p in out.iterdir()] == [("v.gif", b"what was there")]


def test_what_can_be_written_is_written(aerogel, tiny_pipeline, tmp_path):
    """One output fails after the work, before the others; folders that were made for it go again."""
    env = fake(tmp_path, "ffmpeg", "cat > /dev/null; " + ERRORS)
    out = tmp_path / "out"
    flags = ["-o", out / "videos/v.mp4", "-o", out / "v.safetensors"]
    done = aerogel("generate", tiny_pipeline, "--prompt", PROMPT, "--steps", 1, *flags, env=env)
    assert failure(done) == "[ffmpeg] failed: first line; second ?line"
    assert [path.name for path in out.iterdir()] == ["v.safetensors"]


@pytest.mark.parametrize("printed", ["garbage", "width=\\nheight=", "width=99999999999999999999\\nheight=1", "width=64x\\nheight=32", "{}", "width=64\\n", "\\033[2Jwidth\\001"])
def test_garbage_of_ffprobe(aerogel, video, tmp_path, printed):
    env = fake(tmp_path, "ffprobe", f"printf '{printed}'")
    assert failure(aerogel("compare", video, video, env=env)).startswith(f"[ffprobe] width and height expected of {video}, got '")


def test_endless_output_ends(aerogel, video, tmp_path):
    env = fake(tmp_path, "ffprobe", "exec cat /dev/zero")
    assert failure(aerogel("compare", video, video, env=env)) == "[ffprobe] printed more than 1048576 bytes"


@pytest.mark.parametrize(("printed", "message"), [
    ("width=0\\nheight=32", "must be between 1 and 16384, got 0: it is damaged, or not what its ending says"),
    ("width=-64\\nheight=32", "must be between 1 and 16384, got -64"),
    ("width=64\\nheight=2000000000", "must be between 1 and 16384, got 2000000000"),
    ("width=64\\nheight=32\\nnb_frames=1000000000", "decodes to more than 4.3 GB of pixels"),
    ("width=63\\nheight=32", "decodes to 24576 bytes, not a multiple of 63x32 RGB frames"),
])
def test_sizes_nobody_means(aerogel, video, tmp_path, printed, message):
    env = fake(tmp_path, "ffprobe", f"printf '{printed}'")
    assert message in failure(aerogel("compare", video, video, env=env))


def png(width, height, pixels=b"\0"):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(30000, 30000), (16000, 16000), (16385, 1), (1, 2**31 - 1), (2**31 - 1, 1)])
def test_a_small_picture_of_great_size(build, tmp_path, width, height):
    """Refused before memory is taken: 1 GB of address space is enough to say so."""
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames/0.png").write_bytes(png(width, height))
    command = f"ulimit -v 1000000; exec {build}/aerogel compare {tmp_path}/frames {tmp_path}/frames"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False, timeout=60)
    message = failure(done)
    assert message.startswith("[png] ") and ("plausible" in message or "cannot read" in message), message


def test_even_pictures_are_plausible(aerogel, tmp_path):
    """The best that deflate can do is not refused."""
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames/0.png").write_bytes(png(2000, 1500, b"\0" * (1500 * 6001)))
    done = aerogel("compare", tmp_path / "frames", tmp_path / "frames")
    assert done.returncode == 0 and "inf" in done.stdout, done.stderr
