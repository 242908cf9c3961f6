"""Identities of spectral guidance: neutral is nothing, energy stays, knobs mean the same at every size."""
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.fft import dctn
from scipy.integrate import solve_ivp
from tweedie_pack.samplers import dct as transform
from tweedie_pack.samplers.guidance import Companions, Memory, guide
from tweedie_pack.samplers.power import RADII
from tweedie_pack.samplers.recipe import PRESETS, Settings, bind, compose, preset
from tweedie_pack.samplers.spectral import BANDS, Window, deciding, gate, partition, reweight, tabulate
from tweedie_pack.samplers.structure import MAPS

SIZES = [(8, 8), (9, 13), (64, 40), (65, 81), (160, 96), (3, 16, 24), (5, 9, 8), (1, 12, 12)]
NEUTRAL = [(band.id, {}) for band in BANDS.values()]
EQUAL = [("two_band", {"low": 2.0, "high": 2.0}), ("three_band", {"low": 3.0, "mid": 3.0, "high": 3.0}),
         ("equalizer", dict.fromkeys(("at_1_16", "at_1_8", "at_1_4", "at_1_2", "at_1"), 0.5))]
LIVELY = {"two_band": {"low": 3.0}, "three_band": {"mid": 2.5}, "tilt": {"slope": -0.7},
          "equalizer": {"at_1_8": 2.0, "at_1_2": 0.0}, "notch": {"gain": 4.0}}
GOLDEN = {  # gain at radius 0, 1/16, 1/8, 1/4, 1/2, 1 with the knobs of LIVELY
    "two_band": [3, 3, 3, 2, 1, 1], "three_band": [1, 1, 1.8820, 2.5, 1.4185, 1],
    "equalizer": [1, 1, 2, 1, 0, 1], "tilt": [4.2871, 2.6390, 1.6245, 1, 0.6156, 0.3789],
    "notch": [1, 1.0010, 1.4060, 4, 1.4060, 1.0010]}
POWERS = (900.0, 250.0, 60.0, 15.0, 4.0, 1.0)
SD = torch.linspace(0.0292, 14.6146, 1000, dtype=torch.float64)
FLOW = torch.arange(1, 1001, dtype=torch.float64) / 1000


def recipe(band="two_band", knobs=None, structure="off", powers=POWERS, map_knobs=None, **settings):
    return compose(bind(band, BANDS, knobs or {}), bind(structure, MAPS, map_knobs or {}),
                   Settings(**settings), powers)


