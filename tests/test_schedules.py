import itertools
import math

import pytest
import torch
from families import STEPS, TABLES
from tweedie_pack.samplers.curve import describe
from tweedie_pack.samplers.recommend import recommended
from tweedie_pack.samplers.schedules import SCHEDULES
from tweedie_pack.samplers.table import check_sigmas

SD = TABLES["sd15_eps"]
GOLDEN = {
    "karras": [14.6146, 6.0286, 2.18702, 0.66791, 0.16, 0.0],
    "logsnr": [14.6146, 4.72739, 1.52916, 0.494637, 0.16, 0.0],
    "beta": [14.6146, 6.0394, 1.98301, 0.584894, 0.16, 0.0],
    "logit_normal": [14.6146, 3.08052, 1.20488, 0.49748, 0.16, 0.0],
    "laplace": [14.6146, 2.43973, 1.10379, 0.559777, 0.16, 0.0],
    "cosine": [14.6146, 2.33732, 1.09468, 0.539326, 0.16, 0.0],
    "sigmoid": [14.6146, 2.44552, 1.09365, 0.501476, 0.16, 0.0],
    "trailing": [14.6146, 5.08776, 2.27646, 1.16058, 0.569285, 0.0],
    "zero_snr": [14.6146, 3.69938, 1.20229, 0.31495, 0.06, 0.0],
    "flow_shift": [14.6146, 4.27292, 1.96061, 0.941558, 0.367898, 0.0],
}


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("family", TABLES)
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_keeps_the_contract(name, family, steps):
    sigmas = SCHEDULES[name].run(steps, TABLES[family])
    assert sigmas.dtype == torch.float32 and sigmas.device.type == "cpu"
    assert check_sigmas(sigmas, TABLES[family], steps) is sigmas
    assert sigmas[0] == TABLES[family][-1]


@pytest.mark.parametrize("name", SCHEDULES)
def test_golden_values(name):
    sigmas = SCHEDULES[name].run(5, SD)
    torch.testing.assert_close(sigmas, torch.tensor(GOLDEN[name]), rtol=1e-5, atol=0)


def test_golden_values_cover_the_table():
    assert GOLDEN.keys() == SCHEDULES.keys()


@pytest.mark.parametrize("first, second", list(itertools.combinations(SCHEDULES, 2)))
def test_no_two_rows_are_equal(first, second):
    a, b = (SCHEDULES[name].run(8, SD) for name in (first, second))
    assert (a - b).abs().max() > 1e-3


@pytest.mark.parametrize("family", TABLES)
@pytest.mark.parametrize("name", SCHEDULES)
def test_an_asked_for_last_sigma_is_met_and_a_shift_moves_steps_up(name, family):
    table = TABLES[family]
    plain = SCHEDULES[name].run(8, table, last=0.1, shift=1.0)
    shifted = SCHEDULES[name].run(8, table, last=0.1, shift=2.0)
    assert plain[-2] == pytest.approx(0.1, rel=1e-5) and shifted[-2] == pytest.approx(0.1, rel=1e-5)
    assert (shifted[1:-2] > plain[1:-2]).all() and shifted[0] == plain[0]


def test_karras_is_that_of_k_diffusion_on_sd15():
    """k-diffusion's own lines, in its 32 bits; the host test imports them."""
    low, high = float(SD[0]), float(SD[-1])
    ramp = torch.linspace(0, 1, 10)
    expected = (high ** (1 / 7) + ramp * (low ** (1 / 7) - high ** (1 / 7))) ** 7
    ours = SCHEDULES["karras"].run(10, SD, rho=7.0, last=low)
    torch.testing.assert_close(ours[:-1], expected, rtol=1e-6, atol=1e-6)


def test_flow_karras_is_karras_in_edm_sigma():
    ours = SCHEDULES["karras"].run(10, TABLES["flow_3"], last=0.1)
    e = ours[1:-1].double() / (1 - ours[1:-1].double())
    root = e ** (1 / 7)
    assert root.diff().std() < 1e-5 and ours[0] == 1


