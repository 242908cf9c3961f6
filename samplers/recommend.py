"""(steps, table, solver) -> the schedule and knobs to take, as measured on exact models (docs/benchmarks.md).

Solvers: first_order is Euler and ancestral samplers; multistep is 2M and its kin where they step in log-SNR
(on diffusion models all of them, on flow models `tweedie_2m`); log_sigma is the hosts' 2M and its kin on flow
models, which step in -ln sigma; single_step is Heun and its kin, two evaluations a step, with the safe first
step at zero SNR.
"""
from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from .schedules import SCHEDULES
from .table import Span, from_edm, read_span

Solver = Literal["first_order", "multistep", "log_sigma", "single_step"]
Choice = tuple[str, dict[str, Any], float]  # schedule, its knobs, last non-zero e


def choose(steps: int, span: Span, solver: Solver) -> Choice:
    blank = span.cap == math.inf
    if solver == "first_order":
        return "karras", {}, 1.2 / steps
    if solver == "log_sigma" and span.flow:
        return "beta", {"a": 0.8, "b": 1.2}, 2 / steps
    if solver != "single_step":
        return ("beta" if blank else "logsnr"), {}, 0.6 / steps
    if blank and not span.flow:
        return "zero_snr", {"high": min(25.0, max(steps**2 / 2, 5.0))}, 4.5 / steps**1.5
    return "karras", {}, (2.2 if span.flow else 4.5) / steps**1.5


def recommend(steps: int, table: Tensor, solver: Solver) -> tuple[str, dict[str, Any]]:
    """Id of the recommended schedule and its knobs for this many steps of this kind of sampler.

    The last non-zero sigma shrinks as steps grow: what is left below it is removed by the final step at once,
    and the more exact the sampler is above it, the sooner that step is what counts.
    """
    span = read_span(table)
    name, knobs, e = choose(steps, span, solver)
    e = torch.tensor(max(min(e, 0.5 * span.high, 1.0), span.low), dtype=torch.float64)
    return name, {**knobs, "last": float(from_edm(e, span.flow))}


def recommended(steps: int, table: Tensor, solver: Solver) -> Tensor:
    """The recommended schedule itself, sigmas [steps + 1]."""
    name, knobs = recommend(steps, table, solver)
    return SCHEDULES[name].run(steps, table, **knobs)
