"""The demo model: diffusers' WanTransformer3DModel in pixel space, its learned caption table, and their folder on disk.

Also here: the token positions that let training look at a few frames of a long video, or at every other row and column of
its tokens (rotary positions are relative, so a part with its true positions stands for the whole at a tenth of the cost).
"""
import json
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file

import data

CONFIG = dict(patch_size=(1, 4, 4), num_attention_heads=4, attention_head_dim=40, in_channels=3, out_channels=3,
              text_dim=64, freq_dim=256, ffn_dim=640, num_layers=6, cross_attn_norm=True,
              qk_norm="rms_norm_across_heads", eps=1e-6, rope_max_seq_len=64)
FLOW_SHIFT = 6.0
STEPS = 24
GUIDANCE = 3.0
STAGGER = 0.6


class CaptionTable(torch.nn.Module):
    """Word ids [B, L] -> caption embeddings [B, objects * groups, text_dim]: sums of word and slot embeddings over each group of an object's slots.

    Wan's cross-attention does not mix the words of a caption, so both embeddings of an object hold its colour, by which a token finds them.
    Shape and motion stay apart: summed to one, motion, which is learned late, was noise in the way of shape, and the text projection learned to
    suppress it."""

    def __init__(self, text_dim):
        super().__init__()
        self.groups = data.GROUPS
        self.word_embedding = torch.nn.Embedding(len(data.WORDS), text_dim)
        self.position_embedding = torch.nn.Embedding(data.MAX_LENGTH, text_dim)

    def forward(self, ids):
        slots = (self.word_embedding(ids) + self.position_embedding.weight).unflatten(1, (-1, data.SLOTS_PER_OBJECT))
        return torch.stack([slots[:, :, group].sum(2) for group in self.groups], dim=2).flatten(1, 2)

    def encode(self, captions):
        """list of captions -> their embeddings; ValueError for a caption outside the grammar's words."""
        return self(torch.tensor([data.tokenize(c) for c in captions], device=self.word_embedding.weight.device))


class TokenPlaces(torch.nn.Module):
    """Stands in for the model's rotary table: a token sits where `places` says (see data.batch) instead of at 0, 1, 2 ..."""

    def __init__(self, rope):
        super().__init__()
        self.rope, self.places = rope, None

    def _gather(self, table):
        sizes = [p.shape[1] for p in self.places]
        parts = []
        for axis, part in enumerate(table.split([self.rope.t_dim, self.rope.h_dim, self.rope.w_dim], dim=1)):
            one = part[self.places[axis]]
            for other in range(3):
                one = one if other == axis else one.unsqueeze(1 + other)
            parts.append(one.expand(-1, *sizes, -1))
        return torch.cat(parts, dim=-1).flatten(1, 3)[:, :, None]

    def forward(self, hidden_states):
        if self.places is None:
            return self.rope(hidden_states)
        return self._gather(self.rope.freqs_cos), self._gather(self.rope.freqs_sin)


def fast_gelu(x):
    """GELU in its tanh form, written with the logistic function: the same values, cheaper when compiled for a CPU."""
    y = x.float()
    return (y * torch.sigmoid(y * (1.5957691216 + 0.0713548162726 * y * y))).type_as(x)


class TrainingAttention:
    """diffusers' Wan attention, with products spelled out where the fused CPU kernel is slow to differentiate (few keys)."""

    few_keys = 512

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, rotary_emb=None):
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        heads = lambda x: x.unflatten(2, (attn.heads, -1))
        q, k, v = heads(attn.norm_q(attn.to_q(hidden_states))), heads(attn.norm_k(attn.to_k(source))), heads(attn.to_v(source))
        if rotary_emb is not None:
            q, k = (self.rotate(x, *rotary_emb) for x in (q, k))
        q, k, v = (x.to(v.dtype).transpose(1, 2) for x in (q, k, v))
        if k.shape[2] <= self.few_keys:
            scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
            out = scores.float().softmax(-1).to(v.dtype) @ v
        else:
            out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        return attn.to_out[0](out.transpose(1, 2).flatten(2, 3))

    @staticmethod
    def rotate(x, cos, sin):
        a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
        cos, sin = cos[..., 0::2], sin[..., 1::2]
        return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2).type_as(x)


