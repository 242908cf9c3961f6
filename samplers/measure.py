"""A schedule measured on the user's own model, sampler, guidance, size and step count, by roll-out search.

`rollout(sigmas, count) -> end latents [count,...]` runs the first `count` of a fixed set of trajectories. A
fine schedule gives each its reference end; candidates are scored by the relative error at the end of whole
trajectories, because sums of local errors do not predict it. Narrowing to few candidates uses few
trajectories, the final choice and the descent that refines it use all of them.
"""
from __future__ import annotations

import hashlib
import json
import math
import pathlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from .recommend import Solver, recommended
from .schedules import SCHEDULES, default_last
from .table import check_sigmas, check_table, from_edm, read_span, to_edm

Rollout = Callable[[Tensor, int], Tensor]
Progress = Callable[[int, int], None]  # (model evaluations done, planned); raises to interrupt

LEAST_TRAJECTORIES = 16
REFERENCE_STEPS = 64
FINALISTS, SWEEPS, HEADER = 6, 3, "tweedie-schedule 1"


@dataclass(frozen=True)
class Measured:
    """sigmas [steps + 1]; median and mean relative error at the end; the best candidate before refinement."""

    sigmas: Tensor
    median: float
    mean: float
    candidate: str

    def to_text(self) -> str:
        """One line that `from_text` reads back."""
        values = " ".join(f"{value:.9g}" for value in self.sigmas.tolist())
        return f"{HEADER} | {self.candidate} | {self.median:.6g} {self.mean:.6g} | {values}"


def from_text(text: str, table: Tensor) -> Measured:
    """Read what `to_text` wrote; ValueError where it is something else or does not fit the model's table."""
    parts = [part.strip() for part in text.strip().split("|")]
    try:
        header, candidate, errors, values = parts
        median, mean = map(float, errors.split())
        sigmas = torch.tensor([float(value) for value in values.split()])
    except ValueError:
        raise ValueError(f"measured schedule: cannot read {text.strip()[:60]!r}; paste the whole line that "
                         f"starts with '{HEADER}'") from None
    if header != HEADER:
        raise ValueError(f"measured schedule: starts with {header[:40]!r}; "
                         f"paste a line that starts with '{HEADER}'")
    return Measured(check_sigmas(sigmas, table, len(sigmas) - 1), median, mean, candidate)


def candidates(steps: int, table: Tensor) -> Iterator[tuple[str, Tensor]]:
    """What the search starts from: the recommended, and our schedules over the last sigmas that matter."""
    for solver in get_args(Solver):
        yield f"recommended for {solver}", recommended(steps, table, solver)
    span = read_span(table)
    usual = default_last(steps, span.low)
    lasts = {max(usual * factor, span.low) for factor in (0.4, 0.65, 1.0, 1.5, 2.2)}
    forms = [("karras", {"rho": rho}) for rho in (3.0, 5.0, 7.0, 12.0)]
    forms += [("logsnr", {}), ("beta", {"a": 0.8, "b": 0.8}), ("beta", {}), ("beta", {"a": 1.0, "b": 1.3})]
    for last in sorted(lasts):
        sigma = float(from_edm(torch.tensor(last), span.flow))
        for name, knobs in [*forms, ("zero_snr", {})] if span.cap == math.inf else forms:
            yield f"{name} {knobs} last {sigma:.3g}", SCHEDULES[name].run(steps, table, last=sigma, **knobs)
    for name in ("trailing", "flow_shift", "logit_normal", "cosine"):
        yield name, SCHEDULES[name].run(steps, table)


def errors(end: Tensor, reference: Tensor) -> Tensor:
    """Relative RMSE of each trajectory [count]; what is not finite counts as infinite."""
    difference = (end.double() - reference.double()).flatten(1).norm(dim=1)
    size = reference.double().flatten(1).norm(dim=1).clamp_min(1e-12)
    return (difference / size).nan_to_num(math.inf, math.inf)


