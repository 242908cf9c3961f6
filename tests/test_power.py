"""calibrate, power_at and the table: known laws are found again, and every row has its golden values."""
import math

import pytest
import torch
from tweedie_pack.samplers.dct import inverse_dct, radius
from tweedie_pack.samplers.power import (
    EXAMPLE,
    POWER,
    RADII,
    calibrate,
    find_powers,
    from_text,
    power_at,
    to_text,
)

LAW = (800.0, 200.0, 50.0, 12.5, 3.125, 0.78125)  # r^-2
CPU = torch.device("cpu")


def field(space: tuple[int, ...], slope: float, count: int = 48) -> torch.Tensor:
    """[count,4,*space] with P = r^slope, and a large mean that must not matter."""
    at = radius(space, CPU)
    noise = torch.randn(count, 4, *space, generator=torch.Generator().manual_seed(3))
    return inverse_dct(noise * torch.where(at > 0, at, 1.0) ** (slope / 2)) + 5


@pytest.mark.parametrize("space", [(64, 64), (96, 160), (5, 64, 64), (21, 60, 104)], ids=str)
def test_white_noise_has_its_variance_everywhere(space):
    noise = 2 * torch.randn(16, 4, *space, generator=torch.Generator().manual_seed(1))
    assert calibrate(noise) == pytest.approx([4.0] * 6, rel=0.15)
    assert calibrate(noise)[3:] == pytest.approx([4.0] * 3, rel=0.02)


@pytest.mark.parametrize("slope", [-1, -2, -3])
@pytest.mark.parametrize("space", [(64, 64), (128, 128), (96, 160), (48, 64, 64)], ids=str)
def test_power_laws_are_found_again(space, slope):
    powers = calibrate(field(space, slope, count=48 if len(space) == 2 else 8))
    assert powers == pytest.approx([at ** slope for at in RADII], rel=0.15)


def test_a_short_clip_is_measured_too():
    assert calibrate(field((5, 96, 64), -2, count=24)) == pytest.approx([at ** -2 for at in RADII], rel=0.15)


@pytest.mark.parametrize("space", [(2, 2), (2, 9), (4, 4), (1, 8, 8), (3, 2, 2)], ids=str)
def test_octaves_that_small_latents_lack_take_a_neighbours_value(space):
    powers = calibrate(field(space, 0, count=4000))
    assert len(powers) == 6 and powers[0] == powers[1]
    assert powers == pytest.approx([1.0] * 6, rel=0.1)


def test_a_still_clip_counts_as_frames_times_its_picture_at_low_radii():
    pictures = field((64, 64), -2)
    still = calibrate(pictures[:, :, None].repeat(1, 1, 5, 1, 1))
    assert still[:2] == pytest.approx([5 * power for power in calibrate(pictures)[:2]], rel=0.01)


def test_calibrate_reads_any_kind_and_leaves_it_alone():
    latents = field((32, 32), -2, count=2)
    before, half = latents.clone(), latents.half()
    assert calibrate(half) == pytest.approx(calibrate(latents), rel=0.02)
    assert bool((latents == before).all()) and half.dtype == torch.float16
    assert calibrate(latents * 3) == pytest.approx([9 * power for power in calibrate(latents)], rel=2e-3)
    with torch.inference_mode():
        assert calibrate(latents) == calibrate(before)


@pytest.mark.parametrize(("latents", "message"), [
    (torch.ones(4, 8, 8), r"shape \[4, 8, 8\]; give \[N,C,H,W\]"),
    (torch.ones(1, 1, 1, 4, 8, 8), "give "),
    (torch.ones(0, 4, 8, 8), "shape .*; give "),
    (torch.ones(1, 4, 1, 8), "1x8 positions; give at least 2x2"),
    (torch.ones(1, 4, 5, 8, 1), "8x1 positions; give at least 2x2"),
    (torch.full((1, 4, 8, 8), math.nan), "NaN or infinity; check"),
    (torch.full((1, 4, 8, 8), math.inf), "NaN or infinity; check"),
    (torch.zeros(1, 4, 8, 8), "no power .*; give encoded"),
    (torch.full((2, 4, 64, 64), 3.3), "no power .*; give encoded"),
    (torch.randn(2, 4, 8, 8) * 1e18, "power at 1/32 of Nyquist is .*; give a positive finite number"),
])
def test_latents_that_say_nothing_are_refused(latents, message):
    with pytest.raises(ValueError, match=message):
        calibrate(latents)


def test_power_at_meets_the_table_and_stays_between():
    assert power_at(torch.tensor(RADII), LAW).tolist() == pytest.approx(LAW, rel=1e-5)
    at = torch.linspace(1 / 32, 1, 500)
    assert bool((power_at(at, LAW).diff() < 0).all())
    assert power_at(at, LAW).tolist() == pytest.approx((0.78125 / at.square()).tolist(), rel=1e-4)


