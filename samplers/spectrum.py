"""What spectral guidance does: energy per octave [6], and pictures [H,W,3] of gains, of energy and of a map.

Pictures are float32 in 0..1 and WIDTH pixels wide, so that `join` puts them below each other. What has no
place in them (0 on a log axis, NaN, infinity) is left out, and the picture says how much that was.
"""
from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial

import torch
from torch import Tensor
from torch.nn import functional

from .curve import COLORS, DASHES, MOST_DOTS, nice_ticks
from .dct import dct, radius
from .power import LABELS, RADII
from .sheet import INK, PALE, Panel, Sheet, load_font

WIDTH, HEIGHT, SIZE = 960, 440, 17  # pixels of a drawing, and of its letters
LEGEND, GAP = 212, 24  # pixels at the right of a panel, and between it and words there
STYLES = [(color, dash) for dash in DASHES for color in COLORS]
DECADES = 12.0  # the most that an axis of energy shows
MOST = 2.0  # doublings of guidance at which a map's colours end
TALLEST = 560  # pixels of a map's picture
WARM, COOL = (tuple(int(color[i:i + 2], 16) / 255 for i in (1, 3, 5)) for color in (COLORS[1], COLORS[0]))


@lru_cache(maxsize=16)
def octaves_of(space: tuple[int, ...], device: torch.device) -> Tensor:
    """[N,6] float32, N coefficients of a latent [*space]: 1 in the octave around RADII that holds each."""
    with torch.inference_mode(False):
        at = radius(space, torch.device("cpu")).flatten().clamp_min(RADII[0])
        nearest = (at / RADII[0]).log2().round().long().clamp_max(len(RADII) - 1)
        return functional.one_hot(nearest, len(RADII)).float().to(device)


def octave_energy(delta: Tensor) -> Tensor:
    """Energy [6] of delta [B,C,*S] in octaves around power.RADII: squares summed over C and S, mean over B.

    All six add up to the delta's energy; the lowest holds what lies below it, the mean too, and the highest
    what lies above. float32 on the delta's device, for which the host does not wait.
    """
    squares = dct(delta).square().sum(1).flatten(1).mean(0)
    return squares @ octaves_of(tuple(delta.shape[2:]), delta.device)


def new_sheet(height: int = HEIGHT) -> tuple[Sheet, Panel]:
    """A page with room for one panel, whose axes are to be set, and a legend at its right."""
    sheet = Sheet(WIDTH, height)
    sheet.size, sheet.font = SIZE, load_font(SIZE)
    return sheet, Panel(5 * SIZE, 3 * SIZE, WIDTH - LEGEND, height - 4.4 * SIZE, (0, 1), (0, 1))


def draw_line(sheet: Sheet, panel: Panel, xs: Sequence[float], ys: Sequence[float], color: str,
              dash: Sequence[float] = (), dots: bool = False) -> None:
    """A line through the points whose y is finite and whose x is a number, broken where one is not."""
    drawable = [not math.isnan(x) and math.isfinite(y) for x, y in zip(xs, ys, strict=True)]
    places = [panel.place(x, y) if good else (0.0, 0.0) for x, y, good in zip(xs, ys, drawable, strict=True)]
    for good, part in itertools.groupby(zip(drawable, places, strict=True), key=lambda pair: pair[0]):
        points = [place for _, place in part] if good else []
        if len(points) == 1:
            [(x, y)] = points
            sheet.line([(x - 6, y), (x + 6, y)], color, 1.9)
        elif points:
            sheet.line(points, color, 1.9, dash)
        for x, y in points if dots else ():
            sheet.dot(x, y, 2.6, color)


def draw_names(sheet: Sheet, panel: Panel, title: str, names: Sequence[str],
               styles: Iterable[tuple[str, Sequence[float]]]) -> None:
    """The legend, a row a name; those for which there is no room are counted."""
    left, row = panel.right + GAP, 1.6 * SIZE
    sheet.text(left, panel.top - 1.1 * SIZE, title, PALE)
    room = int((panel.bottom - panel.top) / row) - 1
    for number, (name, (color, dash)) in enumerate(zip(names[:room], styles, strict=False)):
        y = panel.top + (number + 0.6) * row
        sheet.line([(left, y), (left + 24, y)], color, 3, dash)
        sheet.text(left + 32, y, sheet.fit(name, WIDTH - left - 32 - 0.5 * SIZE))
    if len(names) > room:
        sheet.text(left, panel.top + (room + 0.6) * row, f"and {len(names) - room} more", PALE)


