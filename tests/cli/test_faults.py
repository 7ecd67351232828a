"""Every file-system call of every writer fails once, does less, is interrupted, or is the last before a kill."""
import errno
import os
import shutil

import pytest
import torch
from faults import Faults, check_exit, contents, is_harmless
from safetensors.torch import load_file, save_file

DESCRIPTION, WEIGHTS = "quant_model_description_w8a16.json", "quant_model_weight_w8a16.safetensors"
PAIR = {DESCRIPTION, WEIGHTS}
RESUMABLE = {f"{WEIGHTS}.part", f"{WEIGHTS}.journal", f"{DESCRIPTION}.next"}
KILLED = {f"{DESCRIPTION}.next.tmp"}  # gone after the next run


@pytest.fixture(autouse=True)
def not_sanitized(build):
    cache = build / "CMakeCache.txt"
    if "AEROGEL_SANITIZE:STRING=\n" not in cache.read_text():
        pytest.skip("sanitizers want to be preloaded first")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    generator = torch.Generator().manual_seed(5)
    save_file({"a.weight": torch.randn(8, 16, generator=generator), "a.bias": torch.randn(8, generator=generator),
               "b.weight": torch.randn(8, 16, generator=generator), "norm": torch.randn(16, generator=generator)}, path)
    return path


def quantize(model, out, *options):
    return ["quantize", model, "-o", out, "--scheme", "W8A16", "--include", "*", *options]


@pytest.fixture(scope="module")
def pairs(aerogel, model, tmp_path_factory):
    """(files, float values) of the old pair, where b stays float, and of the new one."""
    found = []
    for options in (["--exclude", "b"], []):
        out = tmp_path_factory.mktemp("pair")
        assert aerogel(*quantize(model, out, *options)).returncode == 0
        found.append((contents(out), restored(aerogel, out)))
    assert found[0] != found[1]
    return found


def restored(aerogel, folder):
    """The float values a reader of the pair gets."""
    back = folder.parent / f"{folder.name}.back.safetensors"
    done = aerogel("dequantize", folder / DESCRIPTION, "-o", back)
    assert done.returncode == 0, done.stderr
    return {name: tensor.numpy().tobytes() for name, tensor in load_file(back).items()}


def put(folder, files):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)


@pytest.mark.parametrize("has_old", [False, True], ids=["first", "over an old pair"])
def test_export(*, build, aerogel, model, pairs, tmp_path, has_old):
    (old, old_values), (new, new_values) = pairs
    out = tmp_path / "out"
    faults = Faults(build, quantize(model, out), out, tmp_path / "log")

    def begin():
        put(out, old if has_old else {})

    begin()
    assert faults.run().returncode == 0 and contents(out) == new
    calls = faults.calls()
    assert {call.split()[0] for call in calls} >= {"open", "flock", "ftruncate", "fallocate", "pwrite", "fsync", "rename", "unlink", "close"}
    for number, kind in faults.cases(calls):
        where = (number, calls[number - 1], kind)
        begin()
        done = faults.run(number, kind)
        check_exit(done, kind, where)
        left = contents(out)
        if done.returncode == 0:
            assert PAIR <= left.keys() <= PAIR | RESUMABLE and {k: left[k] for k in PAIR} == new, where
        else:
            allowed = PAIR | RESUMABLE | (KILLED if kind == "kill" else set())
            assert left.keys() <= allowed, (where, left.keys())
        if has_old or PAIR <= left.keys():
            assert restored(aerogel, out) in ([old_values, new_values] if has_old else [new_values]), where
        assert aerogel(*quantize(model, out)).returncode == 0, where
        assert contents(out) == new, where


@pytest.mark.parametrize("what", ["folder of the model", "missing folder"])
def test_export_of_other_calls(*, build, aerogel, model, pairs, tmp_path, what):
    """Reading the model, and making the folder."""
    _, (new, _) = pairs
    out = tmp_path / "deep/out"
    faults = Faults(build, quantize(model, out), model.parent if what == "folder of the model" else tmp_path / "deep", tmp_path / "log")
    assert faults.run().returncode == 0
    calls = [call for call in faults.calls() if what == "folder of the model" or call.startswith("mkdir")]
    assert calls
    for number, kind in faults.cases(calls):
        if kind == errno.EINTR:  # opening a regular file waits for nothing
            continue
        shutil.rmtree(tmp_path / "deep")
        done = faults.run(number, kind)
        check_exit(done, kind, (number, calls[number - 1], kind))
        assert done.returncode != 0 or contents(out) == new
        assert aerogel(*quantize(model, out)).returncode == 0
        assert contents(out) == new


