"""The training demo without training: the generator, the caption rule, the checker, and a run that resumes to the bit."""
import json
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "examples/train_demo"))

import check  # noqa: E402
import data  # noqa: E402
import model as demo  # noqa: E402
import muon  # noqa: E402
import train  # noqa: E402

TINY = {**demo.CONFIG, "num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 32, "num_layers": 1, "text_dim": 8,
        "freq_dim": 16}
PLAN = {"seed": 5, "device": "cpu", "compile": False, "warmup_steps": 2, "decay_steps": 2, "matrix_lr": 0.01,
        "other_lr": 0.01, "weight_decay": 0.01, "ema": 0.9, "null_caption": 0.5, "evaluate_minutes": 99,
        "checkpoint_minutes": 99, "stages": [{"frames": 1, "batch": 2, "shift": 3, "steps": 1},
                                             {"frames": 2, "batch": 2, "shift": 4, "steps": 3}]}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_videos_depend_on_seed_and_index_only():
    whole, places, captions = data.batch(3, 0, 4, length=4)
    part, part_places, part_captions = data.batch(3, 2, 2, length=4)
    assert torch.equal(whole[2:], part) and captions[2:] == part_captions
    assert all(torch.equal(a[2:], b) for a, b in zip(places, part_places))
    assert not torch.equal(whole, data.batch(4, 0, 4, length=4)[0])
    assert whole.shape == (4, 3, 4, data.SIZE, data.SIZE) and whole.min() >= -1 and whole.max() <= 1


def test_a_few_frames_are_the_frames_of_the_whole_video():
    few, (frames, _, _), _ = data.batch(3, 7, 1, length=3)
    whole, _, _ = data.batch(3, 7, 1)
    assert torch.allclose(few[0], whole[0, :, frames[0]], atol=1e-6)
    assert len(set(np.diff(frames[0].numpy()))) == 1


def test_thinned_tokens_are_tokens_of_the_whole_video_at_their_true_places():
    thinned, places, _ = data.batch(3, 0, 8, length=2, thin=2)
    whole, _, _ = data.batch(3, 0, 8, length=2)
    assert thinned.shape == (8, 3, 2, 32, 32) and {int(p[i, 0]) for p in places[1:] for i in range(8)} == {0, 1}
    for n in range(8):
        for i, row in enumerate(places[1][n]):
            for j, column in enumerate(places[2][n]):
                cut = lambda video, y, x: video[n, :, :, 4 * y:4 * y + 4, 4 * x:4 * x + 4]
                assert torch.equal(cut(thinned, i, j), cut(whole, row, column))
    model = demo.DemoModel(TINY).initialise(1)
    model.set_places(places)
    cos, _ = model.transformer.rope(thinned)
    model.set_places(None)
    table, _ = model.transformer.rope(whole)
    grid = table[0, :, 0].unflatten(0, (2, 16, 16))
    wanted = grid[:, places[1][3]][:, :, places[2][3]]
    t = TINY["attention_head_dim"] - 4 * (TINY["attention_head_dim"] // 6)  # the frame part follows frame numbers instead
    torch.testing.assert_close(cos[3, :, 0].unflatten(0, (2, 8, 8))[..., t:], wanted[..., t:])


def test_muon_steps_are_orthogonal_and_momentum_is_kept():
    generator = torch.Generator().manual_seed(2)
    for shape in ((8, 8), (6, 20), (20, 6)):
        update = muon.orthogonalise(torch.randn(3, *shape, generator=generator))
        singular = torch.linalg.svdvals(update)
        assert 0.6 < singular.min() and singular.max() < 1.3
    p = torch.nn.Parameter(torch.eye(4))
    optimizer = muon.Muon([p], lr=0.5, momentum=0.9, weight_decay=0.1)
    gradients = [torch.randn(4, 4, generator=generator) for _ in range(2)]
    for p.grad in gradients:
        before = p.detach().clone()
        optimizer.step()
    momentum = 0.9 * 0.1 * gradients[0] + 0.1 * gradients[1]
    wanted = before * (1 - 0.05) - 0.2 * 2 * 0.5 * muon.orthogonalise((0.1 * gradients[1] + 0.9 * momentum)[None])[0]
    torch.testing.assert_close(p.detach(), wanted)


def test_a_run_may_begin_with_exported_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "CONFIG", TINY)
    first = train.Trainer(PLAN, TINY)
    first.advance()
    first.export(tmp_path / "model")
    second = train.Trainer({**PLAN, "seed": 6}, TINY)
    second.start_from(tmp_path / "model")
    for name, value in first.average.items():
        torch.testing.assert_close(second.model.state_dict()[name], value, rtol=2**-8, atol=0)
    vocabulary = tmp_path / "model/text_encoder/vocabulary.json"
    vocabulary.write_text(json.dumps({**json.loads(vocabulary.read_text()), "groups": [[0, 1, 2, 3]]}))
    with pytest.raises(ValueError, match=r"captions in groups \[\[0, 1\], \[0, 2, 3\]\] expected, got \[\[0, 1, 2, 3\]\]"):
        second.start_from(tmp_path / "model")


