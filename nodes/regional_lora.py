"""LoRAs of regions inside a run: for one model call, hooks on the layers that they touch add what they say.

No weight is changed and no second call is made. Which rows are a region's is what routes its prompt in mode
attention; in mode latent a region's entry has rows of its own, and its LoRA acts on all of them.
"""
from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import comfy.patcher_extension
import torch
from comfy.ldm.modules.attention import SpatialTransformer
from torch import Tensor

from ..controls.attention import Part
from ..controls.cross import APPENDED, Program, Texts
from ..controls.joint import Prompt
from ..controls.lora import Window, add_conv, add_tokens, find_window, sequence_parts, text_parts
from .adapters import LayerTerm, Lora, term_of
from .families import UNET, Family, find_family
from .sequences import multiple_of, picture_grid

log = logging.getLogger("tweedie")
HOOKS = comfy.patcher_extension.WrappersMP
KEY = "tweedie_region_loras"
ROUTES = "tweedie_region_routes"  # in a step's transformer options: the Route of each entry's uuid
BY_NUMBER = "distilled_guidance_layer"  # of Chroma: a row for each modulation
READS_TEXT = ("attn2.to_k", "attn2.to_v")  # of a UNet
COMPILED = "regions: LoRAs of regions are left out while the model is compiled; take the compile node out"
MOVED = "regions: LoRAs of regions are left out of layers where another patch changes sizes inside the model"


class Route(NamedTuple):
    """What one prompt's rows of the batch do: LoRAs of the regions that act, and what routes their texts.

    place: None where all rows are those of one region.
    """

    loras: tuple[Lora | None, ...]
    place: Program | Prompt | None = None

    @property
    def key(self) -> tuple:
        if isinstance(self.place, Program):
            return self.loras, id(self.place.masks), self.place.active, self.place.lengths
        return self.loras, self.place and self.place.key


@dataclass
class LoraRun:
    """One run's memory: entries with a LoRA of their own by uuid; terms and places on their devices."""

    family: Family | None
    entries: dict[object, Route]
    kept: dict = field(default_factory=dict)
    said: set[str] = field(default_factory=set)

    def say(self, text: str) -> None:
        if text not in self.said:
            self.said.add(text)
            log.warning("%s", text)

    def keep(self, key: tuple, make: Callable[[], Any]) -> Any:
        if key not in self.kept:
            self.kept[key] = make()
        return self.kept[key]

    def terms(self, lora: Lora, path: str, module: torch.nn.Module, x: Tensor) -> list[LayerTerm]:
        """What a LoRA has for a module, where x is and of x's type."""
        return self.keep((lora, path, x.device, x.dtype), lambda: [
            term_of(layer, module, lora.strength, x.device, x.dtype) for layer in lora.layers.get(path, ())])


@dataclass
class Call:
    """One model call. spans: first row, rows and Route of neighbours in the batch that are routed alike.

    size: rows of the batch; full: rows and columns of the latent; further: tokens behind the picture's, all
    filled up to a multiple of `step`. grid, appended: of the UNet's block that is running: its rows and
    columns, and how many text tokens stand behind its own.
    """

    run: LoraRun
    spans: list[tuple[int, int, Route]]
    size: int
    full: tuple[int, int]
    further: int = 0
    step: int = 1
    grid: tuple[int, int] = (0, 0)
    appended: int = 0

    def enter(self, module: torch.nn.Module, given: tuple) -> None:
        """Forward pre-hook of a UNet's transformers."""
        self.grid = tuple(given[0].shape[-2:])

    def count(self, q: Tensor, k: Tensor, v: Tensor, options: dict) -> tuple[Tensor, Tensor, Tensor]:
        """attn2_patch behind the one that appends texts."""
        self.appended = options.get(APPENDED, 0)
        return q, k, v

    def add(self, path: str, module: torch.nn.Module, given: tuple, output: Tensor) -> Tensor:
        """Forward hook: the module's output with what each region's LoRA adds to its rows."""
        x, y = given[0], output.contiguous()
        for start, count, route in self.spans:
            mine = slice(start, start + count) if len(x) == self.size else slice(None)
            places = self.places(count, route, path, hasattr(module, "kernel_size"), x, y)
            for lora, place in zip(route.loras, places, strict=True):
                if lora is not None and place is not None:
                    for term in self.run.terms(lora, path, module, x):
                        add_term(term, x[mine], y[mine], place)
        return y

    def places(self, count: int, route: Route, path: str, conv: bool, x: Tensor,
               y: Tensor) -> list[Part | Window | None]:
        """Where in a module's output each LoRA of a route acts, which has `count` rows of the batch."""
        nowhere, place = [None] * len(route.loras), route.place
        shape = tuple(y.shape[2:]) if conv else (x.shape[1:-1].numel(),)
        if place is not None and (shape == (1,) or BY_NUMBER in path):  # vectors: of time, size or style
            return nowhere
        reads = isinstance(place, Program) and path.endswith(READS_TEXT)
        if reads and not self.appended:  # its texts are kept from an earlier step
            return nowhere
        if len(x) != self.size != count:  # rows that are no longer the batch's
            found = []
        elif place is None:
            found = [Window(None, None) if conv else Part(None, None)]
        else:
            key = route.key, conv, reads, shape, self.grid, self.appended, self.further, x.device
            found = self.run.keep(key, lambda: self.find(place, conv, reads, shape, x.device))
        if not found:
            self.run.say(MOVED)
        return found or nowhere

    def find(self, place: Program | Prompt, conv: bool, reads: bool, shape: tuple[int, ...],
             device: torch.device) -> list[Part | Window | None]:
        """The same for a layer of such a shape; [] where that tells nothing."""
        if reads:
            return text_parts(place.lengths, shape[0] - self.appended, device)
        if isinstance(place, Prompt):
            if conv:
                return windows(place.parts(device)[1:], shape) if shape == place.grid else []
            return sequence_parts(place, *shape, self.further, self.step, device)
        grid = shape if conv else self.grid
        if math.prod(grid) != math.prod(shape):
            return []
        parts = Texts().parts_of(place, grid, self.full, device)[1:]
        return windows(parts, grid) if conv else parts