def walk(faults, aerogel, out, old):
    """Faults of a command that writes the files of `old` (name -> what was there before) in `out`."""
    put(out, old)
    done = faults.run()
    assert done.returncode == 0, done.stderr
    new, calls = contents(out), faults.calls()
    assert new.keys() == old.keys() and all(new[name] != old[name] for name in old) and len(calls) > 5
    for number, kind in faults.cases(calls):
        where = (number, calls[number - 1], kind)
        put(out, old)
        done = faults.run(number, kind)
        check_exit(done, kind, where)
        left = contents(out)
        temporary = {f"{name}.tmp" for name in old} if kind == "kill" else set()
        assert old.keys() <= left.keys() <= old.keys() | temporary, where
        assert all(left[name] in (old[name], new[name]) for name in old), where
        assert done.returncode != 0 or left == new, where
        if is_harmless(kind):
            continue
        again = aerogel(*faults.command)
        assert again.returncode == 0 and contents(out) == new, (where, again.stderr)


def test_dequantize(build, aerogel, pairs, tmp_path):
    put(tmp_path / "pair", pairs[1][0])
    out = tmp_path / "out"
    command = ["dequantize", tmp_path / "pair", "-o", out / "f.safetensors"]
    walk(Faults(build, command, out, tmp_path / "log"), aerogel, out, {"f.safetensors": b"old"})


def test_reading_a_pair(build, aerogel, pairs, tmp_path):
    put(tmp_path / "pair", pairs[1][0])
    out = tmp_path / "f.safetensors"
    faults = Faults(build, ["dequantize", tmp_path / "pair", "-o", out], tmp_path / "pair", tmp_path / "log")
    assert faults.run().returncode == 0
    whole, calls = out.read_bytes(), faults.calls()
    for number, kind in faults.cases(calls):
        if kind == errno.EINTR:
            continue
        out.unlink(missing_ok=True)
        done = faults.run(number, kind)
        check_exit(done, kind, (number, calls[number - 1], kind))
        assert out.exists() == (done.returncode == 0) or kind == "kill"  # the pair is closed after its result has its name
        assert not out.exists() or out.read_bytes() == whole


def test_generate(build, aerogel, tiny_pipeline, tmp_path):
    out = tmp_path / "out"
    command = ["generate", tiny_pipeline, "--prompt", "red circle", "--steps", 1, "--frames", 1, "-o", out / "v.safetensors"]
    walk(Faults(build, command, out, tmp_path / "log"), aerogel, out, {"v.safetensors": b"old"})


def frames_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("has_old", [False, True], ids=["first", "over an old video"])
def test_frames(build, aerogel, tiny_pipeline, tmp_path, has_old):
    """A video stays whole: only where the new frames are on the disk already does one take the place of an old one."""
    out = tmp_path / "out"
    old = {f"frame_{i:04}.png": b"old" for i in range(4)}
    faults = Faults(build, ["generate", tiny_pipeline, "--prompt", "red circle", "--steps", 1, "--frames", 3, "-o", out], out, tmp_path / "log")

    def begin():
        shutil.rmtree(out, ignore_errors=True)
        if has_old:
            put(out, old)

    begin()
    assert faults.run().returncode == 0
    new, calls = frames_of(out), faults.calls()
    complete = 1 + calls.index(f"rename {out}/.frames.tmp/frame_0000.png")  # from here on new frames take their places
    assert list(sorted(new)) == list(old)[:3] and calls.count("fsync") >= 3
    for number, kind in faults.cases(calls):
        where = (number, calls[number - 1], kind)
        begin()
        done = faults.run(number, kind)
        check_exit(done, kind, where)
        left = frames_of(out) if out.exists() else {}
        if done.returncode == 0:
            assert left == new or (calls[number - 1].startswith("unlink") and new.items() <= left.items()), where
        elif number >= complete or kind == "kill":
            assert all(left[name] in (new.get(name), old[name] if has_old else None) for name in left), where
        else:
            assert left == (old if has_old else {}) and out.exists() == has_old, where
        removing = calls[number - 1].startswith("openat")  # of the folder that is removed
        assert kind == "kill" or removing or not (out / ".frames.tmp").exists(), where
        if kind == "kill":
            assert aerogel(*faults.command).returncode == 0 and frames_of(out) == new and len(list(out.iterdir())) == 3, where


def test_an_encoded_video(build, aerogel, tiny_pipeline, tmp_path):
    out = tmp_path / "out"
    command = ["generate", tiny_pipeline, "--prompt", "red circle", "--steps", 1, "--frames", 1, "-o", out / "v.webp"]
    walk(Faults(build, command, out, tmp_path / "log"), aerogel, out, {"v.webp": b"old"})


@pytest.mark.parametrize("ending", ["mp4", "gif", "jpg", "webp"])
def test_a_disk_that_fills_under_ffmpeg(build, tiny_pipeline, tmp_path, ending):
    """Whichever of its calls fails: no half of a file, the one before is still there, and no folder was made for nothing."""
    out = tmp_path / "out"
    frames = 4 if ending in ("mp4", "gif") else 1
    command = ["generate", tiny_pipeline, "--prompt", "red circle", "--steps", 1, "--frames", frames, "-o", out / f"v.{ending}"]
    faults = Faults(build, command, out, tmp_path / "log", program="ffmpeg")
    assert faults.run().returncode == 0
    calls = [(number, call) for number, call in enumerate(faults.calls(), 1) if call.split()[0] in ("open", "openat", "write")]
    assert len(calls) >= 2
    for old in ({}, {f"v.{ending}": b"old"}):
        for number, call in calls:
            shutil.rmtree(out, ignore_errors=True)
            if old:
                put(out, old)
            done = faults.run(number, errno.ENOSPC)
            check_exit(done, errno.ENOSPC, call)
            assert done.returncode == 1 and "[ffmpeg] failed: " in done.stderr, (call, done.stderr)
            assert "No space left on device" in done.stderr or "Could not open file" in done.stderr, (call, done.stderr)
            assert contents(out) == old if old else not out.exists(), call


