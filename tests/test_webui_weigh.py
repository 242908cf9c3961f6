"""What the web UIs' panel of spectral guidance does to a step, on stand-ins of A1111's and Forge's hooks."""
import copy
from types import SimpleNamespace

import pytest
import torch
from tweedie_pack.extensions_a1111 import host, scope, weigh
from tweedie_pack.samplers.guidance import Memory, guide
from tweedie_pack.samplers.spectral import Window, partition, reweight
from webui_standins import (
    ACCOMPANIED,
    ALPHAS,
    JOINED,
    LOW,
    ON,
    PAIR,
    SINGLE,
    TABLE,
    WEIGHED,
    Guide,
    TimestepGuide,
    estimates,
    make_pass,
    noise,
    reading,
    run,
)


@pytest.mark.parametrize("names", [ON | {"low": 1.5, "high": 1.5}, LOW | {"strength": 0},
                                   LOW | {"start_percent": 0.5}, ON | {"structure": "off"}], ids=str)
@pytest.mark.parametrize("kind, sigma", [(Guide, 9.0), (TimestepGuide, 900.0)])
def test_what_adds_nothing_leaves_the_hosts_bits(names, kind, sigma):
    denoiser, x, sigma = kind(estimates(2, 2), PAIR), noise(2, 1), torch.full((2,), sigma)
    plain = denoiser.forward(x, sigma)
    assert torch.equal(run(names, denoiser, x, sigma), plain)


@pytest.mark.parametrize("names", [*WEIGHED, *ACCOMPANIED], ids=str)
def test_guidance_of_1_and_a_skipped_negative_are_left_alone(names):
    denoiser, x, sigma = Guide(noise(2), SINGLE), noise(1, 1), torch.tensor([3.0])
    assert torch.equal(run(names, denoiser, x, sigma, scale=1.0), denoiser.forward(x, sigma, 1.0))
    change = weigh.make_change(reading(names), make_pass(denoiser), x)
    for uncond in (None, torch.zeros_like(x)):
        guided = noise(1, 5)
        assert change(host.Step(x, sigma, guided, guided, uncond, 7.0)) is guided


@pytest.mark.parametrize("names", WEIGHED, ids=str)
def test_prompts_joined_by_and_are_weighed_as_their_sum(names):
    out, x, sigma = estimates(2, 1), noise(1, 1), torch.tensor([3.0])
    denoiser, chosen = Guide(out, JOINED), reading(names)
    delta = 7.0 * ((out[0:1] - out[2:]) + 0.5 * (out[1:2] - out[2:]))
    added = reweight(delta, chosen.recipe(()), Window.of(TABLE), sigma, out[2:] + delta, out[2:], 3)
    torch.testing.assert_close(run(names, denoiser, x, sigma), out[2:] + delta + added, rtol=1e-4, atol=1e-4)
    assert added.abs().max() > 0.1


@pytest.mark.parametrize("names", [*WEIGHED, *ACCOMPANIED], ids=str)
def test_a_sampler_of_noise_and_one_of_pictures_get_the_same_weights(names):
    timestep, x, out = torch.tensor([700.0, 300.0]), noise(2, 1), estimates(2, 2)
    a = ALPHAS[timestep.long()][:, None, None, None].repeat(2, 1, 1, 1)
    sigma = TABLE[timestep.long()]
    noises = (x.repeat(2, 1, 1, 1) - a.sqrt() * out) / (1 - a).sqrt()
    expected = run(names, Guide(out, PAIR), x / a[:2].sqrt(), sigma, steps=2)
    guided = run(names, TimestepGuide(noises, PAIR), x, timestep, steps=2)
    got = TimestepGuide.get_pred_x0(TimestepGuide, x, guided, timestep)
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(guided, TimestepGuide(noises, PAIR).forward(x, timestep))