def score(error: Tensor) -> float:
    """Log of median times mean: the mean sees trajectories that end elsewhere, the median the rest."""
    return float(error.median().log() + error.mean().log())


def nudge(sigmas: Tensor, table: Tensor, i: int, stride: float) -> Tensor:
    """Move node `i` by a share of its gap in log e: up where `stride` is above 0, else down."""
    span = read_span(table)
    e = to_edm(sigmas[i - 1:i + 2].double(), span.flow)
    ends = max(float(e[1]) * 1.5, span.high) if i == 1 else float(e[0]), float(e[2]) or float(e[1]) / math.e
    goal = ends[0] if stride > 0 else ends[1]
    moved = sigmas.clone()
    moved[i] = from_edm(e[1] * (goal / e[1]) ** abs(stride), span.flow)
    return moved


def measure(rollout: Rollout, table: Tensor, steps: int, trajectories: int = LEAST_TRAJECTORIES,
            progress: Progress = lambda done, planned: None) -> Measured:
    """Search the best `steps`-step schedule for what `rollout` runs; ValueError below 16 trajectories."""
    if trajectories < LEAST_TRAJECTORIES:
        raise ValueError(f"trajectories is {trajectories}; "
                         f"fewer than {LEAST_TRAJECTORIES} pick schedules by luck")
    table, few = check_table(table), trajectories // 4
    pool = dict(candidates(steps, table))
    planned = REFERENCE_STEPS * trajectories + steps * (
        len(pool) * few + (FINALISTS + SWEEPS * 2 * max(steps - 1, 1)) * trajectories)
    done = 0

    def run(sigmas: Tensor, count: int) -> Tensor:
        nonlocal done
        end = rollout(sigmas, count)
        done += (len(sigmas) - 1) * count
        progress(min(done, planned), planned)
        return end

    reference = run(SCHEDULES["karras"].run(REFERENCE_STEPS, table, last=float(table[0])), trajectories)
    if not bool(torch.isfinite(reference).all()):
        raise ValueError("measure: the model's own 64-step result holds NaN or infinity; "
                         "nothing to measure against")
    rough = {name: score(errors(run(sigmas, few), reference[:few])) for name, sigmas in pool.items()}
    finalists = sorted(rough, key=rough.get)[:FINALISTS]
    final = {name: errors(run(pool[name], trajectories), reference) for name in finalists}
    name = min(final, key=lambda key: score(final[key]))
    best, error = pool[name], final[name]
    for sweep in range(SWEEPS):
        best, error = refine(best, error, table, 0.3 * 0.6**sweep,
                             lambda s: errors(run(s, trajectories), reference))
    progress(planned, planned)
    return Measured(check_sigmas(best, table, steps), float(error.median()), float(error.mean()), name)


def refine(best: Tensor, error: Tensor, table: Tensor, stride: float,
           judge: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """One sweep of coordinate descent over the inner nodes: keep a move when the score falls."""
    for i in range(1, len(best) - 1):
        for step in (stride, -stride):
            trial = nudge(best, table, i, step)
            trial_error = judge(trial)
            if score(trial_error) < score(error):
                best, error = trial, trial_error
                break
    return best, error


def cache_key(**parts: object) -> str:
    """A name for everything that the measurement depends on; tensors count by value."""
    plain = {name: part.tolist() if isinstance(part, Tensor) else part for name, part in parts.items()}
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()[:24]


class Cache:
    """Measured schedules on disk, one text file for each key."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder

    def read(self, key: str, table: Tensor) -> Measured | None:
        path = self.folder / f"{key}.txt"
        return from_text(path.read_text("utf-8"), table) if path.exists() else None

    def write(self, key: str, measured: Measured) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f"{key}.part"
        partial.write_text(measured.to_text() + "\n", "utf-8")
        partial.replace(self.folder / f"{key}.txt")
