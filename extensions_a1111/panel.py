"""What spectral guidance's widgets say, by position or by name -> Panel: recipe, companions, infotext."""
from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..plugin import Knob, Registry, read_knobs
from ..samplers.guidance import GROUPS, Companions
from ..samplers.recipe import PRESETS, Settings, bind, compose
from ..samplers.spectral import BANDS, Recipe
from ..samplers.structure import MAPS

TITLE = "Tweedie Spectral Guidance"
CHOICES: dict[str, Registry] = {"bands": BANDS, "structure": MAPS}
GROUP_LABELS = {"apg": "APG", "cfg_zero_star": "CFG-Zero*"}


class Form(NamedTuple):
    """A widget. part: bands, structure, settings or companions; id: which band, map or correction it sets."""

    knob: Knob
    label: str
    part: str = ""
    id: str = ""


def spoken(name: str) -> str:
    return name.replace("_", " ")


def read_registry(part: str) -> Iterator[tuple[str, Form]]:
    """The choice among a registry's plugins, neutral at first, then every plugin's knobs."""
    plugins = CHOICES[part]
    yield part, Form(Knob(part, str, next(iter(plugins)), choices=tuple(plugins)), part.capitalize(), part)
    for id, plugin in plugins.items():
        for knob in plugin.knobs:
            yield f"{id}_{knob.name}", Form(knob, f"{plugin.label}: {spoken(knob.name)}", part, id)


def read_companions() -> Iterator[tuple[str, Form]]:
    """A correction's own knobs carry its name: interval_low is no band's low."""
    for knob in read_knobs(Companions):
        group = next((group for group, names in GROUPS.items() if knob.name in names), knob.name)
        label = GROUP_LABELS.get(group, group.capitalize())
        if knob.name == group:
            yield group, Form(knob, label, "companions", group)
        else:
            yield f"{group}_{knob.name}", Form(knob, f"{label}: {spoken(knob.name)}", "companions", group)


@functools.cache
def forms() -> Mapping[str, Form]:
    """name -> widget, in the panel's order, which is that of the API's `args`."""
    settings = {knob.name: Form(knob, spoken(knob.name).capitalize(), "settings")
                for knob in read_knobs(Settings)}
    return {"enabled": Form(Knob("enabled", bool, False), "Enabled"), **dict(read_registry("bands")),
            **dict(read_registry("structure")), **settings, **dict(read_companions())}


def weights() -> dict[str, Form]:
    """The widgets that presets and axes set: all but the switch and the companions."""
    return {name: form for name, form in forms().items() if form.part not in ("", "companions")}


def key_of(name: str) -> str:
    """The widget's key in infotext."""
    return "Tweedie spectral guidance" if name == "enabled" else f"Tweedie {spoken(name)}"


@dataclass(frozen=True)
class Panel:
    """Checked values of all the widgets, by name."""

    values: Mapping[str, Any]

    def knobs(self, part: str, id: str = "") -> dict[str, Any]:
        return {form.knob.name: self.values[name] for name, form in forms().items()
                if form.part == part and (form.id == id or not id)}

    @property
    def settings(self) -> Settings:
        return Settings(**self.knobs("settings"))

    @property
    def companions(self) -> Companions:
        return Companions(**self.knobs("companions")).checked()

    @property
    def weighs(self) -> tuple[str, ...]:
        """Which of bands and structure may differ from plain guidance."""
        if self.values["strength"] == 0:
            return ()
        band = self.values["bands"]
        set_apart = self.knobs("bands", band) != {knob.name: knob.default for knob in BANDS[band].knobs}
        return ("bands",) * set_apart + ("structure",) * (self.values["structure"] != "off")

    @property
    def neutral(self) -> bool:
        return not self.values["enabled"] or (not self.weighs and self.companions.neutral)

    def bound(self, part: str) -> Callable | None:
        """The chosen band, radius -> gain, or the chosen map, with its knobs."""
        id = self.values[part]
        return bind(id, CHOICES[part], self.knobs(part, id))

    def recipe(self, powers: Sequence[float]) -> Recipe:
        return compose(self.bound("bands"), self.bound("structure"), self.settings, powers)

    def infotext(self) -> dict[str, Any]:
        """Whatever makes the picture another than the host's own: what acts is written whole."""
        if self.neutral:
            return {}
        return {key_of(name): self.values[name] for name, form in forms().items() if self.acts(name, form)}

    def acts(self, name: str, form: Form) -> bool:
        if form.part in CHOICES:
            return form.part in self.weighs and form.id in ("", self.values[form.part])
        if form.part == "settings":
            return bool(self.weighs) and self.values[name] != form.knob.default
        return not form.part or bool(self.values[form.id])


def fill(preset: str) -> dict[str, Any]:
    """The values that a preset gives to `weights`."""
    if preset not in PRESETS:
        raise ValueError(f"{TITLE}: preset is {preset!r}; choose one of {', '.join(PRESETS)}")
    given = dict(PRESETS[preset])
    knobs = {"bands": given.pop("band_knobs", {}), "structure": given.pop("map_knobs", {})}
    owned = {f"{given[part]}_{name}": value for part in knobs for name, value in knobs[part].items()}
    return {name: form.knob.default for name, form in weights().items()} | given | owned


def overlay(values: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, Any]:
    """values with those of `names` in their place: a preset first, then widgets, then knobs of the chosen.

    {"bands": "tilt", "slope": 1} sets the widget tilt_slope.
    """
    values, names = dict(values), dict(names)
    if preset := names.pop("preset", ""):
        values |= fill(preset)
    values |= {name: names.pop(name) for name in list(names) if name in forms()}
    for part in CHOICES:
        own = {name: f"{values[part]}_{name}" for name in names if f"{values[part]}_{name}" in forms()}
        values |= {full: names.pop(name) for name, full in own.items()}
    if names:
        known = [name for name, form in forms().items() if form.part not in CHOICES or not form.id]
        chosen = [form.knob.name for form in forms().values()
                  if form.id and form.id == values.get(form.part)]
        raise ValueError(f"{TITLE}: unknown {', '.join(map(str, names))}; it takes "
                         f"{', '.join(['preset', *known, *chosen])}")
    return values


def check(form: Form, value: Any) -> Any:
    return form.knob.check(value, form.label.partition(":")[0] if form.id else TITLE)


def read(values: Sequence[Any], axes: Mapping[str, Any] | None = None) -> Panel:
    """The widgets' values in order, or the first of them a dict of names; ValueError says what is wrong.

    axes: what X/Y/Z plots set in this cell, by name; an axis switches the panel on, and chooses its knob's
    band or map. Positions move where a plugin adds a band or a map; names stay.
    """
    given = {name: form.knob.default for name, form in forms().items()}
    given = overlay(given, values[0]) if values and isinstance(values[0], Mapping) else given | dict(
        zip(forms(), values, strict=False))
    if axes:
        owners = [forms()[name] for name in axes if name in forms()]
        implied = {form.part: form.id for form in owners if form.part in CHOICES and form.id}
        given = overlay(given, {"enabled": True, **implied, **axes})
    return Panel({name: check(form, given[name]) for name, form in forms().items()})
