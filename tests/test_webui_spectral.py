"""The web UIs' panel of spectral guidance, on stand-ins: its script, and both panels in one pass."""
import copy
import functools
import importlib
import sys
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch
from tweedie_pack.extensions_a1111 import host, panel, scope, weigh
from tweedie_pack.samplers import zero_snr
from tweedie_pack.samplers.recipe import PRESETS
from tweedie_pack.samplers.spectral import BANDS
from webui_standins import LOW, ON, SINGLE, Guide, Sampler, forget, make_pass, noise, reading, run


def test_two_panels_share_a_pass_and_spectral_weights_act_before_the_rescale():
    out, x = noise(2), noise(1, 1)
    denoiser = Guide(out, SINGLE)
    p = make_pass(denoiser)
    p.sampler = Sampler(denoiser)
    order = []

    @scope.contextmanager
    def rescaling(p, x, steps, partial):
        order.append("schedules")
        with host.after_cfg(p, lambda step: zero_snr.rescale_cfg(*step[:4], phi=0.7)):
            yield

    @scope.contextmanager
    def weighing(p, x, steps, partial):
        order.append("spectral")
        with host.after_cfg(p, weigh.make_change(reading(LOW), p, x)):
            yield

    for _ in range(2):  # Forge calls the hooks twice before a hires pass
        scope.enclose_next_pass(p.sampler, rescaling, "Tweedie Schedules")
        scope.enclose_next_pass(p.sampler, weighing, panel.TITLE)
    got = p.sampler.sample(p, x)
    weighed = run(LOW, denoiser, x, torch.tensor([3.0]))
    torch.testing.assert_close(got, zero_snr.rescale_cfg(x, torch.tensor([3.0]), weighed, out[:1], 0.7))
    assert order == ["spectral", "schedules"] and vars(p.sampler) == {"model_wrap_cfg": denoiser}
    assert vars(denoiser).keys() == {"x_out", "conds_list"}


@pytest.fixture
def script(monkeypatch):
    """The script's module, with stand-ins for gradio and the host's modules."""
    class Axis:
        def __init__(self, label, type, apply, choices=None):
            self.label, self.type, self.apply, self.choices = label, type, apply, choices

    grid = SimpleNamespace(AxisOption=Axis, axis_options=[Axis("Seed", int, None)])
    scripts = SimpleNamespace(Script=object, AlwaysVisible=object(),
                              scripts_data=[SimpleNamespace(path="/webui/scripts/xyz_grid.py", module=grid)])
    modules = SimpleNamespace(scripts=scripts, script_callbacks=MagicMock())
    for name, value in {"gradio": MagicMock(), "modules": modules, "modules.scripts": scripts,
                        "modules.script_callbacks": modules.script_callbacks}.items():
        monkeypatch.setitem(sys.modules, name, value)
    monkeypatch.setattr(host, "load_strangers", tuple)
    module = importlib.import_module("tweedie_pack.extensions_a1111.spectral")
    module.register()
    yield SimpleNamespace(module=module, grid=grid)
    forget("spectral", "axes", "widgets")


def new_pass(**changes):
    p = make_pass(Guide(noise(2), SINGLE), extra_generation_params={}, **changes)
    p.sampler = Sampler(p.sampler.model_wrap_cfg)
    return p


def through(script, p, *values):
    """A run as the host makes it: hooks, which may not raise, then the pass."""
    panel_script = script.module.TweedieSpectralGuidance()
    panel_script.process(p, *values)
    panel_script.process_before_every_sampling(p, *values)
    return p.sampler.sample(p, noise(1, 1))


def test_axes_are_listed_once_however_often_they_are_added(script):
    script.module.register()
    labels = [option.label for option in script.grid.axis_options]
    assert labels[0] == "Seed" and len(labels) == len(set(labels))
    expected = {"Bands", "Structure", "Time", "Strength", "Preset", "Two bands: low", "Coherence: amount",
                "Equalizer: at 1 16"}
    assert {f"[Tweedie] {label}" for label in expected} < set(labels)
    kinds = {option.label: option for option in script.grid.axis_options}
    assert kinds["[Tweedie] Coherence: reach"].type is int and kinds["[Tweedie] Two bands: low"].type is float
    assert kinds["[Tweedie] Bands"].choices() == list(BANDS)
    assert kinds["[Tweedie] Preset"].choices() == list(PRESETS)


