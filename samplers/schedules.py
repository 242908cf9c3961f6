"""SCHEDULES: (steps, table, *knobs) -> sigmas [steps + 1], descending from the model's maximum to 0.

`table` is the model's own sigmas, ascending [T], of any family (epsilon, v, EDM, flow). Each function below
says where its nodes lie on e = sigma/alpha (see table.py); `lay` does what all of them share. Last Sigma is
in the model's own sigma, 0 chooses by step count; Shift s moves log-SNR by -2 ln s (see flow.py).
"""
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor

from ..plugin import Range, Registry
from .flow import MOST_STEPS, shift_edm
from .table import Span, check_sigmas, check_table, finite, from_edm, is_flow, own_shift, read_span, to_edm

SCHEDULES = Registry("steps", "table")
Spacing = Callable[[Tensor, float, float], Tensor]  # (u [n] from 0 to 1, low, high) -> e [n] from high to low

Last = Annotated[float, Range(
    0, 10, 0.001, "Last non-zero sigma, in the model's own units; 0 chooses by step count.")]
Shift = Annotated[float, Range(
    0.05, 100, 0.05, "Above 1 moves steps to higher noise, for larger pictures; 1 is none.")]


def default_last(steps: int, low: float) -> float:
    """Last non-zero e where none is asked for: 0.8/steps, at most 0.2, at least the model's minimum.

    Between what suits first-order samplers (1.2/steps) and multistep ones (0.6/steps), see recommend.py.
    """
    return max(min(0.8 / steps, 0.2), low)


def check_steps(steps: int) -> int:
    if isinstance(steps, bool) or int(steps) != steps or not 1 <= steps <= MOST_STEPS:
        raise ValueError(f"steps is {steps}; give a whole number from 1 to {MOST_STEPS}")
    return int(steps)


def asked_last(last: float, shift: float, span: Span) -> float:
    """The e that `shift` moves to the asked-for last sigma; ValueError where that is not below the start."""
    e = float(to_edm(torch.tensor(last, dtype=torch.float64), span.flow))
    e = shift_edm(e, 1 / shift, span.cap)
    if not 0 < e < span.high:
        raise ValueError(f"last sigma is {last:g}, the schedule starts at {span.top:g}; give a smaller one")
    return e


def finish(nodes: Tensor, steps: int, table: Tensor) -> Tensor:
    """e [steps] -> the host's sigmas [steps + 1]: first at the model's exact maximum, 0 appended, checked."""
    sigmas = torch.cat([from_edm(nodes, is_flow(table)), nodes.new_zeros(1)]).float()
    sigmas[0] = float(table[-1])
    return check_sigmas(sigmas, table, steps)


def lay(steps: int, table: Tensor, spacing: Spacing, last: float, shift: float) -> Tensor:
    """Lay `spacing` over the model's useful range; shift it; see that an asked-for last sigma is met."""
    steps, span = check_steps(steps), read_span(table)
    finite("shift", shift, 0)
    low = asked_last(last, shift, span) if last else default_last(steps, span.low)
    nodes = spacing(torch.linspace(0, 1, steps, dtype=torch.float64), low, span.high)
    return finish(shift_edm(nodes, shift, span.cap), steps, table)


def quantile(u: Tensor, low: float, high: float, cdf: Callable[[Tensor], Tensor],
             inverse: Callable[[Tensor], Tensor]) -> Tensor:
    """Equal shares of a distribution of ln e, cut off at both ends: nodes lie where it has its mass."""
    ends = cdf(torch.tensor([high, low], dtype=torch.float64).log())
    nodes = inverse(ends[0] + u * (ends[1] - ends[0])).exp()
    return torch.cat([nodes.new_tensor([high]), nodes[1:-1], nodes.new_tensor([low])[: len(u) - 1]])


def karras_nodes(u: Tensor, low: float, high: float, rho: float) -> Tensor:
    a, b = high ** (1 / rho), low ** (1 / rho)
    return (a + u * (b - a)) ** rho


