"""Resolution -> shift, one rule for flow and diffusion models; time warps; what `denoise` means.

A shift s moves log-SNR by -2 ln s: e' = s e, which on flow time is t' = s t / (1 + (s-1) t) (Esser et al.
2024, eq. 23), and which Hoogeboom et al. 2023 call the shifted schedule. s = sqrt(N / N_ref) keeps the noise
of a feature's mean, e / sqrt(N), the same at every size.
"""
from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from .table import finite, from_edm, is_flow, own_shift, read_span, to_edm

Rule = Literal["sqrt", "mu", "mu_raw", "fixed"]
DenoiseMode = Literal["steps", "sigma", "log_snr"]
MOST_STEPS = 100_000


def shift_time(t: Tensor, shift: float) -> Tensor:
    """t' = s t / (1 + (s-1) t) on flow time in [0, 1]; shift 1 returns `t` itself."""
    return t if shift == 1 else shift * t / (1 + (shift - 1) * t)


def shift_edm(e: Tensor | float, shift: float, cap: float) -> Tensor | float:
    """e' = s e, bent so that `cap` stays where it is: the same rule on e/cap; a cap of infinity is no cap."""
    return e if shift == 1 else shift * e / (1 + (shift - 1) * (e / cap))


def shift_sigmas(sigmas: Tensor, table: Tensor, shift: float) -> Tensor:
    """Shift a schedule in the host's sigmas [n], whoever made it; 0 and the model's maximum stay exact."""
    if shift == 1:
        return sigmas
    finite("shift", shift, 0)
    span = read_span(table)
    inner = (sigmas > 0) & (sigmas < span.top * (1 - 1e-6))
    e = shift_edm(to_edm(sigmas[inner].double(), span.flow), shift, span.cap)
    if span.cap == math.inf and not span.flow:
        e = e.clamp(max=span.top * (1 - 1e-6))
    shifted = sigmas.clone()
    shifted[inner] = from_edm(e, span.flow).to(sigmas)
    return shifted


def tokens(shape: tuple[int, ...]) -> int:
    """Latent positions of one sample: H*W of [B,C,H,W], T*H*W of [B,C,T,H,W], L of [B,C,L]."""
    if len(shape) < 3 or min(shape) < 1:
        raise ValueError(f"latent has shape {list(shape)}; give [B,C,H,W] or [B,C,T,H,W]")
    return math.prod(shape[2:])


def flux_mu(count: float, base: float = 0.5, top: float = 1.15) -> float:
    """Flux's mu, linear in the number of 2x2 tokens: `base` at 256, `top` at 4096 (Black Forest Labs)."""
    return base + (top - base) * (count - 256) / (4096 - 256)


def resolution_shift(shape: tuple[int, ...], rule: Rule, shift: float, own: float, reference: int) -> float:
    """The shift for a latent of this shape.

    `shift` is the shift at the model's reference size, 0 for its `own`; `reference` counts that size's
    latent positions. sqrt: shift * sqrt(N / reference). mu: e^mu with N clamped to 256..4096 tokens of 2x2
    positions, mu_raw: unclamped (there `shift` is not used). fixed: `shift` at every size.
    """
    count, base = tokens(shape), shift or own
    if rule == "fixed":
        return base
    if rule == "sqrt":
        return base * math.sqrt(count / reference)
    count = count / 4
    mu = flux_mu(min(max(count, 256.0), 4096.0) if rule == "mu" else count)
    if mu > math.log(1000):
        raise ValueError(f"flow shift: mu_raw gives e^{mu:.1f} for {count:.0f} tokens; "
                         "use rule sqrt above 4096 tokens")
    return math.exp(mu)


def relative_shift(shape: tuple[int, ...], rule: Rule, shift: float, table: Tensor, reference: int) -> float:
    """What to multiply e by so that the table's own shift becomes the rule's: flow models undo theirs first.

    A diffusion table carries no shift of its own to replace, so `shift` 0 means 1 there.
    """
    own = own_shift(table) if is_flow(table) else 1.0
    ratio = resolution_shift(shape, rule, shift, own, reference) / own
    return 1.0 if math.isclose(ratio, 1, rel_tol=1e-5) else ratio


def start_sigma(denoise: float, table: Tensor, mode: DenoiseMode) -> float:
    """Where a partial denoise begins, in the host's sigma, the same noise for every schedule.

    sigma: the noise fraction e/(1+e) equals `denoise` (on flow models: sigma itself, unshifted).
    log_snr: `denoise` cuts the model's log-SNR range, so equal steps are equal ratios of noise.
    """
    span = read_span(table)
    e = denoise / (1 - denoise) if mode == "sigma" else span.low ** (1 - denoise) * span.high**denoise
    return float(from_edm(torch.tensor(min(e, span.high), dtype=torch.float64), span.flow))


def cut(schedule: Callable[[int, Tensor], Tensor], steps: int, table: Tensor, denoise: float,
        mode: DenoiseMode) -> Tensor:
    """`schedule(steps, table)` for a partial denoise in (0, 1]: `steps` steps that begin at lower noise.

    steps: the last `steps` of int(steps / denoise), as the hosts do. sigma, log_snr: the first node is
    `start_sigma`, the same noise for every schedule, and the rest are the last nodes of the shortest
    schedule that has enough.
    """
    if not 0 < denoise <= 1:
        raise ValueError(f"denoise is {denoise}; give a number above 0, at most 1")
    if denoise == 1:
        return schedule(steps, table)
    if mode == "steps":
        return schedule(int(steps / denoise), table)[-(steps + 1):]
    start = start_sigma(denoise, table, mode)

    def nodes_below(total: int) -> Tensor:
        sigmas = schedule(total, table)
        return sigmas[(sigmas < start * (1 - 1e-6)) & (sigmas > 0)]
    enough = steps
    while len(nodes_below(enough)) < steps - 1:
        enough *= 2
        if enough > MOST_STEPS:
            raise ValueError(f"denoise {denoise} starts at sigma {start:.4g}, where this schedule has no "
                             f"{steps} steps; raise it")
    total = bisect_left(range(enough), steps - 1, lo=enough // 2 + 1, key=lambda n: len(nodes_below(n)))
    below = nodes_below(max(total, steps))
    return torch.cat([below.new_tensor([start]), below[len(below) - steps + 1:], below.new_zeros(1)])