def test_training_goes_on_from_the_committed_model():
    plan = json.loads((ROOT / "examples/train_demo/plan.json").read_text())
    trainer = train.Trainer({**plan, "compile": False})
    fresh = {k: v.clone() for k, v in trainer.average.items()}
    trainer.start_from(ROOT / "examples/shapes_dit")
    assert all(torch.isfinite(v).all() for v in trainer.average.values())
    assert trainer.held_out(length=1, videos=2) < 0.2 and trainer.held_out(length=3, videos=2) < 0.2
    trainer.average = fresh
    assert trainer.held_out(length=1, videos=2) > 0.5


def test_a_run_whose_loss_is_not_a_number_stops():
    trainer = train.Trainer(PLAN, TINY)
    trainer.model.captions.position_embedding.weight.data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="the loss of step 1 is nan"):
        trainer.advance()


def test_objects_stay_inside_and_keep_their_captioned_direction_at_first():
    for index in range(300):
        bodies, _ = data.scene(11, index)
        for body in bodies:
            path = body.centre(np.arange(data.FRAMES))
            assert path.min() > body.radius - 1 and path.max() < data.SIZE - body.radius + 1
            assert np.allclose(np.sign(np.round(path[data.UNDISTURBED] - path[0], 6)), data.MOTIONS[body.motion])


def test_caption_slots():
    ids = data.tokenize("Red circle moves left, blue star turns")
    assert [data.WORDS[i] for i in ids] == ["red", "circle", "moves", "left", "blue", "star", "turns", "<pad>"]
    assert data.tokenize("") == [0] * data.MAX_LENGTH
    for wrong, why in (("pink circle turns", "unknown word 'pink'"), ("red star turns, red star turns, red star turns", "at most 2"),
                       ("red circle moves left left", "1 to 4 words"), ("red star turns,", "1 to 4 words")):
        with pytest.raises(ValueError, match=why):
            data.tokenize(wrong)


def test_caption_embeddings_are_summed_as_the_folder_says(tmp_path):
    ours = demo.DemoModel().initialise(3)
    part = lambda prefix: {k[len(prefix):]: v for k, v in ours.state_dict().items() if k.startswith(prefix)}
    demo.save_folder(tmp_path, part("transformer."), part("captions."))
    vocabulary = tmp_path / "text_encoder/vocabulary.json"
    with torch.no_grad():
        summed = demo.load_folder(tmp_path).captions.encode(["red star turns, blue circle moves up"])
        words = json.loads(vocabulary.read_text())
        assert words.pop("groups") == data.GROUPS
        vocabulary.write_text(json.dumps(words))
        slots = demo.load_folder(tmp_path).captions.encode(["red star turns, blue circle moves up"])
    assert slots.shape[1:] == (data.MAX_LENGTH, 64)
    wanted = [part for first in (0, 4) for part in (slots[0, first:first + 2].sum(0), slots[0, [first, first + 2, first + 3]].sum(0))]
    torch.testing.assert_close(summed[0], torch.stack(wanted))


def test_checker_accepts_the_truth_and_refuses_other_captions():
    pairs = list(check.truth(25))
    assert check.summary([check.check_video(v, c) for v, c in pairs])["obeyed"] >= 0.97
    change = {"left": "right", "right": "up", "up": "down", "down": "left"}
    shapes = dict(zip(data.SHAPES, data.SHAPES[1:] + data.SHAPES[:1]))
    colours = dict(zip(data.COLOURS, list(data.COLOURS)[1:] + list(data.COLOURS)[:1]))
    for table in (shapes, colours, change):
        wrong = [(v, "".join(table.get(w, w) for w in c.replace(",", " ,").replace(" ", "\0 \0").split("\0"))) for v, c in pairs[:12]]
        wrong = [(v, w.replace(" ,", ",")) for (v, w), (_, c) in zip(wrong, pairs) if w.replace(" ,", ",") != c]
        assert len(wrong) > 5
        assert not any(check.check_video(v, w)["obeyed"] for v, w in wrong)


def test_checker_sees_a_still_object_and_an_empty_video():
    one = next(s for s in (data.scene(1, i) for i in range(99)) if len(s[0]) == 1 and s[0][0].motion != "turns")
    still = check.as_frames(data.render([one], np.zeros((1, data.FRAMES), int))[0].numpy())
    verdict = check.check_video(still, one[0][0].caption())["objects"][0]
    assert verdict["shape_ok"] and not verdict["motion_ok"] and verdict["found"]["motion"] == "unclear"
    empty = check.check_video(np.full((4, 64, 64, 3), 0.3), "red circle turns")
    assert not empty["obeyed"] and empty["objects"][0]["found"] is None


