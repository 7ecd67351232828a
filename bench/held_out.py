"""Held-out flow-matching loss of the trained model, for models that `aerogel forward` runs and for PyTorch's."""
import pathlib
import sys

import torch
from safetensors.torch import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "examples/train_demo"))
import data  # noqa: E402
import model as demo  # noqa: E402
import train  # noqa: E402


class HeldOut:
    """`videos` unseen videos of `frames` frames between noise and clear, as the training loop's own held-out loss takes them; `shift`: all
    frames of a video together, at a level of the schedule with this shift."""

    def __init__(self, model: "demo.DemoModel", videos: int, shift: float | None = None, frames: int = data.FRAMES):
        self.batches = list(train.held_out_batches(frames, videos))
        if shift is not None:
            levels = train.shifted(1 - train.held_out_progress(videos), shift)
            self.batches = [(video, places, level.expand_as(sigma).clone(), noise, ids)
                            for level, (video, places, sigma, noise, ids) in zip(levels, self.batches, strict=True)]
        self.captions = model.captions
        self.reference: torch.Tensor | None = None
        self.reference_losses: torch.Tensor | None = None

    @torch.no_grad()
    def write(self, path: pathlib.Path, steps: int) -> pathlib.Path:
        """The inputs of the transformer as records for `aerogel forward`, each in that of `steps` steps that is as far on its way."""
        tokens = (data.SIZE // data.PATCH) ** 2
        records = {"hidden_states": [], "timestep": [], "encoder_hidden_states": []}
        for video, _, sigma, noise, ids in self.batches:
            records["hidden_states"].append(train.noised(video, sigma, noise))
            records["timestep"].append(1000 * sigma.repeat_interleave(tokens, dim=1))
            records["encoder_hidden_states"].append(self.captions(ids))
        at = (train.held_out_progress(len(self.batches)) * steps).long()
        save_file({name: torch.cat(parts).contiguous() for name, parts in records.items()} | {"step": at}, path)
        return path

    def figures(self, velocities: torch.Tensor) -> dict:
        """Of the velocities [videos, 3, frames, height, width], lists with a value of each: "losses", "losses_gained" over those of the float
        model and "velocity_errors"; and the "loss" and "velocity_error" of all together. The first call's are those of the float model."""
        losses = torch.stack([train.flow_matching_loss(lambda x, level, ids, v=v: v[None], video, sigma, noise, ids)
                              for v, (video, _, sigma, noise, ids) in zip(velocities, self.batches, strict=True)])
        if self.reference is None:
            self.reference, self.reference_losses = velocities, losses
        errors = (velocities - self.reference).flatten(1).norm(dim=1) / self.reference.flatten(1).norm(dim=1)
        error = (velocities - self.reference).norm() / self.reference.norm()
        return {"loss": float(losses.mean()), "velocity_error": float(error), "losses": losses.tolist(), "velocity_errors": errors.tolist(),
                "losses_gained": (losses - self.reference_losses).tolist()}

    def of_file(self, path: pathlib.Path) -> dict:
        return self.figures(load_file(path)["velocity"])

    @torch.no_grad()
    def of_model(self, model: "demo.DemoModel") -> dict:
        """The same for a model in PyTorch."""
        model.set_places(None)
        velocities = [model(train.noised(video, sigma, noise), sigma, ids) for video, _, sigma, noise, ids in self.batches]
        return self.figures(torch.cat(velocities))
