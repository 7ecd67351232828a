"""Whole videos against the loop that diffusers' WanPipeline runs, captions against the rule of the vocabulary."""
import json

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file
from wan_models import edit_json, error, random_model, run_program

# Rounding differences of about 1e-7 per forward pass, carried through at most eight guided steps.
BOUND = 1e-5
WORDS = ["<pad>", "red", "blue", "circle", "star", "moves", "turns", "left"]
GENERATION = dict(num_frames=3, height=6, width=8, num_inference_steps=4, guidance_scale=3.0, flow_shift=6.0)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A pipeline folder with a caption table, and the model in it."""
    folder, generator = tmp_path_factory.mktemp("pipeline"), torch.Generator().manual_seed(3)
    model = random_model(in_channels=3, out_channels=3)
    model.save_pretrained(folder / "transformer")
    diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True,
                                      flow_shift=2.0).save_pretrained(folder / "scheduler")
    (folder / "text_encoder").mkdir()
    (folder / "text_encoder/vocabulary.json").write_text(json.dumps(
        {"words": WORDS, "pad": "<pad>", "max_length": 8, "slots_per_object": 4, "max_objects": 2}))
    save_file({"word_embedding.weight": torch.randn(len(WORDS), 24, generator=generator),
               "position_embedding.weight": torch.randn(8, 24, generator=generator)},
              folder / "text_encoder/model.safetensors")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "WanPipeline", "generation": GENERATION}))
    return folder, model


def embed(folder, slots):
    tables = load_file(folder / "text_encoder/model.safetensors")
    ids = torch.tensor([WORDS.index(word) for word in slots])
    return (tables["word_embedding.weight"][ids] + tables["position_embedding.weight"])[None]


def pooled(folder, *objects):
    """Two embeddings per object: of slots 0 and 1, and of slots 0, 2 and 3."""
    slots = caption(folder, *objects).unflatten(1, (2, 4))
    return torch.stack([slots[:, :, :2].sum(2), slots[:, :, 0] + slots[:, :, 2] + slots[:, :, 3]], 2).flatten(1, 2)


def caption(folder, *objects):
    slots = [word for words in objects for word in (words.split() + ["<pad>"] * 4)[:4]]
    return embed(folder, (slots + ["<pad>"] * 8)[:8])


@torch.no_grad()
def reference(model, noise, scheduler, *, steps, guidance, prompt, negative=None, first=None):
    """first [channels, frames, height, width]: what diffusers does with expand_timesteps."""
    scheduler.set_timesteps(steps)
    scheduler.set_begin_index(0)
    x = noise[None]
    for t in scheduler.timesteps:
        time = t.float().expand(1)
        if first is not None:
            x = torch.cat([first[None], x[:, :, first.shape[1]:]], 2)
            free = torch.ones_like(x[0, 0])
            free[: first.shape[1]] = 0
            p = model.config.patch_size
            time = (free[:: p[0], :: p[1], :: p[2]] * t).flatten()[None]
        v = model(x, time, prompt, return_dict=False)[0]
        if guidance > 1:  # as WanPipeline asks
            null = model(x, time, negative, return_dict=False)[0]
            v = null + guidance * (v - null)
        x = scheduler.step(v, t, x, return_dict=False)[0]
    if first is not None:
        x = torch.cat([first[None], x[:, :, first.shape[1]:]], 2)
    return x[0].double()


@torch.no_grad()
def staggered(model, noise, shift, *, per_frame, lag, guidance, prompt, negative, first=None):
    """The loop of diffusers' SkyReelsV2DiffusionForcingPipeline, asynchronous: its matrix of timesteps, a scheduler per frame."""
    given, frames = 0 if first is None else 1, noise.shape[1]
    schedulers = [unipc(shift) for _ in range(frames)]
    for scheduler in schedulers:
        scheduler.set_timesteps(per_frame)
    matrix, _, masks, _ = diffusers.SkyReelsV2DiffusionForcingPipeline.generate_timestep_matrix(
        None, frames - given, schedulers[0].timesteps, frames - given, ar_step=lag)
    x = noise[None].clone()
    if given:
        x[:, :, 0] = first[:, 0]
    tokens = noise.shape[2] // 2 * (noise.shape[3] // 2)
    for now, mask in zip(matrix, masks):
        time = torch.cat([torch.zeros(given), now.float()]).repeat_interleave(tokens)[None]
        v, null = (model(x, time, text, return_dict=False)[0] for text in (prompt, negative))
        v = null + guidance * (v - null)
        for i, (t, moves) in enumerate(zip(now, mask), given):
            if moves:
                x[:, :, i] = schedulers[i].step(v[:, :, i], t, x[:, :, i].clone(), return_dict=False)[0]
    return len(matrix), x[0].double()