def warn(sheet: Sheet, panel: Panel, left_out: int, of: int, why: str) -> None:
    """In the picture's last line, what is not in it."""
    if left_out:
        words = f"{left_out} of {of} values are {why}: left out"
        sheet.text(panel.left, panel.bottom + 3.6 * SIZE, words, COLORS[1])


def draw_gains(curves: Mapping[str, Callable[[Tensor], Tensor]]) -> Tensor:
    """name -> gain over radius, each as in spectral.BANDS, to one picture; the line at 1 is plain guidance.

    ValueError without a curve, or where one does not give a gain for each radius.
    """
    if not curves:
        raise ValueError("no gain to draw; give at least one curve")
    at = torch.logspace(math.log2(RADII[0]), 0, 241, 2.0)
    gains = {name: torch.as_tensor(curve(at)).detach().float().cpu() for name, curve in curves.items()}
    for name, values in gains.items():
        if values.shape != at.shape:
            raise ValueError(f"curve '{name}' gives shape {list(values.shape)} for {len(at)} radii; "
                             "give one gain for each")
    seen = torch.cat([values[values.isfinite()] for values in gains.values()] + [torch.tensor([0.0, 2.0])])
    sheet, panel = new_sheet()
    panel = panel._replace(x=(math.log2(RADII[0]), 0), y=(float(seen.min()), 1.08 * float(seen.max())))
    ticks = [(math.log2(r), label) for r, label in zip(RADII, LABELS, strict=True)]
    sheet.frame(panel, "Gain of guidance over frequency", "1: as plain guidance", ticks,
                [(tick, f"{tick:g}") for tick in nice_ticks(*panel.y, 6)])
    for r in RADII:
        sheet.text(panel.place(math.log2(r), 0)[0], panel.bottom + 2.3 * SIZE, f"{2 / r:g}", PALE, "center")
    for line, words in ((1.0, "of Nyquist"), (2.3, "cells a period")):
        sheet.text(panel.right + GAP, panel.bottom + line * SIZE, words, PALE)
    sheet.line([panel.place(x, 1) for x in panel.x], INK, 1)
    for values, (color, dash) in zip(gains.values(), itertools.cycle(STYLES), strict=False):
        draw_line(sheet, panel, at.log2().tolist(), values.tolist(), color, dash)
    draw_names(sheet, panel, "", list(gains), itertools.cycle(STYLES))
    count = len(gains) * len(at)
    warn(sheet, panel, count - len(seen) + 2, count, "NaN or infinite")
    return sheet.picture()