def latents(space, batch=2, channels=4, seed=0):
    """delta, guided, uncond, with some smoothness so that no band is empty."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(3, batch, channels, *space, generator=generator)
    size = transform.radius(space, noise.device).clamp_min(1 / 32)
    fields = transform.inverse_dct(transform.dct(noise.flatten(0, 1)) / size).unflatten(0, (3, batch))
    return fields[0], fields[1], fields[2]


def sigma(batch=2, value=1.0):
    return torch.full((batch,), value)


def inner(a, b):
    return (a.double() * b.double()).flatten(1).sum(1)


@pytest.mark.parametrize("space", SIZES)
def test_the_transform_is_scipys_orthonormal_dct_and_comes_back(space):
    x = torch.randn(2, 3, *space, generator=torch.Generator().manual_seed(1))
    expected = dctn(x.double().numpy(), axes=tuple(range(2, x.ndim)), norm="ortho")
    np.testing.assert_allclose(transform.dct(x).numpy(), expected, atol=1e-5)
    torch.testing.assert_close(transform.inverse_dct(transform.dct(x)), x, atol=2e-5, rtol=0)


def test_golden_gains_and_bands_have_the_same_names():
    assert LIVELY.keys() == GOLDEN.keys() == BANDS.keys()


@pytest.mark.parametrize("band", BANDS)
def test_every_band_has_its_golden_gains(band):
    radii = torch.tensor([0, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1])
    torch.testing.assert_close(BANDS[band](radii, **LIVELY[band]), torch.tensor(GOLDEN[band]).float(),
                               atol=2e-4, rtol=0)


@pytest.mark.parametrize("time", ["constant", "ramp", "window", "deciding"])
@pytest.mark.parametrize(("band", "knobs"), NEUTRAL + EQUAL)
def test_equal_gains_are_plain_guidance_bit_for_bit(band, knobs, time):
    delta, guided, uncond = latents((16, 24))
    change = reweight(delta, recipe(band, knobs, time=time), Window(), sigma(), guided, uncond)
    assert torch.equal(change, torch.zeros_like(delta))


@pytest.mark.parametrize("structure", MAPS)
@pytest.mark.parametrize("band", BANDS)
def test_strength_0_and_moments_outside_the_window_change_nothing(band, structure):
    delta, guided, uncond = latents((16, 24))
    regions = partition([torch.rand(1, 16, 24), torch.rand(1, 16, 24)], (16, 24))
    for given, window in ((recipe(band, LIVELY[band], structure, strength=0.0), Window()),
                          (recipe(band, LIVELY[band], structure), Window(start=0.5)),
                          (recipe(band, LIVELY[band], structure), Window(end=2.0))):
        change = reweight(delta, given, window, sigma(), guided, uncond, 0, regions)
        assert torch.equal(change, torch.zeros_like(delta))


@pytest.mark.parametrize("space", SIZES)
@pytest.mark.parametrize("structure", MAPS)
@pytest.mark.parametrize("band", BANDS)
def test_energy_along_plain_guidance_is_kept_for_every_sample(band, structure, space):
    delta, guided, uncond = latents(space)
    given = recipe(band, LIVELY[band], structure)
    change = reweight(delta, given, Window(), sigma(), guided, uncond, seed=3)
    assert float(change.abs().max()) > 0.01
    torch.testing.assert_close(inner(delta, delta + change), inner(delta, delta), rtol=1e-5, atol=0)
    alone = reweight(delta[1:], given, Window(), sigma(1), guided[1:], uncond[1:], seed=3)
    torch.testing.assert_close(alone, change[1:], rtol=1e-5, atol=1e-5)


def test_at_strength_2_a_gain_of_0_is_still_0():
    delta, guided, uncond = latents((16, 24))
    for strength in (1.0, 2.0):
        given = recipe(knobs={"high": 0.0}, strength=strength, keep_energy=False)
        left = transform.dct(delta + reweight(delta, given, Window(), sigma(), guided, uncond))
        high = transform.radius((16, 24), delta.device) > 0.4
        assert float(left[..., high].abs().max()) < 1e-4 < float(transform.dct(delta)[..., high].abs().max())


def test_energy_is_kept_in_every_region_and_in_what_no_region_covers():
    delta, guided, uncond = latents((16, 24))
    left, middle = torch.zeros(2, 1, 16, 24)
    left[..., :9], middle[..., 9:15] = 3, 1
    regions = partition([left, middle], (16, 24))
    torch.testing.assert_close(regions.sum(0), torch.ones(1, 1, 16, 24))
    change = reweight(delta, recipe(knobs={"low": 4.0}), Window(), sigma(), guided, uncond, 0, regions)
    for part in regions:
        torch.testing.assert_close(inner(delta * part, delta + change), inner(delta * part, delta),
                                   rtol=1e-5, atol=0)


def test_energy_that_a_recipe_would_wipe_out_leaves_plain_guidance():
    delta = torch.ones(1, 4, 16, 16)  # nothing but its mean
    change = reweight(delta, recipe(knobs={"low": 0.0}), Window(), sigma(1), delta, delta)
    torch.testing.assert_close(delta + change, delta)
    nothing = torch.zeros(1, 4, 16, 16)
    given = recipe(knobs={"low": 2.0}, structure="structure")
    assert torch.equal(reweight(nothing, given, Window(), sigma(1), nothing, nothing), nothing)


@pytest.mark.parametrize(("dtype", "within"), [(torch.float16, 0.002), (torch.bfloat16, 0.015)])
@pytest.mark.parametrize("space", [(104, 152), (3, 30, 52)])
def test_half_precision_agrees(space, dtype, within):
    delta, guided, uncond = latents(space)
    given = recipe("tilt", {"slope": 0.5})
    exact = reweight(delta, given, Window(), sigma(), guided, uncond)
    half = reweight(delta.to(dtype), given, Window(), sigma(), guided.to(dtype), uncond.to(dtype))
    assert half.dtype == torch.float32
    assert float((half - exact).square().mean().sqrt() / exact.square().mean().sqrt()) < within


@pytest.mark.parametrize("band", BANDS)
@pytest.mark.parametrize("period", [4, 6, 10, 16])
def test_a_texture_of_given_period_has_the_same_gain_at_64_and_at_128(band, period):
    gains = []
    for size in (64, 128):
        place = torch.arange(size) + 0.5 - size / 2
        bell = torch.exp(-0.5 * (place / 9) ** 2)
        wave = torch.cos(2 * math.pi * (0.8 * place[:, None] + 0.6 * place) / period)
        texture = (wave * bell[:, None] * bell).expand(1, 4, size, size)
        given = recipe(band, LIVELY[band], keep_energy=False)
        change = reweight(texture, given, Window(), sigma(1), texture, texture)
        gains.append(1 + float(inner(texture, change) / inner(texture, texture)))
    assert gains[0] == pytest.approx(gains[1], rel=0.02)


def test_a_ramp_does_not_leak_into_high_frequencies_at_the_border():
    ramp = torch.linspace(-1, 1, 128)[:, None] + 0.5 * torch.linspace(-1, 1, 128)
    given = recipe(knobs={"low": 0.0, "cutoff": 0.31}, keep_energy=False)
    high = ramp + reweight(ramp[None, None], given, Window(), sigma(1), ramp[None, None], ramp[None, None])
    assert float(high.abs().max()) <= 0.01


def test_gates_over_a_run():
    window = Window.of(SD, 0.0, 1.0)
    e = torch.tensor([14.6, 0.66, 0.0292])  # the middle one halfway in log-SNR
    torch.testing.assert_close(gate("ramp", e, window), torch.tensor([1.0, 0.5, 0.0]), atol=0.01, rtol=0)
    torch.testing.assert_close(gate("window", e, window), torch.tensor([0.0, 1.0, 0.0]), atol=0.01, rtol=0)
    torch.testing.assert_close(gate("constant", e, window), torch.ones(3))


def test_percents_begin_and_end_where_they_say():
    window = Window.of(SD, 0.25, 0.75)
    e = SD[[999, 750, 748, 500, 251, 248, 0]].float()
    assert gate("constant", e, window).tolist() == [0, 0, 1, 1, 1, 0, 0]
    flow = Window.of(FLOW, 0.0, 0.5)
    assert flow.start == math.inf and flow.end == pytest.approx(1.0) and flow.flow
    for start, end in ((0.5, 0.5), (0.7, 0.2), (-0.1, 1), (0, 1.1), (math.nan, 1)):
        with pytest.raises(ValueError, match="start must lie below end"):
            Window.of(SD, start, end)


def test_deciding_is_4_w_times_1_minus_w():
    power = torch.tensor([100.0, 1.0, 0.01])
    for e in (0.0, 0.3, 1.0, 20.0, math.inf):
        w = power / (power + e**2)
        torch.testing.assert_close(deciding(torch.tensor(e), power), 4 * w * (1 - w), atol=1e-6, rtol=1e-5)


def test_bad_gains_and_latents_are_refused():
    delta = torch.ones(1, 4, 8, 8)
    for gain in (lambda r: r * math.nan, lambda r: -r):
        with pytest.raises(ValueError, match="finite gains of at least 0"):
            tabulate(gain, True)((8, 8), delta.device)
    with pytest.raises(ValueError, match="rows and columns"):
        reweight(delta[0], recipe(), Window(), sigma(1), delta, delta)
    with pytest.raises(ValueError, match="swap them"):
        reweight(delta, recipe("three_band", {"low_cutoff": 0.9}), Window(), sigma(1), delta, delta)
    with pytest.raises(ValueError, match="low is 9"):
        reweight(delta, recipe("two_band", {"low": 9.0}), Window(), sigma(1), delta, delta)
    with pytest.raises(ValueError, match="strength is nan"):
        Settings(strength=math.nan).checked()


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_acts(name):
    delta, guided, uncond = latents((16, 16))
    change = reweight(delta, preset(name, POWERS), Window(), sigma(), guided, uncond)
    assert float(change.abs().max()) > 0.01


def mode(between, scale, gain_at):
    """Mean and deviation, in units of the class's, where a Gaussian mode ends: the 1-D ODE is the truth."""
    within, spread = 1 / (1 + between), between / (1 + between)

    def slope(log_s, ab):
        s = math.exp(log_s)
        cond, uncond = within / (within + s * s), (within + spread) / (within + spread + s * s)
        w = gain_at(s, scale)
        keep, add = uncond + w * (cond - uncond), w * (1 - cond)
        return [(1 - keep) * ab[0], (1 - keep) * ab[1] - add]
    points = [math.log(s) for s in (300, 2, 0.2, 1e-4)]
    ab = [1.0, 0.0]
    for start, end in pairwise(points):
        ab = solve_ivp(slope, (start, end), ab, rtol=1e-8, atol=1e-10).y[:, -1]
    return ab[1], ab[0] * 300 / math.sqrt(within)


