"""A knob as a ComfyUI widget, a registry as a DynamicCombo whose options carry their own knobs."""
from __future__ import annotations

from comfy_api.latest import io

from ..plugin import Knob, Registry


def widget(knob: Knob) -> io.Input:
    if knob.choices:
        return io.Combo.Input(knob.name, options=list(knob.choices), default=knob.default)
    if knob.kind is bool:
        return io.Boolean.Input(knob.name, default=knob.default)
    number = io.Int if knob.kind is int else io.Float
    return number.Input(knob.name, default=knob.default, min=knob.range.low, max=knob.range.high,
                        step=knob.range.step, tooltip=knob.range.tip)


def options(choices: dict[str, list[io.Input]]) -> list[io.DynamicCombo.Option]:
    return [io.DynamicCombo.Option(name, inputs) for name, inputs in choices.items()]


def chooser(id: str, registry: Registry, tooltip: str) -> io.Input:
    choices = {plugin.id: [widget(knob) for knob in plugin.knobs] for plugin in registry.values()}
    return io.DynamicCombo.Input(id, options=options(choices), tooltip=tooltip)


def choose(registry: Registry, value: dict, name: str):
    """What a chooser sent, `{name: id, knob: value, ..}`, as the plugin with its checked knobs bound."""
    plugin, knobs = registry[value[name]], {key: knob for key, knob in value.items() if key != name}
    return lambda *contract: plugin(*contract, **knobs)
