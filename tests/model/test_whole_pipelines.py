"""From a prompt to pixels: whole folders as people download them, beside diffusers' own pipelines with the same noise."""
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from wan_models import edit_json, run_program
from whole_pipelines import PIPELINES, latents_for, picture

torch.set_num_threads(1)  # the models are tiny
BOUND = 2e-5  # of the largest pixel: differences of 1e-7 a layer, through text, steps and decoder
RELATIVE_BOUND = 1e-5  # norm of the difference to norm of the pixels
PROMPT = "a red fox, 狐狸 🦊 in the snow"
PICTURES = dict(height=64, width=96)
VIDEOS = dict(height=32, width=48, frames=9)
LARGER = dict(height=64, width=96, frames=9)


def ours(folder, work, **settings):
    out = work / "out.safetensors"
    done = run_program("pipeline_generate", folder, out, *[f"{key}={value}" for key, value in settings.items()])
    assert done.returncode == 0, done.stderr
    return load_file(out)


def compare(folder, pipeline, work, theirs, **settings):
    """`theirs`: arguments of diffusers' call that ours has by other names."""
    settings = dict(prompt=PROMPT, seed=3, **settings)
    noise = ours(folder, work, **settings, decode=0)["noise"]
    made = ours(folder, work, **settings)["video"]
    names = dict(frames="num_frames", steps="num_inference_steps")
    same = {names.get(key, key): value for key, value in settings.items()
            if key in ("prompt", "height", "width", "frames", "steps")}
    result = pipeline(**same, **theirs, latents=latents_for(pipeline, noise), output_type="pt")
    if hasattr(result, "images"):
        pixels = result.images[0][:, None]
    else:
        pixels = result.frames[0].transpose(0, 1)
    assert made.shape == pixels.shape
    assert pixels.std() > 0.05
    difference = (made / 2 + 0.5).clamp(0, 1) - pixels
    largest, relative = difference.abs().max(), difference.norm() / pixels.norm()
    print(f"largest difference {largest:.1e}, relative error {relative:.1e}")
    assert largest <= BOUND and relative <= RELATIVE_BOUND
    return made


@pytest.mark.parametrize("guidance", [0.0, 1.5])
def test_z_image(folders, guidance, tmp_path):
    compare(*folders("z_image"), tmp_path, dict(guidance_scale=guidance, negative_prompt="blurry"), negative="blurry",
            guidance=guidance, steps=3, **PICTURES)


def test_flux2_klein(folders, tmp_path):
    compare(*folders("flux2_klein"), tmp_path, {}, steps=3, **PICTURES)
    compare(*folders("flux2_klein_base"), tmp_path, dict(guidance_scale=2.5), guidance=2.5, steps=3, **PICTURES)


def test_qwen_image(folders, tmp_path):
    compare(*folders("qwen_image"), tmp_path, dict(true_cfg_scale=3.0, negative_prompt=" "), guidance=3.0, steps=3, **PICTURES)
    compare(*folders("qwen_image"), tmp_path, {}, guidance=1.0, steps=2, **PICTURES)


def test_wan(folders, tmp_path):
    compare(*folders("wan"), tmp_path, dict(guidance_scale=3.0, negative_prompt="blurry"), negative="blurry", guidance=3.0,
            steps=3, **VIDEOS)


def test_wan_with_two_experts(folders, tmp_path):
    folder, pipeline = folders("wan_experts")
    theirs = dict(guidance_scale=3.0, guidance_scale_2=2.0, negative_prompt="")
    both = compare(folder, pipeline, tmp_path, theirs, guidance=3.0, guidance_2=2.0, steps=5, **VIDEOS)
    assert torch.equal(ours(folder, tmp_path, prompt=PROMPT, seed=3, guidance=3.0, guidance_2=2.0, steps=5, keep=0, **VIDEOS)["video"], both)
    one = shutil.copytree(folder, tmp_path / "one")
    edit_json(one / "model_index.json", boundary_ratio=None)
    assert not torch.equal(ours(one, tmp_path, prompt=PROMPT, seed=3, guidance=3.0, steps=5, **VIDEOS)["video"], both)


