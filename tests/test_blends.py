"""Policies for several controls: golden values, and what holds for each of them at every place."""
import itertools

import pytest
import torch
from tweedie_pack.controls.blends import BLENDS

FIRST = torch.tensor([[[3.0, 4], [2, 0], [2, 0], [1, 0]]])  # of four tokens: the same, at right angles,
SECOND = torch.tensor([[[3.0, 4], [0, 1], [-1, 0], [0, 0]]])  # opposed, alone
WEIGHTS = (1.0, 3.0)
GOLDEN = {
    "sum": [[6, 8], [2, 1], [1, 0], [1, 0]],
    "cap": [[3, 4], [2, 1], [1, 0], [1, 0]],
    "rms": [[18**0.5, 32**0.5], [2, 1], [1, 0], [1, 0]],
    "gate": [[3, 4], [1.6, 0.2], [1.4, 0], [1, 0]],
    "project": [[6, 8], [2, 1], [2, 0], [1, 0]],
    "average": [[3, 4], [0.5, 0.75], [-0.25, 0], [1, 0]],
    "strongest": [[3, 4], [2, 0], [2, 0], [1, 0]],
}
SHAPES = [(2, 8, 6, 5), (2, 30, 8)]  # [B,C,H,W] and [B,N,C]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
every_policy = pytest.mark.parametrize("policy", BLENDS.values(), ids=BLENDS)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=["picture", "tokens"])
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=["32", "16", "b16"])


def noise(count, shape, dtype=torch.float32, seed=0):
    return list(torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed)).to(dtype))


def channels(shape):
    return -1 if len(shape) == 3 else 1


def norms(residual):
    return residual.double().norm(dim=channels(residual.shape), keepdim=True)


def redundant(count, cosine, shape):
    """Controls of several norms, any two with this cosine at every place."""
    base = torch.linalg.qr(noise(1, (2, 30, 8, 8))[0].double())[0].unbind(-1)  # orthonormal: [8] of [2,30,8]
    tokens = [(size * (cosine**0.5 * base[0] + (1 - cosine) ** 0.5 * own)).float()
              for size, own in zip((1.0, 2.5, 0.3, 1.0)[:count], base[1 : count + 1], strict=True)]
    return tokens if len(shape) == 3 else [one.mT.unflatten(2, shape[2:]) for one in tokens]


def test_golden_values_and_policies_have_the_same_names():
    assert GOLDEN.keys() == BLENDS.keys()


@pytest.mark.parametrize("name", GOLDEN)
def test_every_policy_has_its_golden_values(name):
    expected = torch.tensor([GOLDEN[name]], dtype=torch.float32)
    torch.testing.assert_close(BLENDS[name]([FIRST, SECOND], WEIGHTS), expected, atol=1e-6, rtol=1e-6)
    pictures = [residual.mT[..., None] for residual in (FIRST, SECOND)]  # [1,2,4,1]
    torch.testing.assert_close(BLENDS[name](pictures, WEIGHTS), expected.mT[..., None], atol=1e-6, rtol=1e-6)


@every_policy
@every_shape
@every_dtype
def test_one_control_alone_is_returned_bit_for_bit(policy, shape, dtype):
    residual, = noise(1, shape, dtype)
    residual[1, :3] = 0
    for weight in (1.0, 0.3, torch.full((2, *[1] * (len(shape) - 1)), 0.3, dtype=dtype)):
        given = policy([residual], [weight])
        assert given.dtype == dtype and torch.equal(given, residual)


@every_policy
@every_shape
@every_dtype
def test_controls_that_act_at_different_places_are_untouched(policy, shape, dtype):
    place = torch.arange(30).reshape(1, -1, 1) if len(shape) == 3 else torch.arange(30).reshape(1, 1, 6, 5)
    residuals = [residual * (place % 4 == number)  # nobody acts at every fourth place
                 for number, residual in enumerate(noise(3, shape, dtype))]
    assert torch.equal(policy(residuals, (0.2, 1.0, 3.0)), residuals[0] + residuals[1] + residuals[2])


@every_policy
@every_shape
def test_a_mask_that_is_0_leaves_the_others_alone(policy, shape):
    """Weights of half precision, as they are where the residuals are."""
    residuals = noise(2, shape, torch.float16)
    mask = torch.zeros_like(residuals[0].narrow(channels(shape), 0, 1))
    mask[1] = 1
    residuals = [residuals[0] * mask, residuals[1] * 0]
    assert torch.equal(policy(residuals, [mask, mask * 0]), residuals[0])


@every_shape
@pytest.mark.parametrize("tau", [1.0, 1.5])
@pytest.mark.parametrize("cosine", [0.5, 0.75, 1.0])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_cap_holds_redundant_controls_to_the_norm_of_the_largest(count, cosine, tau, shape):
    residuals = redundant(count, cosine, shape)
    found = torch.nn.functional.cosine_similarity(*residuals[:2], dim=channels(shape))
    torch.testing.assert_close(found, torch.full_like(found, cosine))
    capped = norms(BLENDS["cap"](residuals, [1.0] * count, tau=tau))
    most = tau * torch.stack([norms(residual) for residual in residuals]).amax(0)
    assert bool((capped <= most * (1 + 1e-5)).all())
    reached = torch.minimum(most, norms(sum(residuals)))
    torch.testing.assert_close(capped, reached, rtol=1e-5, atol=0)


@every_shape
def test_cap_keeps_what_is_unrelated(shape):
    axis, (residual,) = channels(shape), noise(1, shape)
    part = torch.arange(8).reshape(-1, *[1] * (len(shape) - 2)) if axis == 1 else torch.arange(8)
    residuals = [residual * (part % 3 == number) for number in range(3)]
    for tau in (1.0, 2.0):
        assert torch.equal(BLENDS["cap"](residuals, [1.0] * 3, tau=tau), residual)
    slight = redundant(3, 0.2, shape)
    torch.testing.assert_close(BLENDS["cap"](slight, [1.0] * 3), sum(slight), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in BLENDS if name != "project"])