def test_trailing_is_that_of_diffusers():
    scheduler = pytest.importorskip("diffusers").EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="trailing")
    scheduler.set_timesteps(10)
    ours = SCHEDULES["trailing"].run(10, SD)
    torch.testing.assert_close(ours, scheduler.sigmas.float(), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("shift", (1.0, 3.0, 6.0))
def test_flow_shift_is_that_of_diffusers(shift):
    scheduler = pytest.importorskip("diffusers").FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / 12, 12).tolist())
    ours = SCHEDULES["flow_shift"].run(12, TABLES["flow_8"], shift=shift)
    torch.testing.assert_close(ours, scheduler.sigmas.float(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("mu", (0.5, 1.15, 2.0))
def test_flow_shift_is_fluxs_mu_of_diffusers(mu):
    scheduler = pytest.importorskip("diffusers").FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / 20, 20).tolist(), mu=mu)
    ours = SCHEDULES["flow_shift"].run(20, TABLES["flow_1"], shift=math.exp(mu))
    torch.testing.assert_close(ours, scheduler.sigmas.float(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shift", (1.0, 3.0, 8.0))
def test_flow_shift_takes_the_models_own(shift):
    own = SCHEDULES["flow_shift"].run(9, TABLES[f"flow_{shift:.0f}"])
    given = SCHEDULES["flow_shift"].run(9, TABLES["flow_1"], shift=shift)
    torch.testing.assert_close(own, given, rtol=0, atol=1e-6)


def test_zero_snr_wastes_no_step_between_the_last_two_entries():
    table = TABLES["sd2_v_zero_snr"]
    for name in SCHEDULES:
        sigmas = SCHEDULES[name].run(30, table)
        assert not ((sigmas[1:] > table[-2] * 1.001) & (sigmas[1:] < table[-1])).any(), name
    assert SCHEDULES["zero_snr"].run(10, table)[1] == 25


@pytest.mark.parametrize("solver", ("first_order", "multistep", "log_sigma", "single_step"))
@pytest.mark.parametrize("family", TABLES)
def test_the_recommended_schedule_keeps_the_contract(family, solver):
    for steps in STEPS:
        check_sigmas(recommended(steps, TABLES[family], solver), TABLES[family], steps)


@pytest.mark.parametrize("steps", (0, -1, 2.5, True, 10**7))
def test_steps_that_are_none_are_refused(steps):
    with pytest.raises(ValueError, match="steps is .*give a whole number"):
        SCHEDULES["karras"].run(steps, SD)


@pytest.mark.parametrize("table, reason", [
    (torch.tensor([0.1, float("nan"), 3.0]), "NaN"),
    (torch.tensor([3.0, 1.0, 0.1]), "sigma_max must lie above sigma_min"),
    (torch.tensor([1.0]), "at least 2"),
    (torch.zeros(3, 3), "one row"),
    (torch.tensor([-1.0, 2.0]), "non-positive"),
])
def test_broken_tables_are_refused(table, reason):
    for name in SCHEDULES:
        with pytest.raises(ValueError, match=reason):
            SCHEDULES[name].run(5, table)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_last_sigma_above_the_first_is_refused(name):
    with pytest.raises(ValueError, match="last sigma is 20, the schedule starts at 14.6"):
        SCHEDULES[name].run(5, SD, last=20.0)


def test_knobs_are_checked_when_a_door_hands_them_over():
    with pytest.raises(ValueError, match=r"Karras: rho is 1000; give a number from 1 to 30"):
        SCHEDULES["karras"](5, SD, rho=1000)
    with pytest.raises(ValueError, match="Karras: last is nan"):
        SCHEDULES["karras"](5, SD, last=math.nan)
    with pytest.raises(ValueError, match="Karras: unknown knob colour"):
        SCHEDULES["karras"](5, SD, colour=1.0)


@pytest.mark.parametrize("sigmas, reason", [
    ([14.6146, 1.0, 0.5], "ends at 0.5"), ([14.6146, 1.0, 1.0, 0.0], "does not descend at step 2"),
    ([10.0, 1.0, 0.0], "starts at 10"), ([14.6146, math.inf, 0.0], "NaN or infinity"),
    ([14.6146, 0.0], "need 3 sigmas"),
])
def test_the_validator_names_what_is_wrong(sigmas, reason):
    with pytest.raises(ValueError, match=reason):
        check_sigmas(torch.tensor(sigmas), SD, 3 if "step 2" in reason else 2)


def test_a_schedule_is_told_in_one_line():
    assert describe(SCHEDULES["karras"].run(20, SD), False).startswith("20 steps")