def test_mine(build, aerogel, tiny_pipeline, tmp_path):
    out = tmp_path / "out"
    command = ["mine", tiny_pipeline, "--prompt", "red circle", "--steps", 1, "-o", out / "p.json", "--html", out / "p.html"]
    walk(Faults(build, command, out, tmp_path / "log"), aerogel, out, {"p.json": b"old", "p.html": b"old"})


def test_tune(build, aerogel, tiny_pipeline, tmp_path):
    """Measurements of earlier attempts may stay: they are what the next one continues from."""
    out = tmp_path / "out"
    (tmp_path / "captions").write_text("red circle\n")
    command = ["tune", tiny_pipeline, "-o", out / "r.yaml", "--max-size", "95%", "--captions", tmp_path / "captions", "--steps", 1, "--frames", 1, "--records", 1,
               "--step-groups", 1, "--include", "blocks.0.attn1.*", "--schemes", "W4A8", "--measurements", tmp_path / "m.json", "--plot", out / "p.svg"]
    walk(Faults(build, command, out, tmp_path / "log"), aerogel, out, {"r.yaml": b"old", "p.svg": b"old"})


def test_calibration(build, aerogel, tiny_pipeline, tmp_path):
    out = tmp_path / "out"
    (tmp_path / "captions").write_text("red circle\n")
    command = ["quantize", tiny_pipeline, "-o", tmp_path / "pair", "--scheme", "W8A8", "--captions", tmp_path / "captions", "--steps", 1, "--frames", 1,
               "--save-calibration", out / "c.safetensors"]
    walk(Faults(build, command, out, tmp_path / "log"), aerogel, out, {"c.safetensors": b"old"})


def test_a_failed_reserve_gives_back_what_it_took(build, model, tmp_path):
    """The shim takes half of the space before it fails."""
    out = tmp_path / "out"
    out.mkdir()
    faults = Faults(build, quantize(model, out), out, tmp_path / "log")
    faults.run()
    number = faults.first("fallocate")
    put(out, {})
    done = faults.run(number, errno.ENOSPC)
    assert done.returncode == 1 and "cannot reserve" in done.stderr and "No space left on device" in done.stderr
    assert contents(out) == {}


@pytest.mark.parametrize("error", [errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_that_cannot_reserve(build, model, pairs, tmp_path, error):
    """Nothing is filled with zeros instead, byte after byte."""
    out = tmp_path / "out"
    out.mkdir()
    faults = Faults(build, quantize(model, out), out, tmp_path / "log")
    faults.run()
    number = faults.first("fallocate")
    put(out, {})
    assert faults.run(number, error).returncode == 0
    assert contents(out) == pairs[1][0]
    assert len([call for call in faults.calls() if call.startswith("pwrite")]) < 30


def test_a_lock_on_a_journal_that_is_gone_is_no_lock(build, model, pairs, tmp_path):
    """The export before this one removes its journal between our opening and our locking it."""
    out = tmp_path / "out"
    out.mkdir()
    faults = Faults(build, quantize(model, out), out, tmp_path / "log")
    faults.run()
    calls = faults.calls()
    number = faults.first("flock")
    journal = out / f"{WEIGHTS}.journal"
    put(out, {})
    done = faults.run(number, "run", f"rm {journal}")
    assert done.returncode == 0, done.stderr
    assert contents(out) == pairs[1][0]
    assert faults.calls().count(f"open {journal}") == calls.count(f"open {journal}") + 1


def test_a_description_written_after_a_crash_wins(aerogel, pairs, tmp_path):
    """An export that ended between the two names, and then another tool's pair in the same folder."""
    (old, old_values), (new, new_values) = pairs
    out = tmp_path / "out"
    put(out, {WEIGHTS: new[WEIGHTS], DESCRIPTION: old[DESCRIPTION], f"{DESCRIPTION}.next": new[DESCRIPTION]})
    os.utime(out / WEIGHTS, (1000, 1000))
    os.utime(out / f"{DESCRIPTION}.next", (1001, 1001))
    os.utime(out / DESCRIPTION, (999, 999))
    assert restored(aerogel, out) == new_values
    put(out, {**old, f"{DESCRIPTION}.next": new[DESCRIPTION]})
    os.utime(out / f"{DESCRIPTION}.next", (1001, 1001))
    assert restored(aerogel, out) == old_values
