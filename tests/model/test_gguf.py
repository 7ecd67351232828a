"""GGUF as a source of weights: every type beside the Python package `gguf`, bit for bit; single files under the names of the
models' own code beside diffusers' conversions; files that are wrong."""

import json
import struct
import subprocess

import gguf
import numpy as np
import pytest
import torch
from diffusers.loaders import single_file_utils
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from safetensors.numpy import load_file, save_file

TYPES = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]


def write(path, tensors, metadata=()):
    """tensors: name -> (array of floats or bytes, type name)."""
    writer = gguf.GGUFWriter(path, "test")
    for key, value in metadata:
        writer.add_string(key, value)
    for name, (array, kind) in tensors.items():
        writer.add_tensor(name, array, raw_dtype=GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def random_blocks(kind, rows, blocks, generator):
    """Random bytes of whole blocks; the half-precision scales in them are finite."""
    size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]][1]
    data = generator.integers(0, 256, (rows, blocks, size), dtype=np.uint8)
    at = {"Q2_K": [80, 82], "Q3_K": [108], "Q6_K": [208], "F32": [], "BF16": []}.get(kind, [0])
    at += {"Q4_1": [2], "Q5_1": [2], "Q4_K": [2], "Q5_K": [2]}.get(kind, [])
    for place in at:
        scale = generator.standard_normal((rows, blocks)).astype(np.float16)
        scale[0, 0] = np.float16(6e-8)  # the smallest
        data[:, :, place:place + 2] = scale[..., None].view(np.uint8)
    return data.reshape(rows, blocks * size)


@pytest.fixture(scope="module")
def copy(build):
    def run(source, target):
        return subprocess.run([build / "tests/weight_file_copy", source, target], capture_output=True, text=True, check=False)
    return run


def test_every_type_is_dequantized_to_the_bit(tmp_path, copy):
    generator = np.random.default_rng(0)
    tensors, wanted = {}, {}
    for kind in TYPES:
        block = GGML_QUANT_SIZES[GGMLQuantizationType[kind]][0]
        for rows, blocks in ((1, 1), (3, 5), (130, 7)):
            if kind in ("F32", "BF16"):
                floats = generator.standard_normal((rows, 32 * blocks)).astype(np.float32)
                data = floats if kind == "F32" else gguf.quants.quantize(floats, GGMLQuantizationType.BF16)
            else:
                data = random_blocks(kind, rows, blocks if block > 1 else 32 * blocks, generator)
                data = data.view(np.float16) if kind == "F16" else data
            name = f"{kind}.{rows}x{blocks}"
            tensors[name] = (data, kind)
            wanted[name] = gguf.quants.dequantize(data, GGMLQuantizationType[kind])
    write(tmp_path / "all.gguf", tensors)
    done = copy(tmp_path / "all.gguf", tmp_path / "out.safetensors")
    assert done.returncode == 0, done.stderr
    ours = torch_load(tmp_path / "out.safetensors")
    assert set(ours) == set(wanted)
    for name, exact in wanted.items():
        assert ours[name].shape == exact.shape, name
        assert np.array_equal(ours[name].view(np.uint32), exact.view(np.uint32)), name


def torch_load(path):
    """All tensors as float32 (NumPy has no bfloat16)."""
    from safetensors.torch import load_file as load
    return {name: tensor.float().numpy() for name, tensor in load(path).items()}


# --- names of the models' own code

