"""Regions where text and picture share one attention, (q, k, v, sequences of the batch) -> output.

A sequence is [text of the base, of region 1, .. | padding | picture | further tokens], as in SD3, Flux,
Chroma, Qwen-Image and Lumina 2; or its texts alone are read by the picture, as in Anima.
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .attention import Attend, Part, cut, divide, route
from .regions import MaskSet


class Prompt(NamedTuple):
    """One prompt's tokens. masks: None where it has no regions, and padding alone sets it apart.

    lengths: tokens of the base's text, then of each acting region's; text: of all texts with padding.
    grid, frames: the picture's tokens. full: rows and columns of the latent. isolated: picture rows of one
    region don't see the others'. shared: leading tokens of the base's text that readers of all texts read,
    the padding that a model puts in front. angles [sum L,D/2]: how far texts' rotary positions are turned.
    """

    masks: MaskSet | None
    active: tuple[int, ...]
    lengths: tuple[int, ...]
    text: int
    grid: tuple[int, int]
    frames: int
    full: tuple[int, int]
    isolated: bool = False
    shared: int = 0
    angles: Tensor | None = None

    @property
    def picture(self) -> int:
        return self.frames * self.grid[0] * self.grid[1]

    @property
    def key(self) -> tuple:
        """Prompts of equal keys are routed alike."""
        return (id(self.masks), *self[1:9])

    def parts(self, device: torch.device) -> list[Part | None]:
        if self.masks is None:
            return [Part(None, None)]
        shares = self.masks.on(self.grid, self.full, self.active, device).flatten(1)
        return divide(shares[[0, *(1 + number for number in self.active)]].repeat(1, self.frames))


class Lane(NamedTuple):
    """One text of a joint attention: the tokens that read, their weights, and the tokens that are read."""

    part: Part
    keys: Tensor


def join(parts: Sequence[Part | None], lengths: Sequence[int], text: int, picture: int, total: int,
         isolated: bool, shared: int, device: torch.device) -> list[Lane]:
    """Lanes of a sequence [text of the base, of region 1, .. | padding | picture | further tokens].

    A text and its picture rows read that text and the whole picture; isolated, of the picture only their own
    rows. The base reads all of the picture, and owns the further tokens (reference pictures, padding), which
    everyone may read. A text without rows is read by nobody, so it is left out.
    lengths: of the texts; text, picture, total: tokens before the picture, of it, and of the sequence;
    shared: as Prompt has it.
    """
    def span(start: int, stop: int) -> Tensor:
        return torch.arange(start, stop, device=device)

    lanes, start, further = [], 0, span(text + picture, total)
    for number, (part, length) in enumerate(zip(parts, lengths, strict=True)):
        own, start = span(start, start + length), start + length
        owned = further if number == 0 else further[:0]
        if part is None and not len(owned) and (number or not shared):
            continue
        rows = span(0, picture) if part is None or part.rows is None else part.rows
        rows = text + (rows[:0] if part is None else rows)
        readers = torch.cat([own, rows, owned])
        weight = None
        if part is not None and part.weight is not None:
            whole = part.weight.new_ones(1)
            weight = torch.cat([whole.expand(len(own)), part.weight, whole.expand(len(owned))])
        seen = rows if isolated and number else span(text, text + picture)
        common = span(0, shared if number else 0)
        lanes.append(Lane(Part(readers, weight), torch.cat([common, own, seen, further])))
    return lanes


def find_lanes(prompt: Prompt, queries: int, keys: int, device: torch.device) -> list[Lane] | None:
    """Lanes of an attention of that many queries and keys; None for one that is no business of texts.

    Texts alone (a refiner of text): each reads itself. The picture alone: routed only where it is isolated.
    """
    parts, text, picture = prompt.parts(device), prompt.text, prompt.picture
    starts = [sum(prompt.lengths[:number]) for number in range(len(prompt.lengths))]
    spans = [torch.arange(start, start + length, device=device)
             for start, length in zip(starts, prompt.lengths, strict=True)]
    if queries == keys == text:
        return [Lane(Part(span, None), span) for span in spans]
    if queries == keys >= text + picture:
        return join(parts, prompt.lengths, text, picture, queries, prompt.isolated, prompt.shared,
                    device)
    if queries == keys >= picture and prompt.isolated:
        return join(parts, [0] * len(parts), 0, picture, queries, True, 0, device)
    if queries >= picture and keys == text:
        return [Lane(part, span) for part, span in zip(parts, spans, strict=True) if part is not None]
    return None


def read_lanes(lanes: Iterable[Lane], k: Tensor, v: Tensor, mask: Tensor | None,
               dim: int) -> Iterator[tuple[Part, Tensor, Tensor, Tensor | None]]:
    """What `route` takes: each lane with its keys and values picked out when its turn comes."""
    for lane in lanes:
        yield lane.part, k.index_select(dim, lane.keys), v.index_select(dim, lane.keys), \
            cut(mask, None, lane.keys)


def read_prompts(attend: Attend, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None,
                 prompts: Sequence[Prompt | None], dims: tuple[int, int], cache: dict) -> Tensor:
    """Attention of a batch [chunks*B,..], chunk i being of prompts[i]; None is left plain.

    dims: where the tokens stand in q, k, v, and in the output. cache: lanes and angles, kept over a run.
    """
    groups: dict[tuple | None, list[int]] = {}
    for chunk, prompt in enumerate(prompts):
        groups.setdefault(prompt and prompt.key, []).append(chunk)
    if len(groups) == 1:
        return read_group(attend, q, k, v, mask, prompts[0], dims, cache)
    size, out = len(q) // len(prompts), None
    for chunks in groups.values():
        rows = [chunk * size + item for chunk in chunks for item in range(size)]
        part = mask[rows] if mask is not None and mask.ndim > 2 and len(mask) == len(q) else mask
        read = read_group(attend, q[rows], k[rows], v[rows], part, prompts[chunks[0]], dims, cache)
        out = read.new_empty(len(q), *read.shape[1:]) if out is None else out
        out[rows] = read
    return out


def read_group(attend: Attend, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, prompt: Prompt | None,
               dims: tuple[int, int], cache: dict) -> Tensor:
    if prompt is None:
        return attend(q, k, v, mask)
    dim, out_dim = dims
    queries, keys = q.shape[dim], k.shape[dim]
    key = prompt.key, queries, keys, q.device
    if key not in cache:
        texts = queries == prompt.text or queries >= prompt.text + prompt.picture
        cache[key] = (find_lanes(prompt, queries, keys, q.device),
                      prompt.angles.to(q.device) if texts and prompt.angles is not None else None)
    lanes, angles = cache[key]
    if lanes is None:
        return attend(q, k, v, mask)
    if angles is not None:
        q, k = (turn(x, angles, dim) for x in (q, k))
    return route(attend, q, read_lanes(lanes, k, v, mask, dim), dim, out_dim)


def rotations(shifts: Tensor, axes: Sequence[int], theta: float) -> Tensor:
    """Angles [L,D/2] by which rotary positions move, for shifts [L,A] along the embedding's axes.

    axes: how many of the head's D channels each position axis takes; theta: the base. RoPE (Su et al. 2021,
    arXiv:2104.09864) composes: turning a rotated vector by the angle of a shift moves its position by it.
    """
    def along_axis(number: int, size: int) -> Tensor:
        rates = theta ** -(torch.arange(0, size, 2, device=shifts.device, dtype=torch.float32) / size)
        return shifts[:, number, None] * rates

    return torch.cat([along_axis(number, size) for number, size in enumerate(axes)], 1)


def turn(x: Tensor, angles: Tensor, dim: int) -> Tensor:
    """Rotate the first L tokens of x, heads last [..,D], by angles [L,D/2] over neighbouring channels."""
    head = x.narrow(dim, 0, len(angles))
    shape = [len(angles) if axis == dim else 1 for axis in range(x.ndim - 1)]
    cos, sin = (f(angles).reshape(*shape, -1).to(torch.promote_types(x.dtype, torch.float32))
                for f in (torch.cos, torch.sin))
    a, b = head.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([cos * a - sin * b, sin * a + cos * b], -1).flatten(-2).to(x)
    return torch.cat([turned, x.narrow(dim, len(angles), x.shape[dim] - len(angles))], dim)
