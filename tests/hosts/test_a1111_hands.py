"""Hand repair in a real A1111 by its API: drawn hands found by the pack's own net, redrawn by the tiny model.

A1111_PATH and A1111_PYTHON. With TWEEDIE_SD15, a Stable Diffusion 1.5 checkpoint, also once with that; with
CONTROLNET_PATH and TWEEDIE_CONTROLNETS, nets for TWEEDIE_SD15, the depth goes through sd-webui-controlnet.
"""
import base64
import io
import os
import pathlib
import re
from random import Random

import numpy as np
import pytest
from hosts.a1111host import A1111, PACK, PROBE, Host, Refused
from hosts.need import need
from PIL import Image
from tweedie_pack.demo.drawn_hands import random_crowd
from tweedie_pack.demo.tiny import checkpoint

PATH, PYTHON = need("A1111_PATH", "A1111_PYTHON")
LOOKER = pathlib.Path(__file__).with_name("hands_probe")
TITLE = "Tweedie Hand Repair"
ON = {"enabled": True, "candidates": 2, "gate": 1.0, "margin": 1.0}  # all hands are drawn, none is pasted
BASE = dict(prompt="a brown open hand, white background", negative_prompt="blurry", width=128, height=128,
            steps=4, sampler_name="Euler", scheduler="Karras", cfg_scale=3, seed=1)
HIRES = BASE | dict(steps=3, batch_size=2, enable_hr=True, hr_scale=1.5, hr_upscaler="Latent",
                    denoising_strength=0.7)


def crowd():
    """A drawn picture of several hands, and what is known of them."""
    picture, hands = random_crowd(Random(3), (3, 3), (192, 256), (60, 90), angle=30, view=(15, 15))
    return (picture.clamp(0, 1) * 255).round().byte().movedim(0, -1).numpy(), hands


