"""Corrections of guidance against the identities of their papers."""
import math

import pytest
import torch
from tweedie_pack.samplers.guidance import GROUPS, Companions, Memory, dot, guide

SHAPES = [(2, 4, 9, 12), (2, 16, 3, 8, 8), (2, 8, 40)]


def step(shape, seed=0):
    """x, cond and uncond"""
    x, cond, delta = torch.randn(3, *shape, generator=torch.Generator().manual_seed(seed))
    return 3 * x, cond, cond - 0.3 * delta


def run(c, shape, scale=5.0, sigma=0.7, flow=False, memory=None, **options):
    x, cond, uncond = step(shape)
    sigma = torch.full((len(x),), sigma)
    return guide(x, sigma, cond, uncond, scale, c, memory or Memory(), flow, **options)


def plain(shape, scale=5.0):
    _, cond, uncond = step(shape)
    return uncond + (cond - uncond) * scale


@pytest.mark.parametrize("shape", SHAPES)
def test_neutral_is_the_hosts_own_formula_bit_for_bit(shape):
    assert Companions().neutral
    for flow in (False, True):
        assert torch.equal(run(Companions(), shape, flow=flow), plain(shape))
    everywhere = Companions(interval=True, low=-20.0, high=20.0)
    assert torch.equal(run(everywhere, shape), plain(shape))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1.5, 5.0, 12.0])
def test_apg_at_eta_1_without_bound_and_momentum_is_cfg(shape, scale):
    c = Companions(apg=True, eta=1.0, norm_threshold=0.0, momentum=0.0)
    torch.testing.assert_close(run(c, shape, scale), plain(shape, scale), atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_apg_at_eta_0_adds_nothing_parallel_to_cond(shape):
    _, cond, _ = step(shape)
    added = run(Companions(apg=True, norm_threshold=0.0, momentum=0.0), shape) - cond
    assert float((dot(added, cond) / dot(cond, cond)).abs().max()) < 1e-5


def test_apg_bounds_the_norm_of_each_sample():
    shape = SHAPES[0]
    _, cond, uncond = step(shape)
    norms = dot(cond - uncond, cond - uncond).sqrt()
    bound = float(norms.min()) * 0.5
    c = Companions(apg=True, eta=1.0, norm_threshold=bound, momentum=0.0)
    added = (run(c, shape) - cond) / (5 - 1)
    torch.testing.assert_close(dot(added, added).sqrt(), torch.full_like(norms, bound))
    loose = Companions(apg=True, eta=1.0, norm_threshold=float(norms.max()) * 2, momentum=0.0)
    torch.testing.assert_close(run(loose, shape), plain(shape), atol=1e-5, rtol=1e-6)


def test_apgs_momentum_is_a_running_sum_that_a_new_run_forgets():
    shape = SHAPES[0]
    _, cond, uncond = step(shape)
    c, memory = Companions(apg=True, eta=1.0, norm_threshold=0.0, momentum=-0.5), Memory()
    added = [(run(c, shape, memory=memory) - cond) / 4 for _ in range(3)]
    for found, factor in zip(added, (1, 0.5, 0.75), strict=True):
        torch.testing.assert_close(found, factor * (cond - uncond), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close((run(c, shape) - cond) / 4, cond - uncond, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_cfg_zero_star_is_its_papers_formula_on_velocities(shape):
    x, cond, uncond = step(shape)
    sigma, w = 0.7, 5.0
    v_cond, v_uncond = ((x - d) / sigma for d in (cond, uncond))
    s = dot(v_cond, v_uncond) / dot(v_uncond, v_uncond)
    velocity = s * v_uncond + w * (v_cond - s * v_uncond)
    found = run(Companions(cfg_zero_star=True), shape, flow=True)
    torch.testing.assert_close((x - found) / sigma, velocity, atol=1e-4, rtol=1e-5)


def test_zero_init_holds_x_in_the_first_share_of_a_flow_run_only():
    shape = SHAPES[0]
    x, c = step(shape)[0], Companions(cfg_zero_star=True, zero_init=0.1)
    for progress in (0.0, torch.tensor(0.05)):
        assert torch.equal(run(c, shape, flow=True, progress=progress), x)
    for flow, progress in ((True, 0.1), (False, 0.0)):
        assert not torch.equal(run(c, shape, flow=flow, progress=progress), x)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("flow", [False, True])
def test_rescale_1_gives_each_sample_the_spread_of_cond(shape, flow):
    x, cond, _ = step(shape)
    sigma = torch.tensor(0.7)
    found = run(Companions(rescale=1.0), shape, flow=flow)
    scale = (sigma**2 + 1) if not flow else 1.0
    for ours, theirs in zip(x / scale - found, x / scale - cond, strict=True):
        assert float(ours.std()) == pytest.approx(float(theirs.std()), rel=1e-4)


@pytest.mark.parametrize(("sigma", "flow"), [(1.0, False), (0.5, True)])  # both at log-SNR 0
def test_outside_its_interval_guidance_is_off(sigma, flow):
    shape = SHAPES[0]
    _, cond, _ = step(shape)
    inside = Companions(interval=True, low=-0.1, high=0.1)
    assert torch.equal(run(inside, shape, sigma=sigma, flow=flow), plain(shape))
    for low, high in ((0.1, 2.0), (-2.0, -0.1)):
        found = run(Companions(interval=True, low=low, high=high), shape, sigma=sigma, flow=flow)
        torch.testing.assert_close(found, cond)


def test_a_sample_of_a_batch_is_what_it_is_alone():
    x, cond, uncond = step((3, 4, 8, 8))
    c = Companions(apg=True, cfg_zero_star=True, rescale=0.5, interval=True, low=-5.0, high=5.0)
    sigma = torch.tensor([0.2, 0.5, 0.9])
    found = guide(x, sigma, cond, uncond, 4.0, c, Memory(), True)
    for i in range(3):
        part = slice(i, i + 1)
        alone = guide(x[part], sigma[part], cond[part], uncond[part], 4.0, c, Memory(), True)
        torch.testing.assert_close(found[part], alone)


def test_flat_and_half_precision_inputs_stay_finite():
    zeros = torch.zeros(1, 4, 8, 8, dtype=torch.float16)
    c = Companions(apg=True, cfg_zero_star=True, rescale=1.0)
    for flow in (False, True):
        found = guide(zeros, torch.ones(1), zeros, zeros, 5.0, c, Memory(), flow)
        assert found.dtype == torch.float32 and bool(torch.isfinite(found).all())


def test_settings_are_checked_and_every_knob_has_its_group():
    known = set(GROUPS) | {name for group in GROUPS.values() for name in group}
    assert known == set(Companions.__dataclass_fields__)
    for wrong, message in (({"eta": math.nan}, "eta is nan"), ({"rescale": 2}, "rescale is 2"),
                           ({"interval": True, "low": 3.0, "high": 1.0}, "low must lie below high")):
        with pytest.raises(ValueError, match=message):
            Companions(**wrong).checked()
