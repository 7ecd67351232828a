"""Absurd numbers and names on the command line: one clear line and exit code 1, before any work or memory is spent."""
import json
import os
import pathlib
import resource
import shutil
import subprocess
import tempfile

import pytest
import torch
from safetensors.torch import save_file


@pytest.fixture(scope="module")
def place(aerogel, tiny_pipeline, tmp_path_factory):
    """A folder with a model, a pair, records and a link that leads to itself."""
    folder = tmp_path_factory.mktemp("absurd")
    shutil.copytree(tiny_pipeline, folder / "model")
    assert aerogel("quantize", folder / "model", "-o", folder / "pair", "--scheme", "W8A16").returncode == 0
    save_file({"hidden_states": torch.zeros(1, 3, 1, 8, 8), "timestep": torch.ones(1), "encoder_hidden_states": torch.zeros(1, 8, 16)},
              folder / "records.safetensors")
    save_file({"prompt_embeds": torch.zeros(1, 8, 16)}, folder / "embeds.safetensors")
    (folder / "own").mkdir()
    shutil.copy(folder / "model/transformer/diffusion_pytorch_model.safetensors", folder / "own/quant_model_weight_w8a16.safetensors")
    (folder / "captions").write_text("red circle\n")
    (folder / "loop").symlink_to("loop")
    (folder / "file").write_text("x")
    os.mkfifo(folder / "pipe")
    return folder


