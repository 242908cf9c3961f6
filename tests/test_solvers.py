import itertools
import math

import pytest
import torch
from families import TABLES
from tweedie_pack.demo.exact import Mixture, guided, on_flow, power_law, random_mixture, solve
from tweedie_pack.samplers.schedules import SCHEDULES
from tweedie_pack.samplers.solvers import sample_2m


def relative_error(end, reference):
    return float(((end - reference).flatten(1).norm(dim=1) / reference.flatten(1).norm(dim=1)).median())


def noise(count=8, seed=0):
    return torch.randn([count, 4, 16, 16], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def reference_grid(start, size=1200):
    fine = torch.linspace(math.log(start), math.log(1e-3), size, dtype=torch.float64).exp()
    return torch.cat([fine, torch.zeros(1)])


def class_of_eight():
    return torch.cat([torch.zeros(8), torch.full([24], -40.0)]).double()


def euler(model, x, sigmas):
    for s, t in itertools.pairwise(sigmas):
        x = x + (t - s) * (x - model(x, s)) / s
    return x


@pytest.mark.parametrize("sampler, order, slack", ((euler, 1, 0.05), (None, 2, 0.1)), ids=("euler", "2m"))
def test_order_of_convergence_on_a_gaussian(sampler, order, slack):
    """From sigma_max to sigma_min, where a Gaussian's ODE is solved by x' = x sqrt((v + s'^2)/(v + s^2))."""
    model = Mixture(torch.zeros(1, 4, 16, 16), power_law(16, 16, 0.9, 2.5))
    low, high = 0.03, float(TABLES["sd15_eps"][-1])
    x = noise() * high
    z = model.dct(x).flatten(1) * ((model.variance + low**2) / (model.variance + high**2)).sqrt()
    exact = model.inverse_dct(z)
    run = sampler or (lambda m, x, s: sample_2m(m, x, s, disable=True))
    error = []
    for steps in (80, 160):
        sigmas = SCHEDULES["karras"].run(steps + 1, TABLES["sd15_eps"], last=low).double()[:-1]
        error.append(relative_error(run(lambda x, s: model.denoise(x, s), x, sigmas), exact))
    assert math.log2(error[0] / error[1]) == pytest.approx(order, abs=slack)


@pytest.mark.parametrize("schedule", ("karras", "beta"))
def test_2m_on_flow_is_right(schedule):
    """Research T4: under 0.06 in 10 steps, where 2M in -ln(sigma) with Karras in flow sigma is over 0.5."""
    model = on_flow(random_mixture().denoise)
    x = noise(32, 7)
    reference = solve(random_mixture().denoise, x * 4000, reference_grid(4000))
    sigmas = SCHEDULES[schedule].run(10, TABLES["flux"]).double()
    assert relative_error(sample_2m(model, x, sigmas, disable=True, flow=True), reference) < 0.06
    ramp = torch.linspace(1, float(TABLES["flux"][0]) ** (1 / 7), 10, dtype=torch.float64) ** 7
    wrong = torch.cat([ramp, torch.zeros(1)]).double()
    assert relative_error(sample_2m(model, x, wrong, disable=True), reference) > 0.5


@pytest.mark.parametrize("scale", (None, 5.0), ids=("plain", "cfg5"))
def test_2m_at_zero_terminal_snr(scale):
    mixture = random_mixture()
    model = mixture.denoise if scale is None else guided(mixture, scale, class_of_eight())
    x = noise(32, 9) * float(TABLES["sd2_v_zero_snr"][-1])
    reference = solve(model, x, reference_grid(4518.76))
    sigmas = SCHEDULES["zero_snr"].run(10, TABLES["sd2_v_zero_snr"]).double()
    error = relative_error(sample_2m(lambda x, s: model(x, s), x, sigmas, disable=True), reference)
    assert error < (0.04 if scale is None else 0.08)


def test_half_precision_and_batches_keep_their_samples_apart():
    model = random_mixture().denoise
    x, sigmas = noise(2).float() * 14.6, SCHEDULES["karras"].run(6, TABLES["sd15_eps"])
    both = sample_2m(model, x, sigmas, disable=True)
    alone = sample_2m(model, x[1:], sigmas, disable=True)
    torch.testing.assert_close(alone[0], both[1], rtol=1e-5, atol=1e-5)
    assert sample_2m(model, x.half(), sigmas, disable=True).dtype == torch.float16


def test_a_sampler_tells_its_steps():
    states = []
    sigmas = SCHEDULES["karras"].run(4, TABLES["sd15_eps"]).double()
    sample_2m(random_mixture().denoise, noise(1) * 14.6, sigmas, callback=states.append, disable=True)
    assert [state["i"] for state in states] == [0, 1, 2, 3]
    assert states[0].keys() >= {"x", "denoised", "sigma", "sigma_hat"}


def test_a_shift_by_the_square_root_rule_makes_the_steps_of_a_larger_picture_the_same():
    """Research T6: the low band of a field, sampled at twice the size with shift 2, follows the same path."""
    table = TABLES["sd2_v_zero_snr"]
    small = SCHEDULES["karras"].run(12, table, last=0.1).double()
    large = SCHEDULES["karras"].run(12, table, last=0.2, shift=2.0).double()
    field = power_law(16, 16, 0.9, 2.5)
    wide = torch.zeros(32, 32, dtype=torch.float64)
    wide[:16, :16] = field * 4  # DCT variances of the same field on a grid of four times the points
    ends = []
    for size, variance, sigmas in ((16, field, small), (32, wide.clamp_min(1e-12), large)):
        model = Mixture(torch.zeros(1, 1, size, size), variance)
        z, generator = torch.zeros(4, 1, size, size, dtype=torch.float64), torch.Generator().manual_seed(1)
        z[..., :16, :16] = torch.randn([4, 1, 16, 16], generator=generator, dtype=torch.float64)
        end = sample_2m(model.denoise, model.inverse_dct(z * sigmas[0]), sigmas, disable=True)
        ends.append(model.dct(end)[..., :16, :16] * (16 / size))
    assert relative_error(ends[1], ends[0]) < 0.02
