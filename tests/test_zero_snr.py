import math

import pytest
import torch
from families import TABLES
from tweedie_pack.demo.exact import Mixture
from tweedie_pack.samplers.schedules import SCHEDULES
from tweedie_pack.samplers.solvers import sample_2m, with_safe_start
from tweedie_pack.samplers.zero_snr import calibrate_dc, first_step, refuse, rescale_cfg

SD, ZERO = TABLES["sd15_eps"], TABLES["sd2_v_zero_snr"]


def test_the_rescaled_table_is_that_of_the_hosts_and_of_diffusers():
    assert float(ZERO[-1]) == pytest.approx(4518.76, abs=0.01)
    assert float(ZERO[-2]) == pytest.approx(2254, abs=1)
    assert ZERO[0] == pytest.approx(float(SD[0]), rel=1e-6) and (ZERO.diff() > 0).all()
    rescale = pytest.importorskip("diffusers.schedulers.scheduling_ddim").rescale_zero_terminal_snr
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alpha_bar = (1 - rescale(betas)).cumprod(0)
    theirs = ((1 - alpha_bar) / alpha_bar).sqrt()
    torch.testing.assert_close(ZERO[:-1].double(), theirs[:-1], rtol=1e-5, atol=0)


def test_epsilon_models_are_refused_with_a_way_out():
    way_out = "use a v-prediction model, or the DC-calibrated start"
    with pytest.raises(ValueError, match=f"predicts epsilon; .*{way_out}"):
        refuse("epsilon")
    with pytest.raises(ValueError, match="flow models reach zero SNR as they are"):
        refuse("flow")
    assert refuse("v") is None


def pure_colour(mean: float, spread: float, size: int = 16) -> Mixture:
    """Pictures [1,size,size] of one Gaussian colour with a little texture."""
    variance = torch.full([size, size], 0.02**2, dtype=torch.float64)
    variance[0, 0] = (spread * size) ** 2
    return Mixture(torch.full([1, 1, size, size], mean), variance)


@pytest.mark.parametrize("table", (SD, ZERO), ids=("ordinary", "rescaled"))
@pytest.mark.parametrize("mean, spread", ((-1.5, 0.1), (-1.5, 0.3), (1.0, 0.05)))
def test_mean_brightness_follows_the_law(table, mean, spread):
    """Output mean = mu (1 - f), f = s / sqrt(s^2 + sigma^2/N), for a start from pure noise at sigma."""
    size, sigma = 16, float(table[-1])
    model = pure_colour(mean, spread, size)
    noise = torch.randn([64, 1, size, size], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = torch.cat([noise, -noise]) * sigma  # antithetic: its mean is exactly 0
    sigmas = SCHEDULES["logsnr"].run(300, table, last=0.03).double()
    end = sample_2m(lambda x, s: model.denoise(x, s), noise, sigmas, disable=True)
    f = spread / math.sqrt(spread**2 + sigma**2 / size**2)
    assert float(end.mean()) == pytest.approx(mean * (1 - f), abs=1e-3)


@pytest.mark.parametrize("mean, spread", ((-1.5, 0.1), (0.4, 0.5)))
def test_the_dc_calibrated_start_recovers_a_gaussian_mean(mean, spread):
    size, sigma = 16, float(SD[-1])
    model = pure_colour(mean, spread, size)
    noise = torch.randn([64, 1, size, size], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    start = calibrate_dc(lambda x: model.denoise(x, sigma), torch.cat([noise, -noise]) * sigma, sigma)
    own = torch.cat([noise, -noise]).mean((1, 2, 3)) * size  # the noise's own means, in units of their spread
    expected = mean + own * math.sqrt(spread**2 + sigma**2 / size**2)
    torch.testing.assert_close(start.mean((1, 2, 3)), expected, rtol=0, atol=1e-3)


def test_the_first_step_is_finite_at_any_sigma_and_exact_where_the_answer_is():
    x0, noise = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    for sigma in (14.6, 4518.76, 1e7):
        step = first_step(x0 + sigma * noise, x0, sigma, 25.0)
        torch.testing.assert_close(step, x0 + 25 * noise, rtol=1e-4, atol=2e-3)
    half = first_step((x0 + 4518.76 * noise).half(), x0.half(), 4518.76, 25.0)
    assert half.dtype == torch.float16 and torch.isfinite(half).all()


def test_cfg_rescale_matches_the_paper_per_sample():
    generator = torch.Generator().manual_seed(0)
    x, cond, uncond = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(3))
    sigma = torch.tensor([0.5, 3.0])
    guided = uncond + 7 * (cond - uncond)
    assert rescale_cfg(x, sigma, guided, cond, 0.0) is guided
    out = rescale_cfg(x, sigma, guided, cond, 0.7)
    for i in range(2):
        s, scale = sigma[i], sigma[i] ** 2 + 1
        v, v_cond = ((x[i] / scale - d[i]) / (s / scale.sqrt()) for d in (guided, cond))
        expected = v * (0.7 * v_cond.std() / v.std() + 0.3)
        moved = (x[i] / scale - out[i]) / (s / scale.sqrt())
        torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-4)
        alone = rescale_cfg(x[i:i + 1], sigma[i:i + 1], guided[i:i + 1], cond[i:i + 1], 0.7)
        torch.testing.assert_close(alone[0], out[i], rtol=1e-5, atol=1e-5)


def test_the_safe_start_hands_over_and_leaves_other_starts_alone():
    seen = []

    def euler(model, x, sigmas, extra_args=None, callback=None, disable=None):
        seen.append(sigmas)
        callback({"i": 0, "x": x, "denoised": x})
        return x

    calls, steps = [], []

    def model(x, sigma):
        calls.append(float(sigma[0]))
        return torch.zeros_like(x)
    x = torch.ones(1, 4, 8, 8) * 4518.76
    sigmas = SCHEDULES["zero_snr"].run(5, ZERO)
    out = with_safe_start(euler)(model, x, sigmas, callback=lambda state: steps.append(state["i"]),
                                 disable=True)
    assert torch.equal(seen[0], sigmas[1:])
    assert steps == [0, 1] and calls == [pytest.approx(4518.76, abs=0.01)]
    torch.testing.assert_close(out, torch.full_like(out, 25.0))
    ordinary = SCHEDULES["karras"].run(5, SD)
    assert with_safe_start(euler)(model, x, ordinary, callback=lambda state: None) is x
    assert torch.equal(seen[1], ordinary)
    with_safe_start(euler)(model, x, torch.tensor([4518.76, 0.0]), callback=None)
    assert len(seen) == 2  # one step: nothing is left to hand over