@pytest.mark.parametrize("names", [*WEIGHED, *ACCOMPANIED], ids=str)
def test_a_batch_member_equals_its_single_run(names):
    out, x, sigma = estimates(2, 2), noise(2, 1), torch.full((2,), 3.0)
    both = run(names, Guide(out, PAIR), x, sigma, steps=2)
    for i in range(2):
        single = run(names, Guide(out[i::2], SINGLE), x[i:i + 1], sigma[:1], steps=2)
        torch.testing.assert_close(both[i:i + 1], single, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("names", ACCOMPANIED[:4], ids=str)
def test_companions_are_those_of_the_core(names):
    out, x, sigma = noise(2), noise(1, 1), torch.tensor([3.0])
    memory, chosen = Memory(), reading(names).companions
    for steps in (1, 2):  # APG remembers the first
        expected = guide(x, sigma, out[:1], out[1:], 7.0, chosen, memory, False, 0.3)
        torch.testing.assert_close(run(names, Guide(out, SINGLE), x, sigma, steps=steps), expected,
                                   rtol=1e-4, atol=1e-4)


def test_inpainting_keeps_the_energy_where_the_picture_may_change():
    out, x, sigma = noise(2), noise(1, 1), torch.tensor([3.0])
    denoiser = Guide(out, SINGLE)
    denoiser.nmask = torch.zeros(4, 8, 12)
    denoiser.nmask[:, 2:6, 3:9] = 1
    plain = denoiser.forward(x, sigma)
    got, delta = run(LOW, denoiser, x, sigma), plain - out[1:]
    inside = denoiser.nmask.bool()
    for part in (inside, ~inside):
        kept = ((got - out[1:]) * delta)[0][part].sum() / delta[0][part].square().sum()
        torch.testing.assert_close(kept, torch.tensor(1.0), rtol=1e-4, atol=0)
    regions = partition([torch.ones(1, 8, 12)], (8, 12))
    torch.testing.assert_close(regions[0], torch.ones(1, 1, 8, 12))


@pytest.mark.parametrize("names", WEIGHED, ids=str)
def test_a_host_that_samples_under_autocast_gets_full_precision(names):
    denoiser, x, sigma = Guide(estimates(1, 1), SINGLE), noise(1, 1), torch.tensor([3.0])
    expected = run(names, denoiser, x, sigma)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(run(names, denoiser, x, sigma), expected)


def test_video_latents_are_weighed_too():
    out, x, sigma = noise(2, space=(3, 8, 8)), noise(1, 1, (3, 8, 8)), torch.tensor([3.0])
    denoiser = Guide(out, SINGLE)
    assert not torch.equal(run(LOW, denoiser, x, sigma), denoiser.forward(x, sigma))


def test_the_window_follows_a_table_that_the_other_panel_has_changed():
    """start_percent 0.02 lies above sigma 14.6 only on the rescaled table."""
    denoiser, x, names = Guide(noise(2), SINGLE), noise(1, 1), LOW | {"start_percent": 0.02}
    p, sigma = make_pass(denoiser), torch.tensor([14.6])
    plain = denoiser.forward(x, sigma)
    change = weigh.make_change(reading(names), p, x)
    (owner, values), = host.zero_snr_changes(p.sd_model)
    with scope.patched(owner, **values), host.after_cfg(p, change):
        assert not torch.equal(denoiser.forward(x, sigma), plain)
    assert torch.equal(run(names, denoiser, x, sigma), plain)


def test_time_deciding_takes_the_power_of_the_models_latents_or_says_what_it_takes(caplog):
    names, x = LOW | {"time": "deciding"}, noise(1)
    p = make_pass(Guide(noise(2), SINGLE))
    weigh.make_change(reading(names), p, x)
    assert not caplog.text
    p.sd_model.is_sd1 = False
    weigh.make_change(reading(names), p, x)
    assert "was not measured; time 'deciding' takes that of SD15" in caplog.text
    with pytest.raises(ValueError, match="128 channels.* was not measured"):
        weigh.make_change(reading(names), p, x.repeat(1, 32, 1, 1))


@pytest.mark.parametrize("flags, expected", [
    ({"is_sd1": True}, "SD15"), ({"is_sdxl": True}, "SDXL"), ({"is_sd3": True}, "SD3"),
    ({"is_wan": True}, "Wan21"), ({}, "SimpleNamespace")])
def test_the_latent_format_is_read_from_the_model(flags, expected):
    assert host.latent_format(SimpleNamespace(**flags)) == expected


class Unet:
    def __init__(self, options):
        self.options = options
        self.model = SimpleNamespace(predictor=SimpleNamespace(sigmas=TABLE))

    def clone(self):
        return Unet(copy.deepcopy(self.options))

    def set_model_sampler_post_cfg_function(self, function):
        self.options["sampler_post_cfg_function"] = [function]


def test_a_forges_clone_keeps_the_callable_itself_and_hires_has_its_own_scale():
    denoiser, x, sigma = Guide(noise(2), SINGLE), noise(1, 1), torch.tensor([3.0])
    p = make_pass(denoiser, hr_cfg=3.0)
    p.sd_model = SimpleNamespace(forge_objects=SimpleNamespace(unet=Unet({})), is_sd1=True)
    p.is_hr_pass, unet, seen = True, p.sd_model.forge_objects.unet, []
    with host.after_cfg(p, lambda step: seen.append(step) or step.guided):
        function, = p.sd_model.forge_objects.unet.options["sampler_post_cfg_function"]
        assert p.sd_model.forge_objects.unet.clone().options["sampler_post_cfg_function"] == [function]
        args = {"input": x, "sigma": sigma, "denoised": x, "cond_denoised": x, "uncond_denoised": None}
        function(args)
        function(args | {"cond_scale": 5.0})
        p.is_hr_pass = False
        function(args)
    assert [step.scale for step in seen] == [3.0, 5.0, 7.0]
    assert p.sd_model.forge_objects.unet is unet and not unet.options


@pytest.mark.parametrize("names, words", [
    (ON | {"bands": "three_band", "mid": 2, "low_cutoff": 0.6}, "low_cutoff is 0.6, above high_cutoff"),
    (ON | {"interval": True, "interval_low": 4}, "low is 4 and high 3.3"),
    (LOW | {"start_percent": 0.8, "end_percent": 0.2}, "start must lie below end"),
])
def test_an_impossible_combination_stops_the_pass_and_leaves_nothing(names, words):
    denoiser = Guide(noise(2), SINGLE)
    p = make_pass(denoiser)
    with pytest.raises(ValueError, match=words), \
            host.after_cfg(p, weigh.make_change(reading(names), p, noise(1))):
        denoiser.forward(noise(1), torch.tensor([3.0]))
    assert not {"forward", "combine_denoised"} & set(vars(denoiser))
