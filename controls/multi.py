"""(residuals of several controls, their rules) -> what each weighs where, and all of them joined.

Residuals are what hosts pass about: {"input": [..], "middle": [..], "output": [..]} of tensors [B,C,H,W] (a
UNet's blocks) or [B,N,C] (tokens of a DiT), any of them None; a DiT's net may repeat one tensor over blocks.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple

import torch
from torch import Tensor

from ..plugin import Range
from .curves import ALWAYS, EVEN, Curve, Layers
from .masks import SIDE, check_mask, shrink

HALVINGS = 24  # of progress
KEYS = ("input", "output", "middle")  # from shallow to deep
Residuals = dict[str, list[Tensor | None]]
Policy = Callable[[Sequence[Tensor], Sequence[Tensor | float]], Tensor]


@dataclass(frozen=True)
class Rule:
    """When, where and where deep a control acts; as it stands it changes nothing.

    curve: weight over progress 0..1. mask [B,H,W] 0..1. layers: factor of each layer of the net. uncond:
    factor of the negative prompt's rows. priority: the higher first, for policies that go by order.
    """

    curve: Curve = ALWAYS
    mask: Tensor | None = None
    layers: Layers = EVEN
    uncond: float = 1.0
    priority: float = 0.0

    def __post_init__(self):
        if not (math.isfinite(self.uncond) and 0 <= self.uncond <= 10 and abs(self.priority) < math.inf):
            raise ValueError(f"Control rule: uncond is {self.uncond}, priority {self.priority}; give 0 to 10 "
                             "for uncond, any number for priority")


def check_masks(masks: Tensor, name: str) -> Tensor | None:
    """Masks [B,H,W] of a batch, or one [H,W]; None where they are 1 everywhere, which is no mask."""
    masks = torch.as_tensor(masks)
    if masks.ndim < 2 or masks.ndim > 3 or not 0 < len(masks) <= SIDE:
        raise ValueError(f"{name}: the mask has shape {list(masks.shape)}; give one of rows and columns, or "
                         "one for each picture of the batch")
    checked = torch.stack([check_mask(mask, name) for mask in (masks if masks.ndim == 3 else masks[None])])
    return None if bool((checked == 1).all()) else checked


class Reuse(NamedTuple):
    """Whether residuals of an earlier step stand in for a control's own; never on the first and last step."""

    mode: Literal["off", "interval", "threshold"] = "off"
    interval: Annotated[int, Range(2, 10, 1, "Each control runs at every n-th step.")] = 2
    threshold: Annotated[float, Range(0, 1, 0.01, "Largest change of the model's input, as a share of it, "
                                                  "since the control last ran.")] = 0.1

    def allows(self, kept: Kept, step: int, last: int, x: Tensor | None) -> bool:
        """x: the model's input now [B,C,*S], in the scale that the model sees; for `threshold` only."""
        if self.mode == "off" or not 0 < step < last:
            return False
        if self.mode == "interval":
            return step - kept.step < self.interval
        return float((x - kept.x).norm() / kept.x.norm().clamp_min(1e-12)) < self.threshold


class Kept(NamedTuple):
    """What a control gave at an earlier step, for the model's input x [B,C,*S] there."""

    step: int
    x: Tensor | None
    residuals: Residuals
    weight: float | None


def places(residuals: Residuals) -> Iterator[tuple[str, int, Tensor]]:
    """Every residual with its place, from the layer nearest to the picture to the deepest."""
    for key in KEYS:
        given = list(enumerate(residuals.get(key) or ()))
        reverse = key == "input" and any(one is not None and one.ndim == 4 for _, one in given)
        for index, tensor in given[::-1] if reverse else given:  # a UNet takes them from the end
            if tensor is not None:
                yield key, index, tensor


def fit_mask(masks: Tensor, like: Tensor, full: tuple[int, int]) -> Tensor:
    """Masks [M,H,W] on a residual's own grid: [M,1,h,w], [M,1,1,h,w] or [M,N,1]; full: the latent's size.

    DiTs round up, so that the last token may hang over the edge. ValueError for tokens that are no grid.
    """
    if like.ndim != 3:
        small = shrink(masks, tuple(like.shape[-2:]), full)
        return small.reshape(len(masks), *[1] * (like.ndim - 3), *small.shape[-2:])
    grids = [tuple(math.ceil(side / patch) for side in full) for patch in (2, 1, 4)]
    counts = [divmod(like.shape[1], rows * columns) for rows, columns in grids]
    fits = sorted((frames > 1, number) for number, (frames, rest) in enumerate(counts) if frames and not rest)
    if fits:  # a picture's tokens before those of several frames
        number = fits[0][1]
        return shrink(masks, grids[number], full).flatten(1).repeat(1, counts[number][0])[..., None]
    raise ValueError(f"Control mask: {like.shape[1]} tokens are no grid of a {full[0]}x{full[1]} latent, so "
                     "this control can't have a mask; take it away")