def test_calls_with_components_let_go(folders, tmp_path):
    """The same pixels whether components stay or not; a pair of one transformer is not loaded into two."""
    folder, _ = folders("z_image")
    both = [ours(folder, tmp_path, prompt=PROMPT, steps=2, keep=keep, **PICTURES)["video"] for keep in (0, 1)]
    assert torch.equal(*both)
    done = run_program("pipeline_generate", folders("flux2_klein")[0], tmp_path / "o.safetensors", "prompt=x", "steps=1",
                       "guidance=4", "height=32", "width=32")
    assert done.returncode == 1 and "distilled and takes no guidance" in done.stderr


def test_a_pair_for_each_expert(folders, aerogel, tmp_path):
    """Gives what quantizing both while they are read gives; and so does a batch, whose videos take turns by expert."""
    folder, _ = folders("wan_experts")
    pairs = [tmp_path / name for name in ("transformer", "transformer_2")]
    for pair in pairs:
        done = aerogel("quantize", folder / pair.name, "--scheme", "W8A8_DYNAMIC", "-o", pair)
        assert done.returncode == 0, done.stderr

    def generate(name, *flags):
        flags = ["--prompt", PROMPT, "--size", f"{VIDEOS['width']}x{VIDEOS['height']}", "--frames", VIDEOS["frames"], "--steps", 3, *flags]
        return aerogel("generate", folder, *flags, "--json", "-o", tmp_path / name)
    files = ["--quantized", pairs[0]]
    done = generate("o.gif", *files)
    assert done.returncode == 1 and "this pipeline has two" in done.stderr
    done = aerogel("generate", folders("z_image")[0], "--prompt", "x", "--lora-2", "x", "-o", tmp_path / "o.png")
    assert done.returncode == 1 and "has one transformer" in done.stderr
    for name, flags in (("online.safetensors", ["--online", "W8A8_DYNAMIC", "--seed", 8]),
                        ("files.safetensors", [*files, "--quantized-2", pairs[1], "--seed", 7, "--batch", 2])):
        done = generate(name, *flags)
        assert done.returncode == 0, done.stderr
    quantized = json.loads(done.stdout)["quantized"]
    assert [quantized["description"], quantized["description_2"]] == list(map(str, pairs))
    assert torch.equal(load_file(tmp_path / "online.safetensors")["video"], load_file(tmp_path / "files-8.safetensors")["video"])
    assert (tmp_path / "files-7.safetensors").exists()


def test_names_of_batches_are_checked(folders, aerogel, tmp_path):
    folder, _ = folders("z_image")
    picture(tmp_path / "cat-8.png", 1)
    before = (tmp_path / "cat-8.png").read_bytes()
    flags = ["generate", folder, "--prompt", "x", "--size", "32x32", "--steps", 1]
    done = aerogel(*flags, "--first-frame", tmp_path / "cat-8.png", "--batch", 2, "--seed", 7, "-o", tmp_path / "cat.png")
    assert done.returncode == 1 and "cat-8.png" in done.stderr and (tmp_path / "cat-8.png").read_bytes() == before
    done = aerogel(*flags, "--preview", tmp_path / "p.mp4", "-o", tmp_path / "o.png")
    assert done.returncode == 1 and "--preview writes" in done.stderr
    done = aerogel(*flags, "--batch", 2, "--seed", 7, "--json", "-o", f"{tmp_path}/many/")
    assert done.returncode == 0, done.stderr
    assert [video["seed"] for video in json.loads(done.stdout)["videos"]] == [7, 8]
    assert (tmp_path / "many-7/frame_0000.png").exists() and (tmp_path / "many-8/frame_0000.png").exists()


@pytest.mark.parametrize("scheme", ["W8A16", "float"])
def test_schemes_of_the_text_encoder(folders, aerogel, scheme, tmp_path):
    done = aerogel("generate", folders("z_image")[0], "--prompt", "x", "--size", "32x32", "--steps", 1, "--json",
                   "--text-encoder-scheme", scheme, "-o", tmp_path / "o.png")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout).get("text_encoder_scheme") == (None if scheme == "float" else scheme)


