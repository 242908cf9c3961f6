"""plugin.Knob -> gradio component, and back from infotext; works with gradio 3 and 4."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from ..plugin import Knob


def draw(knob: Knob, label: str, **options: Any) -> gr.components.Component:
    if knob.choices:
        return gr.Dropdown(choices=list(knob.choices), value=knob.default, label=label, **options)
    if knob.kind is bool:
        return gr.Checkbox(value=knob.default, label=label, **options)
    if knob.kind is str:
        return gr.Textbox(value=knob.default, label=label, **options)
    low, high, step, tip = knob.range.low, knob.range.high, knob.range.step, knob.range.tip or None
    return gr.Slider(minimum=low, maximum=high, step=step, value=knob.default, label=label, info=tip,
                     **options)


def from_infotext(knob: Knob, key: str) -> Callable[[dict], Any]:
    """A paste function: the picture's value in the knob's type, or the default where the picture has none."""
    def read(parameters: dict) -> Any:
        if key not in parameters:
            return knob.default
        return parameters[key] == "True" if knob.kind is bool else knob.kind(parameters[key])
    return read


def show_chosen(choice: gr.components.Component, columns: dict[str, gr.Column]) -> None:
    """Only the column of the chosen id is visible."""
    def show(chosen: str):
        updates = [gr.update(visible=id == chosen) for id in columns]
        return updates if len(updates) > 1 else updates[0]
    choice.change(fn=show, inputs=[choice], outputs=list(columns.values()))