def progress_at(sigma: float, to_sigma: Callable[[float], float]) -> float:
    """The progress 0..1 whose sigma this is: the inverse of a host's percent_to_sigma, which falls."""
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if float(to_sigma(middle)) > sigma else (low, middle)
    return 1.0 if sigma <= 0 else round(high, 6)


class Batch(NamedTuple):
    """A model call: its rows, for each chunk of them 1 where it is a negative prompt's, the latent's H, W."""

    rows: int
    kinds: tuple[int, ...]
    full: tuple[int, int]

    @property
    def each(self) -> int:
        return self.rows // len(self.kinds)


Weighed = dict[tuple[str, int], tuple[Tensor, "Tensor | float"]]  # place -> residual, and its weight


@dataclass
class Weigher:
    """A rule's factors in one run; masks are fitted once for each grid and device."""

    rule: Rule
    fitted: dict = field(default_factory=dict)

    def masks_of(self, like: Tensor, batch: Batch) -> Tensor:
        key = tuple(like.shape[1:]), batch, like.device
        if key not in self.fitted:
            fitted = fit_mask(self.rule.mask, like, batch.full)
            order = torch.arange(batch.rows) % batch.each % len(fitted)
            self.fitted[key] = (fitted if len(fitted) == 1 else fitted[order]).to(like.device)
        return self.fitted[key]

    def weigh(self, residuals: Residuals, now: float, batch: Batch) -> Weighed:
        """All residuals by the rule; now: the curve's weight."""
        found = list(places(residuals))
        order = {name: number for number, name in enumerate(dict.fromkeys(id(one) for _, _, one in found))}
        done: dict[int, tuple[Tensor, Tensor | float]] = {}
        for _, _, tensor in found:
            if id(tensor) not in done:
                done[id(tensor)] = self.apply(
                    tensor, now * self.rule.layers(order[id(tensor)], len(order)), batch)
        return {(key, index): done[id(tensor)] for key, index, tensor in found}

    def apply(self, tensor: Tensor, factor: float, batch: Batch) -> tuple[Tensor, Tensor | float]:
        weight: Tensor | float = factor
        if self.rule.uncond != 1 and 1 in batch.kinds:
            sides = [factor * self.rule.uncond if kind == 1 else factor for kind in batch.kinds]
            weight = tensor.new_tensor(sides).repeat_interleave(batch.each)
            weight = weight.reshape(-1, *[1] * (tensor.ndim - 1))
        if self.rule.mask is not None:
            weight = self.masks_of(tensor, batch).to(tensor.dtype) * weight
        if not isinstance(weight, Tensor) and weight == 1:
            return tensor, weight
        return tensor * weight, weight


def join(parts: Sequence[Weighed], policy: Policy, lengths: dict[str, int]) -> Residuals:
    """The controls' weighed residuals as one, in lists so long; what acts alone stays as it is."""
    done: dict[tuple[int, ...], Tensor | None] = {}
    out: Residuals = {key: [] for key in KEYS}
    for key in KEYS:
        for index in range(lengths[key]):
            here = [part[key, index] for part in parts if (key, index) in part]
            name = tuple(id(tensor) for tensor, _ in here)
            if name not in done:
                tensors, weights = [one for one, _ in here], [weight for _, weight in here]
                done[name] = None if not here else tensors[0] if len(here) == 1 else policy(tensors, weights)
            out[key].append(done[name])
    return out


def longest(residuals: Sequence[Residuals]) -> dict[str, int]:
    """A UNet takes residuals from a list's end, so that what is missing there counts too."""
    return {key: max((len(one.get(key) or ()) for one in residuals), default=0) for key in KEYS}


def measure(part: Weighed, row: int) -> dict[tuple[str, int], Tensor]:
    """Energy of each residual in one row of the batch, on its device."""
    known: dict[int, Tensor] = {}
    for tensor, _ in part.values():
        if id(tensor) not in known:
            known[id(tensor)] = tensor[min(row, len(tensor) - 1)].float().square().sum()
    return {place: known[id(tensor)] for place, (tensor, _) in part.items()}


def pick_rows(value: Any, rows: Tensor, count: int) -> Any:
    """What a call passes for these rows of its `count`: tensors of that length are cut, the rest is kept."""
    return value[rows] if isinstance(value, Tensor) and value.ndim and len(value) == count else value


def put_rows(residuals: Residuals, rows: Tensor, count: int) -> Residuals:
    """Residuals of these rows as those of all: 0 in the others."""
    done: dict[int, Tensor] = {}

    def spread(tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        if id(tensor) not in done:
            whole = tensor.new_zeros(count, *tensor.shape[1:])
            whole[rows] = tensor
            done[id(tensor)] = whole
        return done[id(tensor)]

    return {key: [spread(tensor) for tensor in listed] for key, listed in residuals.items()}
