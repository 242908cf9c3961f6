import math

import pytest
import torch
from families import TABLES
from tweedie_pack.samplers.flow import (
    cut,
    flux_mu,
    relative_shift,
    resolution_shift,
    shift_edm,
    shift_sigmas,
    shift_time,
    start_sigma,
)
from tweedie_pack.samplers.schedules import SCHEDULES
from tweedie_pack.samplers.table import half_log_snr, own_shift


@pytest.mark.parametrize("shift", (0.25, 1.0, 3.0, 12.0))
def test_a_shift_moves_log_snr_by_minus_two_ln_s(shift):
    t = torch.linspace(0.001, 0.999, 99, dtype=torch.float64)
    moved = 2 * half_log_snr(shift_time(t, shift), True) - 2 * half_log_snr(t, True)
    torch.testing.assert_close(moved, torch.full_like(moved, -2 * math.log(shift)), rtol=0, atol=1e-6)


def test_a_shift_keeps_a_finite_cap_and_undoes_itself():
    e = torch.logspace(-2, 1, 20, dtype=torch.float64)
    assert shift_edm(10.0, 3.0, 10.0) == pytest.approx(10)
    torch.testing.assert_close(shift_edm(shift_edm(e, 3.0, 10.0), 1 / 3.0, 10.0), e)


@pytest.mark.parametrize("family", TABLES)
def test_shifting_a_list_keeps_its_ends_and_order(family):
    sigmas = SCHEDULES["karras"].run(20, TABLES[family])
    for shift in (0.3, 2.0, 7.0):
        moved = shift_sigmas(sigmas, TABLES[family], shift)
        assert moved[0] == sigmas[0] and moved[-1] == 0 and (moved.diff() < 0).all()
        assert ((moved > sigmas)[1:-1] == (shift > 1)).all()
    assert shift_sigmas(sigmas, TABLES[family], 1.0) is sigmas


def test_the_square_root_rule_and_fluxs_mu():
    square = (1, 16, 128, 128)
    assert resolution_shift(square, "sqrt", 0, 3.0, 128 * 128) == 3.0
    assert resolution_shift((1, 16, 256, 256), "sqrt", 0, 3.0, 128 * 128) == pytest.approx(6.0)
    assert resolution_shift(square, "fixed", 5.0, 3.0, 1) == 5.0
    assert resolution_shift(square, "mu", 0, 3.0, 1) == pytest.approx(math.exp(1.15))
    assert resolution_shift((1, 16, 256, 256), "mu", 0, 3.0, 1) == pytest.approx(math.exp(1.15))
    assert resolution_shift((1, 16, 256, 256), "mu_raw", 0, 3.0, 1) == pytest.approx(25.3, rel=2e-3)
    assert flux_mu(256) == 0.5 and flux_mu(4096) == 1.15
    with pytest.raises(ValueError, match="use rule sqrt above 4096 tokens"):
        resolution_shift((1, 16, 2048, 2048), "mu_raw", 0, 3.0, 1)


def test_video_counts_its_frames():
    one, many = (resolution_shift((1, 16, frames, 60, 104), "sqrt", 0, 1.0, 21 * 60 * 104)
                 for frames in (21, 84))
    assert one == 1 and many == pytest.approx(2)


def test_the_models_own_size_and_shift_are_neutral_on_every_family():
    for family, table in TABLES.items():
        assert relative_shift((2, 4, 64, 64), "sqrt", 0, table, 4096) == 1, family
    assert relative_shift((1, 16, 128, 128), "fixed", 3.0, TABLES["flow_3"], 1) == 1
    assert relative_shift((1, 16, 128, 128), "fixed", 6.0, TABLES["flow_3"], 1) == pytest.approx(2)
    assert own_shift(TABLES["flux"]) == pytest.approx(math.exp(1.15), rel=1e-5)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("mode", ("sigma", "log_snr"))
def test_denoise_as_noise_starts_at_the_same_noise_whatever_the_schedule(name, mode):
    for table in TABLES.values():
        sigmas = cut(SCHEDULES[name].run, 8, table, 0.5, mode)
        assert len(sigmas) == 9 and (sigmas.diff() < 0).all() and sigmas[-1] == 0
        assert sigmas[0] == pytest.approx(start_sigma(0.5, table, mode), rel=1e-6)


def test_denoise_as_noise_takes_the_shortest_schedule_that_has_enough():
    table, start = TABLES["sd15_eps"], 1.0
    for steps in (1, 2, 7, 50):
        sigmas = cut(SCHEDULES["logsnr"].run, steps, table, 0.5, "sigma")
        longer = (SCHEDULES["logsnr"].run(total, table) for total in range(steps, 999))
        assert torch.equal(sigmas[1:], next(run for run in longer if (run < start).sum() >= steps)[-steps:])
    with pytest.raises(ValueError, match="has no 900 steps; raise it"):
        cut(SCHEDULES["trailing"].run, 900, table, 0.03, "sigma")


def test_half_denoise_as_sigma_is_log_snr_zero():
    assert start_sigma(0.5, TABLES["sd15_eps"], "sigma") == pytest.approx(1)
    assert start_sigma(0.5, TABLES["flow_8"], "sigma") == pytest.approx(0.5)


def test_denoise_as_steps_is_the_hosts():
    karras = SCHEDULES["karras"].run
    sigmas = cut(karras, 10, TABLES["sd15_eps"], 0.4, "steps")
    assert torch.equal(sigmas, karras(25, TABLES["sd15_eps"])[-11:])
    assert torch.equal(cut(karras, 10, TABLES["flux"], 1, "sigma"), karras(10, TABLES["flux"]))


@pytest.mark.parametrize("denoise", (0.0, -1.0, 1.1, math.nan))
def test_denoise_outside_its_range_is_refused(denoise):
    with pytest.raises(ValueError, match="denoise is"):
        cut(SCHEDULES["karras"].run, 10, TABLES["flux"], denoise, "sigma")


def test_bad_shapes_and_shifts_are_refused():
    with pytest.raises(ValueError, match=r"latent has shape \[4, 64\]"):
        resolution_shift((4, 64), "sqrt", 0, 1.0, 4096)
    with pytest.raises(ValueError, match="shift is inf"):
        shift_sigmas(torch.tensor([1.0, 0.5, 0.0]), TABLES["flow_1"], math.inf)