def generate(folder, work, **options):
    done = run_program("pipeline_generate", folder, work / "out.safetensors", *[f"{k}={v}" for k, v in options.items()])
    assert done.returncode == 0, done.stderr
    return load_file(work / "out.safetensors")


def message(folder, work, **options):
    done = run_program("pipeline_generate", folder, work / "out.safetensors", *[f"{k}={v}" for k, v in options.items()])
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done
    return done.stderr


def unipc(shift):
    return diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)


def test_defaults_of_the_folder(pipeline, tmp_path):
    folder, model = pipeline
    ours = generate(folder, tmp_path, prompt="Red circle moves left,  blue STAR turns", seed=7)
    assert ours["video"].shape == (3, 3, 6, 8)
    prompt, null = caption(folder, "red circle moves left", "blue star turns"), caption(folder)
    exact = reference(model, ours["noise"], unipc(6.0), steps=4, guidance=3.0, prompt=prompt, negative=null)
    assert error(ours["video"], exact) <= BOUND


def test_one_embedding_per_group_of_slots(pipeline, tmp_path):
    folder, model = pipeline
    vocabulary = folder / "text_encoder/vocabulary.json"
    before = vocabulary.read_text()
    try:
        edit_json(vocabulary, groups=[[0, 1], [0, 2, 3]])
        ours = generate(folder, tmp_path, prompt="red circle moves left, blue star turns", seed=7)
        lists, one, number = "groups must be lists of slots below slots_per_object, got", "must be a list of slots below slots_per_object, got", "must be a whole"
        for wrong, told in (("object", lists), ([], lists), ([[]], f"groups[0] {one}"), ([0], f"groups[0] {one}"),
                            ([[0, 4]], f"groups[0][1] {number}"), ([[-1]], f"groups[0][0] {number}"), ([[0.5]], f"groups[0][0] {number}")):
            edit_json(vocabulary, groups=wrong)
            assert told in message(folder, tmp_path)
    finally:
        vocabulary.write_text(before)
    prompt, null = pooled(folder, "red circle moves left", "blue star turns"), pooled(folder)
    exact = reference(model, ours["noise"], unipc(6.0), steps=4, guidance=3.0, prompt=prompt, negative=null)
    assert error(ours["video"], exact) <= BOUND


@pytest.mark.parametrize("sampler", ["euler", "unipc"])
def test_a_given_first_frame_stays_at_timestep_0(pipeline, tmp_path, sampler):
    folder, model = pipeline
    first = torch.randn(3, 1, 6, 8, generator=torch.Generator().manual_seed(1))
    save_file({"first_frame": first}, tmp_path / "first.safetensors")
    ours = generate(folder, tmp_path, prompt="blue star turns", seed=7, sampler=sampler, first_frame=tmp_path / "first.safetensors")
    scheduler = unipc(6.0) if sampler == "unipc" else diffusers.FlowMatchEulerDiscreteScheduler(shift=6.0)
    captions = {"prompt": caption(folder, "blue star turns"), "negative": caption(folder)}
    exact = reference(model, ours["noise"], scheduler, steps=4, guidance=3.0, first=first, **captions)
    assert torch.equal(ours["video"][:, :1], first) and error(ours["video"], exact) <= BOUND
    save_file({"first_frame": first[:, :, :4].contiguous()}, tmp_path / "first.safetensors")
    wrong = message(folder, tmp_path, prompt="blue star turns", first_frame=tmp_path / "first.safetensors")
    assert "[generate] first_frame must be f32[3,1,6,8], got f32[3,1,4,8]" in wrong