def first_picture(folder, size):
    """first.png, of the size of the video: diffusers' preprocessing wants that."""
    image = picture(folder / "first.png", 1).resize((size["width"], size["height"]), Image.Resampling.LANCZOS)
    image.save(folder / "first.png")
    return image


@pytest.mark.parametrize("last", [False, True])
def test_wan_from_a_picture(folders, last, tmp_path):
    folder, pipeline = folders("wan_between_images" if last else "wan_from_image")
    theirs = dict(image=picture(tmp_path / "first.png", 1), guidance_scale=2.0)
    settings = dict(image=tmp_path / "first.png")
    if last:
        theirs["last_image"], settings["last_image"] = picture(tmp_path / "last.png", 2), tmp_path / "last.png"
    # diffusers' preprocessing wants the size of the video.
    for name in theirs.keys() & {"image", "last_image"}:
        theirs[name] = theirs[name].resize((VIDEOS["width"], VIDEOS["height"]), Image.Resampling.LANCZOS)
        theirs[name].save(settings[name])
    compare(folder, pipeline, tmp_path, theirs, guidance=2.0, steps=3, **settings, **VIDEOS)


def test_small_wan(folders, tmp_path):
    compare(*folders("wan_small"), tmp_path, dict(guidance_scale=2.0), guidance=2.0, steps=3, **LARGER)


def test_small_wan_from_a_picture(folders, tmp_path):
    folder, pipeline = folders("wan_small_from_image")
    image = first_picture(tmp_path, LARGER)
    compare(folder, pipeline, tmp_path, dict(image=image, guidance_scale=2.0), guidance=2.0, steps=3,
            image=tmp_path / "first.png", **LARGER)


def test_two_experts_from_a_picture(folders, tmp_path):
    folder, pipeline = folders("wan_experts_from_image")
    theirs = dict(image=first_picture(tmp_path, VIDEOS), guidance_scale=3.0, guidance_scale_2=2.0)
    compare(folder, pipeline, tmp_path, theirs, guidance=3.0, guidance_2=2.0, steps=5, image=tmp_path / "first.png", **VIDEOS)


@pytest.mark.parametrize("case", [("z_image", dict(height=32, width=48, guidance=1.5)),
                                  ("wan", dict(height=16, width=32, frames=5, guidance=2.0))])
def test_on_a_gpu(folders, build, case, tmp_path, monkeypatch):
    """Text encoder, transformer and VAE in the emulator, as on the CPU: integer layers give its bits for what they meet. Where
    they decide between two integers, sums in another order may fall on either side, so the whole is only near."""
    driver = build / "libaerogel_fake_driver.so"
    if not driver.exists() or not (build / "cuda").exists():
        pytest.skip("built without CUDA kernels or without an emulator")
    name, settings = case[0], dict(prompt="a fox", negative="x", seed=3, steps=2, **case[1])
    monkeypatch.setenv("AEROGEL_CUDA_DRIVER", str(driver))
    monkeypatch.setenv("AEROGEL_FAKE_SM", "90" if name == "wan" else "80")
    folder, scheme = folders(name)[0], "W8A8_DYNAMIC" if name == "wan" else "W8A8_DYNAMIC_CONVROT"
    quantized = dict(scheme=scheme, text_scheme="W8A8_DYNAMIC")
    for schemes, bound in (({}, 1e-5), (quantized, 2e-2)):
        here = ours(folder, tmp_path, **settings, **schemes)
        there = ours(folder, tmp_path, **settings, **schemes, device="cuda")
        error = float((there["video"] - here["video"]).norm() / here["video"].norm())
        print(f"{schemes}: error {error:.1e}")
        assert error <= bound
        if schemes:
            differing, elements = there["differing"].tolist()
            assert differing == 0 and elements > 10_000


