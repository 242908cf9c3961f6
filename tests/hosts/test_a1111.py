"""The door in a real A1111: lists, infotext, panel, and that nothing is left behind.

A1111_PATH, A1111_PYTHON, TWEEDIE_SD15 (an epsilon checkpoint) and TWEEDIE_SD15_V (a v checkpoint with its
yaml beside it) say where it is. Any checkpoint will do; a small one makes it quick.
"""
import pytest
import torch
from hosts.a1111host import A1111, PACK, PROBE, RUNS, TOP, ZERO_SNR, Host, Refused, draw, near, table
from hosts.need import need
from tweedie_pack.samplers import flow
from tweedie_pack.samplers.schedules import SCHEDULES

PATH, PYTHON, EPSILON, V = need("A1111_PATH", "A1111_PYTHON", "TWEEDIE_SD15", "TWEEDIE_SD15_V")


@pytest.fixture(scope="module")
def untouched():
    """What the host draws without the pack."""
    with Host(PATH, PYTHON, V, A1111, []) as host:
        return {name: host.draw(*run)[0] for name, run in RUNS.items()}


@pytest.fixture(scope="module")
def host(untouched):
    with Host(PATH, PYTHON, V, A1111, [PACK, PROBE]) as host:
        yield host


@pytest.mark.parametrize("name", RUNS)
def test_a_neutral_panel_is_the_untouched_host(host, clean, untouched, name):
    assert draw(host, name, False, 0.3, False, "off", 2.5, 0, "steps")[0] == untouched[name]


def test_lists_hold_the_schedules_and_the_sampler(host):
    rows = {row["name"]: row["label"] for row in host.call("sdapi/v1/schedulers")}
    ours = {f"tweedie_{id}": f"Tweedie {plugin.label}" for id, plugin in SCHEDULES.items()}
    assert ours.items() <= rows.items()
    assert "Tweedie 2M" in [row["name"] for row in host.call("sdapi/v1/samplers")]
    page = str(host.call("config"))
    assert all(text in page for text in ("Tweedie Karras", "Tweedie 2M", "Tweedie Schedules", "Zero term"))


def test_names_come_back_as_they_went(host):
    for sampler in ("DPM++ 2M", "Euler a", "Tweedie 2M"):
        for plugin in list(SCHEDULES.values())[1:]:
            pair = [sampler, f"Tweedie {plugin.label}"]
            assert host.call(f"probe/names?sampler={sampler}&scheduler={pair[1]}".replace(" ", "%20").replace(
                "+", "%2B")) == pair


@pytest.mark.parametrize("id", SCHEDULES)
def test_every_schedule_runs_and_its_infotext_draws_it_again(host, clean, id):
    label = f"Tweedie {SCHEDULES[id].label}"
    pictures, text, sigmas = draw(host, "txt2img", scheduler=label)
    near(sigmas, SCHEDULES[id](3, table(host))[:-1])
    assert f"Schedule type: {label}" in text
    assert host.draw("txt2img", {"infotext": text})[0] == pictures


def test_the_sampler_runs_in_every_pass(host, clean):
    for name in RUNS:
        _, text, sigmas = draw(host, name, sampler_name="Tweedie 2M")
        assert "Sampler: Tweedie 2M" in text and "Schedule type: Tweedie Karras" in text
        near(sigmas[:3], SCHEDULES["karras"](3, table(host))[:-1])


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("sampler", ["Euler", "DPM++ SDE", "Tweedie 2M"])
def test_zero_snr_starts_at_the_rescaled_maximum_and_leaves_nothing(host, clean, untouched, name, sampler):
    pictures, text, sigmas = draw(host, name, *ZERO_SNR, sampler_name=sampler)
    starts = [sigma for sigma in sigmas if sigma > 1000]
    near(starts, [TOP] * (2 if name == "hires" else 1))
    assert "Tweedie zero SNR: True, Tweedie CFG rescale: 0.7" in text
    assert max(pictures[0]) > min(pictures[0])
    assert draw(host, name)[0] == untouched[name] != pictures


def test_zero_snr_in_every_batch_of_img2img(host, clean, untouched):
    pictures, _, sigmas = draw(host, "img2img", *ZERO_SNR, n_iter=2)
    assert len([sigma for sigma in sigmas if sigma > 1000]) == 2 and len(pictures) >= 2
    draw(host, "img2img")  # the host's VAE encodes with the random state that the run before left: seed 2's
    assert draw(host, "img2img")[0] == untouched["img2img"]