def wan():
    from wan_models import random_model
    model = random_model(image_dim=40, added_kv_proj_dim=64)
    rules = [("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
             ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
             ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
             ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
             ("condition_embedder.time_proj", "time_projection.1"), ("condition_embedder.image_embedder.norm1", "img_emb.proj.0"),
             ("condition_embedder.image_embedder.ff.net.0.proj", "img_emb.proj.1"), ("condition_embedder.image_embedder.ff.net.2", "img_emb.proj.3"),
             ("condition_embedder.image_embedder.norm2", "img_emb.proj.4"), ("attn1.", "self_attn."), ("attn2.", "cross_attn."),
             (".to_q.", ".q."), (".to_k.", ".k."), (".to_v.", ".v."), (".to_out.0.", ".o."), (".add_k_proj.", ".k_img."),
             (".add_v_proj.", ".v_img."), (".norm_added_k.", ".norm_k_img."), (".norm2.", ".norm3."), (".ffn.net.0.proj.", ".ffn.0."),
             (".ffn.net.2.", ".ffn.2."), ("proj_out.", "head.head.")]
    original = {}
    for name, tensor in model.state_dict().items():
        if "norm_added_q" in name:
            continue
        for ours, theirs in rules:
            name = name.replace(ours, theirs)
        name = "head.modulation" if name == "scale_shift_table" else name.replace("scale_shift_table", "modulation")
        original[name] = tensor
    return model, original, single_file_utils.convert_wan_transformer_to_diffusers


def fused(state, names):
    return torch.cat([state.pop(name) for name in names])


def z_image():
    from diffusers import ZImageTransformer2DModel
    torch.manual_seed(0)
    model = ZImageTransformer2DModel(dim=64, n_heads=2, n_kv_heads=2, n_layers=2, n_refiner_layers=1, cap_feat_dim=32, in_channels=4,
                                     axes_dims=[8, 12, 12], axes_lens=[64, 32, 32])
    state, original = dict(model.state_dict()), {}
    for name in [name for name in state if name.endswith("attention.to_q.weight")]:
        stem = name.removesuffix("to_q.weight")
        original[stem + "qkv.weight"] = fused(state, [stem + part + ".weight" for part in ("to_q", "to_k", "to_v")])
    for name, tensor in state.items():
        for ours, theirs in [("all_final_layer.2-1.", "final_layer."), ("all_x_embedder.2-1.", "x_embedder."),
                             (".to_out.0.", ".out."), (".norm_k.", ".k_norm."), (".norm_q.", ".q_norm.")]:
            name = name.replace(ours, theirs)
        original[name] = tensor
    return model, original, single_file_utils.convert_z_image_transformer_checkpoint_to_diffusers


def flux2():
    from diffusers import Flux2Transformer2DModel
    torch.manual_seed(0)
    model = Flux2Transformer2DModel(in_channels=16, num_layers=1, num_single_layers=2, attention_head_dim=32, num_attention_heads=2,
                                    joint_attention_dim=48, timestep_guidance_channels=32, axes_dims_rope=[8, 8, 8, 8])
    state, original = dict(model.state_dict()), {}
    swapped = state.pop("norm_out.linear.weight")
    half = swapped.shape[0] // 2
    original["final_layer.adaLN_modulation.1.weight"] = torch.cat([swapped[half:], swapped[:half]])
    stem = "transformer_blocks.0.attn."
    original["double_blocks.0.img_attn.qkv.weight"] = fused(state, [stem + part + ".weight" for part in ("to_q", "to_k", "to_v")])
    original["double_blocks.0.txt_attn.qkv.weight"] = fused(
        state, [stem + part + ".weight" for part in ("add_q_proj", "add_k_proj", "add_v_proj")])
    double = [("attn.norm_q.weight", "img_attn.norm.query_norm.scale"), ("attn.norm_k.weight", "img_attn.norm.key_norm.scale"),
              ("attn.norm_added_q.weight", "txt_attn.norm.query_norm.scale"),
              ("attn.norm_added_k.weight", "txt_attn.norm.key_norm.scale"), ("attn.to_out.0", "img_attn.proj"),
              ("attn.to_add_out", "txt_attn.proj"), ("ff.linear_in", "img_mlp.0"), ("ff.linear_out", "img_mlp.2"),
              ("ff_context.linear_in", "txt_mlp.0"), ("ff_context.linear_out", "txt_mlp.2")]
    single = [("attn.norm_q.weight", "norm.query_norm.scale"), ("attn.norm_k.weight", "norm.key_norm.scale"),
              ("attn.to_qkv_mlp_proj", "linear1"), ("attn.to_out", "linear2")]
    top = [("x_embedder", "img_in"), ("context_embedder", "txt_in"), ("proj_out", "final_layer.linear"),
           ("time_guidance_embed.timestep_embedder.linear_1", "time_in.in_layer"),
           ("time_guidance_embed.timestep_embedder.linear_2", "time_in.out_layer"),
           ("time_guidance_embed.guidance_embedder.linear_1", "guidance_in.in_layer"),
           ("time_guidance_embed.guidance_embedder.linear_2", "guidance_in.out_layer"), ("modulation_img.linear", "modulation_img.lin"),
           ("modulation_txt.linear", "modulation_txt.lin"), ("stream_modulation.linear", "stream_modulation.lin")]
    for name, tensor in state.items():
        rules = double if name.startswith("transformer_blocks") else single if name.startswith("single_t") else top
        for ours, theirs in rules:
            name = name.replace(ours, theirs)
        original[name.replace("single_transformer_blocks", "single_blocks").replace("transformer_blocks", "double_blocks")] = tensor
    return model, original, single_file_utils.convert_flux2_transformer_checkpoint_to_diffusers


def qwen_image():
    """Its own code and ComfyUI's name all as diffusers does."""
    from diffusers import QwenImageTransformer2DModel
    torch.manual_seed(0)
    model = QwenImageTransformer2DModel(patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=32, num_attention_heads=2,
                                        joint_attention_dim=32, axes_dims_rope=(8, 12, 12))
    return model, dict(model.state_dict()), dict


# The names by which ComfyUI-GGUF (tools/convert.py, keys_detect) and ComfyUI (model_detection.py: Qwen-Image, FLUX.2) tell what a file holds.
DETECTED = {"wan": ["blocks.0.self_attn.norm_q.weight", "text_embedding.2.weight", "head.modulation"],
            "z_image": ["cap_embedder.1.weight", "context_refiner.0.attention.qkv.weight"], "flux1": ["double_blocks.0.img_attn.proj.weight"],
            "flux2": ["double_blocks.0.img_attn.proj.weight", "double_stream_modulation_img.lin.weight"],
            "qwen_image": ["txt_norm.weight", "transformer_blocks.0.attn.norm_added_q.weight", "transformer_blocks.0.img_mlp.net.0.proj.weight"]}
SIZES = {"wan": (4, 1, 8, 8, 24, 512), "z_image": (4, 1, 8, 8, 32, 9), "flux2": (16, 1, 4, 4, 48, 9), "qwen_image": (4, 1, 8, 8, 32, 9)}


def inputs_for(name, path):
    channels, frames, height, width, text_dim, length = SIZES[name]
    generator = np.random.default_rng(1)
    save_file({"hidden_states": generator.standard_normal((1, channels, frames, height, width)).astype(np.float32),
               "timestep": np.array([500.0], np.float32),
               "encoder_hidden_states": generator.standard_normal((1, length, text_dim)).astype(np.float32)}, path)
    return path


def velocity(aerogel, folder, inputs, out, *flags):
    done = aerogel("forward", folder, "--inputs", inputs, "-o", out, *flags)
    assert done.returncode == 0, done.stderr
    return load_file(out)["velocity"]


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("make", [wan, z_image, flux2, qwen_image], ids=lambda make: make.__name__)
def test_names_of_the_models_own_code(tmp_path, aerogel, make, prefix):
    model, original, convert = make()
    assert set(DETECTED[make.__name__]) <= set(original)
    theirs = convert({name: tensor for name, tensor in original.items()})
    ours = {name: tensor for name, tensor in model.state_dict().items() if "norm_added_q" not in name or make is not wan}
    assert {name for name in theirs if "norm_added_q" not in name or make is not wan} == set(ours)
    assert all(torch.equal(theirs[name], tensor) for name, tensor in ours.items())  # so `original` is what diffusers takes

    model.save_pretrained(tmp_path / "model")
    inputs = inputs_for(make.__name__, tmp_path / "in.safetensors")
    wanted = velocity(aerogel, tmp_path / "model", inputs, tmp_path / "a.safetensors")
    write(tmp_path / "single.gguf", {prefix + name: (tensor.numpy().reshape(tensor.shape[-4:] if tensor.ndim < 5 else (
        tensor.shape[0] * tensor.shape[1], *tensor.shape[2:])), "F32") for name, tensor in original.items()})
    save_file({prefix + name: tensor.numpy() for name, tensor in original.items()}, tmp_path / "single.safetensors")
    for file in ("single.gguf", "single.safetensors"):
        got = velocity(aerogel, tmp_path / "model", inputs, tmp_path / "b.safetensors", "--transformer", tmp_path / file)
        assert np.array_equal(got, wanted), file


@pytest.mark.parametrize("kind, scheme", [("Q8_0", "W8A16"), ("Q4_0", "W4A16"), ("Q5_1", "float32")])
def test_blocks_run_as_they_are_stored(tmp_path, aerogel, kind, scheme):
    """As the float model of the dequantized weights."""
    from wan_models import random_model
    model = random_model(num_attention_heads=2, attention_head_dim=48)  # 96 columns: three blocks
    model.save_pretrained(tmp_path / "model")
    type_ = GGMLQuantizationType[kind]
    tensors, dequantized = {}, {}
    for name, tensor in model.state_dict().items():
        array = tensor.numpy().astype(np.float32)
        blocks = name.startswith("blocks.") and array.ndim == 2 and array.shape[-1] % 32 == 0
        data = gguf.quants.quantize(array, type_) if blocks else array
        tensors[name] = (data if array.ndim < 5 else data.reshape(-1, *array.shape[2:]), kind if blocks else "F32")
        dequantized[name] = gguf.quants.dequantize(data, type_) if blocks else array
    write(tmp_path / "model.gguf", tensors)
    save_file(dequantized, tmp_path / "dequantized.safetensors")
    inputs = inputs_for("wan", tmp_path / "in.safetensors")
    wanted = velocity(aerogel, tmp_path / "model", inputs, tmp_path / "a.safetensors", "--transformer",
                      tmp_path / "dequantized.safetensors")
    got = velocity(aerogel, tmp_path / "model", inputs, tmp_path / "b.safetensors", "--transformer", tmp_path / "model.gguf")
    assert np.linalg.norm(got - wanted) <= 1e-5 * np.linalg.norm(wanted)

    for flags in (["--online", "W8A8_DYNAMIC"],):  # quantized from what the blocks mean
        a = velocity(aerogel, tmp_path / "model", inputs, tmp_path / "a.safetensors", *flags, "--transformer",
                     tmp_path / "dequantized.safetensors")
        b = velocity(aerogel, tmp_path / "model", inputs, tmp_path / "b.safetensors", *flags, "--transformer",
                     tmp_path / "model.gguf")
        assert np.array_equal(a, b)
        assert not np.array_equal(a, wanted)

    shown = json.loads(aerogel("inspect", tmp_path / "model.gguf", "--json").stdout)
    assert shown["kind"] == "gguf" and shown["types"][kind]["tensors"] == sum(k == kind for _, k in tensors.values())
    assert {t["name"]: t["type"] for t in shown["tensors"]} == {name: k for name, (_, k) in tensors.items()}
    text = aerogel("inspect", tmp_path / "model.gguf").stdout
    assert kind in text and scheme in text


# --- files that are wrong

def string(text):
    return struct.pack("<Q", len(text)) + text.encode()


def entry(name, shape, kind, offset):
    return string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def pair(key, kind, value):
    return string(key) + struct.pack("<I", kind) + value


def file(entries, pairs=(), data=b"\0" * 64, *, version=3, tensors=None, keys=None, magic=b"GGUF"):
    head = magic + struct.pack("<IQQ", version, len(entries) if tensors is None else tensors, len(pairs) if keys is None else keys)
    head += b"".join(pairs) + b"".join(entries)
    return head + b"\0" * (-len(head) % 32) + data


WRONG = {
    "magic": (file([], magic=b"GGML"), "must begin with 'GGUF'"),
    "empty": (b"", "must begin with 'GGUF'"),
    "version": (file([], version=1), "the version must be 2 or 3, little-endian, got 1"),
    "big_endian": (file([], version=3 << 24), "little-endian"),
    "absurd_tensors": (file([], tensors=1 << 60), "the number of tensors says 1152921504606846976"),
    "absurd_keys": (file([], keys=1 << 60), "the number of keys says"),
    "absurd_string": (file([], [struct.pack("<Q", 1 << 62)], keys=1), "a key must have at most 65536 bytes"),
    "absurd_array": (file([], [pair("a", 9, struct.pack("<IQ", 10, 1 << 61))]), "the length of an array says"),
    "unknown_value": (file([], [pair("a", 13, b"\0" * 8)]), "key 'a': the type of a value must be 0 to 12, got 13"),
    "boolean": (file([], [pair("a", 7, b"\2")]), "key 'a': a boolean must be 0 or 1, got 2"),
    "nested": (file([], [pair("a", 9, struct.pack("<IQ", 9, 1) * 6 + struct.pack("<IQ", 0, 0))]), "nested too deep"),
    "same_key": (file([], [pair("a", 0, b"\1"), pair("a", 0, b"\1")]), "the key 'a' appears twice"),
    "alignment_0": (file([], [pair("general.alignment", 4, struct.pack("<I", 0))]), "power of two up to 2^20, got u32 0"),
    "alignment_48": (file([], [pair("general.alignment", 4, struct.pack("<I", 48))]), "power of two"),
    "alignment_type": (file([], [pair("general.alignment", 0, b"\x20")]), "must be a u32"),
    "same_tensor": (file([entry("w", (4,), 0, 0), entry("w", (4,), 0, 32)]), "the tensor 'w' appears twice"),
    "no_axes": (file([entry("w", (), 0, 0)]), "tensor 'w': must have 1 to 8 axes, got 0"),
    "nine_axes": (file([entry("w", (1,) * 9, 0, 0)]), "1 to 8 axes, got 9"),
    "zero_size": (file([entry("w", (4, 0), 0, 0)]), "tensor 'w': sizes must be 1 to 2^63 - 1, got 0"),
    "overflow": (file([entry("w", (1 << 40, 1 << 40), 0, 0)]), "overflows"),
    "bytes_overflow": (file([entry("w", (1 << 62,), 0, 0)]), "overflows"),
    "type": (file([entry("w", (4,), 99, 0)]), "tensor 'w': the type must be one of F32, F16"),
    "rows": (file([entry("w", (33,), 8, 0)]), "tensor 'w': rows of Q8_0 must be a multiple of 32 long, got [33]"),
    "offset": (file([entry("w", (4,), 0, 4)]), "tensor 'w': the offset must be a multiple of 32, got 4"),
    "behind": (file([entry("w", (4,), 0, 64)]), "truncated, or wrong offsets: tensor 'w' has 16 bytes at byte 64"),
    "far": (file([entry("w", (4,), 0, (1 << 64) - 32)]), "wrong offsets"),
    "overlap": (file([entry("v", (16,), 0, 0), entry("w", (4,), 0, 32)]), "tensors 'v' and 'w' overlap"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_files_get_one_line(tmp_path, copy, case):
    content, message = WRONG[case]
    path = tmp_path / "wrong.gguf"
    path.write_bytes(content)
    done = copy(path, tmp_path / "out.safetensors")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"[gguf] {path}: ") and message in done.stderr, done.stderr


def test_every_truncation_is_noticed(tmp_path, copy):
    whole = file([entry("v", (4, 2), 0, 0), entry("w", (32,), 8, 32)],
                 [pair("a", 9, struct.pack("<IQ", 8, 2) + string("b") * 2)], data=bytes(32 + 34))
    path = tmp_path / "cut.gguf"
    path.write_bytes(whole)
    assert copy(path, tmp_path / "out.safetensors").returncode == 0
    for size in range(0, len(whole), 5):
        path.write_bytes(whole[:size])
        done = copy(path, tmp_path / "out.safetensors")
        assert done.returncode == 1 and done.stderr.startswith("[gguf] "), (size, done.stderr)