LONG = "n" * 256
GENERATE = "generate model --prompt red -o v.safetensors"
MINE = "mine model --prompt red -o p.json"
STATIC = "quantize model -o out --scheme W8A8_TIMESTEP --captions captions"
CASES = {
    # numbers
    f"{GENERATE} --frames 1000000000": "1000000000 frames of 32x32 need at least",
    f"{GENERATE} --size 2000000000x4": "of memory, but only",
    f"{GENERATE} --size 4x2000000000": "of memory, but only",
    f"{GENERATE} --size 99999999999x4": "--size must be WIDTHxHEIGHT",
    f"{GENERATE} --size 4x4x4": "--size must be WIDTHxHEIGHT",
    f"{GENERATE} --size -4x4": "--size must be WIDTHxHEIGHT",
    f"{GENERATE} --frames 2000": "at most rope_max_seq_len = 64 patches",
    f"{GENERATE} --frames 0": "frames must be positive, got 0",
    f"{GENERATE} --frames -1": "frames must be positive, got -1",
    f"{GENERATE} --steps 0": "--steps: must be a whole number from 1 to 1000, got '0'",
    f"{GENERATE} --steps 1000000000": "--steps: must be a whole number from 1 to 1000",
    f"{GENERATE} --steps 1.5": "--steps: must be a whole number",
    f"{GENERATE} --seed -1": "--seed: must be a whole number from 0 to 18446744073709551615, got '-1'",
    f"{GENERATE} --seed 18446744073709551616": "--seed: must be a whole number",
    f"{GENERATE} --seed 1e3": "--seed: must be a whole number",
    f"{GENERATE} --guidance nan": "--guidance: must be a finite number, got 'nan'",
    f"{GENERATE} --guidance inf": "--guidance: must be a finite number",
    f"{GENERATE} --guidance 1e999": "--guidance: must be a finite number",
    f"{GENERATE} --shift nan": "--shift: must be a finite number",
    f"{GENERATE} --shift 0": "shift must be from 0.001 to 100, got 0",
    f"{GENERATE} --shift 1e-300": "shift must be from 0.001 to 100, got 1e-300",
    f"{GENERATE} --stagger nan": "--stagger: must be a finite number",
    f"{GENERATE} --stagger 1": "stagger must be at least 0 and less than 1",
    f"{GENERATE} --fps nan": "--fps: must be a number from 0.1 to 240",
    f"{GENERATE} --sparse rf_v2 --sparsity nan": "--sparsity: must be a number from 0 to 1",
    f"{GENERATE} --sparse rf_v2 --sparsity 1": "sparsity must be at least 0 and less than 1",
    f"{GENERATE} --sparse rf_v1 --min-recall nan": "--min-recall: must be a number",
    f"{GENERATE} --sparse ada_bsa --cdf-threshold nan": "--cdf-threshold: must be a number",
    f"{GENERATE} --sparse rf_v2 --block-size 1000000000": "block_size",
    f"{MINE} --sparsity nan": "--sparsity: must be a number",
    f"{MINE} --min-recall nan": "--min-recall: must be a number",
    f"{MINE} --seed -1": "--seed: must be a whole number",
    f"{MINE} --steps 1000000000": "--steps: must be a whole number",
    f"{MINE} --frames 1000000000": "of memory, but only",
    f"{STATIC} --steps 1000000000": "--steps: must be a whole number",
    f"{STATIC} --frames 1000000000": "of memory, but only",
    f"{STATIC} --seed -1": "--seed: must be a whole number",
    f"{STATIC} --max-captions -1": "--max-captions: must be a whole number",
    f"{STATIC} --samples -1": "--samples: must be a whole number",
    f"{STATIC} --guidance nan": "--guidance: must be a finite number",
    f"{STATIC} --timesteps 0-99999999999": "--timesteps must be steps and ranges in [0, 3)",
    f"{STATIC} --rank 1.5": "--rank: must be a whole number from -1 to 1048576, got '1.5'",
    "inspect model --rank 1": "[inspect] a rank is of quantized files, got 1 for model",
    "inspect embeds.safetensors --rank 0": "[inspect] a rank is of quantized files, got 0 for embeds.safetensors",
    "inspect pair --rank -2": "--rank: must be a whole number",
    "dequantize pair --rank x -o f.safetensors": "--rank: must be a whole number",
    f"{GENERATE} --quantized pair --rank -9": "--rank: must be a whole number",
    f"{GENERATE} --sparse rf_v2 --mask-refresh-steps 0": "--mask-refresh-steps: must be a whole number from 1 to 1000, got '0'",
    "bench --repeat 1000000000": "--repeat: must be a whole number from 1 to 10000",
    f"{GENERATE} --frames 1.5": "--frames: must be a whole number, got '1.5'",
    f"{GENERATE} --sparse rf_v2 --skip-layers 0,x": "--skip-layers: must be a whole number, got '0,x'",
    "quantize model -o out --scheme W4A8 --group-size -1": "--group-size: must be a whole number from 0 to 1048576, got '-1'",
    "bench --repeat 1.5": "--repeat: must be a whole number",
    "bench --device cuda:x": "--device must be cpu, cuda or cuda:N, got cuda:x",
    # what is known before anything is measured
    "tune model -o r.yaml --max-error 0.1 --schemes W8A8_DYNAMIC,W4A16/minmax/80": "W4A16/minmax/80 fits none of the",
    "tune model -o r.yaml --max-size 1%": "no mixture of these schemes is as small as",
    "tune model -o r.yaml --max-size 2GB": "hold the unchanged model",
    # flags that say nothing
    f"{GENERATE} --sparse rf_v2 --centroids=-inf": "centroids was given a disallowed flag override",
    f"{GENERATE} --image-first=-inf": "image-first was given a disallowed flag override",
    f"{GENERATE} --sparsity 0.8": "--sparsity says nothing without --sparse",
    f"{GENERATE} --no-keep-sink": "--no-keep-sink says nothing without --sparse",
    f"{GENERATE} --start-step 2": "--start-step says nothing without --sparse",
    f"{GENERATE} --negative-prompt blue --guidance 1": "--negative-prompt says nothing without guidance, which is 1",
    f"{GENERATE} --text-encoder-scheme W8A16": "captions of a vocabulary have no layers to quantize",
    "generate model --prompt-embeds embeds.safetensors -o v.gif --guidance 1 --text-encoder-scheme W8A16": "--text-encoder-scheme says nothing where embeddings",
    "generate model -o v.gif": "by --prompt, which may be empty, or by --prompt-embeds: give one of them",
    "generate model --prompt red --prompt-embeds embeds.safetensors -o v.gif": "or by --prompt-embeds: give one of them",
    f"{GENERATE} --steps 2 --steps 3": "--steps takes one value, got 2 (see --help)",
    f"{GENERATE} --preview-every 2": "--preview-every says nothing without --preview",
    "generate model --prompt red --frames 1 -o v.png --fps 24": "--fps says nothing without an output .mp4 or .gif",
    f"{GENERATE} --keep host": "not expected: host; a value of --keep follows a '=': --keep=host (see --help)",
    f"{GENERATE} --low-rank 8": "--low-rank says nothing without --online",
    "forward model --inputs records.safetensors -o v.safetensors --sparse-precision int8": "--sparse-precision says nothing without --sparse",
    f"{GENERATE} --sparse ada_bsa --skip-layers 0,2": "skip_layers must be blocks from 0 to 1, got 2",
    f"{GENERATE} --sparse ada_bsa --skip-layers 0,1": "no attention would be sparse: start_step = 0 and end_step = -1 (-1: never), 2 of 2 blocks",
    f"{GENERATE} --sparse ada_bsa --start-step 2 --end-step 2": "no attention would be sparse: start_step = 2 and end_step = 2",
    "tune model -o r.yaml --max-error 0.1 --recorded-inputs records.safetensors --seed 3": "--seed says nothing with --recorded-inputs",
    "quantize model -o out --scheme W8A8 --prompt-embeds embeds.safetensors --max-captions 3": "--max-captions says nothing with --prompt-embeds",
    f"{GENERATE} --rank 0": "--rank says nothing without --quantized",
    f"{GENERATE} --online W8A16 --first-static-step 0": "--first-static-step says nothing without --quantized",
    f"{GENERATE} --image-first --first-frame x.png": "--first-frame gives the frame that --image-first makes",
    # a variable of a script that is empty
    f"{GENERATE} --steps= --seed 3": "--steps: must be a whole number from 1 to 1000, got ''",
    f"{GENERATE} --sparse= --centroids": "--sparse: must not be empty",
    f"{GENERATE} --lora ''": "--lora: must not be empty",
    f"{GENERATE} --online ''": "--online: must not be empty",
    f"{GENERATE} --quantized ''": "--quantized: must not be empty",
    f"{MINE} --html ''": "--html: must not be empty",
    f"{STATIC} --save-calibration ''": "--save-calibration: must not be empty",
    "bench --only ''": "--only: must not be empty",
    # names
    "generate model --prompt red -o ''": "--output: must not be empty",
    "generate model --prompt red -o v.gif -o v.gif": "is given twice",
    "generate model --prompt red -o -": "-o - would be the standard output, which is not supported",
    "generate model --prompt red -o .gif": "cannot write '.gif': there is no name before the ending",
    "generate model --prompt red -o pair/.PNG": "cannot write 'pair/.PNG': there is no name before the ending",
    "generate model --prompt red -o .safetensors/": "there is no name before the ending",
    "generate model --prompt red -o v.": "cannot write 'v.': expected .mp4",
    "generate model --prompt red -o v.gif.": "cannot write 'v.gif.': expected .mp4",
    f"{GENERATE} --preview .jpeg": "cannot write '.jpeg': there is no name before the ending",
    "generate model --prompt red --batch 2 -o .": "the seeds of a batch stand in the names of the outputs, and '.' is no name",
    "generate model --prompt red --batch 2 -o pair/..": "and 'pair/..' is no name",
    "generate model --prompt red -o file/v.gif": "cannot be a folder: 'file' is a file",
    "generate model --prompt red -o file": "cannot be a folder: 'file' is a file",
    "generate model --prompt red -o loop/v.gif": "Too many levels of symbolic links",
    f"generate model --prompt red -o {LONG}": "File name too long",
    f"generate model --prompt red -o {LONG}.safetensors": "File name too long",
    "generate model --prompt-embeds embeds.safetensors -o embeds.safetensors": "is also an input",
    "generate model --prompt red --lora-2 embeds.safetensors -o embeds.safetensors": "is also an input",
    "generate '' --prompt red -o v.gif": "MODEL: must not be empty",
    "generate hub/Model --prompt red -o v.gif": "hub/Model does not exist: expected the folder of a pipeline or of a transformer on this machine",
    "generate model/model_index.json --prompt red -o v.gif": "model/model_index.json is a file: expected the folder of a pipeline",
    "generate pair --prompt red -o v.gif": "neither pair/config.json nor pair/transformer/config.json exists: expected the folder of a pipeline",
    "generate loop --prompt red -o v.gif": "Too many levels of symbolic links",
    f"generate {LONG} --prompt red -o v.gif": "File name too long",
    "forward model --inputs records.safetensors -o records.safetensors": "is also an input",
    "forward model --inputs records.safetensors -o ''": "--output: must not be empty",
    "forward model --inputs records.safetensors -o pair": "is a folder",
    "forward model --inputs records.safetensors -o missing/v.safetensors": "the folder 'missing' does not exist",
    "forward model --inputs loop -o v.safetensors": "Too many levels of symbolic links",
    "dequantize pair -o pair/quant_model_weight_w8a16.safetensors": "is also an input",
    "dequantize pair -o ./pair/../pair/quant_model_description_w8a16.json": "is also an input",
    "dequantize pair -o loop": "Too many levels of symbolic links",
    "dequantize pair -o pair/": "must be a file name",
    "dequantize pair -o missing/f.safetensors": "the folder 'missing' does not exist",
    f"dequantize pair -o {LONG}": "File name too long",
    "dequantize loop -o f.safetensors": "Too many levels of symbolic links",
    "dequantize '' -o f.safetensors": "DESCRIPTION: must not be empty",
    "mine model --prompt red -o same --html same": "is given twice",
    "mine model --prompt red -o same --html ./same": "the output './same' is given twice",
    "mine model --prompt red -o same --html pair/../same": "is given twice",
    "generate model --prompt red -o v.gif -o ./v.gif": "the output './v.gif' is given twice",
    "generate model --prompt red -o frames -o frames/": "is given twice",
    "inspect --kernels pair": "give a PATH or --kernels",
    # what the model or a pair is read from
    "forward model --inputs records.safetensors -o model/transformer/diffusion_pytorch_model.safetensors": "is a file of the input 'model'",
    "forward model/transformer --inputs records.safetensors -o model/transformer/config.json": "is a file of the input 'model/transformer'",
    "forward model --inputs records.safetensors -o pair/quant_model_weight_w8a16.safetensors --quantized pair": "is a file of the input 'pair'",
    f"{GENERATE} -o pair/quant_model_weight_w8a16.safetensors --quantized pair/quant_model_description_w8a16.json": "is a file of the input",
    "generate model --prompt red -o model/text_encoder/model.safetensors": "is a file of the input 'model'",
    "mine model --prompt red -o model/model_index.json": "is a file of the input 'model'",
    "mine model --prompt red -o p.json --html ./model/scheduler/scheduler_config.json": "is a file of the input 'model'",
    "tune model -o model/transformer/config.json --max-error 0.1": "is a file of the input 'model'",
    f"{STATIC} --save-calibration model/transformer/diffusion_pytorch_model.safetensors": "is a file of the input 'model'",
    "quantize model -o model/transformer/diffusion_pytorch_model.safetensors --scheme W8A8_DYNAMIC --layout comfy": "is a file of the input 'model'",
    # a file would take the place of a pipe, or of /dev/null
    "dequantize pair -o pipe": "the output 'pipe' is there and no regular file",
    "forward model --inputs records.safetensors -o pipe": "the output 'pipe' is there and no regular file",
    "mine model --prompt red -o pipe": "the output 'pipe' is there and no regular file",
    "mine model --prompt red -o p.json --html pipe": "the output 'pipe' is there and no regular file",
    "mine model --captions captions -o captions": "is also an input",
    "mine model --prompt red -o missing/p.json": "the folder 'missing' does not exist",
    "mine model --prompt red -o p.json --html pair": "is a folder",
    "quantize own/quant_model_weight_w8a16.safetensors -o own --scheme W8A16": "is also an input",
    "quantize model -o file --scheme W8A16": "cannot be a folder: 'file' is a file",
    "quantize model -o file/x --scheme W8A16": "cannot be a folder: 'file' is a file",
    "quantize model -o loop --scheme W8A16": "Too many levels of symbolic links",
    "quantize model -o '' --scheme W8A16": "--output: must not be empty",
    "quantize '' -o out --scheme W8A16": "MODEL: must not be empty",
    "quantize loop -o out --scheme W8A16": "Too many levels of symbolic links",
    f"quantize model -o {LONG} --scheme W8A16": "File name too long",
    f"{STATIC} --save-calibration captions": "is also an input",
    f"{STATIC} --save-calibration missing/c": "the folder 'missing' does not exist",
    "inspect loop": "Too many levels of symbolic links",
    "inspect ''": "PATH: must not be empty",
    f"inspect {LONG}": "File name too long",
    "compare loop loop": "Too many levels of symbolic links",
    "compare '' ''": "A: must not be empty",
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.replace(LONG, "LONG"))
def test_one_clear_line(aerogel, place, case):
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.name != "loop"}
    arguments = ["" if word == "''" else word for word in case.split()]
    done = aerogel(*arguments, cwd=place, timeout=60)
    assert done.returncode == 1 and not done.stdout
    assert done.stderr.startswith("aerogel: ") and done.stderr.count("\n") == 1 and "filesystem error" not in done.stderr, done.stderr
    assert CASES[case] in done.stderr, done.stderr
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.name != "loop"} == before