def test_training_attention_equals_diffusers():
    torch.manual_seed(0)
    ours = demo.DemoModel(TINY).initialise(3)
    torch.nn.init.normal_(ours.transformer.proj_out.weight)
    from diffusers import WanTransformer3DModel
    plain = WanTransformer3DModel(**TINY)
    plain.load_state_dict(ours.transformer.state_dict())
    video, ids = torch.randn(2, 3, 2, 16, 16), torch.tensor([data.tokenize("red star turns"), data.tokenize("")])
    sigma = torch.tensor([0.3, 0.9])
    for few in (0, 512):
        for block in ours.transformer.blocks:
            block.attn1.processor.few_keys = block.attn2.processor.few_keys = few
        count = lambda n: torch.arange(n).repeat(2, 1)
        for places in (None, (count(2), count(4), count(4))):
            ours.set_places(places)
            with torch.no_grad():
                wanted = plain(video, sigma * 1000, ours.captions(ids), return_dict=False)[0]
                torch.testing.assert_close(ours(video, sigma, ids), wanted, rtol=1e-4, atol=1e-4)


def test_frames_may_have_noise_levels_of_their_own():
    torch.manual_seed(0)
    model = demo.DemoModel(TINY).initialise(3)
    torch.nn.init.normal_(model.transformer.proj_out.weight)
    model.set_places(None)
    video, ids = torch.randn(1, 3, 2, 16, 16), torch.tensor([data.tokenize("red star turns")])
    with torch.no_grad():
        same = model(video, torch.tensor([[0.4, 0.4]]), ids)
        torch.testing.assert_close(same, model(video, torch.tensor([0.4]), ids), rtol=1e-4, atol=1e-4)
        # The output norm is given each token's own level, so the frame whose level changed differs most.
        change = (model(video, torch.tensor([[0.4, 0.9]]), ids) - same).abs().mean(dim=(0, 1, 3, 4))
        assert change[1] > 2 * change[0] > 0


def test_noise_levels_roll_through_a_video():
    """Against a sampler that is followed step by step: S steps per frame, each frame `late` steps after the one before."""
    steps, late, shift = 10, 3, 4.0
    levels = [shift * t / (1 + (shift - 1) * t) for t in np.linspace(1, 0, steps + 1)]
    frames = torch.tensor([[0, 1, 2, 3, 4], [0, 3, 5, 7, 9]])
    ends = [steps + late * int(row[-1] - row[1]) for row in frames]
    for step in range(min(ends) + 1):
        wanted = [[0.0] + [levels[min(max(step - late * int(f - row[1]), 0), steps)] for f in row[1:]] for row in frames]
        progress = torch.tensor([step / end for end in ends])
        got = train.rolling_levels(progress, frames, torch.full((2,), late / steps), shift)
        torch.testing.assert_close(got, torch.tensor(wanted, dtype=torch.float32), rtol=1e-4, atol=1e-5)


def test_clear_frames_and_pure_noise_do_not_count():
    trainer = train.Trainer(PLAN, TINY)
    kind = {"frames": 6, "batch": 8, "shift": 3, "lag": [0.2, 0.3], "together": 0.3}
    video, (frames, _, _), sigma, noise, _ = trainer.draw(kind, 7, 0)
    assert (frames[:, 0] == 0).all() and (frames[:, 1] > 0).all()
    first, others = (trainer.draw({"frames": 1, "batch": 8, "shift": 3, "from_first": given}, 7, 0)[1][0] for given in (True, False))
    assert (first == 0).all() and (others > 0).any()
    assert sigma.shape == (8, 6) and (sigma[:, 0] <= train.CLEAR).all() and 0 < (sigma[:, 0] > 0).sum() < 8
    together = (sigma[:, 1:] == sigma[:, 1:2]).all(1)
    assert 0 < together.sum() < 8 and (sigma.diff(dim=1)[~together, 1:] >= -train.CLEAR).all()
    seen = []

    def model(x, levels, ids):
        seen.append((x, levels))
        return torch.zeros_like(x)

    sigma = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0, 1.0]).expand(8, 6)
    loss = train.flow_matching_loss(model, video, sigma, noise, None)
    level = sigma[:, None, :, None, None]
    torch.testing.assert_close(seen[0][0], (1 - level) * video + level * noise)
    torch.testing.assert_close(loss, ((noise - video)[:, :, 2:4] ** 2).mean())