def test_the_first_frame_may_be_made_first(pipeline, tmp_path):
    folder, model = pipeline
    index = folder / "model_index.json"
    before = index.read_text()
    try:
        index.write_text(json.dumps({"generation": {**GENERATION, "image_first": True}}))
        ours = generate(folder, tmp_path, prompt="blue star turns", seed=7)
        plain = generate(folder, tmp_path, prompt="blue star turns", seed=7, image_first=0)
        index.write_text(json.dumps({"generation": {**GENERATION, "image_first": 1}}))
        assert "image_first must be true or false, got 1" in message(folder, tmp_path, prompt="blue star turns")
    finally:
        index.write_text(before)
    captions = {"prompt": caption(folder, "blue star turns"), "negative": caption(folder)}
    image = generate(folder, tmp_path, prompt="blue star turns", seed=7, frames=1)
    first = reference(model, image["noise"], unipc(6.0), steps=4, guidance=3.0, **captions).float()
    exact = reference(model, ours["noise"], unipc(6.0), steps=4, guidance=3.0, first=first, **captions)
    assert torch.equal(ours["video"][:, :1], image["video"]) and error(ours["video"], exact) <= 2 * BOUND
    assert error(plain["video"], exact) > 0.01


@pytest.mark.parametrize("case", [(4, 9, 0.67, 2, 0), (5, 9, 0.67, 2, 1), (5, 7, 0.5, 1, 1), (4, 8, 0.8, 2, 0)])
def test_staggered_frames(pipeline, tmp_path, case):
    (folder, model), (frames, steps, stagger, lag, image_first) = pipeline, case
    options = {"prompt": "blue star turns", "seed": 7, "frames": frames, "steps": steps, "stagger": stagger, "image_first": image_first}
    ours = generate(folder, tmp_path, **options)
    captions = {"prompt": caption(folder, "blue star turns"), "negative": caption(folder)}
    first = generate(folder, tmp_path, **options | {"frames": 1, "stagger": 0})["video"] if image_first else None
    passes, exact = staggered(model, ours["noise"], 6.0, per_frame=steps - lag * (frames - image_first - 1), lag=lag, guidance=3.0, first=first, **captions)
    assert passes == steps and error(ours["video"], exact) <= BOUND
    assert error(generate(folder, tmp_path, **options | {"stagger": 0})["video"], exact) > 0.01
    for wrong in ("1", "-0.1", "nan"):
        assert "[generate] stagger must be at least 0 and less than 1, got " in message(folder, tmp_path, **options | {"stagger": wrong})


@pytest.mark.parametrize("sampler, guidance", [("euler", 1), ("unipc", 1), ("euler", 4.5), ("unipc", 0)])
def test_options(pipeline, tmp_path, sampler, guidance):
    folder, model = pipeline
    ours = generate(folder, tmp_path, prompt="blue star turns", negative="red circle turns", sampler=sampler, steps=8,
                    guidance=guidance, shift=3, frames=2, height=4, width=10, seed=2**63 + 1)
    scheduler = unipc(3.0) if sampler == "unipc" else diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    exact = reference(model, ours["noise"], scheduler, steps=8, guidance=guidance,
                      prompt=caption(folder, "blue star turns"), negative=caption(folder, "red circle turns"))
    assert ours["video"].shape == (3, 2, 4, 10)
    assert error(ours["video"], exact) <= BOUND


