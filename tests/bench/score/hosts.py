"""(steps, table [T] ascending) -> sigmas [steps + 1]: the hosts' own schedules.

karras and exponential are k-diffusion's, the others ComfyUI's; they take their ends from the model's table.
"""
from __future__ import annotations

import math
from collections.abc import Callable

import torch
from scipy.stats import beta as beta_law
from torch import Tensor


def ended(sigmas: Tensor) -> Tensor:
    return torch.cat([sigmas.double(), sigmas.new_zeros(1).double()])


def karras(steps: int, table: Tensor) -> Tensor:
    """Karras et al. 2022, eq. 5, rho 7, from the table's last entry to its first."""
    high, low = (float(table[end]) ** (1 / 7) for end in (-1, 0))
    return ended(torch.linspace(high, low, steps, dtype=torch.float64) ** 7)


def exponential(steps: int, table: Tensor) -> Tensor:
    high, low = (math.log(float(table[end])) for end in (-1, 0))
    return ended(torch.linspace(high, low, steps, dtype=torch.float64).exp())


def sgm_uniform(steps: int, table: Tensor) -> Tensor:
    """Equal steps of time to its end, which is left out; log sigma is linear between whole times."""
    times = torch.linspace(len(table) - 1, 0, steps + 1, dtype=torch.float64)[:-1]
    low, high, logs = times.floor().long(), times.ceil().long(), table.double().log()
    return ended(torch.lerp(logs[low], logs[high], times.frac()).exp())


def beta(steps: int, table: Tensor) -> Tensor:
    """Lee et al. 2024: quantiles of Beta(0.6, 0.6) over whole times; those met twice are left out."""
    shares = 1 - torch.arange(steps, dtype=torch.float64) / steps
    times = torch.from_numpy(beta_law.ppf(shares.numpy(), 0.6, 0.6) * (len(table) - 1)).round().long()
    return ended(table[torch.unique_consecutive(times)])


def simple(steps: int, table: Tensor) -> Tensor:
    """Every T/steps-th entry from the last on."""
    return ended(table[[len(table) - 1 - int(i * len(table) / steps) for i in range(steps)]])


HOSTS: dict[str, Callable[[int, Tensor], Tensor]] = {
    f.__name__: f for f in (karras, exponential, sgm_uniform, beta, simple)}
