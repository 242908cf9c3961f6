"""Regional prompts in a real A1111, on the pack's own tiny model, which knows shapes, colours and places.

A1111_PATH and A1111_PYTHON.
"""
import base64
import io

import numpy as np
import pytest
from hosts.a1111host import A1111, PACK, PROBE, Host, Refused
from hosts.need import need
from PIL import Image
from tweedie_pack.demo.tiny import checkpoint
from tweedie_pack.extensions_a1111.regions_panel import LABELS, knobs, read

PATH, PYTHON = need("A1111_PATH", "A1111_PYTHON")
TITLE = "Tweedie Regional Prompt"
ON = {"enabled": True}
MODES = ("attention", "latent")
CIRCLE, SQUARE = "a red circle, white background", "a blue square, white background"
STAR = "a green star, white background"
TWO, THREE = f"{CIRCLE} BREAK {SQUARE}", f"{CIRCLE} BREAK {SQUARE} BREAK {STAR}"


def start_picture(mask=False):
    image, file = Image.new("L", (128, 128), 0), io.BytesIO()
    image.paste(255, (0, 0, 64, 128)) if mask else image.paste(200, (40, 40, 90, 90))
    image.convert("RGB").save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


BASE = dict(prompt=CIRCLE, negative_prompt="", width=128, height=128, steps=4, sampler_name="Euler",
            scheduler="Automatic", cfg_scale=4, seed=1)
HIRES = BASE | dict(enable_hr=True, hr_scale=1.5, hr_upscaler="Latent", denoising_strength=0.8)
FROM = BASE | dict(init_images=[start_picture()], denoising_strength=0.9)
INPAINT = FROM | dict(mask=start_picture(True), inpainting_fill=1, inpaint_full_res=False, mask_blur=0)
RUNS = {"txt2img": ("txt2img", BASE), "batch": ("txt2img", BASE | dict(batch_size=2)),
        "hires": ("txt2img", HIRES), "img2img": ("img2img", FROM), "inpaint": ("img2img", INPAINT),
        "ddim": ("txt2img", BASE | dict(sampler_name="DDIM")),
        "ngms": ("txt2img", BASE | dict(s_min_uncond=10.0))}


def read_pixels(files):
    flat = [np.frombuffer(file, np.uint8).astype(int) for file in files]
    return [pixels.reshape(round((len(pixels) / 3) ** 0.5), -1, 3) for pixels in flat]


def draw(host, name, names=None, end="", **changes):
    """Pictures [H,W,3] and infotext. The host's VAE encodes with the random state that a run leaves."""
    mode, body = RUNS[name]
    if mode == "img2img":
        host.draw(mode, body)
    scripts = {TITLE: {"args": names if isinstance(names, list) else [names or {}]}}
    scripts |= {"Probe": {"args": [end]}} if end else {}
    body = body | (dict(alwayson_scripts=scripts) if names is not None or end else {}) | changes
    files, text = host.draw(mode, body)
    return read_pixels(files), text


def differ(one, other):
    return np.abs(one - other).max()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(checkpoint.write(tmp_path_factory.mktemp("tiny"), "epsilon"))


@pytest.fixture(scope="module")
def untouched(model):
    """What the host draws without the pack."""
    with Host(PATH, PYTHON, model, A1111, []) as host:
        return {name: draw(host, name)[0] for name in RUNS}


@pytest.fixture(scope="module")
def host(untouched, model):
    with Host(PATH, PYTHON, model, A1111, [PACK, PROBE]) as host:
        yield host


def same(pictures, others):
    return all(np.array_equal(one, other) for one, other in zip(pictures, others, strict=True))


@pytest.mark.parametrize("name", RUNS)
def test_off_and_without_keywords_it_is_the_untouched_host(host, clean, untouched, name):
    for names in ({}, {"ratios": "1,2", "mode": "latent"}, ON, ON | {"mode": "latent"}):
        assert same(draw(host, name, names)[0], untouched[name]), names


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", RUNS)
def test_three_regions_of_one_text_are_the_plain_picture(host, clean, untouched, name, mode):
    prompt = f"{CIRCLE} ADDBASE {CIRCLE} BREAK {CIRCLE} BREAK {CIRCLE}"
    pictures, text = draw(host, name, ON | {"mode": mode, "ratios": "1,1,1"}, prompt=prompt)
    assert max(map(differ, pictures, untouched[name])) <= 1
    assert text.startswith(prompt) and f"Tweedie regions mode: {mode}" in text


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", RUNS)
def test_three_regions_change_every_kind_of_run_and_leave_nothing(host, clean, untouched, name, mode):
    pictures = draw(host, name, ON | {"mode": mode, "ratios": "1,1,1", "overlay": True}, prompt=THREE)[0]
    plain = draw(host, name, prompt=f"{CIRCLE}, {SQUARE}, {STAR}")[0]
    assert all(differ(*pair) > 20 for pair in zip(pictures, plain * 2, strict=True))  # overlays behind them
    assert same(draw(host, name)[0], untouched[name])


