"""The panel of blended ControlNet units: what it reads and writes, what it tells; its grid axes."""
import sys
from types import SimpleNamespace
from typing import Annotated

import pytest
import torch
from tweedie_pack.controls import multi
from tweedie_pack.controls.blends import BLENDS
from tweedie_pack.controls.curves import CURVES, Curve
from tweedie_pack.extensions_a1111 import controls_panel as panel
from tweedie_pack.plugin import Range, read_knobs
from webui_controls import PlugableControlModel, alone, controls_script, differ, make_run, make_unit, through
from webui_standins import noise

ON = {"enabled": True}
FULL = ON | {"policy": "gate", "gate_temperature": 0.3, "reuse": "interval", "interval": 3,
             "curves": "lines\n\n0:1, 1:0", "priorities": "2, 1", "union": True}


@pytest.fixture
def controls(monkeypatch):
    with controls_script(monkeypatch) as module:
        yield module


@pytest.fixture
def fresh_knobs():
    panel.knobs.cache_clear()
    yield
    panel.knobs.cache_clear()


def reading(names, axes=None):
    return panel.read([names], axes)


def test_the_widgets_are_the_knobs_of_the_core():
    knobs = panel.knobs()
    assert knobs["policy"].choices == tuple(BLENDS) and not panel.read([]).enabled
    for id, plugin in BLENDS.items():
        assert [knobs[f"{id}_{knob.name}"] for knob in plugin.knobs] == list(plugin.knobs)
    assert [knobs["reuse"], knobs["interval"], knobs["threshold"]] == list(read_knobs(multi.Reuse))
    assert len({panel.label_of(name) for name in knobs}) == len(knobs)
    assert len({panel.key_of(name) for name in knobs}) == len(knobs)


def test_positions_and_names_say_the_same():
    named = reading(FULL)
    assert panel.read(list(named.values.values())) == named and panel.read([True]) == reading(ON)
    assert named.reuse == multi.Reuse("interval", 3, 0.1) and named.union and named.enabled


def test_an_axis_switches_the_panel_on():
    assert panel.read([False], {"policy": "rms"}) == reading(ON | {"policy": "rms"})
    assert panel.read([False], {"enabled": False, "policy": "rms"}) == reading({"policy": "rms"})


@pytest.mark.parametrize("names, words", [
    ({"tau": 2}, "unknown tau; it takes enabled, policy, cap_tau"), ({3: 1}, "unknown 3"),
    ({"policy": "loudest"}, "policy is 'loudest'; choose one of sum, cap"),
    ({"cap_tau": 9}, "tau is 9; give a number from 1 to 4"), ({"interval": 1}, "interval is 1; give"),
    ({"reuse": "always"}, "mode is 'always'; choose one of off"), ({"enabled": 1}, "enabled is 1; give true"),
    ({"curves": 1}, "curves is 1; give a text"), ({"priorities": [1, 2]}, r"priorities is \[1, 2\]; give"),
])
def test_a_wrong_value_says_what_is_wrong_and_what_is_right(names, words):
    with pytest.raises(ValueError, match=words):
        reading(ON | names)


def test_rules_are_lines_and_numbers_in_the_units_order():
    rules = reading(ON | {"curves": "lines\n\n0:1, 1:0\n", "priorities": " 2; -1,"}).rules(4)
    curves = [Curve(CURVES[name]) for name in ("lines", "always", "fade out", "always")]
    assert [rule.curve for rule in rules] == curves
    assert [rule.priority for rule in rules] == [2, -1, 0, 0]
    assert reading(ON).rules(2) == [multi.Rule()] * 2 and reading(ON).rules(0) == []


