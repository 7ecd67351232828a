"""What the command prints: it reaches a reader or is an error, and nothing in it steers a terminal."""
import json
import os
import pathlib
import re
import signal
import subprocess

import pytest
import torch
from safetensors.torch import save_file
from terminal import shown_on_a_terminal

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
HOSTILE = "evil\x1b[31m\x07\x7f\u009b2J\u202e"


@pytest.fixture(scope="module")
def tensors(tmp_path_factory):
    path = tmp_path_factory.mktemp("output") / "t.safetensors"
    save_file({f"{HOSTILE}.weight": torch.ones(8, 16), "b": torch.ones(3)}, path)
    return path


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    path = tmp_path_factory.mktemp("records") / "r.safetensors"
    save_file({"hidden_states": torch.randn(1, 3, 1, 8, 8), "timestep": torch.full((1,), 500.0), "encoder_hidden_states": torch.randn(1, 8, 16)}, path)
    return path


def commands(tensors, records, pipeline, folder):
    generate = ["--prompt", "red circle", "--steps", 1, "--frames", 1]
    return {
        "help": ["--help"],
        "version": ["--version"],
        "list": ["quantize", "--list"],
        "inspect": ["inspect", tensors, "--all"],
        "kernels": ["inspect", "--kernels", "--json"],
        "quantize": ["quantize", tensors, "-o", folder / "pair", "--scheme", "W8A16", "--include", "*"],
        "dequantize": ["dequantize", folder / "pair", "-o", folder / "f.safetensors"],
        "compare": ["compare", tensors, tensors],
        "forward": ["forward", pipeline, "--inputs", records, "-o", folder / "v.safetensors"],
        "generate": ["generate", pipeline, *generate, "-o", folder / "g.safetensors", "--json"],
        "mine": ["mine", pipeline, "--prompt", "red circle", "--steps", 1, "-o", folder / "p.json"],
        "tune": ["tune", pipeline, "-o", folder / "r.yaml", "--max-size", "99%", "--recorded-inputs", records, "--records", 1, "--step-groups", 1,
                 "--include", "blocks.0.attn1.to_q", "--schemes", "W8A16"],
        "bench": ["bench", "--list"],
    }


NAMES = list(commands("", "", "", pathlib.Path()))


@pytest.fixture
def command(*, build, tensors, records, tiny_pipeline, tmp_path, aerogel):
    def make(name):
        every = commands(tensors, records, tiny_pipeline, tmp_path)
        if name == "dequantize":
            assert aerogel(*every["quantize"]).returncode == 0
        return [str(build / "aerogel"), *map(str, every[name])]

    return make


@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk_behind_stdout(command, name):
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(command(name), stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "aerogel: [write] cannot print: No space left on device\n")


@pytest.mark.parametrize("name", NAMES)
def test_closed_stdout(command, name):
    done = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *command(name)], stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "aerogel: [write] cannot print: Bad file descriptor\n")


def test_a_file_never_takes_the_place_of_a_closed_stream(command, tmp_path):
    for redirection in (">&-", "<&- >&- 2>&-", "2>&-"):
        done = subprocess.run(["sh", "-c", f'"$@" {redirection}', "sh", *command("quantize")], capture_output=True, check=False)
        assert done.returncode == (0 if redirection == "2>&-" else 1)
        data = (tmp_path / "pair/quant_model_weight_w8a16.safetensors").read_bytes()
        assert int.from_bytes(data[:8], "little") < 2000 and b"quantized" not in data


def test_errors_without_a_place_to_tell_them(build):
    for redirection in ("2>&-", "2>/dev/full"):
        done = subprocess.run(["sh", "-c", f'"$@" {redirection}', "sh", str(build / "aerogel"), "inspect", "nowhere"], stdout=subprocess.PIPE, check=False)
        assert (done.returncode, done.stdout) == (1, b"")


