"""The A1111 family's panel "Tweedie Control Blend": how the ControlNet units of a picture act together.

Off by default; it works on the units of sd-webui-controlnet, and of the ControlNet that is built into Forge,
reForge and Neo. API, in alwayson_scripts:
{"Tweedie Control Blend": {"args": [{"enabled": true, "policy": "cap"}]}}, or all widgets' values in order.
"""
from __future__ import annotations

import contextlib
import functools
import pathlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr
from modules import scripts
from torch import Tensor

from . import axes, host, widgets
from .controls_chain import blend_chain
from .controls_panel import BLENDS, TIPS, TITLE, key_of, knobs, label_of, read
from .controls_units import blend_units
from .scope import enclose_next_pass

AXES = "tweedie_control_axes"  # of p: {name: value}, what the axes of this cell have set
MISSING = "No ControlNet is installed, so this panel does nothing: install sd-webui-controlnet."


def register() -> None:
    """Read the plugins before the panel is drawn, and give the grid script our axes."""
    host.load_strangers()
    axes.register(AXES, lambda: [(name, f"Controls: {label_of(name).lower()}", knob)
                                 for name, knob in knobs().items()])


def has_controlnet() -> bool:
    return any(pathlib.Path(data.path).name == "controlnet.py" for data in scripts.scripts_data)


@contextmanager
def one_pass(values: tuple, p: Any, x: Tensor, steps: int | None, partial: bool) -> Iterator[None]:
    """All that the panel does to one pass, undone when it ends; raises ValueError for what can't be."""
    settings = read(values, getattr(p, AXES, None))
    if not settings.enabled:
        yield
        return
    forge = host.sigma_keeper(p.sd_model) is not None
    with (blend_chain if forge else blend_units)(settings, p):
        yield


class TweedieControlBlend(scripts.Script):
    def title(self) -> str:
        return TITLE

    def show(self, is_img2img: bool):
        return scripts.AlwaysVisible

    def ui(self, is_img2img: bool) -> list:
        controls: dict[str, gr.components.Component] = {}
        with gr.Accordion(TITLE, open=False, elem_id=self.elem_id("panel")):
            if not has_controlnet():
                gr.Markdown(MISSING)
            self.draw(controls, "enabled", "policy")
            columns = {}
            for id, plugin in BLENDS.items():
                with gr.Column(visible=id == knobs()["policy"].default) as columns[id]:
                    self.draw(controls, *(f"{id}_{knob.name}" for knob in plugin.knobs))
            widgets.show_chosen(controls["policy"], columns)
            self.draw(controls, "curves", "priorities", "reuse", "interval", "threshold", "union")
        self.infotext_fields = [(controls[name], widgets.from_infotext(knob, key_of(name)))
                                for name, knob in knobs().items()]
        self.paste_field_names = [key_of(name) for name in knobs()]
        return [controls[name] for name in knobs()]

    def draw(self, controls: dict, *names: str) -> None:
        for name in names:
            more = {"info": TIPS[name], "lines": 3 if name == "curves" else 1} if name in TIPS else {}
            controls[name] = widgets.draw(knobs()[name], label_of(name), elem_id=self.elem_id(name), **more)

    def process(self, p, *values) -> None:
        for name in knobs():  # a grid's cells share one dict
            p.extra_generation_params.pop(key_of(name), None)
        with contextlib.suppress(ValueError):  # the pass raises it where the user sees it
            p.extra_generation_params.update(read(values, getattr(p, AXES, None)).infotext())

    def process_before_every_sampling(self, p, *values, **tensors) -> None:
        if not getattr(p, "_ad_inner", False):  # ADetailer's pass has units of its own
            enclose_next_pass(p.sampler, functools.partial(one_pass, values), TITLE)