def test_frames_start_one_after_the_other():
    seen = []

    class Model:
        set_places = staticmethod(lambda places: None)

        def __call__(self, x, level, ids):
            seen.append((x.clone(), level))
            return 0.01 * (x.flip(2) + ids.float().mean(1).reshape(-1, 1, 1, 1, 1)) + 0.9 * x

    captions = ["red star turns", "blue circle moves up, green square turns"]
    image = demo.sample(Model(), captions, steps=5, frames=1, shift=2.0)
    seen.clear()
    video = demo.sample(Model(), captions, steps=5, frames=4, stagger=0.4, shift=2.0)
    assert torch.equal(video[:, :, :1], image)
    alone, together = seen[:5], seen[5:]
    assert all(level.shape == (4, 1) for _, level in alone)
    levels = [1.0, 0.8, 0.5, 0.0]  # three steps, shift 2
    wanted = [[0, *(levels[min(max(step - start, 0), 3)] for start in (0, 1, 2))] for step in range(5)]
    for (x, level), row in zip(together, wanted, strict=True):
        torch.testing.assert_close(level, torch.tensor(row).expand(4, 4))
        assert torch.equal(x[:2, :, :1].clamp(-1, 1), image)
    first, last = together[0][0], together[-1][0]
    assert torch.equal(first[:, :, 3], together[2][0][:, :, 3]) and not torch.equal(first[:, :, 3], together[3][0][:, :, 3])
    assert not torch.equal(first[:, :, 1], together[1][0][:, :, 1])
    torch.testing.assert_close(last[:2, :, 1].clamp(-1, 1), video[:, :, 1])


def test_views_of_a_video():
    _, (frames, _, _), captions = data.batch(3, 0, 40, 2, objects=1, stride=(8, 9))
    assert all("," not in c for c in captions) and set((frames[:, 1] - frames[:, 0]).tolist()) == {8, 9}
    _, (frames, _, _), _ = data.batch(3, 0, 40, 4, stride=(3, 99))
    assert set((frames[:, 1] - frames[:, 0]).tolist()) == {3, 4, 5}
    _, (frames, _, _), _ = data.batch(3, 0, 80, 4, stride=(3, 99), from_first=True)
    steps = frames[:, 1:].diff(dim=1)
    assert (frames[:, 0] == 0).all() and (steps[:, 0] == steps[:, 1]).all() and set(steps[:, 0].tolist()) == {3, 4, 5, 6, 7}
    assert frames[:, 1].min() == 1 and frames.max() == data.FRAMES - 1
    _, _, captions = data.batch(3, 0, 20, 1, turning=1.0)
    assert all(o.endswith("turns") for c in captions for o in c.split(","))
    _, (frames, _, _), _ = data.batch(3, 0, 400, 2, from_first=True)
    assert (frames[:, 0] == 0).all() and set(frames[:, 1].tolist()) == set(range(1, data.FRAMES))


def test_objects_keep_to_their_parts_of_the_picture():
    meetings = 0
    for index in range(400):
        bodies, _ = data.scene(12, index)
        if len(bodies) < 2:
            continue
        first, second = (body.centre(np.arange(data.FRAMES)) for body in bodies)
        assert (second - first > 0).all(0).any(), "the first is on the left or above"
        if np.isfinite(bodies[0].contact):
            meetings += 1
            assert 6 < bodies[0].contact < data.FRAMES - 3
        else:
            assert np.linalg.norm(second - first, axis=1).min() > bodies[0].radius + bodies[1].radius - 1e-9
    assert meetings > 10


def test_a_resumed_run_is_exact(tmp_path):
    whole = train.Trainer(PLAN, TINY)
    losses = [whole.advance() for _ in range(4)]
    assert whole.stage() is None and all(np.isfinite(losses))
    first = train.Trainer(PLAN, TINY)
    first.advance(), first.advance()
    first.save(tmp_path / "checkpoint.pt")
    second = train.Trainer({**PLAN}, TINY)
    second.load(tmp_path / "checkpoint.pt")
    assert [second.advance(), second.advance()] == losses[2:]
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
        assert torch.equal(whole.average[name], second.average[name]), name
    assert whole.held_out(length=2, videos=2) == second.held_out(length=2, videos=2)


def test_the_committed_model_is_whole():
    folder = ROOT / "examples/shapes_dit"
    if not (folder / "transformer/config.json").exists():
        pytest.skip("no trained model in this tree")
    words = json.loads((folder / "text_encoder/vocabulary.json").read_text())
    assert words["words"] == list(data.WORDS) and words["max_length"] == data.MAX_LENGTH
    model = demo.load_folder(folder)
    tokens = (data.SIZE // 4) ** 2 * data.FRAMES
    assert tokens >= 4096 and all(torch.isfinite(p).all() for p in model.parameters())
    assert sum(p.stat().st_size for p in folder.rglob("*.safetensors")) <= 12e6
