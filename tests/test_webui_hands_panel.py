"""Hand repair's panel in the web UIs: what it reads, writes and saves, and the given picture handed over."""
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tweedie_pack.controls.hands.crop import LIMITS
from tweedie_pack.controls.hands.prepare import Settings
from tweedie_pack.extensions_a1111 import hands_panel as panel
from tweedie_pack.plugin import read_knobs
from webui_hands import ON, SIZE, components, hands_script, install_controlnet, make_run, picture, through


@pytest.fixture
def door(monkeypatch):
    with hands_script(monkeypatch) as pair:
        yield pair


def test_the_widgets_are_the_knobs_of_the_core():
    knobs = panel.knobs()
    assert [knobs[knob.name] for knob in read_knobs(Settings)] == list(read_knobs(Settings))
    assert panel.read([]).settings == Settings() and not panel.read([])["enabled"]
    assert len({panel.label_of(name) for name in knobs}) == len({*map(panel.key_of, knobs)}) == len(knobs)
    named = panel.read([ON | {"depth_model": "depth_a", "prompt": "a fist [SEP] [SKIP]"}])
    assert panel.read(list(named.values.values())) == named


@pytest.mark.parametrize("names, words", [
    ({"tau": 2}, "unknown tau; it takes enabled, only_repair"), ({"denoise": 0}, "denoise is 0; give"),
    ({"candidates": 0}, "candidates is 0; give a number from 1"), ({"steps": "9"}, "steps is '9'; give"),
    ({"prompt": None}, "prompt is None; give a text"), ({"detector": 3}, "detector is 3; give a text"),
    ({"gate": float("nan")}, "gate is nan; give"), ({"save_strip": 1}, "save_strip is 1; give true or false"),
])
def test_a_wrong_value_stops_the_run_where_the_user_sees_it(door, names, words):
    hands, web = door
    p = make_run(web)
    hands.TweedieHandRepair().process(p, ON | names)
    with pytest.raises(ValueError, match=f"Tweedie Hand Repair: {words}"):
        p.sample()
    assert not p.extra_generation_params


def test_a_file_and_a_net_that_are_not_there_stop_the_run(door, monkeypatch):
    hands, web = door
    for names, words in (({"detector": "hand_yolov8n.pt"}, "in /nowhere; get it from https://"),
                         ({"depth_model": "depth_a"}, "no ControlNet is installed; install sd-webui")):
        p = make_run(web)
        hands.TweedieHandRepair().process(p, ON | names)
        with pytest.raises(ValueError, match=words):
            p.sample()
    p = make_run(web, install_controlnet(monkeypatch))
    hands.TweedieHandRepair().process(p, ON | {"depth_model": "depth_b"})
    with pytest.raises(ValueError, match="'depth_b'; choose one of none, depth_a"):
        p.sample()


def test_infotext_holds_what_acts_and_is_pasted_back(door):
    hands, web = door
    names = ON | {"denoise": 0.6, "depth_end": 0.5, "save_strip": True, "prompt": "a fist"}
    p = make_run(web)
    hands.TweedieHandRepair().process(p, names)
    assert p.extra_generation_params == {
        "Tweedie hands": True, "Tweedie hands confidence": 0.0, "Tweedie hands prompt": "a fist",
        "Tweedie hands denoise": 0.6, "Tweedie hands candidates": 2, "Tweedie hands cells per finger": 1.0,
        "Tweedie hands margin": 0.01}
    hands.TweedieHandRepair().process(p, {})
    assert not p.extra_generation_params
    assert "Tweedie hands depth end" in panel.read([names | {"depth_model": "x"}]).infotext()


