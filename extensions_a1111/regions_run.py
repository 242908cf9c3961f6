"""One pass with regions: what the host has encoded of each picture's texts -> programs of each step."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..controls.cross import Program
from ..controls.grammar import Tree
from ..controls.regions import MaskSet
from ..samplers.table import sigma_at
from . import host
from .regions_panel import Settings
from .regions_prompts import draw_masks, is_plain
from .scope import patched

Schedule = list  # the host's [(end_at_step, cond), ..] of one text with its prompt editing


class Picture(NamedTuple):
    """One picture's regions and their texts; negatives: None where all are the picture's own."""

    masks: MaskSet
    positives: list[Schedule]
    negatives: list[Schedule] | None

    @property
    def numbers(self) -> tuple[int, ...]:
        return tuple(range(len(self.positives)))


def encode(p: Any, texts: Sequence[str], negative: bool) -> list[Schedule]:
    """The host's own reading of texts for this pass: emphasis, prompt editing, LoRAs as they are now."""
    from modules import prompt_parser, sd_samplers

    hires = getattr(p, "is_hr_pass", False)
    width, height = (p.hr_upscale_to_x, p.hr_upscale_to_y) if hires else (p.width, p.height)
    prompts = prompt_parser.SdConditioning(texts, is_negative_prompt=negative, width=width, height=height)
    prompts.distilled_cfg_scale = getattr(p, "hr_distilled_cfg" if hires else "distilled_cfg_scale", None)
    networks, hires_steps = p.extra_network_data, None
    if hires:
        networks, hires_steps = p.hr_extra_network_data, p.hr_second_pass_steps or p.steps
        config = sd_samplers.find_sampler_config(p.hr_sampler_name or p.sampler_name)
        hires_steps = config.total_steps(hires_steps) if config else hires_steps
    return p.get_conds_with_caching(prompt_parser.get_learned_conditioning, prompts, p.firstpass_steps,
                                    [[None, None]], networks, hires_steps)


def pick(schedule: Schedule, step: int) -> int:
    """Which of the schedule's texts is on at this step, as the host chooses."""
    return next((number for number, part in enumerate(schedule) if step <= part.end_at_step), 0)


def text_of(cond: Tensor | dict) -> Tensor:
    """The tokens [L,C] of what the host has encoded."""
    return cond["crossattn"] if isinstance(cond, dict) else cond


@dataclass
class Run:
    """A pass over a batch: trees of its pictures, and what is made of them, None where one has no regions.

    full: rows and columns of the latent. sigmas: where regions begin and end to act. step: of A1111's step at
    hand, sigmas [B], and how many prompts each picture has.
    """

    p: Any
    settings: Settings
    trees: Sequence[Tree]
    full: tuple[int, int]
    pictures: list[Picture | None] = field(default_factory=list)
    sigmas: tuple[float, float] | None = None
    shown: tuple | None = None
    step: tuple[Tensor, list[int]] | None = None

    def encode(self) -> None:
        """Read all texts by the model that is loaded now."""
        canvas, drawn = (self.p.height, self.p.width), {}
        self.shown, self.pictures = None, []
        for tree in self.trees:
            if is_plain(tree):
                self.pictures.append(None)
                continue
            places = tuple(cell[2:] for cell in tree.cells)
            if places not in drawn:
                drawn[places] = draw_masks(self.settings, tree, canvas)
            against = [cell.negative for cell in tree.cells]
            self.pictures.append(Picture(
                drawn[places], encode(self.p, [cell.text for cell in tree.cells], False),
                encode(self.p, against, True) if set(against) != {tree.negative} else None))

    def acts(self, sigma: Tensor) -> bool:
        """Whether regions act at the step of these sigmas [B]."""
        if self.sigmas is None:  # not before the first step: the schedules' panel may change the table
            table, asked = host.model_table(self.p.sd_model), self.settings
            self.sigmas = sigma_at(table, asked.start_percent), sigma_at(table, asked.end_percent)
        return self.sigmas[1] < float(sigma[0]) <= self.sigmas[0]

    def programs(self, sigma: Tensor, step: int) -> tuple[list, list, tuple]:
        """Every picture's program for its prompt, and for its negative; and what tells their texts apart.

        A step asks for them in every layer, with the same sigma tensor.
        """
        if self.shown is None or self.shown[0] is not sigma or self.shown[1] != step:
            pictures = self.pictures if self.acts(sigma) else [None] * len(self.pictures)
            positives = [picture and program(picture, picture.positives, step) for picture in pictures]
            negatives = [picture and picture.negatives and program(picture, picture.negatives, step)
                         for picture in pictures]
            stamp = tuple(pick(schedule, step) for picture in pictures if picture
                          for schedule in (*picture.positives, *(picture.negatives or ())))
            self.shown = sigma, step, positives, negatives, stamp
        return self.shown[2:]


def program(picture: Picture, schedules: list[Schedule], step: int) -> Program:
    texts = (text_of(schedule[pick(schedule, step)].cond) for schedule in schedules)
    return Program(picture.masks, picture.numbers, tuple(text[None] for text in texts))


@contextmanager
def on_every_model(guide: Any, hang: Callable[[], AbstractContextManager]) -> Iterator[None]:
    """`hang()` on the model of now, and anew on the refiner when it takes over."""
    update = guide.update_inner_model
    with ExitStack() as hung:
        hung.enter_context(hang())

        def update_and_hang():
            hung.close()
            update()
            hung.enter_context(hang())

        with patched(guide, update_inner_model=update_and_hang):
            yield


def stack_texts(texts: Sequence[Tensor]) -> Tensor:
    """Texts [L,C] as [B,L,C], shorter ones filled up with their last token, as the host does."""
    longest = max(len(text) for text in texts)
    return torch.stack([torch.cat([text, text[-1:].expand(longest - len(text), -1)]) for text in texts])
