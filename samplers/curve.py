"""(curves: name -> sigmas [n+1], flow) -> picture [H,W,3] of where schedules spend steps, or a line of text.

Every family is drawn on one axis: e = sigma/alpha, log-SNR = -2 ln e (see table.py); ticks of the first
panel are in the model's own sigma. What is infinite (a flow model's start, the final 0) is drawn on the
panel's edge.
"""
from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .sheet import INK, PALE, Panel, Sheet
from .table import half_log_snr

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#1a1a1a")  # after Okabe & Ito
DASHES = ((), (9, 4), (2, 4))  # in pixels: line, gap
SMOOTH = 0.045  # kernel of the density, as a fraction of the log-SNR axis
MOST_DOTS = 50


class Curve(NamedTuple):
    """sigmas and log_snr are [n+1] float64; log_snr may be infinite at both ends."""

    name: str
    sigmas: Tensor
    log_snr: Tensor
    color: str = INK
    dash: tuple[int, ...] = ()

    @property
    def steps(self) -> int:
        return len(self.sigmas) - 1

    @property
    def above(self) -> float:
        """Share of steps that begin above log-SNR 0, where there is more signal than noise."""
        return float((self.log_snr[:-1] > 0).double().mean())

    @property
    def ends(self) -> str:
        seen = self.sigmas[self.sigmas > 0]
        return f"{brief(float(seen[0]))} .. {brief(float(seen[-1]))}"


def brief(sigma: float) -> str:
    return f"{sigma:.4g}" if sigma >= 10 else f"{sigma:.3g}"


def read_curve(name: str, sigmas: Tensor | Sequence[float], flow: bool) -> Curve:
    """Check one list of sigmas, whoever made it; it need not descend or end at 0."""
    sigmas = torch.as_tensor(sigmas).detach().to("cpu", torch.float64)
    if sigmas.ndim != 1 or len(sigmas) < 2:
        raise ValueError(f"curve '{name}' has shape {list(sigmas.shape)}; give one row of at least 2 sigmas")
    if bool(sigmas.isnan().any()):
        at = int(sigmas.isnan().nonzero()[0])
        raise ValueError(f"curve '{name}' is NaN at {at} of {len(sigmas) - 1}; "
                         "check the knobs of what made it")
    if not bool((sigmas > 0).any()):
        raise ValueError(f"curve '{name}' has no sigma above 0; give a schedule that starts at noise")
    held = sigmas.clamp(0, 1 if flow else math.inf)
    return Curve(name, sigmas, 2 * half_log_snr(held, flow))


def describe(sigmas: Tensor, flow: bool) -> str:
    """"20 steps, 14.61 .. 0.06, 60 % of them above log-SNR 0" for sigmas [n+1] in the host's units."""
    curve = read_curve("sigmas", sigmas, flow)
    steps = "1 step" if curve.steps == 1 else f"{curve.steps} steps"
    return f"{steps}, {curve.ends}, {curve.above:.0%} of them above log-SNR 0".replace("%", " %")


def nice_ticks(low: float, high: float, most: int) -> list[float]:
    """At most `most` multiples of 1, 2 or 5 times a power of ten within low..high."""
    least = (high - low) / most
    decade = 10 ** math.floor(math.log10(least))
    step = next(factor * decade for factor in (1, 2, 5, 10) if factor * decade >= least * (1 - 1e-9))
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def sigma_ticks(low: float, high: float, flow: bool) -> list[tuple[float, str]]:
    """(log-SNR, label) of round sigmas, in the host's units, within low..high of log-SNR."""
    if flow:
        sigmas = [.001, .003, .01, .03, .1, .25, .5, .75, .9, .97, .99, .997, .999]
    else:
        sigmas = [factor * 10.0**power for power in range(-4, 6) for factor in (1, 3)]
    places = (2 * half_log_snr(torch.tensor(sigmas, dtype=torch.float64), flow)).tolist()
    ticks = [(place, f"{sigma:g}") for place, sigma in zip(places, sigmas, strict=True)
             if low <= place <= high]
    return ticks if flow or len(ticks) < 9 else ticks[::2]


def log_snr_range(curves: Sequence[Curve]) -> tuple[float, float]:
    """What is finite, 0 always in view, a little room at both ends, at least 4 wide."""
    seen = torch.cat([curve.log_snr[curve.log_snr.isfinite()] for curve in curves] + [torch.zeros(1)])
    low, high = float(seen.min()), float(seen.max())
    room = max(0.06 * (high - low), (4 - (high - low)) / 2)
    return low - room, high + room


def density(curve: Curve, axis: Tensor) -> Tensor:
    """Share of steps per unit of log-SNR along `axis` [P]: a Gaussian kernel on each step's finite start."""
    nodes = curve.log_snr[:-1]
    width = SMOOTH * float(axis[-1] - axis[0])
    kernel = torch.exp(-0.5 * ((axis[:, None] - nodes[nodes.isfinite()]) / width) ** 2)
    return kernel.sum(1) / (curve.steps * width * math.sqrt(2 * math.pi))


def draw_over_steps(sheet: Sheet, panel: Panel, curves: Sequence[Curve]) -> None:
    """log-SNR of every curve against its step number."""
    for curve in curves:
        points = [panel.place(step, value) for step, value in enumerate(curve.log_snr.tolist())]
        sheet.line(points, curve.color, 1.7, curve.dash)
        for x, y in points if len(points) <= MOST_DOTS else ():
            sheet.dot(x, y, 2.2, curve.color)


