"""Products and sums that close a transformer block."""
import torch


def muls_add(x: torch.Tensor, y: torch.Tensor, scale: float) -> torch.Tensor:
    """x * scale + y."""
    return x * scale + y


def residual_gate_add(x: torch.Tensor, y: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    """x + y * gate in float32, in x's dtype; gate [B, 1, D] or anything else that broadcasts."""
    return (x.float() + y.float() * gate.float()).to(x.dtype)
