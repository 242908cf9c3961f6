"""The regional panel: what it reads and writes, what it leaves the host, what it tells; no pass is needed."""
import base64
import io
import sys
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from PIL import Image
from tweedie_pack.controls import preview
from tweedie_pack.controls.layouts import LAYOUTS
from tweedie_pack.extensions_a1111 import regions_panel as panel
from tweedie_pack.plugin import read_knobs
from webui_regional import make_regional, regional_script
from webui_standins import noise

ON = {"enabled": True}
FULL = ON | {"mode": "latent", "ratios": "1,2;1,1", "base_ratio": "0.3,0.1", "flip": True, "feather": 0.25,
             "flip_prompts": True, "start_percent": 0.1, "end_percent": 0.9}
SHAPES = ON | {"layout": "boxes", "shapes": "0 0 .5 1\n.5 0 1 1"}


@pytest.fixture
def regions(monkeypatch):
    with regional_script(monkeypatch) as module:
        yield module


def through(regions, p, names):
    """A run as the host makes it: hooks, which may not raise, then the pass."""
    script = regions.TweedieRegionalPrompt()
    script.process(p, names)
    script.process_batch(p, names, batch_number=0)
    script.process_before_every_sampling(p, names)
    return p.sampler.sample(p, noise(len(p.prompts), 1))


def reading(names, axes=None):
    return panel.read([names], axes)


def test_widgets_are_the_settings_and_every_layout_that_a_panel_can_hold():
    names = list(panel.knobs())
    assert [*names, "picture"] == list(vars(panel.Settings())) == [*panel.LABELS, "picture"]
    assert panel.knobs()["layout"].choices == tuple(id for id in LAYOUTS if id != "masks")
    assert {knob.name for knob in read_knobs(panel.Settings)} < set(names)
    assert len({panel.key_of(name) for name in names}) == len(names) and not panel.read([]).enabled


def test_positions_and_names_say_the_same():
    named = reading(FULL)
    assert panel.read(list(vars(named).values())) == named and panel.read([True]) == reading(ON)
    assert panel.read([False], {"ratios": "1,3"}) == reading(ON | {"ratios": "1,3"})


@pytest.mark.parametrize("name", panel.PRESETS)
def test_a_preset_fills_the_layout_and_leaves_the_rest(name):
    got = reading(ON | {"preset": name, "feather": 0.1, "base_ratio": "0.5"})
    assert (got.feather, got.base_ratio, got.flip) == (0.1, "0.5", False)
    assert {key: getattr(got, key) for key in panel.PRESETS[name]} == panel.PRESETS[name]


@pytest.mark.parametrize("names, words", [
    ({"ratio": "1,1"}, "unknown ratio; it takes preset, enabled"),
    ({"mode": "both"}, "mode is 'both'; choose one of attention, latent"),
    ({"layout": "masks"}, "layout is 'masks'; choose one of columns"),
    ({"ratios": 2}, "ratios is 2; give a text such as '1,1'"), ({"enabled": 1}, "enabled is 1; give true"),
    ({"feather": 2}, "feather is 2; give a number from 0 to 1"), ({"preset": "x"}, "preset is 'x'; choose"),
    (ON | {"picture": "nonsense!"}, "colour map can't be read"),
    (ON | {"picture": base64.b64encode(b"GIF89a").decode()}, "colour map can't be read"),
    (ON | {"picture": np.zeros((4, 4), np.uint8)}, r"holds torch.uint8 of shape \[4, 4\]; give a colour"),
])
def test_a_wrong_value_says_what_is_wrong_and_what_is_right(names, words):
    with pytest.raises(ValueError, match=words):
        reading(names)


