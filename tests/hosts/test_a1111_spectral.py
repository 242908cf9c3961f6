"""Spectral guidance in a real A1111: neutral is the untouched picture, the rest is the core's own formula.

A1111_PATH, A1111_PYTHON and TWEEDIE_SD15_V (a v checkpoint with its yaml beside it, random weights will do).
"""
import base64
import io
import re

import pytest
import torch
from hosts.a1111host import (
    A1111,
    BASE,
    HIRES,
    PACK,
    PROBE,
    TOP,
    ZERO_SNR,
    Host,
    Refused,
    near,
    picture,
    table,
)
from hosts.need import need
from PIL import Image
from tweedie_pack.extensions_a1111.panel import forms, read
from tweedie_pack.samplers.recipe import PRESETS
from tweedie_pack.samplers.spectral import BANDS, Window, reweight

PATH, PYTHON, V = need("A1111_PATH", "A1111_PYTHON", "TWEEDIE_SD15_V")
TITLE = "Tweedie Spectral Guidance"
ON = {"enabled": True}
LOW = ON | {"bands": "two_band", "low": 3.0}
LOUD = LOW | {"keep_energy": False}
COHERENT = ON | {"structure": "coherence", "amount": 4}
NEUTRAL = [{"low": 3.0, "apg": True}, ON | {"low": 1.5, "high": 1.5}, LOW | {"strength": 0}]


def half_mask():
    mask, file = Image.new("L", (64, 64), 0), io.BytesIO()
    mask.paste(255, (0, 0, 32, 64))
    mask.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


START = BASE | dict(init_images=[picture()], denoising_strength=0.9, steps=4)
INPAINT = START | dict(mask=half_mask(), inpainting_fill=1, inpaint_full_res=False, mask_blur=0)
RUNS = {"txt2img": ("txt2img", BASE), "hires": ("txt2img", BASE | HIRES), "img2img": ("img2img", START),
        "inpaint": ("img2img", INPAINT), "ddim": ("txt2img", BASE | dict(sampler_name="DDIM")),
        "ddim inpaint": ("img2img", INPAINT | dict(sampler_name="DDIM")),
        "unipc": ("txt2img", BASE | dict(sampler_name="UniPC")),
        "and": ("txt2img", BASE | dict(prompt="a cat AND a red dog :0.5")),
        "ngms": ("txt2img", BASE | dict(s_min_uncond=15.0, steps=4)),
        "batch": ("txt2img", BASE | dict(batch_size=2))}


def draw(host, name, names=None, end="", **changes):
    """Pixels and infotext. The host's VAE encodes with the random state that a run leaves: the same run's."""
    mode, body = RUNS[name]
    if mode == "img2img":
        host.draw(mode, body)
    args = names if isinstance(names, list) else [names or {}]
    scripts = {TITLE: {"args": args}} | ({"Probe": {"args": [end]}} if end else {})
    return host.draw(mode, body | (dict(alwayson_scripts=scripts) if names is not None else {}) | changes)


@pytest.fixture(scope="module")
def untouched():
    """What the host draws without the pack."""
    with Host(PATH, PYTHON, V, A1111, []) as host:
        return {name: draw(host, name)[0] for name in RUNS}


@pytest.fixture(scope="module")
def host(untouched):
    with Host(PATH, PYTHON, V, A1111, [PACK, PROBE]) as host:
        yield host


@pytest.mark.parametrize("name", RUNS)
def test_settings_that_change_nothing_are_the_untouched_host(host, clean, untouched, name):
    for names in NEUTRAL:
        pictures, text = draw(host, name, names)
        assert pictures == untouched[name], names
        assert "Tweedie" not in text or "low: 1.5" in text


@pytest.mark.parametrize("name", RUNS)
def test_settings_that_weigh_change_every_kind_of_run_and_leave_nothing(host, clean, untouched, name):
    for names in (LOUD, COHERENT | {"apg": True}):
        pictures, text = draw(host, name, names)
        assert pictures != untouched[name] and "Tweedie spectral guidance: True" in text
        assert max(pictures[0]) > min(pictures[0])
    assert draw(host, name)[0] == untouched[name]


@pytest.mark.parametrize("names", [ON | {"cfg_zero_star": True}, ON | {"rescale": 0.7},
                                   ON | {"interval": True, "interval_low": -8, "interval_high": -1},
                                   LOW | {"time": "deciding"}, ON | {"structure": "structure", "probes": 8},
                                   ON | {"structure": "leverage", "probes": 8}], ids=str)
@pytest.mark.parametrize("name", ["txt2img", "ddim"])
def test_every_companion_and_map_acts_in_both_kinds_of_samplers(host, clean, untouched, name, names):
    assert draw(host, name, names)[0] != untouched[name]


