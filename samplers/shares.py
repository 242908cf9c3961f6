"""(energies of several controls over a run's steps and layers) -> a picture [H,W,3] of each one's share."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .sheet import FINE, GRID, PALE, PAPER, Panel, Sheet

WIDTH, LEFT, RIGHT, GAP = 900, 70, 20, 56
BARS, ROW, TALLEST = 150, 9, 240  # heights in pixels: of the bars, a layer, and all layers of a control
COLOURS = ("#2f6fb0", "#c8553d", "#3c8d53", "#8e5aa8", "#c29a1f", "#4aa3a2")
ORDER = {"input": 0, "output": 1, "middle": 2}
RESTED = "#d5d8dc"  # a step in which a control said nothing


def shares_of(energies: Tensor) -> Tensor:
    """Energies [S,K,L] of K controls -> their shares at each step and layer; NaN where all are 0."""
    return energies / energies.sum(1, keepdim=True)


def blend_colour(colour: str, share: float) -> tuple[int, int, int]:
    """From paper to the colour."""
    ends = [[int(text[place:place + 2], 16) for place in (1, 3, 5)] for text in (PAPER, colour)]
    return tuple(round(low + (high - low) * share) for low, high in zip(*ends, strict=True))


def fill(sheet: Sheet, panel: Panel, x: tuple[float, float], y: tuple[float, float], colour) -> None:
    (left, bottom), (right, top) = panel.place(x[0], y[0]), panel.place(x[1], y[1])
    box = [FINE * left, FINE * top, FINE * right - 1, FINE * bottom - 1]
    if box[1] < box[3]:
        sheet.draw.rectangle(box, fill=colour)


def draw_bars(sheet: Sheet, panel: Panel, shares: Tensor) -> None:
    """Each step's shares, the mean over its layers, one upon the other."""
    for step, mean in enumerate(shares.nanmean(2).nan_to_num(0.0)):
        low = 0.0
        for number, share in enumerate(mean.tolist()):
            fill(sheet, panel, (step, step + 1), (low, low + share), COLOURS[number % len(COLOURS)])
            low += share


def draw_layers(sheet: Sheet, panel: Panel, shares: Tensor, why: Sequence[str], number: int) -> None:
    """One control's shares [S,L], the layer nearest to the picture on top; grey where it said nothing."""
    steps, layers = shares.shape
    for step in range(steps):
        for layer in range(layers):
            share = float(shares[step, layer])
            silent = share != share or (why[step] and share == 0)
            fill(sheet, panel, (step, step + 1), (layers - 1 - layer, layers - layer),
                 RESTED if silent else blend_colour(COLOURS[number % len(COLOURS)], share))
        if why[step]:
            sheet.dot(panel.place(step + 0.5, 0)[0], panel.bottom + 5, 2.5, PALE)


def rests(why: Sequence[str]) -> str:
    """How often the net was called, and why not else."""
    counts = {reason: why.count(reason) for reason in dict.fromkeys(why) if reason}
    called = f"called at {why.count('')} of {len(why)} steps"
    return ", ".join([called, *(f"{reason}: {count}" for reason, count in counts.items())])


def draw_shares(energies: Tensor, why: Sequence[Sequence[str]], names: Sequence[str]) -> Tensor:
    """Energies [S,K,L] of K controls at S steps in L layers, shallow first -> [H,W,3] in 0..1.

    why [S][K]: why a net rested, or "". Dots below a control's layers mark the steps at which it did.
    """
    steps, count, layers = energies.shape
    shares, tall = shares_of(energies.double()), min(max(ROW * layers, 60), TALLEST)
    sheet = Sheet(WIDTH, GAP + BARS + count * (tall + GAP) + GAP // 2)
    sheet.size = 11
    across = [(step + 0.5, str(step + 1)) for step in range(0, steps, 1 + steps // 24)]
    panel = Panel(LEFT, GAP - 16, WIDTH - RIGHT, GAP - 16 + BARS, (0, steps), (0, 1))
    draw_bars(sheet, panel, shares)
    sheet.frame(panel, "Share of what the controls say, by step", "mean over layers", across,
                [(0, "0"), (0.5, "50 %"), (1, "100 %")])
    for number, name in enumerate(names):
        top = panel.bottom + GAP
        panel = Panel(LEFT, top, WIDTH - RIGHT, top + tall, (0, steps), (0, layers))
        mine = [reasons[number] for reasons in why]
        draw_layers(sheet, panel, shares[:, number], mine, number)
        sheet.line([(panel.left, panel.bottom), (panel.right, panel.bottom)], GRID)
        sheet.text(panel.left, panel.top - 12, f"{name}: {rests(mine)}", COLOURS[number % len(COLOURS)])
        for y, words in ((panel.top + 6, "shallow"), (panel.bottom - 6, "deep")):
            sheet.text(panel.left - 6, y, words, PALE, "right")
    return sheet.picture()


def stack(energies: Sequence[Sequence[dict]]) -> Tensor:
    """Energies by place, shallow first, of each step and control -> [S,K,L] on the CPU, 0 for none."""
    seen = dict.fromkeys(place for step in energies for one in step for place in one)
    places = sorted(seen, key=lambda place: ORDER[place[0]])
    return torch.stack([torch.stack([torch.stack([
        one[place].cpu() if place in one else torch.zeros(()) for place in places])
        for one in step]) for step in energies])