def windows(parts: list[Part | None], grid: tuple[int, int]) -> list[Window | None]:
    return [None if part is None else find_window(part, grid) for part in parts]


def add_term(term: LayerTerm, x: Tensor, y: Tensor, place: Part | Window) -> None:
    if term.kernel is not None:
        add_conv(term.add, term.kernel, x, y, place)
        return
    x, y = x.reshape(len(x), -1, x.shape[-1]), y.view(len(y), -1, y.shape[-1])
    if term.offset is not None:
        axis, start, length = term.offset
        x, y = (x, y.narrow(-1, start, length)) if axis == 0 else (x.narrow(-1, start, length), y)
    add_tokens(term.add, x, y, place)


def spans_of(routes: list[Route | None], size: int) -> list[tuple[int, int, Route]]:
    """Neighbours among the prompts of a batch, `size` rows each, that are routed alike."""
    spans, start = [], 0
    for _, group in groupby(routes, lambda route: route and route.key):
        found = list(group)
        if found[0] is not None:
            spans.append((start * size, len(found) * size, found[0]))
        start += len(found)
    return spans


def open_call(run: LoraRun, model, x: Tensor, routes: list[Route | None], references: list | None) -> Call:
    call = Call(run, spans_of(routes, len(x) // len(routes)), len(x), tuple(x.shape[-2:]))
    if any(isinstance(route and route.place, Prompt) for route in routes):
        net = model.diffusion_model
        call.step = multiple_of(net)
        for reference in references or ():
            (rows, columns), frames = picture_grid(run.family, net, reference)
            call.further += frames * rows * columns
    return call


def hang(hooks: ExitStack, call: Call, model: torch.nn.Module, paths: Iterable[str]) -> None:
    """A call's hooks, which go when the stack is closed."""
    for path in paths:
        hooks.callback(model.get_submodule(path).register_forward_hook(partial(call.add, path)).remove)
    for module in model.modules():
        if isinstance(module, SpatialTransformer):
            hooks.callback(module.register_forward_pre_hook(call.enter).remove)


def act(executor, x, t, c_concat, c_crossattn, control, transformer_options, **extra):
    """APPLY_MODEL: hooks on the layers that this batch's LoRAs touch, for this one call."""
    run, model, options = transformer_options.get(KEY), executor.class_obj, transformer_options
    known = {} if run is None else {**run.entries, **options.get(ROUTES, {})}
    routes = [known.get(uuid) for uuid in options.get("uuids", ())]
    loras = dict.fromkeys(lora for route in routes if route is not None for lora in route.loras if lora)
    if loras and comfy.patcher_extension.get_wrappers_with_key(HOOKS.APPLY_MODEL, "torch.compile", options):
        run.say(COMPILED)
        loras = {}
    with ExitStack() as hooks:
        if loras:
            call = open_call(run, model, x, routes, extra.get("ref_latents"))
            if run.family is UNET:
                patches = options.get("patches", {})
                counted = [*patches.get("attn2_patch", ()), call.count]
                options = {**options, "patches": {**patches, "attn2_patch": counted}}
            hang(hooks, call, model, dict.fromkeys(path for lora in loras for path in lora.layers))
        return executor(x, t, c_concat, c_crossattn, control, options, **extra)


def begin(executor, *arguments, **options):
    """OUTER_SAMPLE: the run's memory, in its own copy of the model options."""
    guider = executor.class_obj
    entries = {cond["uuid"]: Route((cond[KEY],)) for conds in guider.conds.values() for cond in conds
               if KEY in cond}
    own = guider.model_options.setdefault("transformer_options", {})
    own[KEY] = LoraRun(find_family(guider.model_patcher), entries)
    return executor(*arguments, **options)


def add_loras(model):
    """A clone of the model on which LoRAs that routes or entries bring along act."""
    patched = model.clone()
    if not patched.get_wrappers(HOOKS.OUTER_SAMPLE, KEY):
        patched.add_wrapper_with_key(HOOKS.OUTER_SAMPLE, KEY, begin)
        patched.add_wrapper_with_key(HOOKS.APPLY_MODEL, KEY, act)
    return patched


def carry_loras(texts: tuple[list, ...], loras: tuple[Lora | None, ...]) -> tuple[list, ...]:
    """For mode latent: each region's conditioning, its entries with the region's LoRA."""
    return tuple(entries if lora is None else [[text, {**values, KEY: lora}] for text, values in entries]
                 for entries, lora in zip(texts, loras, strict=True))
