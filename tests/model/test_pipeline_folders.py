"""Folders and settings that do not fit: one line that says what, before anything has run."""
import json
import shutil

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file
from wan_models import edit_json, run_program
from whole_pipelines import VIDEO_VAE, clip, picture, randomized, wan_transformer

torch.set_num_threads(1)  # the models are tiny


@pytest.mark.parametrize("settings, message", [
    (dict(prompt="caf\udce9"), "prompt must be UTF-8, got the byte 0xE9 at 3"),
    (dict(negative="\udcff", guidance=3), "negative_prompt must be UTF-8, got the byte 0xFF at 0"),
    (dict(image_first=1), "this model makes pictures: image_first and stagger are for models of videos"), (dict(stagger=0.5), "this model makes pictures"),
    (dict(height=60), "height must be a positive multiple of 16, got 60"),
    (dict(frames=5), "this model makes pictures: frames must be 1, got 5"),
    (dict(guidance="nan"), "guidance must be a number"),
    (dict(image="none.png"), "this model makes pictures: a first frame is for models of videos"), (dict(guidance_2=3), "guidance_2 is of a second expert"),
    (dict(shift=0), "shift must be from 0.001 to"), (dict(last_image="none.png"), "a last frame (last_image) is for image-to-video"),
    (dict(height=1048576, width=1048576), "of memory, but only")])
def test_wrong_settings_are_found_before_the_work(folders, settings, message, tmp_path):
    arguments = {**dict(prompt="x", steps=1, height=64, width=96), **settings}
    done = run_program("pipeline_generate", folders("z_image")[0], tmp_path / "o.safetensors",
                       *[f"{key}={value}" for key, value in arguments.items()])
    assert done.returncode == 1 and message in done.stderr, done.stderr


LAYER = "layers.0.attention.to_q"


def low_rank(down=(2, 48), up=(48, 2), name=LAYER, value=1.0):
    return {f"transformer.{name}.lora_A.weight": torch.full(down, value), f"transformer.{name}.lora_B.weight": torch.ones(up)}


@pytest.mark.parametrize("flags, message", [
    (["--lora", low_rank((2, 47))], f"layer {LAYER} needs 'transformer.{LAYER}.lora_A.weight' [rank,48]"),
    (["--lora", low_rank((3, 48))], "[48,rank], got [3,48] and [48,2]"),
    (["--lora", low_rank(up=(49, 2))], f"layer {LAYER} needs"),
    (["--lora", low_rank(name="layers.9.attention.to_q")], "no Linear of the model fits 2 keys: transformer.layers.9.attention.to_q.lora_A.weight"),
    (["--lora", low_rank(value=float("nan"))], "f32[2,48] is not finite: element [0,0] is nan"),
    (["--lora", low_rank(), "--lora", "nowhere"], "nowhere"),
    (["--lora", low_rank(), "--quantized", "pair"], "LoRA is merged into float weights, but the layers are read from quantized files"),
    (["--quantized", "pair"], "the model has no Linear 'model.layers.0."),
    (["--online", "W9A9"], "there is no scheme 'W9A9'"),
    (["--online", "W8A16", "--include", "blocks.*"], "pattern 'blocks.*' matches none of the"),
    (["--online", "W4A16", "--group-size", 32], "noise_refiner.0.attention.to_q: the group size must divide the 48 columns, got 32 (weight [48,48])"),
    (["--online", "W4A16", "--rotate", 32], "noise_refiner.0.attention.to_q: [rotate] block must be -1 or a power of two that divides the 48 columns, got 32"),
    (["--online", "W8A16", "--low-rank", 49], "noise_refiner.0.attention.to_q: the rank must be at most 48, got 49 (weight [48,48])"),
    (["--prompt-embeds", {"prompt_embeds": torch.ones(1, 3, 47)}], "prompt_embeds must be f32[1,*,48], got f32[1,3,47]"),
    (["--prompt-embeds", {"prompt_embeds": torch.ones(1, 3, 48), "negative_prompt_embeds": torch.ones(2, 3, 48)}],
     "negative_prompt_embeds must be f32[1,*,48], got f32[2,3,48]"),
    (["--sparse", "ada_bsa", "--start-step", 1, "--block-size", 15], "block_size must be 16 to 128, got 15"),
    (["--sparse", "rf_v2", "--start-step", 1, "--sparse-precision", "fp8"], "precision fp8, mix and mxfp4 go with rf_v3, got rf_v2"),
    (["--first-frame", "nowhere.png"], "this model makes pictures: a first frame is for models of videos"),
    (["--start-step", 1, "--profile", [[[[0, 2, "spatial", 0.9]]] * 2] * 3], "the profile has 2 heads in layer 0, the model has 3"),
], ids=lambda value: value if isinstance(value, str) else value[0])
def test_what_does_not_fit_is_told_before_anything_runs(folders, aerogel, flags, message, tmp_path):
    folder, _ = folders("z_image")
    if "pair" in flags:
        assert aerogel("quantize", folder / "text_encoder", "--scheme", "W8A16", "-o", tmp_path / "pair").returncode == 0

    def given(flag, path):
        if isinstance(flag, dict):
            save_file(flag, path)
        elif isinstance(flag, list):
            head = dict(aerogel_sparse_profile=1, latent_shape=[1, 4, 4], block_size=16, sparsity=0.5, protect_first_frame=True, steps=2)
            path.write_text(json.dumps({**head, "layers": flag}))
        return path if isinstance(flag, (dict, list)) else flag

    call = ["generate", folder, "--size", "32x32", "--steps", 2, "-o", "o.png", *(given(flag, tmp_path / f"{i}.file") for i, flag in enumerate(flags))]
    done = aerogel(*call, *([] if "--prompt-embeds" in flags else ["--prompt", "x"]), cwd=tmp_path, env={"AEROGEL_LOG": "dispatch"})
    check_told_before_anything_runs(done, message)
    assert not (tmp_path / "o.png").exists()


