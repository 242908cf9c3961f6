"""(values, one a seed) -> estimate with its 95 % interval; two of them, paired -> difference and finding."""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

DRAWS, SEED, LEVEL, Z = 4000, 0, 0.95, 1.959964
NOTHING = "no difference found"

Kind = Literal["mean", "median", "rate"]


class Estimate(NamedTuple):
    value: float
    low: float
    high: float


def check(values: Sequence[float]) -> np.ndarray:
    """[n] float64; ValueError for fewer than two, for NaN and for infinity."""
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        raise ValueError(f"Scoreboard: needs a row of at least 2 finite values, one a seed, got shape "
                         f"{list(values.shape)}, {int((~np.isfinite(values)).sum())} not finite")
    return values


def bootstrap(values: np.ndarray, statistic: Callable) -> Estimate:
    """Efron's percentile interval over seeds, drawn anew from the same random seed every time."""
    chosen = np.random.default_rng(SEED).integers(len(values), size=(DRAWS, len(values)))
    low, high = np.quantile(statistic(values[chosen], axis=1), ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Estimate(float(statistic(values)), float(low), float(high))


def wilson(values: np.ndarray) -> Estimate:
    """Wilson 1927, of a rate; unlike the bootstrap's it has a width where all or none are right."""
    n, p = len(values), values.mean()
    middle, half = p + Z**2 / (2 * n), Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    low, high = ((middle + side * half) / (1 + Z**2 / n) for side in (-1, 1))
    return Estimate(float(p), min(float(low), float(p)), max(float(high), float(p)))


def agresti_min(difference: np.ndarray) -> Estimate:
    """Agresti & Min 2005, of the difference of two paired rates: Wald, half a pair added to each outcome."""
    n, up, down = len(difference) + 2, int((difference > 0).sum()), int((difference < 0).sum())
    middle = (up - down) / n
    half = Z * math.sqrt(up + down + 1 - (up - down)**2 / n) / n
    return Estimate(float(difference.mean()), middle - half, middle + half)


def estimate(values: Sequence[float], kind: Kind) -> Estimate:
    values = check(values)
    return wilson(values) if kind == "rate" else bootstrap(values, getattr(np, kind))


def difference(values: Sequence[float], baseline: Sequence[float], kind: Kind) -> Estimate:
    """Mean, or median, of the differences seed by seed."""
    values, baseline = check(values), check(baseline)
    if len(values) != len(baseline):
        raise ValueError(f"Scoreboard: {len(values)} values against {len(baseline)}; use the same seeds")
    apart = values - baseline
    return agresti_min(apart) if kind == "rate" else bootstrap(apart, getattr(np, kind))


def finding(difference: Estimate, better: Literal["lower", "higher"] | None) -> str:
    """What may be said of a difference; where its interval contains 0, that none was found."""
    if difference.low <= 0 <= difference.high:
        return NOTHING
    way = "higher" if difference.low > 0 else "lower"
    return way if better is None else "better" if way == better else "worse"
