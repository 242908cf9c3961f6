"""UNet cross attention by regions, as `attn2_patch` and `attn2_replace` of ComfyUI, Forge, reForge and Neo.

`append` puts the regions' texts behind the model's own before the projection to keys and values, `replace`
then routes the rows. Texts and weights stay the same over a run, so the projected texts are kept for it: from
its second step on nothing is appended.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .attention import Part, divide, route
from .regions import MaskSet

APPENDED = "tweedie_appended"  # in a block's own options: how many tokens `append` has put behind


class Program(NamedTuple):
    """What one prompt's rows of the batch do: regions that act, and their texts [1|B,L,C] on the device."""

    masks: MaskSet
    active: tuple[int, ...]
    texts: tuple[Tensor, ...]

    @property
    def lengths(self) -> tuple[int, ...]:
        return tuple(text.shape[1] for text in self.texts)


def token_grid(tokens: int, latent: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of a UNet's level: the latent's, halved and rounded up until they hold `tokens`."""
    height, width = latent
    while height * width > tokens and (height > 1 or width > 1):
        height, width = (height + 1) // 2, (width + 1) // 2
    if height * width != tokens:
        raise ValueError(f"Regions: {tokens} tokens are no level of a {latent[0]}x{latent[1]} latent; "
                         "another patch changes sizes inside the model: take it out, or use mode latent")
    return height, width


@dataclass
class Texts:
    """The projected texts of one run, and the parts of each grid."""

    kept: dict = field(default_factory=dict)
    parts: dict = field(default_factory=dict)

    def parts_of(self, program: Program, grid: tuple[int, int], full: tuple[int, int],
                 device: torch.device) -> list[Part | None]:
        key = id(program.masks), program.active, grid, full, device
        if key not in self.parts:
            shares = program.masks.on(grid, full, program.active, device).flatten(1)
            self.parts[key] = divide(shares[[0, *(1 + number for number in program.active)]])
        return self.parts[key]


@dataclass(frozen=True)
class Cross:
    """One step's hooks; tensors are [chunks*B,N,C], a chunk being one prompt's rows of the batch.

    attend: (q, k, v, options) -> output. who: options -> the program of each chunk, or None, and what tells
    the chunks apart over the run's steps (None: texts can't be kept). full: rows and columns of the latent.
    """

    attend: Callable[[Tensor, Tensor, Tensor, dict], Tensor]
    who: Callable[[dict], tuple[list[Program | None], tuple | None]]
    full: tuple[int, int]
    texts: Texts

    def key(self, options: dict, programs: list[Program | None], names: tuple | None, like: Tensor):
        """Where this layer's projected texts are kept."""
        layer = options.get("block"), options.get("block_index"), options.get("transformer_index")
        active = tuple(program and program.active for program in programs)
        return None if names is None else (layer, like.device, like.dtype, len(like), names, active)

    def append(self, q: Tensor, k: Tensor, v: Tensor, options: dict) -> tuple[Tensor, Tensor, Tensor]:
        """attn2_patch: contexts [chunks*B,L,C] with every prompt's region texts behind them."""
        programs, names = self.who(options)
        if not any(programs) or self.key(options, programs, names, k) in self.texts.kept:
            return q, k, v
        size = len(k) // len(programs)
        longest = max(sum(program.lengths) for program in programs if program is not None)
        behind = k.new_zeros(len(k), longest, k.shape[2])
        for chunk, program in enumerate(programs):
            if program is not None:
                text = torch.cat([text.to(k).expand(size, -1, -1) for text in program.texts], 1)
                behind[chunk * size:(chunk + 1) * size, :text.shape[1]] = text
        options[APPENDED] = longest
        return q, torch.cat([k, behind], 1), torch.cat([v, behind], 1)

    def take_texts(self, k: Tensor, v: Tensor, options: dict, key: tuple | None):
        """Keys and values of the model's own context, and those of the regions, kept under `key`."""
        own = k.shape[1] - options.pop(APPENDED, 0)
        if own == k.shape[1]:
            return k, v, self.texts.kept[key]
        texts = k[:, own:].clone(), v[:, own:].clone()
        if key is not None:
            self.texts.kept[key] = texts
        return k[:, :own], v[:, :own], texts

    def replace(self, q: Tensor, k: Tensor, v: Tensor, options: dict,
                theirs: Callable[[Tensor, Tensor, Tensor, dict], Tensor] | None = None) -> Tensor:
        """attn2_replace: projected q, k, v -> output [chunks*B,N,C].

        theirs: what another extension had put here. What it adds to plain attention is added to ours.
        """
        programs, names = self.who(options)
        if not any(programs):
            return (theirs or self.attend)(q, k, v, options)
        k, v, texts = self.take_texts(k, v, options, self.key(options, programs, names, k))
        grid = tuple(options["activations_shape"][-2:]) if "activations_shape" in options else token_grid(
            q.shape[1], self.full)
        size, found = len(q) // len(programs), groups(programs)
        if len(found) == 1:
            out = self.read(q, k, v, texts, programs[0], grid, options)
        else:
            out = torch.empty_like(q)
            for chunks, program in found:
                rows = [chunk * size + item for chunk in chunks for item in range(size)]
                out[rows] = self.read(q[rows], k[rows], v[rows], [text[rows] for text in texts], program,
                                      grid, options)
        if theirs is not None:
            out = out + theirs(q, k, v, options) - self.attend(q, k, v, options)
        return out

    def read(self, q: Tensor, k: Tensor, v: Tensor, texts: Sequence[Tensor], program: Program | None,
             grid: tuple[int, int], options: dict) -> Tensor:
        def attend(q, k, v, mask):
            return self.attend(q, k, v, options)

        if program is None:
            return attend(q, k, v, None)
        parts = self.texts.parts_of(program, grid, self.full, q.device)
        ends = [*program.lengths, texts[0].shape[1] - sum(program.lengths)]
        pairs = [(k, v), *zip(*(text.split(ends, 1) for text in texts), strict=True)]
        return route(attend, q, ((part, *pair, None) for part, pair in zip(parts, pairs, strict=False)
                                 if part is not None), 1, 1)


def groups(programs: Sequence[Program | None]) -> list[tuple[list[int], Program | None]]:
    """Chunks that can be routed at once: the same regions, and texts of the same lengths."""
    found: dict[Any, tuple[list[int], Program | None]] = {}
    for chunk, program in enumerate(programs):
        key = program and (id(program.masks), program.active, program.lengths)
        found.setdefault(key, ([], program))[0].append(chunk)
    return list(found.values())