def shares_of_colour(picture):
    """How much of each half is red, and blue."""
    halves = picture[:, :64], picture[:, 64:]
    return [[float(np.mean(half[..., channel] - half.mean(2) > 40)) for channel in (0, 2)] for half in halves]


@pytest.mark.parametrize("mode", MODES)
def test_each_half_shows_its_own_text(host, clean, mode):
    pictures, _ = draw(host, "batch", ON | {"mode": mode}, prompt=TWO, steps=16, batch_size=3)
    found = np.mean([shares_of_colour(picture) for picture in pictures[-3:]], 0)
    assert found[0, 0] > 3 * found[0, 1] and found[1, 1] > 3 * found[1, 0], found


@pytest.mark.parametrize("mode", MODES)
def test_another_text_changes_its_own_region_mostly(host, clean, mode):
    names = ON | {"mode": mode}
    one, other = (draw(host, "txt2img", names, prompt=f"{CIRCLE} BREAK {text}", steps=1)[0][-1]
                  for text in (SQUARE, STAR))
    change = np.abs(one - other).mean((0, 2))
    assert change[64:].mean() > 2 * change[:64].mean()  # convolutions and self attention carry some over


@pytest.mark.parametrize("mode", MODES)
def test_every_picture_of_a_batch_has_its_own_prompt(host, clean, mode):
    """The prompt matrix makes a batch of a prompt and of the same with more behind it."""
    names = ON | {"mode": mode}
    scripts = {TITLE: {"args": [names]}}
    pictures, _ = host.draw("txt2img", BASE | dict(
        prompt=f"{TWO}|{STAR} BREAK", batch_size=2, script_name="Prompt matrix", alwayson_scripts=scripts,
        script_args=[False, False, "positive", "comma", 0]))
    pictures = read_pixels(pictures[-2:])
    for picture, prompt in zip(pictures, (TWO, f"{TWO}, {STAR} BREAK"), strict=True):
        assert differ(picture, draw(host, "txt2img", names, prompt=prompt)[0][-1]) <= 1
    assert not np.array_equal(*pictures)


@pytest.mark.parametrize("mode", MODES)
def test_prompt_editing_emphasis_and_networks_in_a_region(host, clean, mode):
    def once(region, **changes):
        return draw(host, "txt2img", ON | {"mode": mode}, prompt=f"{CIRCLE} BREAK {region}", **changes)[0][-1]
    edited = once(f"[{SQUARE}:{STAR}:0.5]")
    assert differ(edited, once(SQUARE)) > 5 and differ(edited, once(STAR)) > 5
    assert np.array_equal(once(f"[{SQUARE}:{STAR}:0]"), once(STAR))
    assert differ(once("a (blue:1.6) square, white background"), once(SQUARE)) > 2
    assert np.array_equal(once(f"{SQUARE}<lora:none:1>"), once(SQUARE))


@pytest.mark.parametrize("mode", MODES)
def test_a_region_has_its_own_negative(host, clean, mode):
    names = ON | {"mode": mode}
    plain = draw(host, "txt2img", names, prompt=TWO, steps=1)[0][-1]
    same = draw(host, "txt2img", names, prompt=TWO, negative_prompt=" BREAK ", steps=1)[0][-1]
    own = draw(host, "txt2img", names, prompt=TWO, negative_prompt=f" BREAK {STAR}", steps=1)[0][-1]
    change = np.abs(own - plain).mean((0, 2))
    assert differ(same, plain) <= 1 and change[64:].mean() > 2 * change[:64].mean()