@pytest.mark.parametrize("names, words", [
    ({"curves": "1\n1\n1"}, "3 curves for 2 enabled units; take some away"),
    ({"priorities": "1 2 3"}, "3 priorities for 2 enabled units"),
    ({"priorities": "first"}, "priorities are 'first'; give numbers"),
    ({"priorities": "nan"}, "priority nan; give"), ({"priorities": "1e999"}, "priority inf; give"),
    ({"priorities": "x" * 100_000}, "priorities are 'x{60}'; give numbers"),
    ({"curves": "1\nsoon"}, "curve 2: 'soon' is neither a preset nor points; choose one of always"),
    ({"curves": "0:nan"}, "out of range"), ({"curves": "0:1 0:-1"}, "out of range"),
    ({"curves": "1:0 0:1"}, "go back"), ({"curves": "0:1 " * 100_000}, "give at most 64 points"),
    ({"curves": "\n" * 100_000 + "1"}, "100001 curves for 2 enabled units"),
], ids=lambda value: str(value)[:30])
def test_rules_that_can_not_be_say_so(names, words):
    with pytest.raises(ValueError, match=words):
        reading(ON | names).rules(2)


@pytest.mark.parametrize("id", BLENDS)
def test_every_policy_gets_its_own_knobs(id):
    residuals, weights = [noise(2, 1), noise(2, 2)], [1.0, 0.5]
    for knob in (None, *BLENDS[id].knobs):
        own = {} if knob is None else {knob.name: knob.range.high}
        names = {f"{id}_{name}": value for name, value in own.items()}
        got = reading(ON | {"policy": id} | names).policy(residuals, weights)
        assert torch.equal(got, BLENDS[id](residuals, weights, **own))


def paste(text):
    from tweedie_pack.extensions_a1111.widgets import from_infotext
    return [from_infotext(knob, panel.key_of(name))(text) for name, knob in panel.knobs().items()]


def test_infotext_brings_back_what_acts_and_resets_the_others(controls):
    given = reading(FULL | {"cap_tau": 3, "threshold": 0.5})  # knobs that do not act now
    text = {key: str(value) for key, value in given.infotext().items()}
    assert panel.read(paste(text)) == reading(FULL)
    assert reading({"policy": "cap"}).infotext() == {} and not panel.read(paste({})).enabled
    assert reading(ON).infotext() == {"Tweedie controls": True, "Tweedie controls policy": "sum"}
    names = ON | {"policy": "gate", "interval": 5, "reuse": "threshold", "threshold": 0.2}
    assert reading(names).infotext() == {
        "Tweedie controls": True, "Tweedie controls policy": "gate", "Tweedie controls reuse": "threshold",
        "Tweedie controls threshold": 0.2}


def test_the_page_has_a_widget_for_every_knob_and_for_a_new_rows(controls, fresh_knobs):
    @BLENDS.add("lean", "Lean")
    def lean(residuals, weights, slant: Annotated[float, Range(0, 1, 0.1)] = 0.5):
        return residuals[0]

    try:
        script = controls.TweedieControlBlend()
        script.elem_id = lambda name: name
        assert len(script.ui(False)) == len(panel.knobs()) == len(script.infotext_fields)
        assert panel.knobs()["policy"].choices[-1] == "lean" and "lean_slant" in panel.knobs()
        assert script.paste_field_names == [panel.key_of(name) for name in panel.knobs()]
    finally:
        BLENDS.pop("lean")


def test_the_grid_has_an_axis_for_every_knob(controls):
    class Axis:
        def __init__(self, label, type, apply, choices=None):
            self.label, self.apply = label, apply

    grid = SimpleNamespace(AxisOption=Axis, axis_options=[])
    data = SimpleNamespace(path="/scripts/xyz_grid.py", module=grid)
    sys.modules["modules"].scripts.scripts_data.append(data)
    controls.register()
    rows = {option.label: option for option in grid.axis_options}
    assert len(rows) == len(panel.knobs())
    p = make_run(*[make_unit(PlugableControlModel(seed)) for seed in range(2)])
    rows["[Tweedie] Controls: policy"].apply(p, "strongest", [])
    assert differ(through(controls, p, {}), alone(p))
    assert p.extra_generation_params["Tweedie controls policy"] == "strongest"
    through(controls, p, {"policy": "rms"})
    assert p.extra_generation_params["Tweedie controls policy"] == "strongest"