def draw_steps_panels(sheet: Sheet, curves: Sequence[Curve], flow: bool, left: Panel, right: Panel) -> None:
    low, high = left.y
    steps = [(tick, f"{tick:g}") for tick in nice_ticks(*left.x, 8) if tick == int(tick)]
    sheet.frame(left, "Sigma over steps", "on the log axis of sigma/alpha", steps,
                sigma_ticks(high, low, flow))
    levels = [(tick, f"{tick:g}") for tick in nice_ticks(*right.y, 8)]
    sheet.frame(right, "Log-SNR over steps", "above 0: more signal than noise", steps, levels)
    for panel in (left, right):
        sheet.line([panel.place(panel.x[0], 0), panel.place(panel.x[1], 0)], INK, 1)
        draw_over_steps(sheet, panel, curves)


def draw_density(sheet: Sheet, curves: Sequence[Curve], panel: Panel, ends: tuple[float, float]) -> None:
    """Smooth density above, one row of ticks for each curve below."""
    row = min(9.0, 0.45 * (panel.bottom - panel.top) / len(curves))
    split = panel.bottom - row * len(curves) - 4
    axis = torch.linspace(*ends, 400, dtype=torch.float64)
    heights = [density(curve, axis) for curve in curves]
    peak = max(float(height.max()) for height in heights) or 1.0
    upper = panel._replace(bottom=split, x=ends, y=(0, 1.08 * peak))
    rug = panel._replace(top=split, x=ends, y=(0, 1))
    ticks = [(tick, f"{tick:g}") for tick in nice_ticks(*ends, 10)]
    sheet.frame(rug, "", "", ticks, [])
    sheet.frame(upper, "Where the steps lie", "share of steps per unit of log-SNR",
                [(tick, "") for tick, _ in ticks], [(t, f"{100 * t:g} %") for t in nice_ticks(0, peak, 4)])
    zero = upper.place(0, 0)[0]
    sheet.line([(zero, panel.top), (zero, panel.bottom)], INK, 1)
    for number, (curve, height) in enumerate(zip(curves, heights, strict=True)):
        points = [upper.place(x, y) for x, y in zip(axis.tolist(), height.tolist(), strict=True)]
        sheet.line(points, curve.color, 1.7, curve.dash)
        y = split + 3 + row * number
        for x in {round(rug.place(value, 0)[0], 1) for value in curve.log_snr[:-1].tolist()}:
            sheet.line([(x, y), (x, y + row - 1.5)], curve.color, 1.3)


def draw_legend(sheet: Sheet, curves: Sequence[Curve], left: float, top: float, right: float,
                bottom: float) -> None:
    """A row per curve: line, name, steps, first and last non-zero sigma, share below and above log-SNR 0."""
    wide, size = right - left, sheet.size
    row = min(1.75 * size, (bottom - top) / (len(curves) + 1))
    shown = curves[: int((bottom - top) / max(row, 0.9 * size)) - 1]
    columns = [left + part * wide for part in (0.42, 0.7, 0.85, 1.0)]
    for x, title in zip(columns, ("steps", "sigma", "below 0", "above 0"), strict=True):
        sheet.text(x, top, title, PALE, "right")
    for number, curve in enumerate(shown, 1):
        y = top + number * row
        sheet.line([(left, y), (left + 22, y)], curve.color, 3, curve.dash)
        sheet.text(left + 30, y, sheet.fit(curve.name, columns[0] - left - 6 * size), INK, "left")
        cells = (str(curve.steps), curve.ends, f"{1 - curve.above:.0%}", f"{curve.above:.0%}")
        for x, cell in zip(columns, cells, strict=True):
            sheet.text(x, y, cell.replace("%", " %"), INK, "right")
    if len(shown) < len(curves):
        sheet.text(left, bottom, f"and {len(curves) - len(shown)} more", PALE, "left")


def draw_curves(curves: Mapping[str, Tensor], flow: bool, width: int = 960, height: int = 720) -> Tensor:
    """name -> sigmas [n+1] in the host's units (flow: 0..1) to one picture [H,W,3], float32 in 0..1."""
    if not curves:
        raise ValueError("no curve to draw; give at least one schedule")
    if width < 480 or height < 360:
        raise ValueError(f"picture is {width}x{height}; make it at least 480x360")
    styles = itertools.cycle(itertools.product(DASHES, COLORS))
    read = [read_curve(name, sigmas, flow)._replace(color=color, dash=dash)
            for (name, sigmas), (dash, color) in zip(curves.items(), styles, strict=False)]
    sheet = Sheet(width, height)
    ends, steps = log_snr_range(read), (0, max(curve.steps for curve in read))
    space, line = 0.035 * width, sheet.size * 1.5
    middle, half = width / 2, height * 0.5
    upper = Panel(1.6 * space, 2.4 * line, middle - 0.6 * space, half - line, steps, ends[::-1])
    draw_steps_panels(sheet, read, flow, upper,
                      upper._replace(left=middle + space, right=width - space, y=ends))
    top, bottom = half + 2.4 * line, height - 1.6 * line
    draw_density(sheet, read, upper._replace(top=top, bottom=bottom), ends)
    draw_legend(sheet, read, middle + space, half + line, width - space, bottom + 0.5 * line)
    return sheet.picture()
