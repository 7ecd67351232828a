"""Euler and UniPC against diffusers' schedulers over full trajectories of a smooth random velocity field."""
import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from wan_models import run_program

BOUND = 1e-5
SHIFTS = [1, 3, 5, 8]
STEPS = [*range(1, 11), 13, 16, 20, 24, 32, 41, 50]


@pytest.fixture(scope="module")
def field(tmp_path_factory):
    generator = torch.Generator().manual_seed(5)
    tensors = dict(noise=torch.randn(48, generator=generator), matrix=torch.randn(48, 48, generator=generator) / 48**0.5)
    path = tmp_path_factory.mktemp("field") / "field.safetensors"
    save_file(tensors, path)
    return path, tensors


def scheduler(kind, shift):
    if kind == "euler":
        return diffusers.FlowMatchEulerDiscreteScheduler(shift=float(shift))
    return diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True,
                                             flow_shift=float(shift))


def trajectory(kind, steps, shift, tensors, dtype):
    """Samples after every step, [steps, n]; float64 also takes the logarithms of the noise levels in float64."""
    s = scheduler(kind, shift)
    s.set_timesteps(steps)
    s.set_begin_index(0)
    s.sigmas = s.sigmas.to(dtype)
    x, matrix, samples = tensors["noise"].to(dtype), tensors["matrix"].double(), []
    for t in s.timesteps:
        v = torch.tanh(matrix @ x.double()) * (0.5 + float(t) / 1000)
        # FlowMatchEuler casts the sample to float32 whatever it is given.
        x = s.step(v.to(dtype), t, x[None].to(dtype), return_dict=False)[0][0] if kind == "euler" else s.step(
            v.to(dtype)[None], t, x[None], return_dict=False)[0][0]
        samples.append(x.double())
    return torch.stack(samples), s.timesteps.float()


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("kind", ["euler", "unipc"])
def test_trajectories(kind, shift, field, tmp_path):
    worst = 0.0
    for steps in STEPS:
        done = run_program("sampler_dump", kind, steps, shift, field[0], tmp_path / "out.safetensors")
        assert done.returncode == 0, done.stderr
        ours = load_file(tmp_path / "out.safetensors")
        for dtype in (torch.float32, torch.float64):
            samples, timesteps = trajectory(kind, steps, shift, field[1], dtype)
            assert torch.allclose(ours["timesteps"], timesteps, rtol=1e-6, atol=0)
            errors = (ours["samples"] - samples).norm(dim=1) / samples.norm(dim=1)
            assert errors.max() <= BOUND, (steps, dtype, errors)
            worst = max(worst, float(errors.max()))
    print(f"worst relative error {worst:.1e}")


@pytest.mark.parametrize("terminal", [None, 0.02, 0.3])
@pytest.mark.parametrize("mu", [0.5, 1.15, 2.4])
def test_levels_of_image_pipelines(mu, terminal, field, tmp_path):
    """Levels from 1 to 1/steps under a dynamic shift, stretched to a last level: noise levels and trajectories."""
    for steps in (2, 4, 9, 20):
        s = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=terminal)
        s.set_timesteps(steps, sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
        last = [] if terminal is None else [terminal]
        done = run_program("sampler_dump", "euler", steps, float(np.exp(mu)), field[0], tmp_path / "out.safetensors",
                           "even", *last)
        assert done.returncode == 0, done.stderr
        ours = load_file(tmp_path / "out.safetensors")
        assert torch.allclose(ours["timesteps"], s.timesteps.float(), rtol=2e-6, atol=0)
        x, matrix = field[1]["noise"].double(), field[1]["matrix"].double()
        for i, t in enumerate(s.timesteps):
            x = x + (s.sigmas[i + 1] - s.sigmas[i]).double() * torch.tanh(matrix @ x) * (0.5 + float(t) / 1000)
            assert (ours["samples"][i] - x).norm() / x.norm() <= BOUND
    assert run_program("sampler_dump", "euler", 4, 3, field[0], tmp_path / "o", "even", 1.5).returncode == 1


def test_trajectories_tell_samplers_apart(field):
    """The bound is far below what separates the samplers, the shifts and the orders."""
    base = trajectory("unipc", 8, 3, field[1], torch.float64)[0][-1]
    for other in (trajectory("euler", 8, 3, field[1], torch.float64), trajectory("unipc", 8, 5, field[1], torch.float64)):
        assert (other[0][-1] - base).norm() / base.norm() > 100 * BOUND


@pytest.mark.parametrize("arguments, message", [
    (("heun", 4, 3), "euler or unipc"), (("euler", 0, 3), "steps must be between 1"),
    (("unipc", 1001, 3), "steps must be between 1"), (("unipc", 4, 0), "shift must be from 0.001 to"),
    (("euler", 4, -1), "shift must be from 0.001 to"), (("euler", 4, np.nan), "shift must be from 0.001 to")])
def test_wrong_arguments(arguments, message, field, tmp_path):
    done = run_program("sampler_dump", *arguments, field[0], tmp_path / "out.safetensors")
    assert done.returncode == 1 and message in done.stderr
