"""The A1111 family's panel "Tweedie Regional Prompt": what is said where, for every picture of a batch.

Off by default. API, in alwayson_scripts:
{"Tweedie Regional Prompt": {"args": [{"enabled": true, "ratios": "1,2,1"}]}},
or the values of all widgets in their order.
"""
from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import gradio as gr
from modules import scripts
from torch import Tensor

from ..controls.grammar import Tree
from ..plugin import Knob
from . import axes, host, widgets
from .regions_latent import blend_prompts, weigh_entries
from .regions_panel import LABELS, PAINTED, PRESETS, TILED, TIPS, TITLE, Settings, fill, key_of, knobs, read
from .regions_prompts import (
    base_of,
    count_shapes,
    draw_masks,
    is_plain,
    lay_over,
    read_tree,
    tell,
    tell_notes,
)
from .regions_run import Run, on_every_model
from .regions_unet import cross_attentions, route_modules, route_patched
from .scope import enclose_next_pass

log = logging.getLogger("tweedie")
AXES, BATCH, OVERLAYS = (f"tweedie_regional_{name}" for name in ("axes", "batch", "overlays"))  # of p
HIDDEN = ("ratios", "shapes", PAINTED)  # groups of widgets of which a layout shows one
LIVE = ("layout", "ratios", "base_ratio", "shapes", "flip", "flip_prompts", "feather", "picture")  # redraw
WATCHED = {"prompt": "", "neg_prompt": "", "width": 512, "height": 512}  # what a preview reads of the host


def register() -> None:
    """Read the plugins before the panel is drawn, and give the grid script our axes."""
    host.load_strangers()
    axes.register(AXES, axis_rows)


def axis_rows() -> list[axes.Row]:
    preset = Knob("preset", str, "", choices=tuple(PRESETS))
    rows = [(name, f"Regions: {name.replace('_', ' ')}", knob) for name, knob in knobs().items()]
    return [("preset", "Regions: preset", preset), *rows]


class Batch(NamedTuple):
    """The prompts of a batch, read: a tree for each picture, of the first pass and of hires."""

    settings: Settings
    first: list[Tree]
    hires: list[Tree]


def take_prompts(p: Any, settings: Settings) -> Batch:
    """Read the batch's prompts, and leave the host those without regions; p's own texts stay as they are.

    ValueError, and nothing taken, where a prompt does not fit the layout.
    """
    count = count_shapes(settings)

    def read_all(prompts, negatives):
        return [read_tree(settings, *texts, count) for texts in zip(prompts, negatives, strict=True)]

    hires = getattr(p, "enable_hr", False)
    first = read_all(p.prompts, p.negative_prompts)
    second = read_all(p.hr_prompts, p.hr_negative_prompts) if hires else []
    batch = slice(p.iteration * p.batch_size, (p.iteration + 1) * p.batch_size)
    written = read_all(p.all_prompts[batch], p.all_negative_prompts[batch])  # as the user counts characters
    for line in dict.fromkeys(line for tree in written for line in tell_notes(tree)):
        log.warning("%s: %s", TITLE, line)
        p.comment(f"{TITLE}: {line}")
    p.prompts, p.negative_prompts = [base_of(tree) for tree in first], [tree.negative for tree in first]
    if hires:
        p.hr_prompts, p.hr_negative_prompts = ([base_of(tree) for tree in second],
                                               [tree.negative for tree in second])
    return Batch(settings, first, second)


def hang(run: Run, guide: Any) -> AbstractContextManager:
    """The regions, on the model that is loaded now."""
    forge = host.sigma_keeper(run.p.sd_model) is not None
    if run.settings.mode == "attention":
        if has_cross_attention(run.p.sd_model, forge):
            run.encode()
            return (route_patched if forge else route_modules)(run, guide)
        log.warning("%s: mode attention is not there for this model, so latent mode was used: the model runs "
                    "once a region", TITLE)
        run.p.extra_generation_params[key_of("mode")] = "latent"
    run.encode()
    return (weigh_entries if forge else blend_prompts)(run, guide)


def has_cross_attention(sd_model: Any, forge: bool) -> bool:
    """Whether the model is a UNet whose cross attention can be reached."""
    if forge:
        return hasattr(sd_model.forge_objects.unet.model.diffusion_model, "input_blocks")
    from modules import sd_unet
    return sd_unet.current_unet is None and bool(cross_attentions(sd_model.model.diffusion_model))


@contextmanager
def one_pass(batch: Batch | ValueError, p: Any, x: Tensor, steps: int | None,
             partial: bool) -> Iterator[None]:
    """All that the panel does to one pass, undone when it ends; raises ValueError for what can't be."""
    if isinstance(batch, ValueError):
        raise batch
    trees = batch.hires if getattr(p, "is_hr_pass", False) else batch.first
    if all(is_plain(tree) for tree in trees):
        yield
        return
    if x.ndim not in (4, 5) or (x.ndim == 5 and x.shape[2] > 1):
        raise ValueError(f"Regions: the latent has shape {list(x.shape)}; only pictures can have regions, so "
                         "switch the panel off")
    guide = p.sampler.model_wrap_cfg
    run = Run(p, batch.settings, trees, tuple(x.shape[-2:]))
    with on_every_model(guide, functools.partial(hang, run, guide)):
        yield


def look(prompt: str, negative: str, width: float, height: float, *values: Any):
    """The layout [H,W,3], uint8, and what was read; ValueError says what can't be."""
    from ..controls.preview import draw_layout
    from ..samplers.sheet import load_font

    settings = read([True, *values[1:]])
    tree = read_tree(settings, prompt, negative, count_shapes(settings))
    masks = draw_masks(settings, tree, (int(height), int(width)))
    names = [cell.text for cell in tree.cells]
    picture = draw_layout(masks.shares(tuple(range(len(names)))), names, load_font)
    return (picture * 255).round().byte().cpu().numpy(), tell(tree)