def test_bare_transformer_with_given_embeddings(pipeline, tmp_path):
    folder, model = pipeline
    generator = torch.Generator().manual_seed(11)
    embeds = dict(prompt_embeds=torch.randn(1, 5, 24, generator=generator),
                  negative_prompt_embeds=torch.randn(1, 2, 24, generator=generator))
    save_file(embeds, tmp_path / "embeds.safetensors")
    options = dict(steps=2, frames=1, height=4, width=4, embeds=tmp_path / "embeds.safetensors")
    ours = generate(folder / "transformer", tmp_path, **options)
    exact = reference(model, ours["noise"], unipc(3.0), steps=2, guidance=5.0,
                      prompt=embeds["prompt_embeds"], negative=embeds["negative_prompt_embeds"])
    assert error(ours["video"], exact) <= BOUND
    save_file({"prompt_embeds": embeds["prompt_embeds"]}, tmp_path / "embeds.safetensors")
    ours = generate(folder / "transformer", tmp_path, **options)
    exact = reference(model, ours["noise"], unipc(3.0), steps=2, guidance=1, prompt=embeds["prompt_embeds"])
    assert error(ours["video"], exact) <= BOUND
    assert "negative_prompt_embeds" in message(folder / "transformer", tmp_path, guidance=2, **options)
    assert "frames must be given" in message(folder / "transformer", tmp_path, embeds=options["embeds"])
    assert "give prompt_embeds" in message(folder / "transformer", tmp_path, prompt="x", frames=1, height=4, width=4)


@pytest.mark.parametrize("text, expected", [
    ("green circle turns", "unknown word 'green' in 'green circle turns'; known words: red blue circle star"),
    ("<pad> turns", "unknown word '<pad>'"), ("red,blue,red", "at most 2 objects"), ("red,,blue", "is empty"),
    ("red,", "is empty"), ("red red red red red", "at most 4 words per object, got 5")])
def test_captions_outside_the_grammar(pipeline, tmp_path, text, expected):
    assert expected in message(pipeline[0], tmp_path, prompt=text)


@pytest.mark.parametrize("options, expected", [
    (dict(height=5), "height must be a positive multiple of 2, got 5"), (dict(frames=0), "frames must be positive"),
    (dict(steps=0), "steps must be between 1"), (dict(shift=-1), "shift must be from 0.001 to"),
    (dict(guidance="nan"), "guidance must be a number")])
def test_wrong_options(pipeline, tmp_path, options, expected):
    assert expected in message(pipeline[0], tmp_path, **options)


@pytest.mark.parametrize("file, change, expected", [
    ("scheduler/scheduler_config.json", {"_class_name": "DDIMScheduler"}, "must be UniPCMultistepScheduler or"),
    ("scheduler/scheduler_config.json", {"solver_order": 3}, "only solver_order = 2 is supported, got 3"),
    ("model_index.json", {"generation": {"num_frames": "many"}}, "num_frames must be a whole number from 1 to 1048576"),
    ("model_index.json", {"generation": 5}, "generation must be an object"),
    ("text_encoder/vocabulary.json", {"words": WORDS[:-1]}, "word_embedding.weight must be [7,text_dim], got f32[8,24]"),
    ("text_encoder/vocabulary.json", {"words": WORDS[:-1] + ["red"]}, "words must be free of repetitions"),
    ("text_encoder/vocabulary.json", {"pad": "none"}, "pad must be one of the words"),
    ("text_encoder/vocabulary.json", {"max_length": 7}, "max_length must be at least"),
    ("text_encoder/vocabulary.json", {"max_objects": -1}, "max_objects must be a whole number")])
def test_wrong_folders(pipeline, tmp_path, file, change, expected):
    path = pipeline[0] / file
    before = path.read_text()
    try:
        edit_json(path, **change)
        assert expected in message(pipeline[0], tmp_path)
    finally:
        path.write_text(before)
