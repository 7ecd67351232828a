"""The native image transformers against diffusers, block by block, over the shapes the architectures can take."""
import pytest
import torch
from image_models import QwenImage, ZImage
from wan_models import error, forward, run_program

BOUND = 1e-5

CASES = {
    "odd_size": (ZImage, dict(size=(3, 5))),
    "one_token": (ZImage, dict(size=(1, 1), text_len=1)),
    "image_of_32_tokens": (ZImage, dict(size=(4, 8))),
    "text_of_32_tokens": (ZImage, dict(size=(3, 5), text_len=32)),
    "both_without_padding": (ZImage, dict(size=(8, 8), text_len=64)),
    "long_text": (ZImage, dict(size=(7, 9), text_len=77)),
    "batch": (ZImage, dict(size=(5, 3), batch=2)),
    "batch_of_three_long_text": (ZImage, dict(size=(6, 6), batch=3, text_len=40)),
    "wide": (ZImage, dict(model=dict(dim=384, n_heads=3, axes_dims=[32, 48, 48]), size=(5, 7))),
    "deep": (ZImage, dict(model=dict(n_layers=3, n_refiner_layers=2), size=(5, 7))),
    "qk_norm_false": (ZImage, dict(model=dict(qk_norm=False), size=(5, 7))),
    "patch_4": (ZImage, dict(model=dict(all_patch_size=(4,), in_channels=3), size=(3, 5))),
    "patch_1": (ZImage, dict(model=dict(all_patch_size=(1,)), size=(3, 5))),
    "coarse_eps": (ZImage, dict(model=dict(norm_eps=0.05), size=(3, 5))),
    "other_constants": (ZImage, dict(model=dict(rope_theta=100.0, t_scale=10.0, axes_dims=[4, 20, 8]), size=(3, 5))),
    "qwen_odd_size": (QwenImage, dict(size=(3, 5))),
    "qwen_even_size": (QwenImage, dict(size=(4, 6), text_len=32)),
    "qwen_one_token": (QwenImage, dict(size=(1, 1), text_len=1)),
    "qwen_long_text": (QwenImage, dict(size=(7, 9), text_len=77)),
    "qwen_batch": (QwenImage, dict(size=(5, 3), batch=2)),
    "qwen_batch_of_three_long_text": (QwenImage, dict(size=(6, 6), batch=3, text_len=40)),
    "qwen_heads_of_128": (QwenImage, dict(model=dict(attention_head_dim=128, num_attention_heads=3, num_layers=3,
                                                     axes_dims_rope=(16, 56, 56)), size=(9, 7))),
    "qwen_patch_4": (QwenImage, dict(model=dict(patch_size=4, in_channels=48, out_channels=3), size=(3, 5))),
    "qwen_patch_1": (QwenImage, dict(model=dict(patch_size=1, in_channels=5, out_channels=None), size=(3, 5))),
    "qwen_other_axes": (QwenImage, dict(model=dict(axes_dims_rope=(4, 20, 8)), size=(3, 5))),
}


def check(family, model, folder, inputs, work, **environment):
    ours = forward(folder, inputs, work, **environment)
    single, double = (family.reference(model, inputs, dtype) for dtype in (torch.float32, torch.float64))
    assert set(ours) == set(double)
    for name, exact in double.items():
        assert ours[name].shape == exact.shape
        errors = error(ours[name], exact), error(single[name], exact)
        print(f"{name}: ours {errors[0]:.1e}, torch float32 {errors[1]:.1e}")
        assert errors[0] <= BOUND, (name, errors)


@pytest.mark.parametrize("name", CASES)
def test_every_block_matches_diffusers(name, tmp_path):
    family, case = CASES[name]
    case = dict(case)
    model = family.model(**case.pop("model", {}))
    model.save_pretrained(tmp_path / "model")
    check(family, model, tmp_path / "model", family.inputs(model, **case), tmp_path)


@pytest.mark.parametrize("family", [ZImage, QwenImage])
def test_linear_names_are_those_of_diffusers(family, tmp_path):
    model = family.model()
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    done = run_program("transformer_forward", tmp_path)
    assert done.returncode == 0, done.stderr
    stored, *names = done.stdout.split()
    assert names == [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    assert int(stored) == sum(v.numel() * v.element_size() for v in model.state_dict().values())


BREAK = {
    ZImage: {
        "rope": lambda m: setattr(m.rope_embedder, "freqs_cis", [f.conj() for f in m.rope_embedder.precompute_freqs_cis(
            m.axes_dims, m.axes_lens, m.rope_theta)]),
        "scale": lambda m: m.layers[1].adaLN_modulation[0].bias[0:8].add_(1e-2),
        "gate": lambda m: m.layers[1].adaLN_modulation[0].bias[3 * m.dim:3 * m.dim + 8].add_(1e-2),
        "norm_q": lambda m: m.layers[1].attention.norm_q.weight.add_(1e-2),
        "w3": lambda m: m.layers[0].feed_forward.w3.weight[0].add_(1e-2),
        "refiner": lambda m: m.noise_refiner[0].ffn_norm2.weight.add_(1e-2),
        "context": lambda m: m.context_refiner[0].ffn_norm2.weight.add_(1e-2),
        "image_padding": lambda m: m.x_pad_token.add_(1e-2),
        "text_padding": lambda m: m.cap_pad_token.add_(1e-2),
        "text": lambda m: m.cap_embedder[0].weight[0].add_(1e-1),
        "time": lambda m: setattr(m, "t_scale", 999.9),
        "final": lambda m: m.all_final_layer["2-1"].adaLN_modulation[1].bias[0:8].add_(1e-2),
    },
    QwenImage: {
        "rope": lambda m: setattr(m.pos_embed, "_compute_video_freqs", lambda f, h, w, i, d, c=m.pos_embed.
                                  _compute_video_freqs: c(f, h, w, i, d).conj()),
        "centre": lambda m: setattr(m.pos_embed, "scale_rope", False),
        "modulation": lambda m: m.transformer_blocks[1].img_mod[1].bias[0:8].add_(1e-2),
        "text_modulation": lambda m: m.transformer_blocks[0].txt_mod[1].bias[0:8].add_(1e-2),
        "gate": lambda m: m.transformer_blocks[1].img_mod[1].bias[-8:].add_(1e-2),
        "norm_q": lambda m: m.transformer_blocks[1].attn.norm_q.weight.add_(1e-2),
        "norm_added_k": lambda m: m.transformer_blocks[1].attn.norm_added_k.weight.add_(1e-2),
        "add_v": lambda m: m.transformer_blocks[1].attn.add_v_proj.bias.add_(1e-2),
        "to_add_out": lambda m: m.transformer_blocks[0].attn.to_add_out.bias.add_(1e-2),
        "mlp": lambda m: setattr(m.transformer_blocks[0].img_mlp.net[0], "approximate", "none"),
        "text": lambda m: m.txt_norm.weight[0].add_(1e-1),
        "time": lambda m: setattr(m.time_text_embed.time_proj, "scale", 999.9),
        "final": lambda m: m.norm_out.linear.bias[0:8].add_(1e-2),
    },
}


@pytest.mark.parametrize("family, broken", [(family, name) for family, parts in BREAK.items() for name in parts])
def test_the_bound_notices(family, broken):
    """Each part, changed in the reference, moves the output far beyond the bound."""
    model = family.model()
    inputs = family.inputs(model, (3, 5))
    exact = family.reference(model, inputs, torch.float64)["output"]
    with torch.no_grad():
        BREAK[family][broken](model)
    assert error(family.reference(model, inputs, torch.float64)["output"], exact) > 2 * BOUND
