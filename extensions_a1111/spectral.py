"""The A1111 family's panel "Tweedie Spectral Guidance": weighted guidance and its companions, for one pass.

Off by default. API, in alwayson_scripts:
{"Tweedie Spectral Guidance": {"args": [{"enabled": true, "bands": "tilt", "slope": 1}]}},
or the values of all widgets in their order.
"""
from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import gradio as gr
from modules import scripts
from torch import Tensor

from ..samplers.recipe import PRESETS
from ..samplers.spectral import BANDS
from . import axes, host, widgets
from .panel import CHOICES, TITLE, fill, forms, key_of, read, weights
from .scope import enclose_next_pass
from .weigh import make_change

log = logging.getLogger("tweedie")


def register() -> None:
    """Read the plugins before the panel is drawn, and give the grid script our axes."""
    host.load_strangers()
    axes.register()


def why_untouched(p: Any, x: Tensor) -> str:
    """What of this pass leaves nothing to weigh; "" where guidance is as it should be."""
    if host.asked_scale(p) in (0, 1):
        return f"guidance scale is {host.asked_scale(p):g}, there is no guidance to weigh"
    if x.ndim not in (4, 5):
        return f"the latent has shape {list(x.shape)}, without rows and columns"
    image_scale = getattr(p.sampler.model_wrap_cfg, "image_cfg_scale", None)
    if getattr(p.sd_model, "cond_stage_key", "") == "edit" and image_scale not in (None, 1):
        return "an edit model guides by picture too"
    return ""


@contextmanager
def one_pass(values: tuple, p: Any, x: Tensor, steps: int | None, partial: bool) -> Iterator[None]:
    """All that the panel does to one pass, undone when it ends; raises ValueError for what can't be."""
    panel = read(values, getattr(p, axes.ATTRIBUTE, None))
    if panel.neutral:
        yield
        return
    change = make_change(panel, p, x)
    if reason := why_untouched(p, x):
        log.warning("%s: %s; the picture is the host's own", TITLE, reason)
        yield
        return
    with host.after_cfg(p, change):
        yield


def preview(*values: Any):
    """The chosen band's gain over frequency [H,W,3], uint8."""
    from ..samplers.spectrum import draw_gains

    try:
        panel = read(values)
        picture = draw_gains({BANDS[panel.values["bands"]].label: panel.bound("bands")})
    except ValueError as error:
        raise gr.Error(str(error)) from error
    return (picture * 255).round().byte().cpu().numpy()


def choose_preset(preset: str) -> list:
    """An update for each of `weights`."""
    if not preset:
        return [gr.update() for _ in weights()]
    return [gr.update(value=value) for value in fill(preset).values()]


class TweedieSpectralGuidance(scripts.Script):
    def title(self) -> str:
        return TITLE

    def show(self, is_img2img: bool):
        return scripts.AlwaysVisible

    def ui(self, is_img2img: bool) -> list:
        controls: dict[str, gr.components.Component] = {}
        with gr.Accordion(TITLE, open=False, elem_id=self.elem_id("panel")):
            self.draw(controls, "")
            preset = gr.Dropdown(choices=["", *PRESETS], value="", label="Preset (fills what is below)",
                                 elem_id=self.elem_id("preset"))
            for part in ("bands", "structure", "settings"):
                self.draw(controls, part)
            with gr.Accordion("Companions", open=False):
                self.draw(controls, "companions")
            button = gr.Button("Draw gains")
            picture = gr.Image(label="Gains", show_label=False, interactive=False)
        preset.change(fn=choose_preset, inputs=[preset], outputs=[controls[name] for name in weights()])
        button.click(fn=preview, inputs=[controls[name] for name in forms()], outputs=[picture])
        self.infotext_fields = [(control, widgets.from_infotext(forms()[name].knob, key_of(name)))
                                for name, control in controls.items()]
        self.paste_field_names = [key_of(name) for name in controls]
        return [controls[name] for name in forms()]

    def draw(self, controls: dict, part: str) -> None:
        """A part's widgets; of a registry's plugins, only the chosen one's show."""
        columns = {}
        for id, rows in groupby(forms().items(), key=lambda row: row[1].id if row[1].part == part else None):
            if id is None:
                continue
            hidden = part in CHOICES and id not in ("", forms()[part].knob.default)
            with gr.Column(visible=not hidden) as columns[id]:
                for name, form in rows:
                    controls[name] = widgets.draw(form.knob, form.label, elem_id=self.elem_id(name))
        if part in CHOICES:
            columns.pop("")
            widgets.show_chosen(controls[part], columns)

    def process(self, p, *values) -> None:
        for name in forms():  # a grid's cells share one dict
            p.extra_generation_params.pop(key_of(name), None)
        with contextlib.suppress(ValueError):  # the pass raises it where the user sees it
            panel = read(values, getattr(p, axes.ATTRIBUTE, None))
            p.extra_generation_params.update(panel.infotext())

    def process_before_every_sampling(self, p, *values, **tensors) -> None:
        if values[0] or getattr(p, axes.ATTRIBUTE, None):
            enclose_next_pass(p.sampler, functools.partial(one_pass, values), TITLE)
