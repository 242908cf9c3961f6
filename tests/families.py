"""Sigma tables of every model family, made from the published formulas, as the hosts make them."""
import math

import torch
from tweedie_pack.samplers.flow import shift_time
from tweedie_pack.samplers.zero_snr import rescale_table

STEPS = (1, 2, 3, 5, 20, 1000)


def stable_diffusion() -> torch.Tensor:
    """SD1.5 and SD2: scaled-linear betas 0.00085..0.012 (Rombach et al. 2022)."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alpha_bar = (1 - betas).cumprod(0)
    return ((1 - alpha_bar) / alpha_bar).sqrt().float()


def flow(shift: float, size: int = 1000) -> torch.Tensor:
    return shift_time(torch.arange(1, size + 1) / size, shift)


TABLES = {
    "sd15_eps": stable_diffusion(),
    "sd2_v": stable_diffusion(),
    "sd2_v_zero_snr": rescale_table(stable_diffusion()),
    "edm": torch.linspace(math.log(0.002), math.log(120), 1000).exp(),
    "flow_1": flow(1),
    "flow_3": flow(3),
    "flow_8": flow(8),
    "flux": flow(math.exp(1.15), 10000),
}
