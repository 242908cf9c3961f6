"""Regions in a UNet's cross attention: A1111's modules wrapped for a pass, or Forge's patched.

Tensors are [rows,N,C]; a row is one prompt of one picture.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..controls.attention import route
from ..controls.cross import Cross, Program, Texts, groups, token_grid
from . import host
from .regions_run import Run
from .scope import patched

Groups = list[tuple[list[int], "Program | None"]]


@dataclass
class Calls:
    """Where in a step's rows the model stands: A1111 calls it once or more in a step, on consecutive rows.

    waiting: programs of the rows to come; None where a step has begun and its rows are not known yet.
    """

    run: Run
    guide: Any
    waiting: list[Program | None] | None
    texts: Texts = field(default_factory=Texts)
    groups: Groups = field(default_factory=list)
    count: int = 0
    full: tuple[int, int] = (0, 0)

    def begin(self, sigma: Tensor, cond: Any) -> None:
        """A step begins, whose conditioning is `cond`."""
        self.run.step = host.true_sigma(self.guide, sigma), [len(prompts) for prompts in cond.batch]
        self.waiting = None

    def enter(self, unet: nn.Module, inputs: tuple) -> None:
        """The model is called: take the next rows, and put those that are routed alike together."""
        x = inputs[0]
        if self.waiting is None:
            sigma, prompts = self.run.step
            positives, negatives, _ = self.run.programs(sigma, self.guide.step)
            self.waiting = [program for program, count in zip(positives, prompts, strict=True)
                            for _ in range(count)] + negatives
        rows, self.waiting = self.waiting[:len(x)], self.waiting[len(x):]
        rows += [None] * (len(x) - len(rows))
        self.count, self.full = len(x), tuple(x.shape[-2:])
        self.groups = [(numbers, program and program._replace(texts=tuple(
            torch.cat([rows[number].texts[region] for number in numbers])
            for region in range(len(program.texts))))) for numbers, program in groups(rows)]

    def read(self, attend: Callable, x: Tensor, context: Tensor) -> Tensor:
        """attend: (rows of x, context=their text) -> output."""
        if len(self.groups) == 1:
            return self.read_group(attend, x, context, self.groups[0][1])
        out = None
        for numbers, program in self.groups:
            read = self.read_group(attend, x[numbers], context[numbers], program)
            out = read.new_empty(len(x), *read.shape[1:]) if out is None else out
            out[numbers] = read
        return out

    def read_group(self, attend: Callable, x: Tensor, context: Tensor, program: Program | None) -> Tensor:
        if program is None:
            return attend(x, context=context)
        parts = self.texts.parts_of(program, token_grid(x.shape[1], self.full), self.full, x.device)
        texts = [context, *(text.to(context) for text in program.texts)]
        lanes = [(part, text, text, None) for part, text in zip(parts, texts, strict=True) if part]
        return route(lambda q, k, v, mask: attend(q, context=k), x, lanes, 1, 1)


def wrap(module: nn.Module, calls: Calls) -> Callable:
    """The module's forward by regions. What another extension had put here: what it adds is added to ours."""
    own, theirs = partial(type(module).forward, module), vars(module).get("forward")

    def forward(x, context=None, **options):
        if context is None or len(x) != calls.count or not any(program for _, program in calls.groups):
            return (theirs or own)(x, context=context, **options)
        out = calls.read(partial(own, **options), x, context)
        if theirs is None:
            return out
        return out + theirs(x, context=context, **options) - own(x, context=context, **options)
    return forward


@contextmanager
def route_modules(run: Run, guide: Any) -> Iterator[None]:
    """A1111: every attn2 of the UNet reads by regions."""
    calls = Calls(run, guide, [] if run.step is None else None)  # the refiner comes within a step
    unet, begin = run.p.sd_model.model.diffusion_model, guide.forward

    def forward(x, sigma, uncond, cond, *arguments, **options):
        calls.begin(sigma, cond)
        return begin(x, sigma, uncond, cond, *arguments, **options)

    with ExitStack() as stack:
        stack.enter_context(patched(guide, forward=forward))
        stack.callback(unet.register_forward_pre_hook(calls.enter).remove)
        for module in cross_attentions(unet):
            stack.enter_context(patched(module, forward=wrap(module, calls)))
        yield


def cross_attentions(unet: nn.Module) -> list[nn.Module]:
    return [module for name, module in unet.named_modules() if name.endswith(".attn2")]


@contextmanager
def route_patched(run: Run, guide: Any) -> Iterator[None]:
    """Forge and its kin: hooks on a clone of the UNet; plain functions, which clones take as they are."""
    objects = run.p.sd_model.forge_objects
    unet, kernel = objects.unet.clone(), host.attention_kernel(objects.unet)
    refined = getattr(run.p, "refiner_checkpoint_info", None) is not None  # Neo may swap weights in place

    def who(options):
        positives, negatives, stamp = run.programs(options["sigmas"], guide.step)
        kinds = options["cond_or_uncond"]
        rows = [program for kind in kinds for program in (positives, negatives)[kind]]
        return rows, None if refined else (*kinds, stamp)

    cross = Cross(lambda q, k, v, options: kernel(q, k, v, options["n_heads"]), who, run.full, Texts())

    def replacing(theirs):
        return lambda q, k, v, options: cross.replace(q, k, v, options, theirs)

    unet.set_model_attn2_patch(lambda q, k, v, options: cross.append(q, k, v, options))
    there = dict(unet.model_options["transformer_options"].get("patches_replace", {}).get("attn2", {}))
    net = unet.model.diffusion_model
    blocks = [("input", number) for number in range(len(net.input_blocks))] + [("middle", 0)] + [
        ("output", number) for number in range(len(net.output_blocks))]
    for block in dict.fromkeys([*blocks, *there]):
        unet.set_model_attn2_replace(replacing(there.get(block)), *block)
    with patched(objects, unet=unet):
        yield