def test_without_guidance_nothing_is_changed_and_the_log_says_so_once(host, clean):
    plain = draw(host, "txt2img", cfg_scale=1)[0]
    before = host.said().count("guidance scale is 1")
    assert draw(host, "txt2img", LOW | {"apg": True}, cfg_scale=1)[0] == plain
    assert host.said().count("guidance scale is 1") == before + 1


def record(host, name, names, **changes):
    """Each step as tensors: what the model was given and said, and what the host went on with."""
    host.call("probe/seen")
    draw(host, name, names, end="record", **changes)
    steps = host.call("probe/seen")["steps"]
    return [{key: torch.tensor(value) for key, value in step.items()} for step in steps]


def expect(names, step, number, sigmas, weights):
    """(the host's own guided estimate, what the core adds to it), of x0 for k-diffusion."""
    uncond = step["out"][-1:]
    delta = sum(7.0 * weight * (out - uncond) for out, weight in zip(step["out"][:-1], weights, strict=True))
    recipe = read([names]).recipe(())
    guided = uncond + delta
    return guided, reweight(delta, recipe, Window.of(sigmas), step["sigma"][:1], guided, uncond, seed=number)


def alike(got, expected):
    """To 1e-3, and what rounding makes of the estimates that `got` is the difference of."""
    assert expected.abs().max() > 1e-3
    assert (got - expected).abs().max() <= 1e-3 * expected.abs().max() + 1e-6


@pytest.mark.parametrize("names", [LOW, LOUD | {"time": "ramp"}, COHERENT,
                                   ON | {"bands": "tilt", "slope": 1, "structure": "leverage"}], ids=str)
@pytest.mark.parametrize("name, weights", [("txt2img", [1.0]), ("and", [1.0, 0.5])])
def test_what_is_added_to_guidance_is_the_cores_own(host, clean, name, weights, names):
    steps = record(host, name, names)
    assert len(steps) == 3
    for number, step in enumerate(steps):
        plain, added = expect(names, step, number, table(host), weights)
        if number == 0 or names.get("time") != "ramp":
            alike(step["guided"] - plain, added)


@pytest.mark.parametrize("names", [LOW, COHERENT], ids=str)
def test_samplers_of_noise_get_the_weights_of_the_estimates_of_the_picture(host, clean, names):
    sigmas = table(host)
    for number, step in enumerate(record(host, "ddim", names)):
        sigma = sigmas[step["sigma"].long()]
        alpha = (1 + sigma**2).rsqrt().reshape(-1, 1, 1, 1)
        wide = sigma.reshape(-1, 1, 1, 1)
        shown = step | {"sigma": sigma, "out": step["x"] / alpha - wide * step["out"]}
        _, added = expect(names, shown, number, sigmas, [1.0])
        plain = step["out"][1:] + 7.0 * (step["out"][:1] - step["out"][1:])
        alike(-(step["guided"] - plain) * wide[:1], added)