@SCHEDULES.add("karras", "Karras")
def karras(steps: int, table: Tensor,
           rho: Annotated[float, Range(1, 30, 0.1, "Larger values spend more steps at low noise.")] = 7.0,
           last: Last = 0.0, shift: Shift = 1.0) -> Tensor:
    """Karras et al. 2022, eq. 5: e_i = (a + i/(n-1) (b - a))^rho, a = e_max^(1/rho), b = e_last^(1/rho).

    On flow models it is laid over e, not over the flow sigma, where it would spend every step at the end.
    """
    return lay(steps, table, lambda u, low, high: karras_nodes(u, low, high, rho), last, shift)


@SCHEDULES.add("logsnr", "Log-SNR")
def logsnr(steps: int, table: Tensor, last: Last = 0.0, shift: Shift = 1.0) -> Tensor:
    """Equal steps of log-SNR (Lu et al. 2022, section 4.1): e falls by the same factor each step."""
    return lay(steps, table, lambda u, low, high: high * (low / high) ** u, last, shift)


@SCHEDULES.add("beta", "Beta")
def beta(steps: int, table: Tensor,
         a: Annotated[float, Range(0.1, 10, 0.05, "Below 1 crowds steps at the low-noise end.")] = 1.0,
         b: Annotated[float, Range(0.1, 10, 0.05, "Below 1 crowds steps at the high-noise end.")] = 0.85,
         last: Last = 0.0, shift: Shift = 1.0) -> Tensor:
    """Quantiles of a beta distribution over log-SNR (Lee et al. 2024 take them over training time)."""
    from scipy.special import betaincinv

    def spacing(u: Tensor, low: float, high: float) -> Tensor:
        return low * (high / low) ** torch.from_numpy(betaincinv(a, b, (1 - u).numpy()))
    return lay(steps, table, spacing, last, shift)


@SCHEDULES.add("logit_normal", "Logit-normal")
def logit_normal(steps: int, table: Tensor,
                 mean: Annotated[float, Range(-5, 5, 0.05, "Centre of ln e; above 0 is higher noise.")] = 0.0,
                 std: Annotated[float, Range(0.1, 10, 0.05, "Spread of ln e.")] = 1.75,
                 last: Last = 0.0, shift: Shift = 1.0) -> Tensor:
    """Quantiles of a logit-normal flow time (Esser et al. 2024, eq. 19): logit t = ln e ~ N(mean, std^2)."""
    def spacing(u: Tensor, low: float, high: float) -> Tensor:
        return quantile(u, low, high, lambda x: torch.special.ndtr((x - mean) / std),
                        lambda q: mean + std * torch.special.ndtri(q))
    return lay(steps, table, spacing, last, shift)


@SCHEDULES.add("laplace", "Laplace")
def laplace(steps: int, table: Tensor,
            mu: Annotated[float, Range(-10, 10, 0.05, "Centre, in log-SNR; below 0 is higher noise.")] = 0.0,
            b: Annotated[float, Range(0.1, 20, 0.05, "Scale, in log-SNR.")] = 3.0,
            last: Last = 0.0, shift: Shift = 1.0) -> Tensor:
    """Quantiles of a Laplace distribution of log-SNR (Hang et al. 2024): -2 ln e ~ Laplace(mu, b)."""
    law = torch.distributions.Laplace(torch.tensor(-mu / 2, dtype=torch.float64), b / 2)
    return lay(steps, table, lambda u, low, high: quantile(u, low, high, law.cdf, law.icdf), last, shift)


@SCHEDULES.add("cosine", "Cosine")
def cosine(steps: int, table: Tensor, last: Last = 0.0, shift: Shift = 1.0) -> Tensor:
    """Equal angles atan(e): the cosine schedule of Nichol & Dhariwal 2021, eq. 17, with s = 0."""
    def spacing(u: Tensor, low: float, high: float) -> Tensor:
        return (math.atan(high) + u * (math.atan(low) - math.atan(high))).tan()
    return lay(steps, table, spacing, last, shift)