def energy_axis(logs: Tensor) -> tuple[tuple[float, float], list[tuple[float, str]]]:
    """Range and ticks of finite log10 energies, one to DECADES decades down from the highest."""
    high, low = float(logs.max()), float(logs.min())
    low = max(low, high - DECADES)
    room = max(0.05 * (high - low), (1 - (high - low)) / 2)
    low, high = low - room, high + room
    parts = (0.0,) if high - low > 3 else (0.0, math.log10(2), math.log10(5))
    places = [power + part for power in range(math.floor(low), math.ceil(high)) for part in parts]
    shown = [place for place in places if low <= place <= high]
    return (low, high), [(place, f"{10**place:g}") for place in shown[::1 + len(shown) // 9]]


def check_energy(e: Sequence[float], before: Tensor, after: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log-SNR [n], and log10 energies [n,6] before and after, NaN where a value is not above 0 and finite."""
    pair = [torch.as_tensor(x).detach().to("cpu", torch.float64) for x in (before, after)]
    for name, x in zip(("before", "after"), pair, strict=True):
        if len(e) == 0 or x.shape != (len(e), len(RADII)):
            raise ValueError(f"energy {name} has shape {list(x.shape)} at {len(e)} steps; "
                             f"give {len(RADII)} values for each of at least 1 step")
    log_snr = -2 * torch.tensor([float(value) for value in e], dtype=torch.float64).log()
    return log_snr, *(torch.where((x > 0) & (x < 1e300) & ~log_snr.isnan()[:, None], x, math.nan).log10()
                      for x in pair)


def draw_energy(e: Sequence[float], before: Tensor, after: Tensor) -> Tensor:
    """Energy per octave (`octave_energy`) over a run's steps, before [n,6] dashed, after [n,6] solid.

    e = sigma/alpha of each step; an infinite one is drawn at the edge. The legend gives each octave's factor,
    the geometric mean over steps. ValueError where shapes differ or there is no step.
    """
    log_snr, first, second = check_energy(e, before, after)
    both = torch.stack([first, second])
    seen, finite = both[both.isfinite()], log_snr[log_snr.isfinite()]
    left, right = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
    room = max(0.03 * (right - left), (1 - (right - left)) / 2)
    span, ticks = energy_axis(seen if len(seen) else torch.zeros(1))
    sheet, panel = new_sheet()
    panel = panel._replace(x=(left - room, right + room), y=span)
    across = [(tick, f"{tick:g}") for tick in nice_ticks(*panel.x, 10)]
    sheet.frame(panel, "Energy of guidance per octave", "dashed before, solid after", across, ticks)
    sheet.text(panel.right + GAP, panel.bottom + SIZE, "log-SNR", PALE)
    names = []
    for band, (label, color) in enumerate(zip(LABELS, COLORS, strict=False)):
        for x, dash in ((first, DASHES[1]), (second, ())):
            draw_line(sheet, panel, log_snr.tolist(), x[:, band].tolist(), color, dash,
                      dots=not dash and len(e) <= MOST_DOTS)
        factor = float(10 ** (second - first)[:, band].nanmean())
        names.append(label if math.isnan(factor) else f"{label}:  {factor:.3g}")
    draw_names(sheet, panel, "of Nyquist: factor", names, [(color, ()) for color in COLORS])
    warn(sheet, panel, both.numel() - len(seen), both.numel(), "0, NaN or infinite")
    return sheet.picture()


def tint(grey: Tensor, doublings: Tensor) -> Tensor:
    """grey [H,W] in 0..1 turned warm where doublings [H,W] lie above 0, cool below: [H,W,3]."""
    share = 0.7 * (doublings / MOST).abs().unsqueeze(-1)
    color = torch.where(doublings.unsqueeze(-1) > 0, grey.new_tensor(WARM), grey.new_tensor(COOL))
    return torch.lerp(grey.unsqueeze(-1).expand_as(color), color, share)


def draw_map(picture: Tensor, ratio: Tensor) -> Tensor:
    """picture [H,W,3] in grey under ratio [h,w] = guidance after over before: warm above 1, cool below.

    Colours go by log2 of the ratio, held within -2..2; where it is NaN or negative the picture stays grey.
    ValueError for other shapes.
    """
    if picture.ndim != 3 or picture.shape[2] != 3 or ratio.ndim != 2 or 0 in (*picture.shape, *ratio.shape):
        raise ValueError(f"map of shape {list(ratio.shape)} over a picture of shape {list(picture.shape)}; "
                         "give [h,w] over [H,W,3]")
    picture, ratio = (x.detach().float().cpu() for x in (picture, ratio))
    scale = min((WIDTH - 2 * SIZE) / picture.shape[1], TALLEST / picture.shape[0])
    high, wide = (max(1, round(size * scale)) for size in picture.shape[:2])
    grey = picture.nan_to_num().clamp(0, 1) @ torch.tensor([0.299, 0.587, 0.114])  # luma, ITU-R BT.601
    doublings = ratio.log2().clamp(-MOST, MOST)
    resize = partial(functional.interpolate, size=(high, wide), mode="bilinear", antialias=True)
    grey, doublings = (resize(x[None, None])[0, 0] for x in (grey, doublings.nan_to_num()))
    sheet, panel = new_sheet(high + 6 * SIZE)
    left, middle, bar = (WIDTH - wide) // 2, high + 2.5 * SIZE, round(0.4 * WIDTH)
    start = (WIDTH - bar) // 2
    for place, label in enumerate(("1/4", "1/2", "1", "2", "4")):
        sheet.text(start + bar * place / 4, middle + 1.4 * SIZE, label, PALE, "center")
    sheet.text(start - SIZE, middle, "guidance weaker", PALE, "right")
    sheet.text(start + bar + SIZE, middle, "stronger", PALE)
    warn(sheet, panel._replace(left=left, bottom=high + 1.4 * SIZE), int(ratio.log2().isnan().sum()),
         ratio.numel(), "NaN or negative")
    page = sheet.picture()
    page[SIZE:SIZE + high, left:left + wide] = tint(grey, doublings)
    colors = tint(torch.full((SIZE, bar), 0.75), torch.linspace(-MOST, MOST, bar).expand(SIZE, bar))
    page[round(middle - SIZE / 2):, start:start + bar][:SIZE] = colors
    return page


def join(pictures: Sequence[Tensor]) -> Tensor:
    """Pictures [H,W,3] below each other, narrower ones with white at their right."""
    wide = max(picture.shape[1] for picture in pictures)
    return torch.cat([functional.pad(x, (0, 0, 0, wide - x.shape[1]), value=1.0) for x in pictures])
