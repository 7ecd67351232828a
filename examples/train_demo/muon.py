"""Muon: momentum whose matrices are made orthogonal before each step (Jordan et al. 2024, "Muon").

`torch.optim.Muon` always runs its Newton-Schulz iteration in bfloat16, which a CPU without bfloat16 arithmetic emulates: that took
more than half of a training step here. This one does so only where the CPU has it. Matrices of one shape are treated as one batch.
"""
import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5


def orthogonalise(matrices):
    """[N, rows, columns] -> the nearest semi-orthogonal matrices, roughly: all singular values near 1."""
    a, b, c = COEFFICIENTS
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    tall = x.shape[1] > x.shape[2]
    x = (x.mT if tall else x).to(torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else x.dtype)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """lr is comparable to AdamW's: an update has root mean square 0.2 lr (Liu et al. 2025, "Muon is scalable")."""

    def __init__(self, matrices, lr, momentum=0.95, weight_decay=0.0):
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            by_shape = {}
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(p)
                state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(state["momentum"], group["momentum"])
                by_shape.setdefault(p.shape, []).append((p, update))
            for shape, pairs in by_shape.items():
                scale = 0.2 * max(shape) ** 0.5 * group["lr"]
                for (p, _), update in zip(pairs, orthogonalise(torch.stack([u for _, u in pairs]))):
                    p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=scale)