def test_the_panel_is_drawn_and_reads_infotext(door, monkeypatch):
    hands, _ = door
    script, gradio = hands.TweedieHandRepair(), components()
    script.elem_id = lambda name: name
    monkeypatch.setattr(hands, "gr", gradio)
    monkeypatch.setattr(hands.widgets, "gr", gradio)
    for is_img2img in (False, True):
        drawn = script.ui(is_img2img)
        assert [one.elem_id for one in drawn] == list(panel.knobs())
        assert getattr(drawn[1], "visible", True) == is_img2img
    assert (drawn[2].kind, drawn[2].choices, drawn[2].value) == ("Dropdown", [panel.OWN], panel.OWN)
    text = {"Tweedie hands": "True", "Tweedie hands candidates": "8", "Tweedie hands prompt": "a fist"}
    pasted = {field.elem_id: read(text) for field, read in script.infotext_fields}
    assert (pasted["enabled"], pasted["candidates"], pasted["prompt"]) == (True, 8, "a fist")
    assert pasted["gate"] == Settings().gate


@pytest.mark.parametrize("flags, net, limits", [
    ({"is_sd1": True}, ["input_blocks"], "sd1"), ({"is_sdxl": True}, ["input_blocks"], "sdxl"),
    ({"is_sd2": True}, ["input_blocks"], "sd1"), ({"is_sd3": True}, [], "dit")], ids=str)
@pytest.mark.usefixtures("door")
def test_crops_fit_the_model(flags, net, limits):
    from tweedie_pack.extensions_a1111.hands_inner import limits_of
    model = SimpleNamespace(diffusion_model=SimpleNamespace(**dict.fromkeys(net)))
    given = dict(alphas_cumprod=torch.linspace(0.99, 0.01, 10), parameterization="eps") | flags
    assert limits_of(SimpleNamespace(model=model, **given)) == LIMITS[limits]
    if "is_sd1" not in flags and "is_sd2" not in flags:
        forge = SimpleNamespace(unet=SimpleNamespace(model=model))
        assert limits_of(SimpleNamespace(forge_objects=forge, **flags)) == LIMITS[limits]


def test_only_repair_hands_the_given_picture_over(door):
    hands, web = door
    given = picture(3)
    p = make_run(web, init_images=[given], width=64, height=64)
    hands.TweedieHandRepair().process(p, ON | {"only_repair": True})
    p.init([], [], [])
    pictures = p.sample(prompts=[])
    assert (p.width, p.height) == SIZE and len(pictures) == 2
    shown = (torch.stack(pictures).add(1).div(2).clamp(0, 1).movedim(1, -1).numpy() * 255.0).astype(np.uint8)
    assert all(np.array_equal(one, given) for one in shown)  # as the host makes bytes of them


def test_only_repair_needs_pictures_of_one_size_and_one_for_each(door):
    hands, web = door
    for given in ([picture(), picture().resize((64, 64))], [picture()] * 3):
        p = make_run(web, init_images=given, width=64, height=64)
        hands.TweedieHandRepair().process(p, ON | {"only_repair": True})
        with pytest.raises(ValueError, match="only_repair got pictures of 200 x 120, .* for a batch of 2"):
            p.sample()
    p = make_run(web)
    hands.TweedieHandRepair().process(p, ON | {"only_repair": True})
    assert "sample" not in vars(p)  # txt2img has none


@pytest.mark.parametrize("names, quality, saves, suffixes", [
    ({}, 0.9, True, []), ({"save_before": True}, 0.9, True, ["-before-hands"]),
    ({"save_strip": True}, 0.9, True, ["-hands"]),
    ({"save_strip": True, "save_before": True}, 0.0, True, ["-hands"]),
    ({"save_strip": True, "gate": 0.0}, 0.9, True, []), ({"save_before": True}, 0.9, False, [])], ids=str)
def test_what_is_asked_for_is_saved(door, names, quality, saves, suffixes):
    hands, web = door
    web.quality = lambda seed: quality
    through(hands, make_run(web, save_samples=lambda: saves), ON | names)
    assert web.saved == suffixes


def test_the_grid_sets_its_cells_own_values(door):
    hands, web = door
    p = make_run(web)
    setattr(p, hands.AXES, {"candidates": 3})
    through(hands, p, {"margin": 0.01, "confidence": 0.0, "cells_per_finger": 1.0})
    assert web.passes[0].batch_size == 6
