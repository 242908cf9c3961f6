"""octave_energy against closed forms; drawings by what can be read off their pixels."""
import math

import pytest
import torch
from tweedie_pack.samplers.curve import COLORS
from tweedie_pack.samplers.power import RADII
from tweedie_pack.samplers.recipe import PRESETS
from tweedie_pack.samplers.spectral import BANDS
from tweedie_pack.samplers.spectrum import (
    LEGEND,
    WIDTH,
    draw_energy,
    draw_gains,
    draw_map,
    join,
    octave_energy,
)

EDGE = WIDTH - LEGEND  # of the panel; its legend stands right of it


def pixels(picture, color):
    """[H,W] bool: where a picture has this colour."""
    wanted = torch.tensor([int(color[i:i + 2], 16) for i in (1, 3, 5)]) / 255
    return (picture - wanted).abs().amax(-1) < 0.02


def height_of(picture, color):
    """Mean height of a curve of this colour above the picture's lower edge."""
    rows = pixels(picture, color)[:, :EDGE].nonzero()[:, 0]
    assert len(rows) > 100
    return picture.shape[0] - float(rows.float().mean())


def is_picture(picture):
    return (picture.ndim == 3 and picture.shape[1:] == (WIDTH, 3) and picture.dtype == torch.float32
            and float(picture.min()) >= 0 and float(picture.max()) <= 1)


def flat(gain):
    return lambda radius: torch.full_like(radius, gain)


@pytest.mark.parametrize("shape", [(2, 4, 16, 16), (3, 4, 13, 27), (1, 16, 5, 12, 9), (1, 4, 1, 1)])
def test_octaves_add_up_to_the_energy(shape):
    delta = torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 0.3
    found = octave_energy(delta)
    assert found.shape == (len(RADII),) and found.dtype == torch.float32
    assert float(found.sum()) == pytest.approx(float(delta.square().sum()) / len(delta), rel=1e-5)


@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("octave", range(len(RADII)))
def test_a_cosine_is_found_in_its_octave_at_every_size(size, octave):
    period = 2 / RADII[octave]
    wave = torch.cos(2 * math.pi * (torch.arange(size) + 0.5) / period) if octave < 5 else (
        torch.cos(math.pi * (torch.arange(size) + 0.5) * (size - 1) / size))
    for delta in (wave.expand(1, 1, size, size), wave[:, None].expand(2, 1, size, size)):
        found = octave_energy(delta)
        assert float(found[octave] / found.sum()) > 0.999


def test_the_mean_is_in_the_lowest_octave_and_corners_in_the_highest():
    mean = octave_energy(torch.full((1, 2, 8, 8), 3.0))
    assert mean.tolist() == pytest.approx([1152, 0, 0, 0, 0, 0], abs=1e-3)
    checks = (torch.arange(9)[:, None] + torch.arange(9)) % 2 * 2.0 - 1
    found = octave_energy(checks[None, None])
    assert float(found[-1] / found.sum()) > 0.9


def test_energy_reads_no_value_back_from_the_device():
    found = octave_energy(torch.empty(2, 4, 12, 10, device="meta"))  # reading from it raises
    assert found.is_meta and found.shape == (len(RADII),)


def test_half_precision_energy_is_that_of_its_values():
    delta = (100 * torch.randn(1, 4, 24, 24, generator=torch.Generator().manual_seed(1))).half()
    assert torch.equal(octave_energy(delta), octave_energy(delta.float()))


def test_a_gain_of_1_lies_on_the_line_at_1():
    plain, other = draw_gains({"plain": flat(1.0)}), draw_gains({"at the top, on the same axis": flat(2.0)})
    below = slice(120, 320)
    line = int(other[below, 300:500].mean((1, 2)).argmin())
    drawn = pixels(plain[below], COLORS[0])[:, 300:500].all(1).nonzero().flatten().tolist()
    assert is_picture(plain) and line in drawn and len(drawn) <= 3
    assert not pixels(other[below], COLORS[0])[:, :EDGE].any()