@pytest.mark.parametrize("name", RUNS)
def test_cfg_rescale_acts_unless_guidance_is_one(host, clean, name):
    full, none = [True, 1.0, False, "off", 0, 0, "steps"], [True, 0, False, "off", 0, 0, "steps"]
    assert draw(host, name, *full)[0] != draw(host, name, *none)[0]
    assert draw(host, name, *full, cfg_scale=1)[0] == draw(host, name, *none, cfg_scale=1)[0]


def test_the_hosts_own_zero_snr_option_is_not_rescaled_twice(host, untouched):
    host.call("sdapi/v1/options", {"sd_noise_schedule": "Zero Terminal SNR"})
    sigmas = draw(host, "txt2img", *ZERO_SNR)[2]
    host.call("sdapi/v1/options", {"sd_noise_schedule": "Default"})
    near(sigmas[0], TOP)
    assert draw(host, "txt2img")[0] == untouched["txt2img"]


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("end", ["interrupt", "fail"])
def test_a_run_that_ends_early_leaves_nothing(host, clean, untouched, name, end):
    body = {"Tweedie Schedules": {"args": ZERO_SNR}, "Probe": {"args": [end]}}
    if end == "fail":
        with pytest.raises(Refused, match="the probe failed this run"):
            draw(host, name, alwayson_scripts=body)
    else:
        draw(host, name, alwayson_scripts=body)
    assert draw(host, name)[0] == untouched[name]


def test_a_request_s_own_settings_end_with_a_run_that_fails(host, untouched):
    host.call("sdapi/v1/options", {"CLIP_stop_at_last_layers": 1})  # the host restores only what was set
    body = {"Tweedie Schedules": {"args": ZERO_SNR}, "Probe": {"args": ["fail"]}}
    with pytest.raises(Refused, match="the probe failed"):
        draw(host, "txt2img", alwayson_scripts=body, override_settings={"CLIP_stop_at_last_layers": 2})
    assert host.call("sdapi/v1/options")["CLIP_stop_at_last_layers"] == 1
    assert draw(host, "txt2img")[0] == untouched["txt2img"]


def test_shift_by_size_and_last_sigma(host, clean):
    sigmas = table(host)
    values = [False, 0.7, False, "sqrt", 0, 0.25, "steps"]
    _, text, seen = draw(host, "txt2img", *values, scheduler="Tweedie Log-SNR", steps=5)
    shift = (64 / 64**2) ** 0.5  # 8 x 8 latent positions, of 64 x 64
    last = float(flow.shift_sigmas(torch.tensor([0.25]), sigmas, 1 / shift))
    near(seen, flow.shift_sigmas(SCHEDULES["logsnr"](5, sigmas, last=last), sigmas, shift)[:-1])
    near(seen[-1], 0.25)
    assert "Tweedie shift rule: sqrt" in text and "Tweedie last sigma: 0.25" in text
    assert "Tweedie shift:" not in text


def test_the_hosts_own_sigma_min_is_the_last_sigma(host):
    host.call("sdapi/v1/options", {"sigma_min": 0.2})
    _, text, seen = draw(host, "txt2img", scheduler="Tweedie Cosine")
    host.call("sdapi/v1/options", {"sigma_min": 0})
    near(seen[-1], 0.2)
    assert "Schedule min sigma: 0.2" in text


def test_the_grid_script_knows_the_schedules(host, clean):
    axis = host.call("probe/axis?label=Schedule%20type")
    labels, none = ["Tweedie Cosine", "Tweedie Laplace"], [0, "", []]
    assert set(labels) <= set(axis["choices"])
    args = [axis["index"], "", labels, *none, *none, *[False] * 7, 0, False]
    seen = draw(host, "txt2img", script_name="X/Y/Z plot", script_args=args)[2]
    near(seen[:3], SCHEDULES["cosine"](3, table(host))[:-1])
    near(seen[3:], SCHEDULES["laplace"](3, table(host))[:-1])


def test_shift_acts_on_the_hosts_schedules_too(host, clean):
    plain = draw(host, "txt2img", scheduler="Karras")[2]
    seen = draw(host, "txt2img", False, 0.7, False, "fixed", 3, 0, "steps", scheduler="Karras")[2]
    near(seen, flow.shift_sigmas(torch.tensor(plain), table(host), 3.0))