@pytest.mark.parametrize("case", [("cuda", "z_image"), ("cuda", "wan_from_image"), ("hidden", "z_image"), ("hidden", "wan_from_image")])
def test_components_wait_in_host_memory(folders, build, case, tmp_path, monkeypatch):
    """A GPU holds one component at a time, and each comes back as it was, although its files are gone."""
    device, name = case
    driver = build / "libaerogel_fake_driver.so"
    if device == "cuda" and (not driver.exists() or not (build / "cuda").exists()):
        pytest.skip("built without CUDA kernels or without an emulator")
    monkeypatch.setenv("AEROGEL_CUDA_DRIVER", str(driver))
    monkeypatch.setenv("AEROGEL_CUDA_MEMORY", "exact")
    settings = dict(prompt="a fox", seed=3, steps=1, height=32, width=32, device=device, scheme="W8A8_DYNAMIC", text_scheme="W8A8_DYNAMIC")
    count, text_pages = 3, 0
    if name == "wan_from_image":
        picture(tmp_path / "first.png", 1)
        settings |= dict(frames=5, guidance=1.0, image=tmp_path / "first.png")
        count, text_pages = 4, 512 * 48 * 4 // 4096
    kept = ours(folders(name)[0], tmp_path, **settings)
    waiting = ours(shutil.copytree(folders(name)[0], tmp_path / "model"), tmp_path, **settings, keep="host")
    assert torch.equal(waiting["video"], kept["video"])
    whole, *turns, end = waiting["pages"].tolist()
    print(f"pages: {whole} with everything there, {turns} at the turns, {end} at the end")
    # Of each component; what the text encoder made is there in the turns behind its own.
    pages = [turn - end - (text_pages if index else 0) for index, turn in enumerate(turns)]
    assert len(turns) == count and all(20 < own < whole - end for own in pages)  # each comes, and has gone at the end
    assert sum(pages) == pytest.approx(whole - end, rel=0.1)


@pytest.mark.parametrize("name", PIPELINES)
def test_every_family_runs_on_a_device(folders, name, tmp_path):
    """Pictures, text encoders, transformers and VAEs on memory that the host must not touch."""
    settings = dict(prompt="a fox", negative="x", seed=3, steps=2, height=32, width=32)
    if name.startswith("wan"):
        settings |= dict(frames=5, guidance=2.0)
    for key in ("image", "last_image") if name == "wan_between_images" else ("image",) if "from" in name else ():
        settings[key] = tmp_path / f"{key}.png"
        picture(settings[key], len(key))
    folder = folders(name)[0]
    here, there = (ours(folder, tmp_path, **settings, device=device)["video"] for device in ("cpu", "hidden"))
    assert here.std() > 0.05 and (there - here).norm() <= 2e-5 * here.norm()


def test_previews(folders, aerogel, tmp_path):
    """A pixel for each place of the latents, and on the whole what the decoder makes of them."""
    folder, _ = folders("z_image")
    out, preview = tmp_path / "o.png", tmp_path / "preview.png"
    done = aerogel("generate", folder, "--prompt", "x", "--size", "192x128", "--steps", 2, "-o", out, "--preview", preview,
                   "--preview-every", 1)
    assert done.returncode == 0, done.stderr
    small = Image.open(preview)
    assert small.size == (24, 16)
    pooled = Image.open(out).resize((24, 16), Image.Resampling.BOX)
    alike = np.corrcoef([np.asarray(small).ravel(), np.asarray(pooled).ravel()])[0, 1]
    print(f"correlation {alike:.2f}")
    assert alike > 0.5
    assert aerogel("generate", ".", "--prompt", "x", "-o", out, "--preview", tmp_path / "p.xyz").returncode == 1


def changes_of_a_layer(tmp_path, folder, transformer):
    """The first Linear of a block, changed: by LoRA as kohya names it, and in a copy of the weights."""
    name, layer = next((name, layer) for name, layer in transformer.named_modules()
                       if isinstance(layer, torch.nn.Linear) and name.partition(".")[2][:1].isdigit())
    stem = "lora_unet_" + name.replace(".", "_")
    save_file({stem + ".lora_down.weight": torch.full((2, layer.in_features), 0.3),
               stem + ".lora_up.weight": torch.full((layer.out_features, 2), 0.3), stem + ".alpha": torch.tensor(1.0)}, tmp_path / "lora.safetensors")
    weights = load_file(next((folder / "transformer").glob("*.safetensors")))
    save_file(weights | {name + ".weight": 2 * weights[name + ".weight"]}, tmp_path / "other.safetensors")


