"""Blended units in a real A1111 with the real sd-webui-controlnet, on full-size nets of random weights.

A1111_PATH and A1111_PYTHON; CONTROLNET_PATH, a checkout of Mikubill/sd-webui-controlnet with its requirements
installed; TWEEDIE_SD15, a Stable Diffusion 1.5 checkpoint; TWEEDIE_CONTROLNETS, a folder of two ControlNets
for it (random_controlnet.py writes one).
"""
import base64
import io
import json
import pathlib

import numpy as np
import pytest
from hosts.a1111host import A1111, PACK, PROBE, Host, Refused
from hosts.need import need
from PIL import Image

PATH, PYTHON, EXTENSION, CHECKPOINT, NETS = need(
    "A1111_PATH", "A1111_PYTHON", "CONTROLNET_PATH", "TWEEDIE_SD15", "TWEEDIE_CONTROLNETS")
TITLE = "Tweedie Control Blend"
ON = {"enabled": True}


def encode(picture):
    file = io.BytesIO()
    picture.resize((64, 64)).convert("RGB").save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


RADIAL, LINEAR = encode(Image.radial_gradient("L")), encode(Image.linear_gradient("L"))
BASE = dict(prompt="a cat", negative_prompt="blurry", width=64, height=64, steps=4, sampler_name="Euler",
            scheduler="Karras", cfg_scale=7, seed=1)
HIRES = BASE | dict(steps=2, enable_hr=True, hr_scale=1.5, hr_upscaler="Latent", denoising_strength=0.8)
FROM = BASE | dict(init_images=[RADIAL], denoising_strength=0.8)
RUNS = {"txt2img": ("txt2img", BASE), "batch": ("txt2img", BASE | dict(batch_size=2)),
        "hires": ("txt2img", HIRES), "img2img": ("img2img", FROM)}


@pytest.fixture(scope="module")
def host():
    flags = [*A1111, "--controlnet-dir", NETS]
    with Host(PATH, PYTHON, CHECKPOINT, flags, [PACK, PROBE, pathlib.Path(EXTENSION)]) as host:
        yield host


@pytest.fixture(scope="module")
def nets(host):
    found = [name for name in host.call("controlnet/model_list")["model_list"] if name != "None"]
    assert len(found) >= 2, "TWEEDIE_CONTROLNETS holds fewer than two ControlNets"
    return found[:2]


@pytest.fixture
def units(nets):
    def make(*changes):
        plain = dict(enabled=True, module="none", weight=1.0, guidance_start=0.0, guidance_end=1.0,
                     control_mode="Balanced", resize_mode="Crop and Resize", pixel_perfect=False,
                     save_detected_map=False)
        pictures = RADIAL, LINEAR
        return [plain | dict(model=nets[number], image=pictures[number]) | change
                for number, change in enumerate(changes)]
    return make


def draw(host, units, names=None, run="txt2img", end="", **changes):
    """Pixels of all pictures, and infotext; fails where the extension has logged an error of its own."""
    mode, body = RUNS[run]
    scripts = {"ControlNet": {"args": units}} | ({TITLE: {"args": [names]}} if names is not None else {})
    scripts |= {"Probe": {"args": [end]}} if end else {}
    before = len(host.said())
    files, text = host.draw(mode, body | changes | dict(alwayson_scripts=scripts))
    assert end or "Traceback" not in host.said()[before:], host.said()[before:][-3000:]
    return np.stack([np.frombuffer(file, np.uint8).astype(int) for file in files]), text


@pytest.fixture(scope="module")
def stock(host):
    """The extension's own picture for units, drawn once."""
    kept = {}

    def look(units, run="txt2img", **changes):
        key = json.dumps([units, run, changes])
        if key not in kept:
            kept[key] = draw(host, units, run=run, **changes)[0]
        return kept[key]
    return look


def apart(one, other):
    return int(np.abs(one - other).max())


SETTINGS = {
    "balanced": ({}, {}), "weights": ({"weight": 0.5}, {"weight": 1.5}),
    "modes": ({"control_mode": "My prompt is more important"},
              {"control_mode": "ControlNet is more important"}),
    "spans": ({"guidance_end": 0.5}, {"guidance_start": 0.5}), "off": ({"weight": 0.0}, {}),
    "masked": ({"effective_region_mask": LINEAR}, {}), "one": ({},)}


@pytest.mark.parametrize("name", SETTINGS)
def test_sum_is_the_extension_alone(host, units, stock, name):
    given = units(*SETTINGS[name])
    assert apart(stock(given), draw(host, given, ON)[0]) <= 1
    assert apart(stock(given), stock([])) > 2


