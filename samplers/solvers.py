"""Samplers: (model, x, sigmas, extra_args, callback, disable) -> x, in k-diffusion's calling convention.

`model(x, sigma [B], **extra_args)` returns the denoised estimate; x is in the host's form (x0 + sigma n, or
(1-sigma) x0 + sigma n for flow models); `callback` gets a dict with x, i, sigma, sigma_hat, denoised.
"""
from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from tqdm.auto import trange

from .table import TERMINAL, half_log_snr, to_edm
from .zero_snr import calibrate_dc, first_step


@torch.no_grad()
def sample_2m(model: Callable, x: Tensor, sigmas: Tensor, extra_args: dict | None = None,
              callback: Callable | None = None, disable: bool | None = None, flow: bool = False) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2) in half-log-SNR, which is right for flow models too.

    lambda = ln(alpha/sigma), h = lambda' - lambda, D' = D + h/(2 h_last) (D - D_last),
    x' = (sigma'/sigma) x + alpha' (1 - e^-h) D'. A start without signal leaves no history.
    """
    ones = x.new_ones([x.shape[0]])
    s = sigmas.double().cpu()
    h = half_log_snr(s, flow).diff().tolist()
    s, fade = s.tolist(), (-half_log_snr(s, flow).diff()).exp().tolist()
    last, blank = None, float(to_edm(sigmas[0].double(), flow)) > TERMINAL
    for i in trange(len(s) - 1, disable=disable):
        denoised = model(x, sigmas[i] * ones, **(extra_args or {}))
        if callback is not None:
            callback({"x": x, "i": i, "sigma": sigmas[i], "sigma_hat": sigmas[i], "denoised": denoised})
        if s[i + 1] == 0:
            return denoised
        corrected = denoised if last is None else denoised + h[i] / (2 * h[i - 1]) * (denoised - last)
        x = s[i + 1] / s[i] * x + (1 - s[i + 1] if flow else 1) * (1 - fade[i]) * corrected
        last = None if i == 0 and blank else denoised
    return x


def with_safe_start(sampler: Callable, flow: bool = False, safe_first_step: bool = True,
                    calibrate: bool = False) -> Callable:
    """Wrap any sampler: where its start has no signal, take the first step in its safe form, then hand over.

    `calibrate` gives pure noise on other tables its DC-calibrated start. Else the sampler runs untouched.
    """
    @functools.wraps(sampler)
    def wrapped(model, x, sigmas, *, extra_args=None, callback=None, disable=None, **options):
        extra, start = extra_args or {}, float(sigmas[0])
        sigma = sigmas[0] * x.new_ones([x.shape[0]])
        if calibrate and not flow:
            x = calibrate_dc(lambda probe: model(probe, sigma, **extra), x, start)
        run = functools.partial(sampler, model, extra_args=extra_args, disable=disable, **options)
        if not safe_first_step or float(to_edm(sigmas[0].double(), flow)) <= TERMINAL:
            return run(x, sigmas=sigmas, callback=callback)
        denoised = model(x, sigma, **extra)
        if callback is not None:
            callback({"x": x, "i": 0, "sigma": sigmas[0], "sigma_hat": sigmas[0], "denoised": denoised})
        x = first_step(x, denoised, start, float(sigmas[1]))
        later = callback and (lambda state: callback({**state, "i": state["i"] + 1}))
        return x if len(sigmas) == 2 else run(x, sigmas=sigmas[1:], callback=later)
    return wrapped