NOBODY = 65534


@pytest.fixture
def common_place(place):
    """A copy of `place` that other users reach; root, to whom nothing is forbidden, runs the command as one of them."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(place, f"{folder}/place", symlinks=True, ignore=shutil.ignore_patterns("pipe"))
        os.chmod(folder, 0o755)
        yield pathlib.Path(folder) / "place"


def become_nobody():
    if os.geteuid() == 0:
        os.setgid(NOBODY)
        os.setuid(NOBODY)


@pytest.mark.parametrize("case", ["quantize model -o closed/out --scheme W8A16", "dequantize pair -o closed/f.safetensors", "mine model --prompt red -o closed/p.json",
                                  "generate model --prompt red -o closed/v.gif", "inspect hidden/model", "quantize hidden/model -o out --scheme W8A16",
                                  "inspect unlisted", "dequantize unlisted -o f.safetensors", "compare hidden/a hidden/b"])
def test_folders_without_permission(build, common_place, case):
    modes = {"closed": 0o555, "hidden": 0, "unlisted": 0o311}
    for name, mode in modes.items():
        shutil.copytree(common_place / "model", common_place / name / "model")
        os.chmod(common_place / name, mode)
    command = [build / "aerogel", *case.split()]
    try:
        done = subprocess.run(command, cwd=common_place, capture_output=True, text=True, check=False, preexec_fn=become_nobody, timeout=60)
    except PermissionError:
        pytest.skip("other users cannot run the command here")
    finally:
        for name in modes:
            os.chmod(common_place / name, 0o755)
    assert done.returncode == 1 and done.stderr.startswith("aerogel: [") and done.stderr.count("\n") == 1, done.stderr
    assert "ermission" in done.stderr and "filesystem error" not in done.stderr, done.stderr


def test_results_may_lie_beside_the_components(aerogel, place, tmp_path):
    """And take the place of earlier ones; prompts may be empty."""
    model = shutil.copytree(place / "model", tmp_path / "model")
    for name in ("v.safetensors", "v.safetensors", "transformer/v.gif", "transformer/v.gif"):
        done = aerogel("generate", model, "--prompt", "", "--negative-prompt=", "--steps", 1, "--frames", 1, "-o", model / name)
        assert done.returncode == 0 and (model / name).exists(), done.stderr


def test_names_of_problems_as_json(aerogel):
    text, names = (aerogel("bench", "--list", "--only", "attention", *flags).stdout for flags in ([], ["--json"]))
    assert json.loads(names) == {"problems": text.split()} and text


def test_the_largest_seed(aerogel, place, tmp_path):
    arguments = ["generate", place / "model", "--prompt", "red", "--steps", "1", "--frames", "1", "-o", tmp_path / "v.safetensors"]
    assert aerogel(*arguments, "--seed", 2**64 - 1).returncode == 0


def test_memory_limits_count(aerogel, place, tmp_path):
    """ulimit -v, as some schedulers set it."""
    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (1 << 32, 1 << 32))

    done = aerogel("generate", place / "model", "--prompt", "red", "--frames", 64, "--size", "8192x8192", "-o", tmp_path / "v.safetensors", preexec_fn=limit,
                   timeout=60)
    assert done.returncode == 1 and "of memory, but only 4.3 GB" in done.stderr
