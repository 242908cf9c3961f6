"""Zero terminal SNR (Lin et al. 2023): rescaled table, first step that stays finite, CFG rescale, DC start.

x is in k-diffusion's variance-exploding form x = x0 + sigma n, [B,C,...]; denoised is the estimate of x0.
"""
from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .table import check_table, finite

FINAL_ALPHA_BAR = 4.8973451890853435e-08  # in place of 0, as in every host: sigma 4518.76
WAY_OUT = ("an epsilon model's output says nothing about the picture where no signal is left, so it can't "
           "start there; use a v-prediction model, or the DC-calibrated start, which corrects brightness "
           "without retraining")


def rescale_table(sigmas: Tensor) -> Tensor:
    """Lin et al. 2023, algorithm 1, on sigmas [T]: sqrt(alpha_bar) is moved to end at 0, its start kept."""
    table = check_table(sigmas)
    a = (1 + table**2).rsqrt()
    a = (a - a[-1]) * a[0] / (a[0] - a[-1])
    alpha_bar = torch.cat([a[:-1] ** 2, a.new_tensor([FINAL_ALPHA_BAR])])
    return ((1 - alpha_bar) / alpha_bar).sqrt().to(sigmas)


def refuse(prediction: str) -> None:
    """Raise ValueError for whatever is not v-prediction on a discrete table, with reason and way out."""
    if prediction == "epsilon":
        raise ValueError(f"Zero terminal SNR: this model predicts epsilon; {WAY_OUT}")
    if prediction != "v":
        raise ValueError(f"Zero terminal SNR: this is a {prediction} model, whose noise has no discrete "
                         "table to rescale; flow models reach zero SNR as they are, so leave this off")


def first_step(x: Tensor, denoised: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """The exponential (DDIM) step x1 = (s1/s0) x0 + (1 - s1/s0) D in float32, finite at any s0; flow too."""
    keep = sigma_next / sigma
    return (keep * x.float() + (1 - keep) * denoised.float()).to(x.dtype)


def rescale_cfg(x: Tensor, sigma: Tensor, guided: Tensor, cond: Tensor, phi: float) -> Tensor:
    """Lin et al. 2023, eq. 15-16: bring the guided v to the spread of the conditional v, by `phi` in [0, 1].

    x, guided and cond are [B,C,...], sigma [B]; estimates are taken to v, scaled per sample and brought back.
    """
    if phi == 0:
        return guided
    sigma = sigma.float().reshape(-1, *[1] * (x.ndim - 1))
    scale, spread = sigma**2 + 1, tuple(range(1, x.ndim))
    base, factor = x.float() / scale, sigma / scale.sqrt()  # D = base - factor v
    v, v_cond = (base - guided.float()) / factor, (base - cond.float()) / factor
    ratio = v_cond.std(spread, keepdim=True) / v.std(spread, keepdim=True).clamp_min(1e-12)
    return (base - factor * v * (phi * ratio + 1 - phi)).to(guided.dtype)


def calibrate_dc(denoise: Callable[[Tensor], Tensor], x: Tensor, sigma: float) -> Tensor:
    """Give pure noise `x` [B,C,...] at `sigma` the channel means that the model implies; 2 evaluations.

    For a Gaussian mean with prior N(mu, s^2), seen through N pixels of noise with v = sigma^2/N, the answer's
    mean is D(m) = (s^2 m + v mu) / (s^2 + v). Two probes at m = +-sqrt(v) give its slope and offset, hence mu
    and s^2; the noise's own mean is then rescaled to N(mu, s^2 + v). Ours; exact for Gaussian means, an
    estimate elsewhere.
    """
    finite("sigma", sigma, 0)
    space = tuple(range(2, x.ndim))
    root_v = sigma / math.sqrt(math.prod(x.shape[2:]))
    own = x.mean(space, keepdim=True)
    up, down = (denoise(x - own + sign * root_v).mean(space, keepdim=True) for sign in (1, -1))
    slope = ((up - down) / (2 * root_v)).clamp(0, 0.98)
    mean = (up + down) / 2 / (1 - slope)
    return x - own + mean + own / (1 - slope).sqrt()