GUIDES = {  # of a mode with P = 1: constant, at its deciding moment, in an interval
    "plain": lambda s, w: w, "deciding": lambda s, w: 1 + (w - 1) * 4 * s * s / (1 + s * s) ** 2,
    "interval": lambda s, w: w if 0.2 < s <= 2 else 1.0}
COMPANIONS = Companions(interval=True, low=-2 * math.log(2.0), high=-2 * math.log(0.2))


def guided_by_the_pack(kind, x, s, cond, uncond, w):
    if kind == "interval":
        return guide(x, sigma(1, s), cond, uncond, w, COMPANIONS, Memory(), flow=False)
    if kind == "plain":
        return uncond + w * (cond - uncond)
    given = recipe(knobs={"low": w, "high": w}, powers=(1.0,) * len(RADII), time="deciding",
                   keep_energy=False)
    delta = cond - uncond
    return uncond + delta + reweight(delta, given, Window(), sigma(1, s), cond, uncond)


@pytest.mark.parametrize("between", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("scale", [3.0, 5.0])
@pytest.mark.parametrize("kind", GUIDES)
def test_gaussian_modes_end_where_their_equation_says(kind, scale, between):
    within, spread = 1 / (1 + between), between / (1 + between)
    logs = torch.cat([torch.linspace(math.log(a), math.log(b), n + 1, dtype=torch.float64)[:-1]
                      for a, b, n in ((300, 2, 150), (2, 0.2, 150), (0.2, 1e-4, 50))])
    nodes = [*logs.exp().tolist(), 1e-4]
    ends = []
    for x, mean in ((torch.full((1, 1, 2, 2), 300.0), 0.0), (torch.zeros(1, 1, 2, 2), 1.0)):

        def slope(x, s, mean=mean):
            cond = (within * x + s * s * mean) / (within + s * s)
            uncond = x / (1 + s * s)
            return (x - guided_by_the_pack(kind, x, s, cond, uncond, scale)) / s
        for s, following in pairwise(nodes):
            middle = math.sqrt(s * following)
            x = x + (following - s) * slope(x + (middle - s) * slope(x, s), middle)
        ends.append(float(x[0, 0, 0, 0]))
    shift, deviation = mode(between, scale, GUIDES[kind])
    assert spread > 0
    assert ends[1] == pytest.approx(shift, abs=1e-3 * max(1, abs(shift)))
    assert ends[0] / math.sqrt(within) == pytest.approx(deviation, abs=1e-3)
