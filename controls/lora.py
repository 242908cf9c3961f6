"""A LoRA in its place: (term, x, y = W x, where) -> y + w(p) term(x) at its rows alone, in place.

A LoRA adds s B A x to what a layer makes of x (Hu et al. 2021, arXiv:2106.09685). Left apart from the layer's
weights it can be weighed at every token, and is computed for those rows only where w > 0.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .attention import Part, along
from .joint import Prompt

Term = Callable[[Tensor], Tensor]  # x -> what the LoRA adds; a convolution's pads nothing itself


class Window(NamedTuple):
    """The rows and columns of a convolution's output that hold a part, and its weights [h,w] there.

    None for all of them, and for weights of 1.
    """

    spans: tuple[slice, slice] | None
    weight: Tensor | None


class Kernel(NamedTuple):
    """A convolution's geometry, a number for each axis."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    mode: str


def kernel_of(module: torch.nn.Module) -> Kernel | None:
    """None for what is no convolution."""
    if not hasattr(module, "kernel_size"):
        return None
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    return Kernel(module.kernel_size, module.stride, module.padding, module.dilation, mode)


def find_window(part: Part, grid: tuple[int, int]) -> Window:
    """The smallest window of the grid that holds a part. Waits for the device."""
    if part.rows is None:
        return Window(None, None if part.weight is None else part.weight.reshape(grid))
    weight = torch.zeros(grid[0] * grid[1], device=part.rows.device)
    weight[part.rows] = 1.0 if part.weight is None else part.weight.to(weight)
    weight, sides = weight.reshape(grid), []
    for axis in (1, 0):
        inside = (weight > 0).any(axis).nonzero()
        sides.append(slice(int(inside[0]), int(inside[-1]) + 1))
    weight = weight[sides[0], sides[1]]
    return Window(tuple(sides), None if bool((weight == 1).all()) else weight)


def text_parts(lengths: Sequence[int], start: int, device: torch.device) -> list[Part | None]:
    """Tokens of texts of these lengths that follow one another from `start` on."""
    parts: list[Part | None] = []
    for length in lengths:
        parts.append(Part(torch.arange(start, start + length, device=device), None))
        start += length
    return parts


def join(own: Tensor, part: Part | None, start: int, count: int) -> Part | None:
    """A region's text tokens, and its part of the `count` picture tokens from `start` on."""
    if part is None:
        return None
    rows = torch.arange(count, device=own.device) if part.rows is None else part.rows
    weight = None if part.weight is None else torch.cat([part.weight.new_ones(len(own)), part.weight])
    return Part(torch.cat([own, start + rows]), weight)


def sequence_parts(prompt: Prompt, tokens: int, further: int, step: int,
                   device: torch.device) -> list[Part | None]:
    """The tokens of each acting region in a layer that sees so many; [] where their number tells nothing.

    A layer sees all texts, or the picture, or both; behind the picture stand `further` tokens, and what fills
    them up to a multiple of `step`.
    """
    text, picture = prompt.text, prompt.picture
    texts = text_parts(prompt.lengths[1:], prompt.lengths[0], device)
    if tokens == text:
        return texts
    parts = prompt.parts(device)[1:]
    if tokens == picture and not further:
        return parts
    if picture + further <= tokens < picture + further + step:
        return [join(own.rows[:0], part, 0, picture) for own, part in zip(texts, parts, strict=True)]
    if text + picture + further <= tokens < text + picture + further + step:
        return [join(own.rows, part, text, picture) for own, part in zip(texts, parts, strict=True)]
    return []


def add_tokens(term: Term, x: Tensor, y: Tensor, part: Part) -> None:
    """Onto y [B,N,D] what a LoRA makes of x [B,N,C], at the rows of `part`."""
    more = term(x if part.rows is None else x.index_select(1, part.rows))
    if part.weight is not None:
        more = more * along(part.weight, more, 1)
    if part.rows is None:
        y.add_(more)
    else:
        y.index_add_(1, part.rows, more.to(y))


def add_conv(term: Term, kernel: Kernel, x: Tensor, y: Tensor, window: Window) -> None:
    """Onto y [B,D,*S'] what a LoRA makes of x [B,C,*S], inside the window of the last two axes."""
    if any(kernel.padding):
        x = torch.nn.functional.pad(x, [side for side in reversed(kernel.padding) for _ in range(2)],
                                    kernel.mode)
    if window.spans is not None:
        rows, columns = (
            slice(span.start * stride, (span.stop - 1) * stride + (size - 1) * dilation + 1)
            for span, size, stride, dilation in zip(window.spans, kernel.size, kernel.stride, kernel.dilation,
                                                    strict=True))
        x, y = x[..., rows, columns], y[(..., *window.spans)]
    more = term(x)
    y.add_(more if window.weight is None else more * window.weight.to(more))