@pytest.mark.parametrize("mode", ["sigma", "log_snr"])
@pytest.mark.parametrize("scheduler", ["Tweedie Karras", "Tweedie Trailing"])
@pytest.mark.parametrize("name", ["img2img", "hires"])
def test_denoise_mode_starts_every_schedule_at_the_same_noise(host, clean, mode, scheduler, name):
    values = [False, 0.7, False, "off", 0, 0, mode]
    seen = draw(host, name, *values, scheduler=scheduler, steps=6, denoising_strength=0.5)[2]
    partial = seen[6:] if name == "hires" else seen
    near(partial[0], flow.start_sigma(0.5, table(host), mode))
    plugin = next(plugin for plugin in SCHEDULES.values() if scheduler == f"Tweedie {plugin.label}")
    expected = flow.cut(plugin.run, len(partial), table(host), 0.5, mode)
    near(partial, expected[:-1])


def test_settings_that_cannot_be_met_reach_the_user(host, clean, untouched):
    for words, values, changes in [
            ("makes its own steps", ZERO_SNR, dict(sampler_name="DDIM")),
            ("makes its own steps", ZERO_SNR, dict(sampler_name="DPM fast")),
            ("pick a Tweedie sch", [False, 0.7, False, "off", 0, 0.1, "steps"], dict(scheduler="Karras")),
            ("choose one of", [False, 0.7, False, "none", 0, 0, "steps"], {}),
            ("at zero SNR there is none", [True, 0.7, True, "off", 0, 0, "steps"], {})]:
        with pytest.raises(Refused, match=f"500.*{words}"):
            draw(host, "txt2img", *values, **changes)
    assert draw(host, "txt2img")[0] == untouched["txt2img"]


def test_paste_restores_the_panel_and_resets_what_is_absent(host, clean):
    values = [True, 0.5, False, "sqrt", 2.0, 0.1, "log_snr"]
    text = draw(host, "img2img", *values, scheduler="Tweedie Karras")[1]
    pasted = host.call("probe/paste", {"text": text, "tab": "img2img"})
    starts = ("Zero term", "CFG resc", "DC-", "Shift", "Last s", "Denoise m")
    labels = [label for label in pasted if label.startswith(starts)]
    assert [pasted[label] for label in labels] == values
    plain = host.call("probe/paste", {"text": "a cat\nSteps: 3, Sampler: Euler, Seed: 1", "tab": "img2img"})
    assert [plain[label] for label in labels] == [False, 0.7, False, "off", 0.0, 0.0, "steps"]


def test_infotext_draws_the_panels_run_again(host, clean):
    values = [True, 0.5, False, "sqrt", 2.0, 0.1, "steps"]
    pictures, text, _ = draw(host, "txt2img", *values, scheduler="Tweedie Karras")
    assert host.draw("txt2img", {"infotext": text})[0] == pictures


def test_reload_ui_loads_the_pack_anew_and_lists_everything_once(host, untouched):
    before = host.call("probe/reload", {})
    host.wait_for_start(2)
    assert host.call("probe/package") != before
    names = [row["name"] for row in host.call("sdapi/v1/schedulers")]
    assert [name for name in names if name.startswith("tweedie_")] == [f"tweedie_{id}" for id in SCHEDULES]
    assert [row["name"] for row in host.call("sdapi/v1/samplers")].count("Tweedie 2M") == 1
    near(draw(host, "img2img", *ZERO_SNR, scheduler="Tweedie Zero SNR")[2][0], TOP)
    assert draw(host, "txt2img")[0] == untouched["txt2img"]


def test_an_epsilon_model_is_refused_zero_snr_and_given_a_dc_start(untouched):
    with Host(PATH, PYTHON, EPSILON, A1111, [PACK, PROBE]) as host:
        before = draw(host, "txt2img")[0]
        for name in RUNS:
            with pytest.raises(Refused, match="500.*this model predicts epsilon"):
                draw(host, name, *ZERO_SNR)
        pictures, text, sigmas = draw(host, "txt2img", False, 0.7, True, "off", 0, 0, "steps")
        assert pictures != before and "Tweedie DC start: True" in text and len(sigmas) == 3 + 2
        assert draw(host, "txt2img")[0] == before
        assert host.call("probe/seen")["left"] == []