def as_url(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def test_a_painted_map_is_the_same_from_the_page_and_from_the_api():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    page, api = (reading(ON | {"picture": given}).picture for given in (pixels, as_url(pixels)))
    assert torch.equal(page, api) and torch.equal(page, torch.from_numpy(pixels).float() / 255)
    assert reading(ON | {"picture": ""}).picture is None and reading({"picture": "off"}).picture is None
    assert reading(ON | {"picture": np.zeros((3000, 10, 4), np.uint8)}).picture.shape == (1000, 4, 3)


def test_colours_of_the_map_are_the_regions(regions):
    pixels = np.full((64, 96, 3), (128, 64, 64), np.uint8)
    pixels[:, 48:] = 64, 128, 128
    painted = through(regions, make_regional(["a BREAK b"]),
                      ON | {"layout": "colours", "picture": as_url(pixels)})
    torch.testing.assert_close(painted, through(regions, make_regional(["a BREAK b"]), ON))


@pytest.mark.parametrize("prompt, host", [
    ('a "SALT AND PEPPER" pot ADDBASE x BREAK y', 'a "SALT and PEPPER" pot'),
    ("x AND y :1.5", "x, y :1.5,"), ("common ADDCOMM x", "common, x"), ("a cat :1.5", "a cat :1.5")])
def test_the_host_never_sees_what_it_would_read_otherwise(regions, prompt, host):
    p = make_regional([prompt])
    through(regions, p, ON)
    assert p.prompts == [host]


def test_off_plain_and_inner_passes_are_the_untouched_host(regions):
    for names, prompt, changes in (({}, "sky BREAK sea", {}), (ON, "a cat", {}),
                                   (ON, "sky BREAK sea", {"_ad_inner": True})):
        p, x = make_regional([prompt], **changes), noise(1, 1)
        script = regions.TweedieRegionalPrompt()
        script.process_batch(p, names)
        script.process_before_every_sampling(p, names)
        assert p.prompts == [prompt]
        expected = make_regional([prompt])
        assert torch.equal(p.sampler.sample(p, x), expected.sampler.sample(expected, x))


@pytest.mark.parametrize("names, prompt, words", [
    ({"ratio": "1,1"}, "a BREAK b", "unknown ratio; it takes preset, enabled"),
    ({"layout": "boxes", "shapes": "0 0 1"}, "a BREAK b", "line 1 is '0 0 1'; give 4 numbers"),
    ({"layout": "boxes", "shapes": "0 0 1 1"}, "a BREAK b", "2 parts, the layout Boxes 1 regions"),
    ({"layout": "colours"}, "a BREAK b", "has no picture; paint one"),
    ({"layout": "boxes", "shapes": "0 0 .5 1\n0 0 0 1"}, "a BREAK b", "Region 2: its mask is empty"),
    ({"start_percent": 0.9, "end_percent": 0.1}, "a BREAK b", "lies after end_percent 0.1"),
], ids=str)
def test_what_can_not_be_reaches_the_user_from_the_pass_and_leaves_nothing(regions, names, prompt, words):
    p = make_regional([prompt])
    with pytest.raises(ValueError, match=words):
        through(regions, p, ON | names)
    assert vars(p.sampler).keys() == {"model_wrap_cfg"}


def test_models_without_cross_attention_fall_back_and_say_so(regions, caplog, monkeypatch):
    p = make_regional(["sky BREAK sea"])
    monkeypatch.setattr(sys.modules["modules"], "sd_unet", SimpleNamespace(current_unet="TensorRT"))
    got = through(regions, p, ON)
    assert p.extra_generation_params["Tweedie regions mode"] == "latent"
    assert "latent mode was used" in caplog.text
    latent = through(regions, make_regional(["sky BREAK sea"]), ON | {"mode": "latent"})
    assert torch.equal(got, latent)


def test_what_is_doubtful_in_a_prompt_is_told_with_its_place(regions, caplog):
    p = make_regional(["a <lora:x:1> addcol b BREAK c"] * 2)
    p.prompts = ["a  addcol b BREAK c"] * 2
    through(regions, p, ON)
    line = "prompt, character 14: 'addcol' is no keyword here; write ADDCOL, between spaces"
    assert len(p.comments) == 1 and line in p.comments[0] and line in caplog.text


def paste(text):
    """What the paste functions put into the widgets, as A1111 hands them the text's parts."""
    from tweedie_pack.extensions_a1111.widgets import from_infotext
    return [from_infotext(knob, panel.key_of(name))(text) for name, knob in panel.knobs().items()]


@pytest.mark.parametrize("names", [FULL, SHAPES, ON, {}], ids=str)
def test_infotext_brings_back_every_widget_that_acts_and_resets_the_others(regions, names):
    given = reading(names | {"shapes": names.get("shapes", "9 9 9 9")})  # kept only where it acts
    pasted = panel.read(paste({key: str(value) for key, value in given.infotext().items()}))
    assert pasted == reading(names) and reading({"ratios": "3,4"}).infotext() == {}


def test_a_grids_axes_set_their_knobs_and_their_cells_infotext(regions):
    class Axis:
        def __init__(self, label, type, apply, choices=None):
            self.label, self.type, self.apply, self.choices = label, type, apply, choices

    grid = SimpleNamespace(AxisOption=Axis, axis_options=[Axis("Seed", int, None)])
    data = SimpleNamespace(path="/scripts/xyz_grid.py", module=grid)
    sys.modules["modules"].scripts.scripts_data.append(data)
    for _ in range(2):
        regions.axes.register()
        regions.axes.register(regions.AXES, regions.axis_rows)
    labels = [option.label for option in grid.axis_options]
    assert labels[0] == "Seed" and len(labels) == len(set(labels)) and "[Tweedie] Bands" in labels
    ours = [f"[Tweedie] Regions: {name.replace('_', ' ')}" for name in (*panel.knobs(), "preset")]
    assert set(ours) < set(labels)
    rows = {option.label: option for option in grid.axis_options}
    p = make_regional(["a BREAK b"])
    rows["[Tweedie] Regions: ratios"].apply(p, "1,3", [])
    rows["[Tweedie] Regions: flip prompts"].apply(p, "True", [])
    assert rows["[Tweedie] Regions: feather"].type is float
    got = through(regions, p, {})
    assert p.extra_generation_params["Tweedie regions ratios"] == "1,3"
    names = ON | {"ratios": "1,3", "flip_prompts": True}
    assert torch.equal(got, through(regions, make_regional(["a BREAK b"]), names))


def test_the_layout_is_drawn_with_what_was_read(regions, monkeypatch):
    drawn = {}

    def draw_layout(shares, names, font):
        drawn.update(shares=shares, names=names)
        return torch.ones(2, 4, 3)
    monkeypatch.setattr(preview, "draw_layout", draw_layout)
    picture, notes = regions.preview("x ADDBASE a BREAK b addrow", "no BREAK never", 96, 64,
                                     *vars(reading({"ratios": "1,x"})).values())
    assert picture.shape == (2, 4, 3) and picture.max() == 255 and drawn["names"] == ["a", "b addrow"]
    assert drawn["shares"].shape == (3, 64, 96) and abs(float(drawn["shares"][0].mean()) - 0.2) < 1e-5
    for line in ("base: x", "region 1: a (negative: no)", "ratios, character 3: a ratio is 'x'",
                 "prompt, character 21: 'addrow' is no keyword here"):
        assert line in notes
    _, notes = regions.preview("a cat", "", 96, 64, *vars(reading({})).values())
    assert notes.startswith("there is one region, the whole picture")
    with pytest.raises(sys.modules["gradio"].Error, match="give one line for each region"):
        regions.preview("a BREAK b", "", 96, 64, *vars(panel.Settings(layout="boxes")).values())
    _, notes = regions.preview_live("a BREAK b", "", 96, 64, *vars(panel.Settings(layout="boxes")).values())
    assert "give one line for each region" in notes


def test_the_page_has_a_widget_for_every_setting_and_watches_the_hosts(regions):
    script = regions.TweedieRegionalPrompt()
    script.elem_id = lambda name: name
    prompt = MagicMock()
    script.after_component(prompt, elem_id="txt2img_prompt")
    script.after_component(MagicMock(), elem_id="txt2img_prompt_row")
    assert script.watched == {"prompt": prompt}
    assert len(script.ui(False)) == len(vars(panel.Settings()))
    assert script.paste_field_names == [panel.key_of(name) for name in panel.knobs()]
    sys.modules["gradio"].update = lambda **changes: changes
    assert regions.show_group("rows") == [{"visible": True}, {"visible": False}, {"visible": False}]
    assert regions.show_group("colours")[2] == {"visible": True}
    assert regions.choose_preset("two rows") == [{"value": False}, {"value": "rows"}, {"value": "1,1"}]
    assert regions.choose_preset("") == [{}] * 3
