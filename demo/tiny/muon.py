"""Muon (Jordan et al. 2024) for convolutions and matrices: momentum, orthogonalised before each step."""
from __future__ import annotations

import torch
from torch import Tensor, nn


def orthogonalise(gradient: Tensor, rounds: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrix of [out, ...], nearly: a quintic Newton-Schulz iteration."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = gradient.flatten(1)
    x = x / (x.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(rounds):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return (x.T if tall else x).reshape(gradient.shape)


class Muon(torch.optim.Optimizer):
    """`torch.optim.Muon` takes matrices only; most of these weights are convolutions."""

    def __init__(self, parameters, lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                mean = self.state[parameter].setdefault("mean", torch.zeros_like(parameter))
                mean.lerp_(gradient, 1 - group["momentum"])
                update = orthogonalise(gradient.lerp(mean, group["momentum"]))
                scale = 0.2 * max(parameter.shape[0], parameter[0].numel()) ** 0.5  # as large as an Adam step
                parameter.add_(update, alpha=-group["lr"] * scale)


def optimisers(modules: list[nn.Module], lr: float, first: tuple[str, ...]) -> list[torch.optim.Optimizer]:
    """Muon for the inner matrices; Adam for vectors and for weights whose name holds one of `first`."""
    named = [(name, p) for module in modules for name, p in module.named_parameters() if p.requires_grad]
    inner = [p for name, p in named if p.ndim > 1 and not any(part in name for part in first)]
    ids = {id(p) for p in inner}
    outer = [p for _, p in named if id(p) not in ids]
    return [Muon(inner, lr), torch.optim.AdamW(outer, lr, betas=(0.9, 0.98), weight_decay=0)]