@every_shape
def test_the_order_of_controls_does_not_matter(name, shape):
    residuals, weights = noise(3, shape), (0.2, 1.0, 3.0)
    expected = BLENDS[name](residuals, weights)
    for order in itertools.permutations(range(3)):
        moved = BLENDS[name]([residuals[one] for one in order], [weights[one] for one in order])
        torch.testing.assert_close(moved, expected, atol=2e-6, rtol=1e-5)


@every_policy
@every_shape
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=["16", "b16"])
@pytest.mark.parametrize("values", [(0, 0), (0, 1), (6e-8, 6e-8), (6e-8, -6e-8), (3e4, 3e4), (3e4, -6e-8),
                                    (-6e-8, 3e4), (-3e4, 3e4)], ids=str)
def test_extreme_residuals_stay_finite(policy, dtype, shape, values):
    residuals = [torch.full(shape, value, dtype=dtype) for value in values]
    thin = [torch.full((2, *[1] * (len(shape) - 1)), weight, dtype=dtype) for weight in (0, 1e-3)]
    for weights in ((1.0, 0.5), (0.0, 0.0), thin):
        given = policy(residuals, weights)
        assert given.dtype == dtype and given.shape == shape and bool(torch.isfinite(given).all())


@every_policy
@every_shape
@pytest.mark.parametrize("factor", [2.0**-7, 3.0, 2.0**9])
def test_louder_controls_give_a_louder_blend(policy, shape, factor):
    residuals = noise(3, shape)
    torch.testing.assert_close(policy([residual * factor for residual in residuals], (1.0, 2.0, 3.0)),
                               policy(residuals, (1.0, 2.0, 3.0)) * factor, rtol=1e-5, atol=2e-6 * factor)


@every_policy
def test_only_the_sum_lets_each_control_have_its_own_way(policy):
    first, second = noise(2, SHAPES[0])
    gained = policy([first, 4 * second], (1.0, 1.0)) - policy([first, second], (1.0, 1.0))
    assert torch.allclose(gained, 3 * second, atol=1e-5) == (policy.id == "sum")


@every_policy
@every_shape
def test_one_row_stands_for_a_batch(policy, shape):
    thin, *rest = noise(3, shape)
    expected = policy([thin[:1].expand(shape), *rest], (0.2, 1.0, 3.0))
    for order in ((0, 1, 2), (1, 0, 2)) if policy.id != "project" else ((0, 1, 2),):
        residuals, weights = (thin[:1], *rest), (0.2, 1.0, 3.0)
        given = policy([residuals[one] for one in order], [weights[one] for one in order])
        torch.testing.assert_close(given, expected, atol=2e-6, rtol=1e-5)


@every_shape
def test_average_takes_weights_as_numbers_and_as_tensors(shape):
    residuals, average = noise(2, shape), BLENDS["average"]
    expected = 0.25 * residuals[0] + 0.75 * residuals[1]
    rows = torch.ones(2, *[1] * (len(shape) - 1))
    full = torch.ones_like(residuals[0].narrow(channels(shape), 0, 1))
    for weights in ((0.5, 1.5), (rows * 0.5, rows * 1.5), (full * 0.5, 1.5), (0.5, full * 1.5)):
        torch.testing.assert_close(average(residuals, weights), expected)
    rows[0] = 0  # the first control counts in the second picture alone
    given = average(residuals, (rows, 1.0))
    assert torch.equal(given[0], residuals[1][0])
    torch.testing.assert_close(given[1], (residuals[0][1] + residuals[1][1]) / 2)


def test_gate_goes_from_the_strongest_alone_to_a_mean():
    shares = [float(BLENDS["gate"]([3 * FIRST, -FIRST], (1.0, 1.0), temperature=at)[0, 1, 0] / 2 + 1) / 4
              for at in (0.05, 0.5, 1.0, 10.0)]
    assert shares == pytest.approx([1, 0.9, 0.75, 0.5274], abs=1e-4)


def test_strongest_is_the_mean_of_equals():
    strongest = BLENDS["strongest"]
    assert torch.equal(strongest([FIRST, FIRST, FIRST / 2], (1.0, 1.0, 1.0)), FIRST)
    given = strongest([FIRST, FIRST.flip(-1), SECOND / 9], (1.0, 5.0, 9.0))
    torch.testing.assert_close(given, (FIRST + FIRST.flip(-1)) / 2)


@every_shape
def test_project_takes_away_only_what_contradicts(shape):
    project, axis = BLENDS["project"], channels(shape)
    first, second = noise(2, shape)
    against = (first * second).sum(axis, keepdim=True)
    assert 0 < int((against < 0).sum()) < against.numel()
    left = project([first, second], (1.0, 1.0)) - first
    torch.testing.assert_close((left * first).sum(axis, keepdim=True), against.clamp_min(0), atol=2e-5,
                               rtol=1e-5)
    gone = second - left
    parallel = (gone * first).sum(axis, keepdim=True) / (first * first).sum(axis, keepdim=True) * first
    torch.testing.assert_close(gone, parallel, atol=2e-6, rtol=1e-5)
    agree = (against >= 0).expand(shape)
    assert torch.equal(project([first, second], (1.0, 1.0))[agree], (first + second)[agree])
    other = project([second, first], (1.0, 1.0))
    differ = (other - first - left).abs().amax(axis, keepdim=True) > 1e-5
    assert torch.equal(differ, against < 0)