def test_a_cell_of_a_grid_has_its_own_values_and_its_own_infotext(script):
    rows = {option.label: option.apply for option in script.grid.axis_options}
    base = new_pass()
    cells = [copy.copy(base) for _ in range(3)]  # sharing extra_generation_params, as the grid's do
    rows["[Tweedie] Two bands: low"](cells[0], 2.0, [])
    rows["[Tweedie] Keep energy"](cells[0], "False", [])
    rows["[Tweedie] Preset"](cells[1], "coherent", [])
    first = through(script, cells[0], False)
    assert base.extra_generation_params["Tweedie two band low"] == 2.0
    assert base.extra_generation_params["Tweedie keep energy"] is False
    second = through(script, cells[1], False)
    assert base.extra_generation_params["Tweedie structure"] == "coherence"
    assert "Tweedie two band low" not in base.extra_generation_params
    plain = through(script, cells[2], False)
    assert base.extra_generation_params == {}
    assert not torch.equal(first, plain) and not torch.equal(second, plain)
    torch.testing.assert_close(first, run(LOW | {"keep_energy": False}, base.sampler.model_wrap_cfg,
                                          noise(1, 1), torch.tensor([3.0])))


@pytest.mark.parametrize("values", [(False, "tilt"), ({},), ({"low": 3.0},), (ON,)], ids=str)
def test_a_panel_that_is_off_or_neutral_is_the_untouched_host(script, values):
    p = new_pass()
    assert torch.equal(through(script, p, *values), new_pass().sampler.sample(None, noise(1, 1)))
    assert p.extra_generation_params == {} and "sample" not in vars(p.sampler)


def test_an_error_waits_for_the_pass_where_the_user_sees_it(script):
    p = new_pass()
    with pytest.raises(ValueError, match="unknown lwo"):
        through(script, p, {"enabled": True, "lwo": 2})
    assert vars(p.sampler).keys() == {"model_wrap_cfg"} and p.extra_generation_params == {}


@pytest.mark.parametrize("changes, words", [
    ({"cfg_scale": 1.0}, "guidance scale is 1"), ({"cond_stage_key": "edit"}, "edit model")])
def test_what_can_not_be_weighed_is_left_alone_and_said_once(script, caplog, changes, words):
    p = new_pass()
    p.sampler.model_wrap_cfg.image_cfg_scale = 1.5
    p.cfg_scale = changes.get("cfg_scale", 7.0)
    p.sd_model.cond_stage_key = changes.get("cond_stage_key", "")
    plain = p.sampler.sample(p, noise(1, 1))
    assert torch.equal(through(script, p, LOW), plain)
    assert len(caplog.records) == 1 and words in caplog.text


def test_latents_without_rows_and_columns_are_left_alone_and_said_once(script, caplog):
    p, x = new_pass(), torch.randn(1, 4, 30)
    with script.module.one_pass((LOW,), p, x, None, False):
        assert "combine_denoised" not in vars(p.sampler.model_wrap_cfg)
    assert len(caplog.records) == 1 and "without rows and columns" in caplog.text


def test_a_pass_that_fails_leaves_nothing(script):
    p = new_pass()
    p.sampler.model_wrap_cfg.conds_list = [[(9, 1.0)]]
    with pytest.raises(IndexError):
        through(script, p, LOW)
    assert vars(p.sampler).keys() == {"model_wrap_cfg"}
    assert vars(p.sampler.model_wrap_cfg).keys() == {"x_out", "conds_list"}


def test_the_drawn_curve_is_the_chosen_bands(script, monkeypatch):
    seen = {}
    spectrum = SimpleNamespace(draw_gains=lambda curves: seen.update(curves) or torch.ones(2, 3, 3))
    monkeypatch.setitem(sys.modules, "tweedie_pack.samplers.spectrum", spectrum)
    picture = script.module.preview(*reading(LOW).values.values())
    assert picture.shape == (2, 3, 3) and picture.max() == 255
    radii = torch.tensor([0.05, 1.0])
    torch.testing.assert_close(seen["Two bands"](radii), BANDS["two_band"](radii, low=2.0))
    assert functools.reduce(max, seen["Two bands"](radii).tolist()) == 2
