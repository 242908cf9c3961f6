"""What the web UIs' panel of spectral guidance reads, by position, name, preset, axis and infotext."""
import sys
from unittest.mock import MagicMock

import pytest
from tweedie_pack.extensions_a1111 import panel
from tweedie_pack.plugin import read_knobs
from tweedie_pack.samplers.guidance import Companions
from tweedie_pack.samplers.recipe import PRESETS, Settings
from tweedie_pack.samplers.spectral import BANDS
from tweedie_pack.samplers.structure import MAPS
from webui_standins import ACCOMPANIED, LOW, ON, WEIGHED, forget, reading


def test_every_knob_of_the_core_is_a_widget_with_the_cores_own_range_and_default():
    forms = panel.forms()
    for registry in (BANDS, MAPS):
        for id, plugin in registry.items():
            assert {name: forms[f"{id}_{name}"].knob for name in [k.name for k in plugin.knobs]} == {
                knob.name: knob for knob in plugin.knobs}
    for knob in read_knobs(Settings):
        assert forms[knob.name].knob == knob
    knobs = [form.knob for form in forms.values() if form.part == "companions"]
    assert knobs == list(read_knobs(Companions))
    assert forms["bands"].knob.choices == tuple(BANDS) and forms["structure"].knob.choices == tuple(MAPS)
    assert next(iter(forms)) == "enabled" and not panel.read([]).values["enabled"]
    assert len({form.label for form in forms.values()}) == len({panel.key_of(n) for n in forms}) == len(forms)


def test_names_set_the_chosen_bands_and_maps_knobs():
    values = reading(ON | {"bands": "tilt", "slope": 1, "structure": "coherence", "amount": 2, "apg": True,
                           "interval_low": -2, "three_band_mid": 2}).values
    assert (values["tilt_slope"], values["coherence_amount"], values["interval_low"]) == (1.0, 2.0, -2.0)
    assert values["apg"] and values["three_band_mid"] == 2 and values["two_band_low"] == 1


def test_positions_and_names_say_the_same():
    named = reading(LOW | {"structure": "coherence", "rescale": 0.5})
    assert panel.read(list(named.values.values())) == named
    assert panel.read([True]).values == panel.read([]).values | {"enabled": True}


@pytest.mark.parametrize("names, words", [
    (ON | {"lwo": 2}, "unknown lwo; it takes .*cutoff"),
    (ON | {"bands": "tilt", "low": 2}, "unknown low; .*slope"),
    (ON | {"amount": 2}, "unknown amount"),
    (ON | {"low": 9}, "Two bands: low is 9; give a number from 0 to 5"),
    (ON | {"low": "much"}, "low is 'much'; give a number"),
    (ON | {"bands": "wavelet"}, "bands is 'wavelet'; choose one of two_band"),
    (ON | {"time": "later"}, "time is 'later'; choose one of constant"),
    ({"enabled": "yes"}, "enabled is 'yes'; give true or false"),
    (ON | {"preset": "loud"}, "preset is 'loud'; choose one of detail first"),
])
def test_a_wrong_value_says_what_is_wrong_and_what_is_right(names, words):
    with pytest.raises(ValueError, match=words):
        reading(names)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_its_recipe_and_resets_the_rest(name):
    given = PRESETS[name]
    values = reading(ON | {"preset": name, "strength": 0.5, "apg": True}).values
    assert values["bands"] == given.get("bands", next(iter(BANDS)))
    assert values["structure"] == given.get("structure", "off")
    for part, knobs in (("bands", "band_knobs"), ("structure", "map_knobs")):
        for knob, value in given.get(knobs, {}).items():
            assert values[f"{given[part]}_{knob}"] == value
    assert values["strength"] == 0.5 and values["apg"]
    assert not reading(ON | {"preset": name}).neutral
    assert reading(LOW, {"preset": name}).values["two_band_low"] == given.get("band_knobs", {}).get("low", 1)


def test_an_axis_switches_the_panel_on_and_chooses_its_knobs_band():
    values = panel.read([False], {"tilt_slope": 0.5}).values
    assert (values["enabled"], values["bands"], values["tilt_slope"]) == (True, "tilt", 0.5)
    assert panel.read([False], {"tilt_slope": 0.5, "bands": "notch"}).values["bands"] == "notch"
    assert panel.read([False], {"preset": "coherent", "strength": 0.5}).values["structure"] == "coherence"


def paste(text):
    """What the paste functions put into the widgets, as A1111 hands them the text's parts."""
    from tweedie_pack.extensions_a1111.widgets import from_infotext
    return [from_infotext(form.knob, panel.key_of(name))(text) for name, form in panel.forms().items()]


@pytest.fixture
def without_gradio(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", MagicMock())
    yield
    forget("widgets")


@pytest.mark.parametrize("names", [*WEIGHED, *ACCOMPANIED], ids=str)
def test_infotext_brings_back_every_widget_that_acts_and_resets_the_others(without_gradio, names):
    given = reading(names | {"notch_gain": 3.0})  # a band that is not chosen: it comes back at its default
    pasted = panel.read(paste({key: str(value) for key, value in given.infotext().items()}))
    assert pasted.values["notch_gain"] == 1 and pasted.infotext() == given.infotext()
    assert pasted.values == reading(names).values


@pytest.mark.parametrize("names", [{}, ON, {"low": 3.0, "apg": True}, LOW | {"strength": 0},
                                   ON | {"bands": "tilt", "time": "ramp", "apg_eta": 0.5}], ids=str)
def test_what_changes_nothing_is_not_written_and_not_run(without_gradio, names):
    assert reading(names).neutral and reading(names).infotext() == {}
    assert panel.read(paste({})).values == panel.read([]).values


def test_infotext_names_what_acts_and_nothing_else():
    assert reading(LOW | {"interval": True, "time": "ramp"}).infotext() == {
        "Tweedie spectral guidance": True, "Tweedie bands": "two_band", "Tweedie two band low": 2.0,
        "Tweedie two band high": 1.0, "Tweedie two band cutoff": 0.25, "Tweedie time": "ramp",
        "Tweedie interval": True, "Tweedie interval low": -1.0, "Tweedie interval high": 3.3}
