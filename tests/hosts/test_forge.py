"""The door in a real Forge: lists, panel, and that nothing is left behind.

FORGE_PATH, FORGE_PYTHON and TWEEDIE_SD15_V (a v checkpoint with its yaml beside it; Forge knows models by
their shapes, so it must have SD 1.5's full size) say where it is.
"""
import pytest
import torch
from hosts.a1111host import FORGE, PACK, PROBE, RUNS, TOP, ZERO_SNR, Host, Refused, draw, near, table
from hosts.need import need
from tweedie_pack.samplers import flow
from tweedie_pack.samplers.schedules import SCHEDULES

PATH, PYTHON, V = need("FORGE_PATH", "FORGE_PYTHON", "TWEEDIE_SD15_V")


@pytest.fixture(scope="module")
def untouched():
    """What the host draws without the pack."""
    with Host(PATH, PYTHON, V, FORGE, []) as host:
        return {name: host.draw(*run)[0] for name, run in RUNS.items()}


@pytest.fixture(scope="module")
def host(untouched):
    with Host(PATH, PYTHON, V, FORGE, [PACK, PROBE]) as host:
        host.draw(*RUNS["txt2img"])  # Forge loads its model now
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


@pytest.mark.parametrize("id", SCHEDULES)
def test_every_schedule_runs_and_is_in_the_infotext(host, clean, id):
    label = f"Tweedie {SCHEDULES[id].label}"
    _, text, sigmas = draw(host, "txt2img", scheduler=label, sampler_name="Tweedie 2M", steps=2)
    near(sigmas, SCHEDULES[id](2, table(host))[:-1])
    assert f"Schedule type: {label}" in text


@pytest.mark.parametrize("name", RUNS)
def test_zero_snr_starts_at_the_rescaled_maximum_and_leaves_nothing(host, clean, untouched, name):
    pictures, text, sigmas = draw(host, name, *ZERO_SNR)
    near([sigma for sigma in sigmas if sigma > 1000], [TOP] * (2 if name == "hires" else 1))
    assert "Tweedie zero SNR: True, Tweedie CFG rescale: 0.7" in text
    assert draw(host, name, *ZERO_SNR[:1], 0, *ZERO_SNR[2:])[0] != pictures
    assert draw(host, name)[0] == untouched[name] != pictures


@pytest.mark.parametrize("end", ["interrupt", "fail"])
def test_a_run_that_ends_early_leaves_nothing(host, clean, untouched, end):
    body = {"Tweedie Schedules": {"args": ZERO_SNR}, "Probe": {"args": [end]}}
    if end == "fail":
        with pytest.raises(Refused):
            draw(host, "txt2img", alwayson_scripts=body)
    else:
        draw(host, "txt2img", alwayson_scripts=body)
    assert draw(host, "txt2img")[0] == untouched["txt2img"]


def test_shift_last_sigma_and_denoise_mode(host, clean):
    sigmas, values = table(host), [False, 0.7, False, "fixed", 3, 0.25, "sigma"]
    seen = draw(host, "hires", *values, scheduler="Tweedie Log-SNR", denoising_strength=0.5)[2]
    last = float(flow.shift_sigmas(torch.tensor([0.25]), sigmas, 1 / 3))

    def schedule(steps, table):
        return flow.shift_sigmas(SCHEDULES["logsnr"](steps, table, last=last), table, 3.0)
    near(seen[:3], schedule(3, sigmas)[:-1])
    near(seen[3:], flow.cut(schedule, len(seen) - 3, sigmas, 0.5, "sigma")[:-1])


def test_settings_that_cannot_be_met_reach_the_user(host, clean):
    with pytest.raises(Refused, match="makes its own steps"):
        draw(host, "txt2img", *ZERO_SNR, sampler_name="DDIM")


def test_paste_restores_the_panel_and_resets_what_is_absent(host, clean):
    values = [True, 0.5, False, "sqrt", 2.0, 0.1, "log_snr"]
    text = draw(host, "img2img", *values, scheduler="Tweedie Karras")[1]
    pasted = host.call("probe/paste", {"text": text, "tab": "img2img"})
    labels = ("CFG rescale", "Shift by picture size", "Denoise mode (img2img, hires)")
    assert [pasted[label] for label in labels] == [0.5, "sqrt", "log_snr"]