def encode(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


CROWD, HANDS = crowd()
GIVEN = BASE | dict(init_images=[encode(CROWD)], denoising_strength=0.7)
BLANK = BASE | dict(init_images=[encode(np.full((96, 96, 3), 200, np.uint8))], denoising_strength=0.7)


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    path = checkpoint.write(tmp_path_factory.mktemp("tiny"), "epsilon")
    with Host(PATH, PYTHON, str(path), A1111, [PACK, PROBE, LOOKER]) as host:
        yield host


def draw(host, mode, body, names=None, stop=""):
    """Pictures, infotext, and what the probe saw; fails where anything was logged as an error."""
    host.call("hands/stop", {"at": stop})
    scripts = {} if names is None else {"alwayson_scripts": {TITLE: {"args": [names]}}}
    before = len(host.said())
    files, text = host.draw(mode, body | scripts)
    said = host.said()[before:]
    assert "Traceback" not in said, said[-3000:]
    return files, text, host.call("hands/look")


def pixels(file, shape=CROWD.shape):
    return np.frombuffer(file, np.uint8).reshape(shape)


def without_ours(text):
    return re.sub(r", Tweedie hands[^,]*", "", text)


def check_outer(host, mode, body, steps, names=ON):
    """With all its hands drawn and none pasted, a run is the host's own in all that can be seen."""
    draw(host, mode, body)  # the host's VAE encodes with the random state that a run leaves
    files, text, alone = draw(host, mode, body)
    ours, said, seen = draw(host, mode, body, names)
    assert seen["steps"] >= steps and set(seen["texts"]) == {"Hand repair"}
    assert ours == files and without_ours(said) == text and "Tweedie hands: True" in said
    seen["kept"]["history"] = without_ours(seen["kept"]["history"])
    assert seen["kept"] == alone["kept"]
    assert draw(host, mode, body)[0] == files


def test_the_outer_run_is_untouched_in_batches_with_hires(host):
    check_outer(host, "txt2img", HIRES, 1)


def test_the_outer_run_is_untouched_in_img2img(host):
    check_outer(host, "img2img", GIVEN | dict(n_iter=2), 2)


def test_only_repair_changes_the_hands_alone_and_keeps_their_best_try(host):
    names = ON | {"only_repair": True, "margin": 0.0, "candidates": 4, "denoise": 0.6}
    [file], text, seen = draw(host, "img2img", GIVEN, names)
    touched = (pixels(file) != CROWD).any(-1)
    near = np.zeros_like(touched)
    for hand in HANDS:
        x0, y0, x1, y1 = (round(value) for value in hand.box)
        grow = round(0.4 * max(x1 - x0, y1 - y0))
        near[max(y0 - grow, 0):y1 + grow, max(x0 - grow, 0):x1 + grow] = True
    assert not touched[~near].any() and seen["steps"] > 0
    assert "Size: 256x192" in text and "Tweedie hands only repair: True" in text
    again = draw(host, "img2img", GIVEN, names)
    assert again[0] == [file]  # seeds and noise are the crops' own


@pytest.mark.parametrize("body, names", [
    (GIVEN, {"enabled": False}), (BLANK, ON | {"margin": 0.0}), (GIVEN, ON | {"gate": 0.0}),
    (GIVEN, ON | {"prompt": "[SKIP]"})], ids=["off", "no hands", "good hands", "skipped"])
def test_where_nothing_is_repaired_the_picture_is_the_given_one(host, body, names):
    [file], _, seen = draw(host, "img2img", body, names | {"only_repair": True})
    if names["enabled"]:
        given = Image.open(io.BytesIO(base64.b64decode(body["init_images"][0])))
        assert file == given.tobytes()
    assert seen["steps"] == 0


@pytest.mark.parametrize("stop", ["interrupt", "skip"])
def test_it_stops_within_a_step_and_the_picture_is_as_it_was(host, stop):
    names = ON | {"only_repair": True, "margin": 0.0}
    before = draw(host, "img2img", GIVEN, names)
    [file], _, seen = draw(host, "img2img", GIVEN, names, stop)
    assert (pixels(file) == CROWD).all()
    assert seen["steps"] == 2 < before[2]["steps"] and seen["after"] == 0
    assert seen["kept"] == before[2]["kept"]
    assert draw(host, "img2img", GIVEN, names)[0] == before[0]


def test_what_is_asked_for_is_saved(host):
    names = ON | {"only_repair": True, "save_strip": True}
    draw(host, "img2img", GIVEN | dict(save_images=True), names)
    saved = [path.name for path in host.data.rglob("*.png")]
    assert len(saved) == 2 and any(name.endswith("-hands.png") for name in saved)


@pytest.mark.parametrize("names, says", [
    ({"denoise": 2}, "denoise is 2; give a number from 0.01 to 1"), ({"tau": 1}, "unknown tau; it takes"),
    ({"detector": "hand_yolov8n.pt"}, "'hand_yolov8n.pt' can't be opened: it isn't in"),
    ({"depth_model": "depth"}, "no ControlNet is installed")], ids=str)
def test_bad_values_get_one_clear_error(host, names, says):
    with pytest.raises(Refused, match=re.escape(says)):
        draw(host, "txt2img", BASE, ON | names)
    draw(host, "txt2img", BASE)


def test_infotext_is_pasted_and_the_grid_has_its_axes(host):
    _, text, _ = draw(host, "img2img", GIVEN, ON | {"only_repair": True, "prompt": "a fist [SEP] [SKIP]"})
    pasted = host.call("probe/paste", {"text": text, "tab": "img2img"})
    assert pasted["Repair hands"] is True and pasted["Prompt for hands"] == "a fist [SEP] [SKIP]"
    assert pasted["Margin"] == 1.0 and pasted["Candidates"] == 2
    assert "[Tweedie] Hands: candidates" in host.call("probe/axes")


def test_a_full_size_model_draws_batches_with_hires():
    """Its weights may be random, and a step at 512 pixels takes a while: one hand, one try."""
    [path] = need("TWEEDIE_SD15")
    extensions, flags = [PACK, PROBE, LOOKER], list(A1111)
    nets = os.environ.get("CONTROLNET_PATH"), os.environ.get("TWEEDIE_CONTROLNETS")
    if all(nets):
        extensions, flags = [*extensions, pathlib.Path(nets[0])], [*flags, "--controlnet-dir", nets[1]]
    with Host(PATH, PYTHON, path, flags, extensions) as host:
        drawn = GIVEN | dict(steps=1)
        one = ON | {"candidates": 1, "steps": 1, "cells_per_finger": 3.0, "prompt": "[PROMPT] [SEP] [SKIP]"}
        names = one | {"only_repair": True}
        [file], text, seen = draw(host, "img2img", drawn, names)
        assert seen["steps"] > 0 and "Tweedie hands: True" in text and (pixels(file) == CROWD).all()
        alone = draw(host, "txt2img", HIRES)
        ours = draw(host, "txt2img", HIRES, one)
        assert alone[0] == ours[0] and without_ours(ours[1]) == alone[1]
        if all(nets):
            net = next(name for name in host.call("controlnet/model_list")["model_list"] if name != "None")
            _, text, deep = draw(host, "img2img", drawn, names | {"depth_model": net})
            assert deep["steps"] > 0 and "Tweedie hands depth model" in text