@pytest.mark.parametrize("ignored", [False, True])
def test_a_reader_that_ends_early(build, tmp_path, ignored):
    """As usual tools: killed by SIGPIPE, without a word, also when it is ignored (as it is once ffmpeg ran)."""
    many = tmp_path / "many.safetensors"
    save_file({f"tensor.{i}": torch.ones(1) for i in range(5000)}, many)
    for options in ([], ["--json"]):
        process = subprocess.Popen([build / "aerogel", "inspect", many, "--all", *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   restore_signals=not ignored)
        process.stdout.read(1)
        process.stdout.close()
        assert process.wait(60) == -signal.SIGPIPE and process.stderr.read() == b""
        process.stderr.close()


@pytest.mark.parametrize("name", ["inspect", "quantize", "compare", "dequantize"])
def test_names_do_not_reach_the_terminal(command, name):
    plain = command(name)
    done = subprocess.run(plain, capture_output=True, check=False)
    text = done.stdout.decode()
    assert done.returncode == 0 and not CONTROL.search(text) and not done.stderr
    assert "evil" in text or name == "dequantize"
    done = subprocess.run([*plain, "--json"], capture_output=True, check=False)
    text = done.stdout.decode()
    assert done.returncode == 0 and not CONTROL.search(text)
    if name != "dequantize":
        assert json.dumps(HOSTILE)[1:-1] in json.dumps(json.loads(text))


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", HOSTILE], ["inspect", f"--{HOSTILE}"], [HOSTILE], ["compare", HOSTILE, HOSTILE], ["quantize", HOSTILE, "-o", "x", "--scheme", "W8A16"],
        ["quantize", ".", "-o", "x", "--scheme", HOSTILE], ["generate", HOSTILE, "-o", "v.gif"], ["generate", "MODEL", "--prompt", HOSTILE, "-o", "v.gif"],
        ["generate", "MODEL", "--prompt", "red circle", "-o", f"v.{HOSTILE}"], ["generate", "MODEL", "--size", HOSTILE, "-o", "v.gif"],
        ["generate", "MODEL", "--sampler", HOSTILE, "-o", "v.gif"], ["dequantize", HOSTILE, "-o", "x"], ["bench", "--beside", HOSTILE],
        ["inspect", "two\nlines"], ["inspect", os.fsdecode(b"\xff\xfe\x9b")],
    ],
    ids=lambda arguments: arguments[0].encode("unicode_escape").decode(),
)
def test_errors_are_one_clean_line(build, tiny_pipeline, tmp_path, arguments):
    arguments = [str(tiny_pipeline) if argument == "MODEL" else argument for argument in arguments]
    done = subprocess.run([build / "aerogel", *arguments], capture_output=True, check=False, cwd=tmp_path)
    text = done.stderr.decode()
    assert done.returncode == 1 and not done.stdout
    assert text.startswith("aerogel: ") and text.count("\n") == 1 and not CONTROL.search(text[:-1]), text


def test_progress_is_clean_too(command):
    """On a terminal the bar shows the names of tensors; its own escapes are \\r and the end of the line."""
    text = shown_on_a_terminal(command("quantize")).replace("\r", "")
    assert "evil" in text and not CONTROL.search(text)


def test_paths_that_are_not_utf8(build, tensors, tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff\xc3.safetensors"
    with open(path, "wb") as file:
        file.write(tensors.read_bytes())
    done = subprocess.run([build / "aerogel", "inspect", path, "--json"], capture_output=True, check=False)
    assert done.returncode == 0 and "\ufffd" in str(json.loads(done.stdout))
    done = subprocess.run([build / "aerogel", "inspect", path], capture_output=True, check=False)
    assert done.returncode == 0 and "\\xff\\xc3.safetensors" in done.stdout.decode()


def test_the_page_of_mine(build, tiny_pipeline, tmp_path):
    model = tmp_path / "a<b>&\"'\x1b[31m"
    model.symlink_to(tiny_pipeline)
    command = [build / "aerogel", "mine", model, "--prompt", "red circle", "--steps", "1", "-o", tmp_path / "p.json", "--html", tmp_path / "p.html"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "p.html").read_text()
    assert "a&lt;b&gt;&amp;&quot;&#39;\\x1b[31m" in page and "\x1b" not in page