@SCHEDULES.add("sigmoid", "Sigmoid")
def sigmoid(steps: int, table: Tensor,
            start: Annotated[float, Range(-10, 0, 0.1, "Where the sigmoid begins, at low noise.")] = -3.0,
            end: Annotated[float, Range(0.1, 10, 0.1, "Where the sigmoid ends, at high noise.")] = 3.0,
            tau: Annotated[float, Range(0.1, 5, 0.05, "Temperature; larger is closer to linear.")] = 1.0,
            last: Last = 0.0, shift: Shift = 1.0) -> Tensor:
    """Jabri et al. 2022, appendix B, v = sigmoid(./tau), in equal steps of t between the model's ends:
    alpha^2(t) = (v(end) - v(t (end - start) + start)) / (v(end) - v(start))."""
    first, final = torch.special.expit(torch.tensor([start / tau, end / tau], dtype=torch.float64))

    def spacing(u: Tensor, low: float, high: float) -> Tensor:
        signal = 1 / (1 + torch.tensor([high, low], dtype=torch.float64) ** 2)
        # (t (end - start) + start) / tau at both ends
        t = torch.special.logit(final - signal * (final - first))
        signal = (final - torch.special.expit(t[0] + u * (t[1] - t[0]))) / (final - first)
        return ((1 - signal) / signal).sqrt()
    return lay(steps, table, spacing, last, shift)


@SCHEDULES.add("trailing", "Trailing")
def trailing(steps: int, table: Tensor, last: Last = 0.0, shift: Shift = 1.0) -> Tensor:
    """Equal steps of training time from its end (Lin et al. 2023, section 3.4): T, T - T/n, .., T/n."""
    steps, span, table = check_steps(steps), read_span(table), check_table(table)
    size, log_table = len(table), table.log()
    final = max(size / steps - 1, 0.0)
    if last:
        low = torch.tensor(asked_last(last, shift, span), dtype=torch.float64)
        goal = from_edm(low, span.flow).log()
        at = int(torch.searchsorted(log_table, goal).clamp(1, size - 1))
        final = float(at - 1 + (goal - log_table[at - 1]) / (log_table[at] - log_table[at - 1]))
    place = torch.linspace(size - 1, final, steps, dtype=torch.float64)
    at = place.floor().clamp(0, size - 2).long()
    sigmas = (log_table[at] + (place - at) * (log_table[at + 1] - log_table[at])).exp()
    return finish(shift_edm(to_edm(sigmas, span.flow), shift, span.cap), steps, table)


@SCHEDULES.add("zero_snr", "Zero SNR")
def zero_snr(steps: int, table: Tensor,
             rho: Annotated[float, Range(1, 30, 0.1, "Larger values spend more steps at low noise.")] = 7.0,
             high: Annotated[float, Range(
                 1, 100, 0.5, "Second node: where the picture begins to be decided.")] = 25.0,
             last: Last = 0.06, shift: Shift = 1.0) -> Tensor:
    """The model's terminal sigma, then Karras over 0.06..25: no step is spent where no signal is left.

    For zero-terminal-SNR tables, between whose last two entries (2254 and 4519) no time was trained. On a
    table that ends lower, the second node is an even log-SNR step down.
    """
    finite_end = read_span(table).cap < math.inf

    def spacing(u: Tensor, low: float, top: float) -> Tensor:
        second = min(high, top * (low / top) ** float(u[1])) if finite_end and len(u) > 1 else high
        rest = karras_nodes(torch.linspace(0, 1, len(u) - 1, dtype=torch.float64), low, second, rho)
        return torch.cat([u.new_tensor([top]), rest])
    return lay(steps, table, spacing, last, shift)


@SCHEDULES.add("flow_shift", "Flow shift")
def flow_shift(steps: int, table: Tensor, last: Last = 0.0,
               shift: Annotated[float, Range(
                   0, 100, 0.05, "SD3's shift, e^mu of Flux; 0 takes the model's own.")] = 0.0) -> Tensor:
    """Flow time 1, 1 - 1/n, .., 1/n, then t' = s t / (1 + (s-1) t) (Esser et al. 2024, eq. 23).

    Other families are laid over t = e/(1+e) from their own maximum; their own shift is the table's median e.
    """
    steps, span = check_steps(steps), read_span(table)
    shift = shift or own_shift(table)
    end = span.cap / (1 + span.cap) if span.cap < math.inf else 1.0
    final = 1 / steps
    if last:
        e = asked_last(last, shift, span)
        final = e / (1 + e) / end
    t = end * torch.linspace(1, final, steps, dtype=torch.float64)
    return finish(shift_edm(t / (1 - t), shift, span.cap), steps, table)