def test_power_at_is_constant_outside():
    low, high = torch.tensor([0.0, 1e-6, 1 / 32]), torch.tensor([1.0, 2 ** 0.5, 3 ** 0.5])
    assert power_at(low, LAW).tolist() == pytest.approx([LAW[0]] * 3, rel=1e-5)
    assert power_at(high, LAW).tolist() == pytest.approx([LAW[-1]] * 3, rel=1e-5)


@pytest.mark.parametrize("space", [(8, 8), (5, 6, 7), ()], ids=str)
def test_power_at_keeps_the_shape(space):
    found = power_at(radius(space, CPU) if space else torch.tensor(0.3), LAW)
    assert found.shape == space and found.dtype == torch.float32


def test_power_at_works_in_low_precision_and_extremes():
    half = torch.tensor([0.5], dtype=torch.bfloat16)
    assert power_at(half, LAW).tolist() == pytest.approx([3.125], rel=1e-5)
    wide = (1e25, 1e20, 1.0, 1e-10, 1e-20, 1e-25)
    assert power_at(torch.tensor(RADII), wide).tolist() == pytest.approx(wide, rel=1e-4)


@pytest.mark.parametrize("powers", [(), LAW[:5], (*LAW, 1.0), (*LAW[:5], 0.0), (*LAW[:5], -1.0),
                                    (*LAW[:5], math.nan), (*LAW[:5], math.inf), (*LAW[:5], 1e300)], ids=str)
def test_powers_that_are_none_are_refused(powers):
    for use in (to_text, lambda powers: power_at(torch.ones(2), powers)):
        with pytest.raises(ValueError, match="give "):
            use(powers)


@pytest.mark.parametrize("powers", [*POWER.values(), LAW, (1e25, 0.1 + 0.2, 1 / 3, 1e-10, 2, 1e-29)], ids=str)
def test_text_round_trip(powers):
    assert from_text(to_text(powers)) == powers


def test_the_example_in_the_error_is_good_text():
    assert from_text(EXAMPLE) == POWER["SDXL"]


def test_text_is_what_a_person_would_write():
    assert to_text(LAW) == "1/32: 800.0, 1/16: 200.0, 1/8: 50.0, 1/4: 12.5, 1/2: 3.125, 1: 0.78125"
    assert from_text(" 1:0.78125,1/2 : 3.125,\n1/4: 12.5, 1/8: 5e1, 1/16: 200, 1/32: 800 ") == LAW


TEXT = to_text(LAW)


@pytest.mark.parametrize("text", [
    "", "1/32: 1", "hello", None, 7, b"1/32: 1", ",,,,,", TEXT + ",", TEXT[:-20], TEXT.replace("16", "32"),
    TEXT.replace("16", "15"), TEXT.replace("1/16", "."), *(TEXT.replace("800.0", value) for value in (
        "nan", "inf", "-800", "1e999", "0", "8_0", "٨٠", "__import__('os')", "0x10", "")),
    "1/32: " + "9" * 100_000, "1/32:" * 100_000, " " * 100_000, "\x00\ud800",
], ids=lambda text: repr(text)[:40])
def test_hostile_text_gets_one_clear_answer(text):
    with pytest.raises(ValueError, match="power .*; (write one positive|give a positive)") as caught:
        from_text(text)
    assert len(str(caught.value)) < 600 and str(caught.value).isascii()


GOLDEN = {  # format -> P at 1/32, P at 1
    "SD15": (45.5, 0.23),
    "SDXL": (45.0, 0.33),
    "SD3": (55.9, 0.0702),
    "Flux": (73.0, 0.126),
    "Wan21": (1970.0, 0.0315),
}


def test_the_table_is_golden():
    assert POWER.keys() == GOLDEN.keys() and len(set(POWER.values())) == len(POWER)


@pytest.mark.parametrize("name", GOLDEN)
def test_every_row_falls_from_its_golden_end_to_the_other(name):
    row = POWER[name]
    assert (row[0], row[-1]) == GOLDEN[name] and len(row) == len(RADII) and min(row) > 0
    assert list(row) == sorted(set(row), reverse=True)


@pytest.mark.parametrize("name", GOLDEN)
def test_every_row_is_a_latent_of_about_unit_variance(name):
    """The mean of P over all of a latent's coefficients is its variance (Parseval), here without its mean."""
    space = (16, 40, 64) if name == "Wan21" else (64, 64)  # P of a video holds for its number of frames
    assert 0.35 < float(power_at(radius(space, CPU), POWER[name]).mean()) < 1.1


def test_a_format_without_a_row_takes_a_likely_one_and_says_so(caplog):
    assert find_powers(["Wan22", "Wan21"], 16) == POWER["Wan21"] and not caplog.text
    assert find_powers(["Mochi"], 16) == POWER["Flux"] and find_powers(["SD_X4"], 4) == POWER["SD15"]
    assert "Mochi's latents was not measured; time 'deciding' takes that of Flux" in caplog.text
    with pytest.raises(ValueError, match=r"LTXV \(128 channels\) was not measured; measure it"):
        find_powers(["LTXV"], 128)