class DemoModel(torch.nn.Module):
    """Transformer and caption table together. forward: noisy video, sigma [B] or [B, frames], word ids -> velocity (noise - video)."""

    def __init__(self, config=None):
        super().__init__()
        self.transformer = WanTransformer3DModel(**(config or CONFIG))
        self.captions = CaptionTable(self.transformer.config.text_dim)
        self.transformer.rope = TokenPlaces(self.transformer.rope)
        for block in self.transformer.blocks:
            block.attn1.set_processor(TrainingAttention())
            block.attn2.set_processor(TrainingAttention())
            block.ffn.net[0].gelu = fast_gelu
        self.autocast = False
        embed = self.transformer.patch_embedding
        plain = type(embed).forward
        # The residual stream follows this layer's type: it stays float32 while the matrix products run in bfloat16.
        embed.forward = lambda x: torch.autocast(x.device.type, enabled=False)(plain)(embed, x)

    def forward(self, video, sigma, ids):
        if sigma.ndim == 2:  # one timestep per token
            rows, columns = (size // data.PATCH for size in video.shape[-2:])
            sigma = sigma.repeat_interleave(rows * columns, dim=1)
        with torch.autocast(video.device.type, dtype=torch.bfloat16, enabled=self.autocast):
            return self.transformer(video, sigma * 1000.0, self.captions(ids), return_dict=False)[0].float()

    def set_places(self, places):
        """Token positions (frames, rows, columns) of the next calls as data.batch gives them, or None for 0, 1, 2 ..."""
        self.transformer.rope.places = places

    def initialise(self, seed):
        torch.manual_seed(seed)
        fresh = DemoModel(dict(self.transformer.config))
        self.load_state_dict(fresh.state_dict())
        torch.nn.init.zeros_(self.transformer.proj_out.weight)
        torch.nn.init.zeros_(self.transformer.proj_out.bias)
        return self


def sigmas(steps, shift):
    """Noise levels of a sampler, [steps + 1], from 1 down to 0, moved towards high noise by `shift`."""
    t = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    return shift * t / (1 + (shift - 1) * t)


def starts(steps, frames, stagger):
    """Steps in which the frames start: the last after the share `stagger` of all steps, the others evenly before it."""
    last = int(stagger * steps) if frames > 1 else 0
    return [last * i // max(frames - 1, 1) for i in range(frames)]


@torch.no_grad()
def sample(model, captions, *, seed=0, steps=STEPS, shift=FLOW_SHIFT, guidance=GUIDANCE, frames=data.FRAMES, device="cpu", stagger=STAGGER):
    """Euler sampler with classifier-free guidance -> videos [N, 3, frames, SIZE, SIZE] in [-1, 1]; caption i uses seed + i.

    The first frame is made alone. It then stays, at noise level 0, and the others start one after the other (`stagger`)."""
    ids = torch.tensor([data.tokenize(c) for c in captions] + [data.tokenize("")] * len(captions), device=device)
    noise = [torch.randn(3, frames, data.SIZE, data.SIZE, generator=torch.Generator().manual_seed(seed + i))
             for i in range(len(captions))]
    x, given = torch.stack(noise).to(device), int(frames > 1)
    if given:
        x[:, :, :1] = sample(model, captions, seed=seed, steps=steps, shift=shift, guidance=guidance, frames=1, device=device)
    model.set_places(None)
    start = torch.tensor(starts(steps, frames - given, stagger))
    levels = sigmas(steps - int(start[-1]), shift).float()
    at = lambda step: torch.cat([torch.zeros(given), levels[(step - start).clamp(0, len(levels) - 1)]]).to(device)
    for step in range(steps):
        now, after = at(step), at(step + 1)
        conditional, null = model(x.repeat(2, 1, 1, 1, 1), now.expand(2 * len(captions), frames), ids).chunk(2)
        x = x + (after - now)[:, None, None] * (null + guidance * (conditional - null))
    return x.clamp(-1, 1).cpu()


def save_folder(folder, transformer_state, caption_state):
    """Writes a diffusers-style folder (weights in bfloat16, caption tables in float32)."""
    folder = Path(folder)
    for part in ("transformer", "text_encoder", "scheduler"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    clean = WanTransformer3DModel(**CONFIG)
    clean.load_state_dict(transformer_state)
    clean.to(torch.bfloat16).save_pretrained(folder / "transformer")
    save_file({k: v.float().contiguous() for k, v in caption_state.items()}, folder / "text_encoder/model.safetensors")
    write = lambda name, value: (folder / name).write_text(json.dumps(value, indent=2) + "\n")
    write("text_encoder/vocabulary.json", {
        "words": list(data.WORDS), "pad": data.PAD, "max_length": data.MAX_LENGTH,
        "slots_per_object": data.SLOTS_PER_OBJECT, "max_objects": data.MAX_OBJECTS,
        "groups": data.GROUPS, "grammar": data.GRAMMAR})
    write("scheduler/scheduler_config.json", {
        "_class_name": "UniPCMultistepScheduler", "num_train_timesteps": 1000, "prediction_type": "flow_prediction",
        "use_flow_sigmas": True, "flow_shift": FLOW_SHIFT, "solver_order": 2, "solver_type": "bh2",
        "predict_x0": True, "lower_order_final": True, "final_sigmas_type": "zero"})
    write("model_index.json", {
        "_class_name": "WanPipeline", "transformer": ["diffusers", "WanTransformer3DModel"],
        "text_encoder": ["aerogel", "CaptionTable"], "scheduler": ["diffusers", "UniPCMultistepScheduler"],
        "generation": {"num_frames": data.FRAMES, "height": data.SIZE, "width": data.SIZE,
                       "num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "flow_shift": FLOW_SHIFT, "image_first": True, "stagger": STAGGER}})


def load_folder(folder, autocast=False):
    """The model of a folder written by save_folder, weights widened to float32."""
    folder = Path(folder)
    model = DemoModel({**CONFIG, **json.loads((folder / "transformer/config.json").read_text())})
    state = {f"transformer.{k}": v.float()
             for k, v in load_file(folder / "transformer/diffusion_pytorch_model.safetensors").items()}
    state |= {f"captions.{k}": v for k, v in load_file(folder / "text_encoder/model.safetensors").items()}
    model.load_state_dict(state)
    model.captions.groups = json.loads((folder / "text_encoder/vocabulary.json").read_text()).get(
        "groups", [[slot] for slot in range(data.SLOTS_PER_OBJECT)])
    model.autocast = autocast
    return model.eval()