def test_a_larger_gain_is_drawn_higher_and_to_scale():
    picture = draw_gains({"1": flat(1.0), "2": flat(2.0), "4": flat(4.0)})
    one, two, four = (height_of(picture, color) for color in COLORS[:3])
    assert (four - one) / (two - one) == pytest.approx(3, abs=0.1) and two - one > 30


def test_gains_rise_where_their_band_is():
    picture = draw_gains({"high": lambda radius: BANDS["two_band"](radius, high=3.0)})
    left, right = (pixels(picture, COLORS[0])[:, part].nonzero()[:, 0].float().mean()
                   for part in (slice(100, 300), slice(EDGE - 150, EDGE)))
    assert left - right > 100


def test_every_preset_and_many_curves_are_drawn():
    presets = {name: lambda radius, p=given: BANDS[p["bands"]](radius, **p["band_knobs"])
               for name, given in PRESETS.items() if "bands" in given}
    assert presets
    for curves in (presets, {f"{i}, a name that is far too long for it": flat(i / 8) for i in range(30)}):
        picture = draw_gains(curves)
        assert is_picture(picture) and bool(pixels(picture, COLORS[0]).any())


def test_gains_that_are_no_numbers_are_left_out_and_told():
    odd = draw_gains({"odd": lambda radius: torch.where(radius > 0.2, math.nan, 2.0)})
    clean = draw_gains({"clean": flat(2.0)})
    assert is_picture(odd) and not pixels(odd, COLORS[0])[:, EDGE - 150:EDGE].any()
    assert bool(pixels(odd, COLORS[1]).any()) and not pixels(clean, COLORS[1]).any()
    assert is_picture(draw_gains({"none": flat(math.inf)}))


def test_gains_that_cannot_be_drawn_say_why():
    with pytest.raises(ValueError, match="no gain to draw; give"):
        draw_gains({})
    with pytest.raises(ValueError, match=r"curve 'one' gives shape \[\] for 241 radii; give"):
        draw_gains({"one": lambda radius: radius.mean()})


def run_of(steps):
    """e [n] and energies [n,6], each octave a tenth of the one below it."""
    return torch.logspace(1, -1, steps).tolist(), (10.0 ** -torch.arange(6.0)).expand(steps, 6)


def test_energy_is_drawn_for_each_octave_and_higher_where_there_is_more():
    e, before = run_of(12)
    picture = draw_energy(e, before, before)
    heights = [height_of(picture, color) for color in COLORS[:6]]
    gaps = -torch.tensor(heights).diff()
    assert is_picture(picture) and float(gaps.min()) > 20
    assert gaps.tolist() == pytest.approx([float(gaps.mean())] * 5, abs=1)  # even on a log axis


def test_before_is_dashed_and_after_is_solid():
    e, before = run_of(300)  # too many for dots
    moved = before * torch.tensor([1, 1, 0.01, 1, 1, 1])
    dashed, solid = (pixels(draw_energy(e, *pair), COLORS[2])[:, 150:EDGE - 50].any(0).float().mean()
                     for pair in ((before, before * 0 + math.nan), (before * math.nan, before)))
    assert float(dashed) < 0.85 and float(solid) == 1
    assert not torch.equal(draw_energy(e, before, moved), draw_energy(e, moved, before))


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf, -1.0, 1e305, 1e-300])
def test_energies_without_a_logarithm_are_left_out_and_told(value):
    e, energies = run_of(8)
    odd = energies.double().clone()
    odd[2:5] = value
    for before, after in ((odd, energies), (energies, odd), (odd[2:5], odd[2:5])):
        picture = draw_energy(e[:len(before)], before, after)
        told = pixels(picture[-40:], COLORS[1]).any()
        assert is_picture(picture) and bool(told) == (value != 1e-300)