def preview(*inputs: Any):
    try:
        return look(*inputs)
    except ValueError as error:
        raise gr.Error(str(error)) from error


def preview_live(*inputs: Any):
    """While the user is typing, what is wrong stands among the words and stops nobody."""
    try:
        return look(*inputs)
    except ValueError as error:
        return gr.update(), str(error)


def choose_preset(preset: str) -> list:
    """An update for each widget that a preset sets."""
    given = fill(preset) if preset else {}
    return [gr.update(value=given[name]) if name in given else gr.update() for name in preset_names()]


def preset_names() -> list[str]:
    return list(fill(next(iter(PRESETS))))


def group_of(layout: str) -> str:
    """Which group of widgets the layout reads."""
    return "ratios" if layout in TILED else PAINTED if layout == PAINTED else "shapes"


def show_group(layout: str) -> list:
    return [gr.update(visible=group == group_of(layout)) for group in HIDDEN]


class TweedieRegionalPrompt(scripts.Script):
    def __init__(self):
        super().__init__()
        self.watched: dict[str, gr.components.Component] = {}

    def title(self) -> str:
        return TITLE

    def show(self, is_img2img: bool):
        return scripts.AlwaysVisible

    def after_component(self, component, **options) -> None:
        """Keep the host's prompts and size at hand: they are drawn before us."""
        tab, _, name = str(options.get("elem_id")).partition("_")
        if tab in ("txt2img", "img2img") and name in WATCHED:
            self.watched[name] = component

    def ui(self, is_img2img: bool) -> list:
        controls: dict[str, gr.components.Component] = {}
        with gr.Accordion(TITLE, open=False, elem_id=self.elem_id("panel")):
            self.draw(controls, "enabled", "mode")
            preset = gr.Dropdown(choices=["", *PRESETS], value="", label="Preset (fills the layout)",
                                 elem_id=self.elem_id("preset"))
            self.draw(controls, "layout")
            groups = []
            for group in HIDDEN:
                with gr.Column(visible=group == "ratios") as column:
                    self.draw_group(controls, group)
                groups.append(column)
            self.draw(controls, "base_ratio", "flip_prompts", "feather", "start_percent", "end_percent",
                      "overlay")
            button = gr.Button("Draw layout")
            picture = gr.Image(label="Layout", show_label=False, interactive=False)
            notes = gr.Textbox(label="What was read", lines=4, interactive=False)
        inputs = [controls[name] for name in (*knobs(), "picture")]
        controls["layout"].change(fn=show_group, inputs=[controls["layout"]], outputs=groups)
        preset.change(fn=choose_preset, inputs=[preset], outputs=[controls[name] for name in preset_names()])
        watched = [self.watched.get(name) or gr.State(value) for name, value in WATCHED.items()]
        seen = {"inputs": [*watched, *inputs], "outputs": [picture, notes]}
        button.click(fn=preview, **seen)
        for name in LIVE:
            controls[name].change(fn=preview_live, **seen)
        self.infotext_fields = [(controls[name], widgets.from_infotext(knob, key_of(name)))
                                for name, knob in knobs().items()]
        self.paste_field_names = [key_of(name) for name in knobs()]
        return inputs

    def draw(self, controls: dict, *names: str) -> None:
        for name in names:
            more = {"info": TIPS[name], "lines": 4 if name == "shapes" else 1} if name in TIPS else {}
            controls[name] = widgets.draw(knobs()[name], LABELS[name], elem_id=self.elem_id(name), **more)

    def draw_group(self, controls: dict, group: str) -> None:
        if group == PAINTED:
            controls["picture"] = gr.Image(label="Colour map", type="numpy", image_mode="RGB",
                                           elem_id=self.elem_id("picture"))
        else:
            self.draw(controls, *{"ratios": ("ratios", "flip"), "shapes": ("shapes",)}[group])

    def process(self, p, *values) -> None:
        for name in knobs():  # a grid's cells share one dict
            p.extra_generation_params.pop(key_of(name), None)
        with contextlib.suppress(ValueError):  # the pass raises it where the user sees it
            p.extra_generation_params.update(read(values, getattr(p, AXES, None)).infotext())

    def process_batch(self, p, *values, **options) -> None:
        setattr(p, BATCH, None)
        if getattr(p, "_ad_inner", False):  # ADetailer's pass over a detail: its prompt is its own
            return
        try:
            settings = read(values, getattr(p, AXES, None))
            if settings.enabled:
                setattr(p, BATCH, take_prompts(p, settings))
        except ValueError as error:  # the host would swallow it here
            setattr(p, BATCH, error)

    def process_before_every_sampling(self, p, *values, **tensors) -> None:
        if batch := getattr(p, BATCH, None):
            enclose_next_pass(p.sampler, functools.partial(one_pass, batch), TITLE)

    def postprocess_image(self, p, done, *values) -> None:
        batch = getattr(p, BATCH, None)
        if isinstance(batch, Batch) and batch.settings.overlay and not is_plain(batch.first[p.batch_index]):
            shown = lay_over(done.image, batch.settings, batch.first[p.batch_index])
            setattr(p, OVERLAYS, [*getattr(p, OVERLAYS, []), shown])

    def postprocess(self, p, processed, *values) -> None:
        """Behind all pictures; nothing of them is saved."""
        shown = getattr(p, OVERLAYS, [])
        processed.images.extend(shown)
        processed.infotexts.extend([f"{TITLE}: the layout"] * len(shown))