@pytest.mark.parametrize("run", list(RUNS)[1:])
def test_sum_is_the_extension_alone_in_every_kind_of_run(host, units, run):
    given = units({}, {"weight": 0.7})
    if run == "img2img":
        draw(host, given, run=run)  # the host's VAE encodes with the random state that a run leaves
    alone = draw(host, given, run=run)[0]
    assert apart(alone, draw(host, given, ON, run)[0]) <= 1
    assert apart(alone, draw(host, given, ON | {"policy": "average"}, run)[0]) > 1


@pytest.mark.parametrize("policy", ("rms", "gate", "project", "average", "strongest"))
def test_a_policy_changes_two_units_and_leaves_one(host, units, stock, policy):
    both, one = units({}, {}), units({})
    names = ON | {"policy": policy}
    assert apart(stock(one), draw(host, one, names)[0]) <= 1
    changed = apart(stock(both), draw(host, both, names)[0])
    assert changed > 1 or policy in ("rms", "project")  # nets of random weights have little in common


def test_cap_differs_where_units_agree(host, units, stock, nets):
    both = units({}, {"model": nets[0], "image": RADIAL})  # the same unit twice
    capped = draw(host, both, ON | {"policy": "cap"})[0]
    assert apart(stock(both), capped) > 1
    assert apart(stock(units({})), capped) <= 1  # two that say the same count as one


def test_weights_follow_the_curve(host, units, stock):
    both = units({}, {})
    half = stock(units({"weight": 0.5}, {}))
    assert apart(half, draw(host, both, ON | {"curves": "0.5"})[0]) <= 1
    early = stock(units({"guidance_end": 0.5}, {}))
    assert apart(early, draw(host, both, ON | {"curves": "0:1, 0.5:1, 0.5:0"})[0]) <= 1
    late = stock(units({}, {"guidance_start": 0.5}))
    assert apart(late, draw(host, both, ON | {"curves": "always\n0:0, 0.5:0, 0.5:1"})[0]) <= 1
    faded = draw(host, both, ON | {"curves": "fade out\nfade out"})[0]
    assert apart(faded, stock(both)) > 1


@pytest.mark.parametrize("end", ("interrupt", "fail"))
def test_an_ended_run_leaves_nothing_behind(host, units, end):
    given = units({}, {})
    before, plain = draw(host, given)[0], draw(host, [])[0]
    host.call("probe/seen")
    draw(host, [])
    left = host.call("probe/seen")["left"]
    if end == "fail":
        with pytest.raises(Refused, match="the probe failed this run"):
            draw(host, given, ON | {"policy": "cap"}, end=end)
    else:
        draw(host, given, ON | {"policy": "cap"}, end=end)
    host.call("probe/seen")
    assert apart(plain, draw(host, [])[0]) == 0
    assert host.call("probe/seen")["left"] == left
    assert apart(before, draw(host, given)[0]) == 0


def test_reuse_is_near_and_not_the_same(host, units):
    given = units({}, {})
    full = draw(host, given, steps=6)[0]
    reused = draw(host, given, ON | {"reuse": "interval", "interval": 2}, steps=6)[0]
    assert 0 < np.abs(full - reused).mean() < np.abs(full - draw(host, [], steps=6)[0]).mean()


@pytest.mark.parametrize("names, says", [
    ({"policy": "loudest"}, "choose one of sum"), ({"curves": "often"}, "is neither a preset nor points"),
    ({"curves": "1\n1\n1"}, "3 curves for 2 enabled units"), ({"priorities": "a"}, "give numbers"),
    ({"cap_tau": 9}, "from 1 to 4"), ({"tau": 1}, "unknown tau")])
def test_bad_values_get_one_clear_error_and_leave_nothing_behind(host, units, stock, names, says):
    with pytest.raises(Refused, match=says):
        draw(host, units({}, {}), ON | names)
    assert apart(draw(host, [])[0], stock([])) == 0


def test_without_units_it_does_nothing(host, stock):
    assert apart(draw(host, [], ON | {"policy": "cap"})[0], stock([])) == 0


def test_infotext_is_written_and_pasted(host, units):
    names = ON | {"policy": "gate", "gate_temperature": 0.3, "curves": "lines\n0:1, 1:0", "reuse": "interval"}
    _, text = draw(host, units({}, {}), names, steps=2)
    assert "Tweedie controls policy: gate" in text and "Tweedie controls gate temperature: 0.3" in text
    pasted = host.call("probe/paste", {"text": text, "tab": "txt2img"})
    assert pasted["Policy"] == "gate" and pasted["Strength curves"] == "lines\n0:1, 1:0"
    assert "Tweedie controls" not in draw(host, units({}, {}), {}, steps=2)[1]


def test_the_grid_has_its_axes(host):
    assert "[Tweedie] Controls: policy" in host.call("probe/axes")