@pytest.mark.parametrize("mode", MODES)
def test_hires_takes_the_hires_prompts_and_keeps_the_users_texts(host, clean, mode):
    names = ON | {"mode": mode}
    pictures, text = draw(host, "hires", names, prompt=TWO)
    other, said = draw(host, "hires", names, prompt=TWO, hr_prompt=f"{CIRCLE} BREAK {STAR}")
    assert pictures[0].shape == (192, 192, 3) and differ(pictures[0], other[0]) > 20
    assert text.startswith(TWO) and "Hires prompt" not in text
    assert said.startswith(TWO) and f'Hires prompt: "{CIRCLE} BREAK {STAR}"' in said


@pytest.mark.parametrize("mode", MODES)
def test_outside_its_time_the_base_acts_alone(host, clean, mode):
    prompt, base = f"{CIRCLE} ADDBASE {SQUARE} BREAK {STAR}", ON | {"mode": mode}
    plain = draw(host, "txt2img")[0][0]
    assert np.array_equal(draw(host, "txt2img", base | {"end_percent": 0.0}, prompt=prompt)[0][0], plain)
    late = draw(host, "txt2img", base | {"start_percent": 0.5}, prompt=prompt)[0][0]
    assert differ(late, plain) > 5
    assert differ(late, draw(host, "txt2img", base, prompt=prompt)[0][0]) > 5