def test_what_may_not_change_in_inpainting_does_not(host, clean, untouched):
    width = 64 * 3
    got, plain = (torch.frombuffer(bytearray(one[0]), dtype=torch.uint8).reshape(64, width).int()
                  for one in (draw(host, "inpaint", LOUD)[0], untouched["inpaint"]))
    right = slice(width * 3 // 4, None)  # the decoder mixes what lies near the mask's edge
    assert (got - plain)[:, : width // 2].abs().max() > 4 * (got - plain)[:, right].abs().max()


@pytest.mark.parametrize("name", ["txt2img", "img2img", "hires", "ddim"])
@pytest.mark.parametrize("end", ["interrupt", "fail"])
def test_a_run_that_ends_early_leaves_nothing(host, clean, untouched, name, end):
    if end == "fail":
        with pytest.raises(Refused, match="the probe failed this run"):
            draw(host, name, LOW | COHERENT, end)
    else:
        draw(host, name, LOW | COHERENT, end)
    assert draw(host, name)[0] == untouched[name]


def test_every_batch_of_an_img2img_run_is_weighed(host, clean):
    both = draw(host, "img2img", LOW, n_iter=2, batch_size=1)[0]
    plain = draw(host, "img2img", {}, n_iter=2, batch_size=1)[0]
    assert all(one != other for one, other in zip(both[-2:], plain[-2:], strict=True))


def test_both_panels_work_in_one_pass(host, clean):
    host.call("probe/seen")
    scripts = {"Tweedie Schedules": {"args": ZERO_SNR}}
    alone = draw(host, "txt2img", alwayson_scripts=scripts)[0]
    pictures, text = draw(host, "txt2img", alwayson_scripts=scripts | {TITLE: {"args": [LOW]}})
    assert pictures != alone and "Tweedie zero SNR: True" in text and "Tweedie two band low: 3" in text
    assert [sigma for sigma in host.call("probe/seen")["sigmas"] if sigma > 1000] == pytest.approx([TOP] * 2)


def test_values_by_position_and_by_name_draw_the_same(host, clean):
    names = LOW | {"structure": "coherence", "amount": 2, "apg": True, "apg_eta": 0.5}
    pictures, _ = draw(host, "txt2img", names)
    assert draw(host, "txt2img", list(read([names]).values.values()))[0] == pictures


@pytest.mark.parametrize("words, names, changes", [
    ("unknown lwo; it takes", LOW | {"lwo": 2}, {}),
    ("low is 9; give a number from 0 to 5", LOW | {"low": 9}, {}),
    ("choose one of two_band", ON | {"bands": "wavelet"}, {}),
    ("above high_cutoff", ON | {"bands": "three_band", "mid": 2, "low_cutoff": 0.9}, {}),
    ("start must lie below end", LOW | {"start_percent": 0.9, "end_percent": 0.1}, {}),
    ("low must lie below high", ON | {"interval": True, "interval_low": 9}, {}),
    ("choose one of detail first", ON | {"preset": "loud"}, dict(sampler_name="DDIM"))], ids=str)
def test_an_error_reaches_the_user_and_leaves_nothing(host, clean, untouched, words, names, changes):
    with pytest.raises(Refused, match=f"500.*{words}"):
        draw(host, "txt2img", names, **changes)
    assert draw(host, "txt2img")[0] == untouched["txt2img"]


@pytest.mark.parametrize("names", [LOW | {"time": "window", "rescale": 0.3},
                                   COHERENT | {"strength": 0.5, "keep_energy": False, "apg": True}], ids=str)
def test_infotext_draws_the_picture_again_and_paste_fills_the_panel(host, clean, names):
    pictures, text = draw(host, "txt2img", names)
    assert host.draw("txt2img", {"infotext": text})[0] == pictures
    for tab in ("txt2img", "img2img"):
        pasted = host.call("probe/paste", {"text": text, "tab": tab})
        assert {name: pasted[form.label] for name, form in forms().items()} == read([names]).values
        plain = host.call("probe/paste", {"text": "a cat\nSteps: 3, Sampler: Euler, Seed: 1", "tab": tab})
        assert {name: plain[form.label] for name, form in forms().items()} == read([]).values


def test_the_page_shows_every_widget(host):
    page = str(host.call("config"))
    for form in forms().values():
        assert re.search(f"['\"]label['\"]: ['\"]{re.escape(form.label)}['\"]", page), form.label
    assert all(preset in page for preset in PRESETS)


def grid(host, x, xs, y="Nothing", ys=()):
    """A grid's pictures, row by row, without the sheet."""
    args = []
    for label, values in ((x, xs), (y, ys), ("Nothing", ())):
        axis = host.call("probe/axis?label=" + label.replace(" ", "%20"))
        typed, picked = ("", list(values)) if axis["choices"] else (", ".join(map(str, values)), [])
        args += [axis["index"], typed, picked]
    args += [False, True, False, False, False, False, False, 0, False]
    return draw(host, "txt2img", script_name="X/Y/Z plot", script_args=args)


def test_the_grid_script_lists_our_axes_once_and_applies_them(host, clean, untouched):
    labels = [label for label in host.call("probe/axes") if label.startswith("[Tweedie] ")]
    assert len(labels) == len(set(labels))
    assert {f"[Tweedie] {form.label}" for form in forms().values() if form.part not in ("", "companions")} | {
        "[Tweedie] Preset"} == {label for label in labels if not label.startswith("[Tweedie] Regions: ")}
    cells = grid(host, "[Tweedie] Two bands: low", [1, 3])[0][-2:]
    assert cells == [*untouched["txt2img"], *draw(host, "txt2img", LOW)[0]]
    cells = grid(host, "[Tweedie] Structure", ["off", "coherence"], "[Tweedie] Strength", [0, 1])[0][-4:]
    coherent = draw(host, "txt2img", ON | {"structure": "coherence"})[0][0]
    assert cells == [*untouched["txt2img"] * 3, coherent]
    preset = draw(host, "txt2img", ON | {"preset": "detail first"})[0]
    assert grid(host, "[Tweedie] Preset", ["detail first"])[0][-1:] == preset
    assert draw(host, "txt2img")[0] == untouched["txt2img"]


def test_reload_ui_lists_the_panel_and_the_axes_once(host, untouched):
    before = host.call("probe/axes")
    host.call("probe/reload", {})
    host.wait_for_start(2)
    assert sorted(host.call("probe/axes")) == sorted(before)
    assert [name for name in host.call("sdapi/v1/scripts")["txt2img"]].count(TITLE.lower()) == 1
    assert draw(host, "txt2img", LOW)[0] != draw(host, "txt2img", {})[0] == untouched["txt2img"]
    assert len(BANDS) == len(host.call("probe/axis?label=[Tweedie]%20Bands")["choices"])
    near(host.call("probe/table")[-1], table(host)[-1])
