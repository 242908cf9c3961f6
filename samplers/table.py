"""What can be read off a model's sigma table, whatever its family: sigmas ascending [T] -> Span, and back.

Every family is put on one axis: e = sigma/alpha, the sigma of EDM (Karras et al. 2022), whose half-log-SNR is
-ln e. Epsilon, v and EDM models state e itself; a flow model states s = e/(1+e) in (0, 1], so e = s/(1-s).
"""
from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

TERMINAL = 1000.0  # from this e on no signal is left: SNR below 1e-6
HORIZON = 40.0  # where a table has no finite end, spacing starts here and the first node is put at the end


class Span(NamedTuple):
    """low, high: useful range in e. cap: where e ends, infinite at zero SNR. top: the host's maximum."""

    low: float
    high: float
    cap: float
    top: float
    flow: bool


def finite(name: str, value: float, low: float = -math.inf) -> float:
    """Return `value`, or raise ValueError where it is not a finite number above `low`."""
    if not math.isfinite(value) or value <= low:
        bound = f" above {low:g}" if low > -math.inf else ""
        raise ValueError(f"{name} is {value}; give a finite number{bound}")
    return value


def check_table(table: Tensor) -> Tensor:
    """Return the table as float64 on the CPU; ValueError unless finite, positive, ascending [T >= 2]."""
    table = torch.as_tensor(table).detach().to("cpu", torch.float64)
    if table.ndim != 1 or len(table) < 2:
        raise ValueError(f"sigma table has shape {list(table.shape)}; "
                         "give the model's sigmas as one row of at least 2")
    if not bool(torch.isfinite(table).all()) or table[0] <= 0:
        raise ValueError("sigma table holds NaN, infinite or non-positive values; "
                         "the model or a patch on it is broken")
    if table[-1] <= table[0] or bool((table.diff() < 0).any()):
        raise ValueError(f"sigma table must ascend, it goes from {table[0]:g} to {table[-1]:g}; "
                         "sigma_max must lie above sigma_min")
    return table


def is_flow(table: Tensor) -> bool:
    """A flow model's sigma is its time, at most 1; every other family starts well above 1."""
    return float(table[-1]) <= 1 + 1e-3


def to_edm(sigma: Tensor, flow: bool) -> Tensor:
    return sigma / (1 - sigma) if flow else sigma


def from_edm(e: Tensor, flow: bool) -> Tensor:
    return e / (1 + e) if flow else e


def half_log_snr(sigma: Tensor, flow: bool) -> Tensor:
    """lambda = ln(alpha/sigma) = -ln e; infinite at sigma 0, minus infinite at a flow model's start."""
    return -to_edm(sigma, flow).log()


def read_span(table: Tensor) -> Span:
    table = check_table(table)
    flow = is_flow(table)
    low, end, top = float(to_edm(table[0], flow)), float(to_edm(table[-1], flow)), float(table[-1])
    if (flow and top > 1 - 1e-6) or end > TERMINAL:
        return Span(low, HORIZON, math.inf, top, flow)
    return Span(low, end, end, top, flow)


def sigma_at(table: Tensor, percent: float) -> float:
    """The sigma where this share of the model's time is over, 0..1, as ComfyUI counts; infinite at 0.

    Time runs evenly over the table's entries: log sigma is linear between them, of a flow model sigma itself,
    whose time 1 is sigma 1.
    """
    table = check_table(table)
    if is_flow(table):
        table = torch.cat([table.new_zeros(1), table])
    if percent <= 0:
        return 1.0 if is_flow(table) else math.inf
    if percent >= 1:
        return 0.0
    at = (1 - percent) * (len(table) - 1)
    low = min(int(at), len(table) - 2)
    if is_flow(table):
        return float(torch.lerp(table[low], table[low + 1], at - low))
    return float(torch.lerp(table[low].log(), table[low + 1].log(), at - low).exp())


def own_shift(table: Tensor) -> float:
    """The shift that a flow table was made with: e at its middle time; for other families the median e."""
    table = check_table(table)
    middle = table[(len(table) - 1) // 2] if len(table) % 2 == 0 else table[len(table) // 2]
    return float(to_edm(middle, is_flow(table)))


def check_sigmas(sigmas: Tensor, table: Tensor, steps: int) -> Tensor:
    """Return `sigmas` if it is a schedule of `steps` steps for this table; ValueError says why it is not."""
    if list(sigmas.shape) != [steps + 1]:
        raise ValueError(f"schedule has shape {list(sigmas.shape)}; {steps} steps need {steps + 1} sigmas")
    if not bool(torch.isfinite(sigmas).all()):
        raise ValueError("schedule holds NaN or infinity; check the knobs")
    if not bool((sigmas.diff() < 0).all()):
        at = int((sigmas.diff() >= 0).nonzero()[0])
        raise ValueError(f"schedule does not descend at step {at + 1} of {steps}: {sigmas[at]:.6g} then "
                         f"{sigmas[at + 1]:.6g}; use fewer steps or milder knobs")
    if sigmas[-1] != 0:
        raise ValueError(f"schedule ends at {sigmas[-1]:.6g}; it must end at 0, "
                         "or noise stays in the picture")
    if not math.isclose(float(sigmas[0]), float(table[-1]), rel_tol=1e-6):
        raise ValueError(f"schedule starts at {sigmas[0]:.6g}; this model starts at {float(table[-1]):.6g}")
    return sigmas