@pytest.mark.parametrize("e", [[1.0], [math.inf], [0.0], [math.nan], [math.inf, 1.0, 0.0], [1.0, 1.0]])
def test_any_steps_are_drawn(e):
    _, energies = run_of(len(e))
    picture = draw_energy(e, energies, 2 * energies)
    drawn = pixels(picture, COLORS[3])[:, :EDGE].any()
    assert is_picture(picture) and bool(drawn) != math.isnan(e[0])


@pytest.mark.parametrize("shapes", [((2, 6), (3, 6)), ((3, 5), (3, 6)), ((3, 6), (6,))])
def test_energies_of_other_shapes_say_why(shapes):
    with pytest.raises(ValueError, match="energy (before|after) has shape .* at 3 steps; give 6"):
        draw_energy([3.0, 2.0, 1.0], *(torch.ones(shape) for shape in shapes))
    with pytest.raises(ValueError, match="at 0 steps; give"):
        draw_energy([], torch.ones(0, 6), torch.ones(0, 6))


def test_a_map_is_warm_where_guidance_became_stronger():
    picture, ratio = torch.full((40, 40, 3), 0.5), torch.ones(4, 4)
    ratio[:, 0], ratio[:, 3] = 4.0, 0.25
    drawn = draw_map(picture, ratio)
    inside = drawn[200:400]
    left, middle, right = inside[:, 220:260], inside[:, 470:490], inside[:, 700:740]
    assert is_picture(drawn)
    assert float((left[..., 0] - left[..., 2]).min()) > 0.3
    assert float((right[..., 2] - right[..., 0]).min()) > 0.3
    assert float((middle - 0.5).abs().max()) < 1e-3


def test_a_map_of_one_leaves_the_picture_in_grey():
    picture = torch.rand(32, 64, 3, generator=torch.Generator().manual_seed(2))
    drawn = draw_map(picture, torch.ones(4, 8))[40:400, 40:900]
    assert float((drawn.amax(-1) - drawn.amin(-1)).max()) < 1e-6 and float(drawn.std()) > 0.05


def test_a_map_beyond_its_scale_is_held_and_what_is_no_number_is_told():
    picture = torch.full((16, 16, 3), 0.5)
    drawn = [draw_map(picture, torch.full((2, 2), ratio)) for ratio in (4.0, 100.0, math.inf, 0.25, 0.0)]
    assert torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[0], drawn[2])
    assert torch.equal(drawn[3], drawn[4]) and not torch.equal(drawn[0], drawn[3])
    for odd in (math.nan, -1.0):
        told = draw_map(picture, torch.tensor([[1.0, odd]]))
        assert is_picture(told) and bool(pixels(told[-40:], COLORS[1]).any())
    assert not pixels(draw_map(picture, torch.ones(1, 2))[-40:-10], COLORS[1])[:, :300].any()


@pytest.mark.parametrize("space", [(1, 1), (8, 3000), (3000, 8), (128, 128)])
def test_pictures_of_any_shape_fit_the_page(space):
    assert is_picture(draw_map(torch.rand(*space, 3), torch.rand(3, 5) + 0.5))


def test_maps_of_other_shapes_say_why():
    for picture, ratio in (((3, 8, 8), (2, 2)), ((8, 8, 3), (1, 2, 2)), ((8, 8, 3), (0, 2))):
        with pytest.raises(ValueError, match=r"map of shape .* over a picture of shape .*; give"):
            draw_map(torch.ones(picture), torch.ones(ratio))


def test_joined_pictures_stand_below_each_other():
    first, second = torch.zeros(4, 10, 3), torch.full((2, 6, 3), 0.5)
    whole = join([first, second])
    assert whole.shape == (6, 10, 3) and torch.equal(whole[:4], first)
    assert torch.equal(whole[4:, :6], second) and bool((whole[4:, 6:] == 1).all())