def check_told_before_anything_runs(done, message):
    """In one line. Layers are packed where they are read; the log knows no norm and no attention: nothing was computed."""
    assert done.returncode == 1 and not done.stdout, done
    *dispatched, said = done.stderr.splitlines()
    assert said.startswith("aerogel: [") and message in said, done.stderr
    assert not any(ran in line for line in dispatched for ran in ("attention", "norm")), dispatched


def set_key(file, **changes):
    return lambda folder: edit_json(folder / file, **changes)


def cut_in_half(file):
    def cut(folder):
        data = (folder / file).read_bytes()
        (folder / file).write_bytes(data[:len(data) // 2])
    return cut


def with_tensor(file, name, shape):
    return lambda folder: save_file(load_file(folder / file) | {name: torch.zeros(shape)}, folder / file)


def with_model(part, make, **changes):
    """Another model of the same class."""
    return lambda folder: make(**changes).save_pretrained(folder / part)


def with_vae(**changes):
    return with_model("vae", lambda **settings: randomized(diffusers.AutoencoderKLWan(**{**VIDEO_VAE, **settings})), **changes)


transformer_of_a_video = with_model("transformer", wan_transformer)  # takes the noise alone


CLIP, PROCESSOR = "image_encoder/model.safetensors", "image_processor/preprocessor_config.json"


@pytest.mark.parametrize("case", [
    ("wan_from_image", cut_in_half(CLIP), f"{CLIP}"),
    ("wan_from_image", lambda folder: (folder / CLIP).unlink(), "image_encoder"),
    ("wan_from_image", with_tensor(CLIP, "embeddings.class_embedding", (23,)), "embeddings.class_embedding must be a float[24], got f32[23]"),
    ("wan_from_image", set_key("image_encoder/config.json", hidden_size=5), "hidden_size must be num_attention_heads times"),
    ("wan_from_image", set_key("image_encoder/config.json", hidden_act="relu"), "config.json: hidden_act must be one of gelu, quick_gelu, got \"relu\""),
    ("wan_from_image", lambda folder: (folder / PROCESSOR).write_text("{"), f"{PROCESSOR}"),
    ("wan_from_image", set_key(PROCESSOR, do_normalize=False), f"{PROCESSOR}: do_normalize must be true, got false"),
    ("wan_from_image", set_key(PROCESSOR, crop_size=dict(height=14, width=28)), "crop_size must be 28x28, the image_size of"),
    ("wan_from_image", set_key("model_index.json", image_encoder=[None, None]), "image_encoder is [null,null]: the transformer is told what it sees"),
    ("wan_from_image", set_key("model_index.json", image_processor=None), "image_processor is null: the transformer is told"),
    ("wan_from_image", with_model("image_encoder", clip, hidden_size=32), "hidden_size must be 24, the image_dim of the transformer, got 32"),
    ("wan_between_images", with_model("image_encoder", clip, patch_size=7),
     "must give half of the 10 tokens of the transformer's pos_embed_seq_len, got 17"),
    ("wan_from_image", with_vae(z_dim=8, latents_mean=[0.0] * 8, latents_std=[1.0] * 8), "the model gives 4 channels, but the latents of the VAE have 8"),
    ("wan_from_image", transformer_of_a_video, "the model takes 4 channels and gives 4; a given picture is 8 channels: this model takes none"),
    ("wan_experts_from_image", transformer_of_a_video, "transformer_2/config.json: in_channels must be 4 as in transformer, got 12"),
    ("wan_experts_from_image", with_model("transformer_2", wan_transformer, in_channels=12, patch_size=(1, 1, 1)), "patch_size must be [1,2,2] as in transformer, got [1,1,1]"),
    ("wan_experts_from_image", with_model("transformer_2", wan_transformer, in_channels=12, out_channels=5), "out_channels must be 4 as in transformer, got 5"),
    ("wan_experts_from_image", with_model("transformer_2", wan_transformer, in_channels=12, text_dim=47), "text_dim must be 48 as in transformer, got 47"),
    ("wan_experts_from_image", set_key("model_index.json", transformer_2=[None, None]), "boundary_ratio needs a second transformer, but"),
    ("wan_between_images", None, "this model is told a first and a last picture (pos_embed_seq_len), got no last_image"),
])
def test_folders_for_pictures_are_looked_at_before_anything_runs(folders, aerogel, case, tmp_path):
    name, change, message = case
    folder = shutil.copytree(folders(name)[0], tmp_path / "folder")
    if change is not None:
        change(folder)
    picture(tmp_path / "first.png", 1)
    done = aerogel("generate", folder, "--prompt", "x", "--size", "32x32", "--frames", 5, "--steps", 1, "--first-frame", tmp_path / "first.png",
                   "-o", tmp_path / "o.safetensors", env={"AEROGEL_LOG": "dispatch"})
    check_told_before_anything_runs(done, message)


def test_a_component_that_is_listed_as_nothing(folders, aerogel, tmp_path):
    """The folder of one that model_index.json lists as [null, null] is left alone, as diffusers does."""
    def run(name, *flags, prompt=("--prompt", "x"), steps=1, **listed):
        folder = tmp_path / "folder"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(folders(name)[0], folder)
        edit_json(folder / "model_index.json", **listed)
        frames = ["--frames", 5] if "wan" in name else []
        done = aerogel("generate", folder, *prompt, "--size", "32x32", "--steps", steps, *frames, *flags, "--json",
                       "-o", tmp_path / "o.safetensors", env={"AEROGEL_LOG": "dispatch"})
        if done.returncode != 0:
            check_told_before_anything_runs(done, "")
            return done.stderr
        return json.loads(done.stdout)

    nothing = [None, None]
    latents = run("z_image", "--frames", 1, vae=nothing)
    assert "decode" not in [stage["stage"] for stage in latents["stages"]]
    assert load_file(tmp_path / "o.safetensors")["video"].shape == (4, 1, 32, 32)
    for part in ("text_encoder", "tokenizer"):
        for entry, shown in ((nothing, "[null,null]"), (None, "null")):
            assert f"model_index.json: {part} is {shown}: give prompt_embeds" in run("z_image", **{part: entry})
    save_file({"prompt_embeds": torch.ones(1, 3, 48)}, tmp_path / "embeds.safetensors")
    run("z_image", prompt=("--prompt-embeds", tmp_path / "embeds.safetensors"), text_encoder=nothing, tokenizer=nothing)
    assert "scheduler is [null,null]: it says which noise levels ZImagePipeline takes" in run("z_image", scheduler=nothing)
    assert run("wan", scheduler=nothing)["shift"] == 3.0
    assert "transformer is [null,null]: there is nothing to run" in run("z_image", transformer=nothing)
    assert run("wan_experts", transformer_2=nothing, boundary_ratio=None)["weight_bytes"] * 2 == run("wan_experts", steps=5)["weight_bytes"]


def test_endings_may_be_capitals(folders, aerogel, tmp_path):
    picture(tmp_path / "first.png", 1)
    shutil.copy(tmp_path / "first.png", tmp_path / "FIRST.PNG")
    picture(tmp_path / "photo.jpg", 1)
    shutil.copy(tmp_path / "photo.jpg", tmp_path / "PHOTO.JPG")
    made = {}
    for name in ("first.png", "FIRST.PNG", "photo.jpg", "PHOTO.JPG"):
        outputs = [tmp_path / f"{name}{ending}" for ending in (".SAFETENSORS", ".GIF")]
        done = aerogel("generate", folders("wan_from_image")[0], "--prompt", "x", "--size", "32x32", "--frames", 5, "--steps", 1, "--first-frame", tmp_path / name,
                       "-o", outputs[0], "-o", outputs[1])
        assert done.returncode == 0, done.stderr
        made[name] = load_file(outputs[0])["video"]
        same = aerogel("compare", *outputs, "--json")
        assert same.returncode == 0 and json.loads(same.stdout)["results"][0]["psnr"] > 20, same
    assert torch.equal(made["first.png"], made["FIRST.PNG"]) and torch.equal(made["photo.jpg"], made["PHOTO.JPG"])
    assert not torch.equal(made["first.png"], made["photo.jpg"])


def test_image_to_video_needs_a_picture(folders, tmp_path):
    done = run_program("pipeline_generate", folders("wan_from_image")[0], tmp_path / "o.safetensors", "prompt=x", "steps=1")
    assert done.returncode == 1 and "a first frame must be given (image)" in done.stderr
    done = run_program("pipeline_generate", folders("wan")[0], tmp_path / "o.safetensors", "prompt=x", "steps=1", "image=none.png")
    assert done.returncode == 1 and "this model is not made to begin with a picture (image)" in done.stderr
    done = run_program("pipeline_generate", folders("wan_from_image")[0], tmp_path / "o.safetensors", "prompt=x", "steps=1", "image=none.png")
    assert done.returncode == 1 and "[png] none.png: cannot open: No such file or directory" in done.stderr


def test_folders_that_are_wrong(folders, tmp_path):
    def error(change):
        folder = tmp_path / "wrong"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(folders("z_image")[0], folder)
        change(folder)
        done = run_program("pipeline_generate", folder, tmp_path / "o.safetensors", "prompt=x", "steps=1", "height=32",
                           "width=32")
        assert done.returncode == 1
        return done.stderr

    message = error(set_key("model_index.json", _class_name="FooPipeline"))
    assert message.startswith(f"[pipeline] {tmp_path}/wrong/model_index.json: the class 'FooPipeline' is not supported, only WanPipeline")
    message = error(set_key("transformer/config.json", _class_name="FooModel"))
    assert "FooModel" in message and "ZImageTransformer2DModel" in message
    assert "_class_name" in error(set_key("vae/config.json", _class_name="FooVae"))
    assert "use_karras_sigmas = false" in error(set_key("scheduler/scheduler_config.json", use_karras_sigmas=True))
    assert "HeunDiscreteScheduler" in error(set_key("scheduler/scheduler_config.json", _class_name="HeunDiscreteScheduler"))
    def without_two(folder):
        shutil.rmtree(folder / "tokenizer")
        next((folder / "vae").glob("*.safetensors")).unlink()
    assert "[vae]" in error(without_two)  # what runs last is looked at first


@pytest.mark.parametrize("name, part", [
    *(("z_image", part) for part in ("transformer", "vae", "scheduler", "text_encoder", "tokenizer")),
    ("wan_experts", "transformer_2"), ("wan_from_image", "image_encoder"), ("wan_from_image", "image_processor")])
def test_a_component_that_is_listed_and_missing(folders, name, part, aerogel, tmp_path):
    """One line that names it, before anything runs; one that is listed as [null, null] may be missing."""
    folder = tmp_path / "folder"
    shutil.copytree(folders(name)[0], folder)
    shutil.rmtree(folder / part)
    picture(tmp_path / "first.png", 1)
    call = ["generate", folder, "--prompt", "x", "--size", "32x32", "--steps", 1, "-o", tmp_path / "o.safetensors", "--json"]
    if name == "wan_from_image":
        call += ["--frames", 5, "--first-frame", tmp_path / "first.png"]
    elif name == "wan_experts":
        call += ["--frames", 5]
    done = aerogel(*call)
    assert done.returncode == 1 and done.stdout == "" and len(done.stderr.splitlines()) == 1, done.stderr
    assert f"{folder / part}" in done.stderr and "exist" in done.stderr
    if part != "transformer":
        assert f"model_index.json lists {part}, but" in done.stderr
    assert not (tmp_path / "o.safetensors").exists()
    edit_json(folder / "model_index.json", **{part: [None, None]})
    if part == "vae":  # latents, of the size given
        call += ["--frames", 1]
        done = aerogel(*call)
        assert done.returncode == 0, done.stderr
        assert [stage["stage"] for stage in json.loads(done.stdout)["stages"]] == [
            "load text_encoder", "encode prompt", "load transformer", "denoise"]
        assert load_file(tmp_path / "o.safetensors")["video"].shape == (4, 1, 32, 32)
    if part == "scheduler":
        for entry in ([None, None], None, [], 5):
            edit_json(folder / "model_index.json", scheduler=entry)
            done = aerogel(*call)
            why = "scheduler is " if entry in ([None, None], None) else f"{folder / 'scheduler/scheduler_config.json'} does not exist"
            assert done.returncode == 1 and why in done.stderr, (entry, done)
            assert len(done.stderr.splitlines()) == 1
    if part == "text_encoder":
        assert "give prompt_embeds" in aerogel(*call).stderr
        save_file({"prompt_embeds": torch.ones(1, 3, 48)}, tmp_path / "embeds.safetensors")
        call[2:4] = ["--prompt-embeds", tmp_path / "embeds.safetensors"]
        assert aerogel(*call).returncode == 0
        edit_json(folder / "model_index.json", text_encoder=["transformers", "Qwen3ForCausalLM"])
        assert aerogel(*call).returncode == 0  # embeddings take its place