@pytest.mark.parametrize("name", ["txt2img", "img2img", "hires", "ddim"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("end", ["interrupt", "fail"])
def test_a_run_that_ends_early_leaves_nothing(host, clean, untouched, name, mode, end):
    if end == "fail":
        with pytest.raises(Refused, match="the probe failed this run"):
            draw(host, name, ON | {"mode": mode}, end, prompt=TWO)
    else:
        draw(host, name, ON | {"mode": mode}, end, prompt=TWO)
    assert same(draw(host, name)[0], untouched[name])


@pytest.mark.parametrize("words, names", [
    ("unknown ratio; it takes preset", {"ratio": "1,1"}), ("choose one of attention", {"mode": "both"}),
    ("line 1 is '0 0 1'; give 4 numbers", {"layout": "boxes", "shapes": "0 0 1"}),
    ("2 parts, the layout Grid 4 regions", {"layout": "grid", "shapes": "2 2"}),
    ("the colour map can't be read", {"layout": "colours", "picture": "nonsense"}),
    ("lies after end_percent", {"start_percent": 0.9, "end_percent": 0.1})], ids=str)
def test_an_error_reaches_the_user_and_leaves_nothing(host, clean, untouched, words, names):
    with pytest.raises(Refused, match=f"500.*{words}"):
        draw(host, "txt2img", ON | names, prompt=TWO)
    assert same(draw(host, "txt2img")[0], untouched["txt2img"])


def colour_map():
    """Left half of the palette's first colour, right half of its second, as a data URL."""
    image, file = Image.new("RGB", (128, 128), (128, 64, 64)), io.BytesIO()
    image.paste((64, 128, 128), (64, 0, 128, 128))
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def test_every_layout_of_the_same_halves_draws_the_same(host, clean):
    halves = [{"ratios": "1,1"}, {"layout": "boxes", "shapes": "0 0 64 128\n64 0 128 128"},
              {"layout": "grid", "shapes": "2 1"}, {"layout": "colours", "picture": colour_map()},
              {"preset": "two columns"}]
    first, *others = (draw(host, "txt2img", ON | names, prompt=TWO)[0][0] for names in halves)
    assert max(differ(first, other) for other in others) <= 1
    values = list(vars(read([ON])).values())
    assert np.array_equal(draw(host, "txt2img", values, prompt=TWO)[0][0], first)


@pytest.mark.parametrize("mode", MODES)
def test_the_refiner_is_regional_too(host, clean, untouched, mode):
    checkpoint.write(host.data / "models" / "Stable-diffusion", "v")
    host.call("sdapi/v1/refresh-checkpoints", {})
    switch = dict(refiner_checkpoint="tweedie_tiny_v", refiner_switch_at=0.5, steps=6)
    one, text = draw(host, "txt2img", ON | {"mode": mode, "start_percent": 0.55}, prompt=TWO, **switch)
    plain = draw(host, "txt2img", prompt=f"{CIRCLE}, {SQUARE}", **switch)[0]
    assert "Refiner: " in text and differ(one[0], plain[0]) > 20
    whole = f"{CIRCLE} ADDBASE {CIRCLE} BREAK {CIRCLE}"
    again = draw(host, "txt2img", ON | {"mode": mode}, prompt=whole, **switch)[0][0]
    assert differ(again, draw(host, "txt2img", **switch)[0][0]) <= 1
    assert same(draw(host, "txt2img")[0], untouched["txt2img"])


@pytest.mark.parametrize("names", [
    ON | {"mode": "latent", "ratios": "1,2;1,1", "base_ratio": "0.3,0.1", "flip": True, "feather": 0.25},
    ON | {"layout": "boxes", "shapes": "0 0 64 128\n64 0 128 128", "flip_prompts": True, "end_percent": 0.8}],
    ids=str)
def test_infotext_draws_the_picture_again_and_paste_fills_the_panel(host, clean, names):
    pictures, text = draw(host, "txt2img", names, prompt=TWO)
    files, _ = host.draw("txt2img", {"infotext": text})
    assert files[0] == pictures[0].astype(np.uint8).tobytes()
    for tab in ("txt2img", "img2img"):
        pasted = host.call("probe/paste", {"text": text, "tab": tab})
        assert {name: pasted[LABELS[name]] for name in knobs()} == {
            name: getattr(read([names]), name) for name in knobs()}
        plain = host.call("probe/paste", {"text": "a cat\nSteps: 3, Sampler: Euler, Seed: 1", "tab": tab})
        assert {name: plain[LABELS[name]] for name in knobs()} == {
            name: knob.default for name, knob in knobs().items()}


def test_the_grid_script_has_our_axes_once(host, clean, untouched):
    labels = host.call("probe/axes")
    assert labels.count("[Tweedie] Regions: mode") == labels.count("[Tweedie] Bands") == 1
    index, none = host.call("probe/axis?label=[Tweedie]%20Regions:%20ratios")["index"], [0, "", []]
    args = [index, '"1,1","1,3"', [], *none, *none, False, True, *[False] * 5, 0, False]
    files, _ = host.draw("txt2img", BASE | dict(prompt=TWO, script_name="X/Y/Z plot", script_args=args))
    cells = read_pixels(files[-2:])
    for cell, ratios in zip(cells, ("1,1", "1,3"), strict=True):
        assert np.array_equal(cell, draw(host, "txt2img", ON | {"ratios": ratios}, prompt=TWO)[0][0])


@pytest.mark.parametrize("mode", MODES)
def test_the_other_panels_act_as_without_regions(host, clean, mode):
    others = {"Tweedie Spectral Guidance": {"args": [{"enabled": True, "bands": "two_band", "low": 3.0}]},
              "Tweedie Schedules": {"args": [False, 0.7, False, "fixed", 2, 0, "steps"]}}
    prompt = f"{CIRCLE} ADDBASE {CIRCLE} BREAK {CIRCLE}"
    ours = {TITLE: {"args": [ON | {"mode": mode}]}}
    both = draw(host, "txt2img", prompt=prompt, alwayson_scripts=others | ours)[0][0]
    alone = draw(host, "txt2img", alwayson_scripts=others)[0][0]
    assert differ(both, alone) <= 1 and differ(alone, draw(host, "txt2img")[0][0]) > 5


def press(host, words, data):
    """What a button of txt2img answers, as the page would ask it."""
    config = host.call("config")
    button = next(part["id"] for part in config["components"] if part["props"].get("value") == words)
    number = next(i for i, one in enumerate(config["dependencies"]) if button in one["targets"])
    return host.call("run/predict", {"fn_index": number, "data": data, "session_hash": "tweedie"})["data"]


def test_the_layout_is_drawn_and_what_is_doubtful_is_told(host):
    values = list(vars(read([{"ratios": "1,x"}])).values())
    picture, notes = press(host, "Draw layout", [f"{CIRCLE} BREAK {SQUARE} addcol", "", 128, 64, *values])
    image = Image.open(io.BytesIO(base64.b64decode(picture.partition(",")[2])))
    assert image.size == (512, 256)
    assert f"region 1: {CIRCLE}" in notes and "ratios, character 3: a ratio is 'x'" in notes
    assert "prompt, character 70: 'addcol' is no keyword here" in notes
    with pytest.raises(Refused, match="500"):
        press(host, "Draw layout", [TWO, "", 128, 64, *values[:2], "boxes", *values[3:]])