@pytest.mark.parametrize("name", ["z_image", "flux2_klein", "qwen_image", "wan", "wan_experts", "wan_from_image"])
def test_all_that_the_command_offers(folders, aerogel, name, tmp_path):
    """In one call of each family; weights from another file and LoRA change what is made."""
    folder, pipeline = folders(name)
    video = "wan" in name
    size = VIDEOS if video else PICTURES
    changes_of_a_layer(tmp_path, folder, pipeline.transformer)
    flags = ["generate", folder, "--prompt", PROMPT, "--size", f"{size['width']}x{size['height']}", "--steps", 2]
    flags += ["--frames", size["frames"]] if video else []
    if name == "wan_from_image":
        picture(tmp_path / "first.png", 1)
        flags += ["--first-frame", tmp_path / "first.png"]
    several = ["--batch", 2, "--preview", tmp_path / "preview.png", "--preview-every", 1, "--keep", "--timings", "--cache",
               "first-block", "--cache-threshold", 1000, "--online", "W4A8", "--text-encoder-scheme", "W4A16"]
    made = {}
    for run, more in (("plain", []), ("other", ["--transformer", tmp_path / "other.safetensors"]), ("lora", ["--lora", f"{tmp_path}/lora.safetensors=0.5"])):
        done = aerogel(*flags, *several, *more, "--json", "-o", tmp_path / f"{run}.safetensors", "-o",
                       tmp_path / f"{run}.{'gif' if video else 'webp'}")
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert report.get("loras") == ([dict(file=str(tmp_path / "lora.safetensors"), weight=0.5)] if run == "lora" else None)
        assert report.get("transformer") == (str(tmp_path / "other.safetensors") if run == "other" else None)
        assert report.get("first_frame") == (str(tmp_path / "first.png") if name == "wan_from_image" else None) and report["device"] == "cpu"
        assert report["text_encoder_scheme"] == "W4A16" and len(report["videos"]) == 2 and len(report["outputs"]) == 4
        assert report["quantized"]["online"] == "W4A8" and report["quantized"]["layers"]["W4A8"] > 0
        assert report["cache"]["kind"] == "first-block" and report["cache"]["threshold"] == 1000
        passes = 0 if name == "wan_experts" else 2 if report["guidance"] > 1 else 1  # a second expert begins anew
        assert [one["step"] for one in report["cache"]["cached_passes"]] == [1] * passes
        operations = {one["op"]: one for one in report["timings"]["operations"]}
        assert operations["linear"]["calls"] > 0 and operations["attention"]["seconds"] > 0
        made[run] = [load_file(tmp_path / f"{run}-{seed}.safetensors")["video"] for seed in (0, 1)]
    assert made["plain"][0].shape == (3, size.get("frames", 1), size["height"], size["width"])
    assert not torch.equal(*made["plain"])
    assert not torch.equal(made["plain"][0], made["other"][0])
    assert not torch.equal(made["plain"][0], made["lora"][0])
    assert (tmp_path / "preview.png").exists()


def test_defaults_of_the_folder(folders, aerogel, tmp_path):
    """Size, steps, guidance and shift without a flag are those of the class and the scheduler."""
    expected = dict(z_image=(1024, 1024, 1, 9, 0.0), flux2_klein=(1024, 1024, 1, 4, 1.0))
    for name, values in expected.items():
        done = aerogel("generate", folders(name)[0], "--prompt", "x", "--size", "32x32", "--json", "-o", tmp_path / "o.png")
        report = json.loads(done.stdout)
        assert (report["frames"], report["steps"], report["guidance"]) == values[2:]
        assert report["width"] == report["height"] == 32
