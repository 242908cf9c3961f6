"""Leverage of a grid's edges against the dense inverse, and what the maps make of it."""
import pytest
import torch
from tweedie_pack.samplers import resistance
from tweedie_pack.samplers.structure import MAPS, blur

GRIDS = [(6, 7), (12, 9), (32, 32), (3, 5, 6)]


def picture(space, seed=0, channels=4):
    """Smooth areas with edges, as a denoised latent has them."""
    generator = torch.Generator().manual_seed(seed)
    return torch.tanh(3 * blur(torch.randn(1, channels, *space, generator=generator), 2))


def conductances(latent, contrast=0.3):
    steps = resistance.square_steps(latent)
    return resistance.conduct(steps, resistance.spread(steps, contrast))


def dense_leverage(edges, ridge):
    """c (e_i - e_j)^T (L + ridge Deg)^+ (e_i - e_j) of every edge, by inverting the whole matrix."""
    space = resistance.node_space(edges)
    index = torch.arange(torch.Size(space).numel()).reshape(space)
    pairs = [(first.flatten(), second.flatten(), edge[0].double().flatten()) for edge, axis in
             zip(edges, range(len(space)), strict=True)
             for first, second in [(index.narrow(axis, 0, space[axis] - 1),
                                    index.narrow(axis, 1, space[axis] - 1))]]
    laplacian = torch.zeros(index.numel(), index.numel(), dtype=torch.float64)
    for i, j, c in pairs:
        laplacian.index_put_((i, j), -c)
        laplacian.index_put_((j, i), -c)
        laplacian.diagonal().index_add_(0, i, c).index_add_(0, j, c)
    inverse = torch.linalg.pinv(laplacian + ridge * laplacian.diagonal().diag(), hermitian=True)
    return [(c * (inverse[i, i] + inverse[j, j] - 2 * inverse[i, j])).float().reshape(edge.shape)
            for (i, j, c), edge in zip(pairs, edges, strict=True)]


@pytest.mark.parametrize("space", GRIDS)
def test_leverages_add_up_to_nodes_minus_1(space):
    """Foster 1949, of the dense inverse and of the estimate, whose ridge is taken away here."""
    edges = conductances(picture(space))
    nodes = torch.Size(space).numel()
    assert float(sum(edge.sum() for edge in dense_leverage(edges, 0.0))) == pytest.approx(nodes - 1, rel=1e-4)
    found = [resistance.leverage(edges, 64, seed, ridge=1e-5, iterations=2000) for seed in range(4)]
    total = sum(float(edge.sum()) for edges in found for edge in edges) / 4
    assert total == pytest.approx(nodes - 1, rel=0.03)


@pytest.mark.parametrize("space", GRIDS)
def test_32_probes_come_close_to_the_dense_inverse(space):
    edges = conductances(picture(space))
    exact = resistance.at_nodes(dense_leverage(edges, resistance.RIDGE), edges)
    errors = [resistance.at_nodes(resistance.leverage(edges, 32, seed), edges) - exact for seed in range(4)]
    assert float(torch.stack(errors).square().mean().sqrt()) < 0.06
    many = resistance.at_nodes(resistance.leverage(edges, 4096, 0), edges) - exact
    assert float(many.square().mean().sqrt()) < 0.02  # so the estimate has hardly any bias


def test_a_barbells_bridge_has_leverage_1():
    edges = [torch.full((1, 8, 21), 1e-7), torch.full((1, 9, 20), 1e-7)]
    for x in (slice(0, 9), slice(12, 21)):
        edges[0][:, :, x] = 1
    edges[1][:, :, :8] = edges[1][:, :, 12:] = 1
    edges[1][:, 4, 8:12] = 1  # the bar
    found = resistance.leverage(edges, 16, 0, ridge=1e-6, iterations=6000)
    torch.testing.assert_close(found[1][0, 4, 8:12], torch.ones(4), atol=0.02, rtol=0)
    assert float(found[1][0, 2:7, 2:6].mean()) < 0.6  # inside a mesh there are other ways


def test_leverage_is_the_same_for_a_seed_and_differs_between_seeds():
    edges = conductances(picture((16, 16)))
    one, again, other = (resistance.leverage(edges, 8, seed)[0] for seed in (5, 5, 6))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_adding_a_constant_or_scaling_a_channel_changes_no_map():
    latent, base = picture((16, 20)), picture((16, 20), seed=1)
    for name in ("structure", "leverage"):
        plain = MAPS[name](latent, latent, base, 0)
        scale = torch.tensor([1.0, 10.0, 0.1, 3.0]).reshape(1, 4, 1, 1)
        torch.testing.assert_close(MAPS[name](latent, scale * (latent + 5), scale * (base + 5), 0), plain,
                                   atol=2e-3, rtol=0)


def test_the_node_mean_tells_thin_from_thick_where_the_sum_tells_nothing():
    hand = torch.zeros(1, 1, 32, 32)
    hand[..., 18:28, 8:24] = 1  # palm
    hand[..., 4:18, [9, 13, 17, 21]] = 1  # fingers
    hand += 0.05 * torch.randn(hand.shape, generator=torch.Generator().manual_seed(0))
    edges = conductances(hand)
    exact = dense_leverage(edges, resistance.RIDGE)
    mean = resistance.at_nodes(exact, edges)[0]
    finger, palm = float(mean[6:16, 13].mean()), float(mean[20:26, 11:21].mean())
    assert finger > 0.9 and palm < 0.6
    total = resistance.divergence(exact, torch.zeros(1, 32, 32), sign=1)[0] / 2
    assert abs(float(total[6:16, 13].mean() - total[20:26, 11:21].mean())) < 0.1


def test_coherence_is_highest_where_neighbours_are_pushed_alike():
    delta = torch.randn(1, 4, 24, 24, generator=torch.Generator().manual_seed(0))
    delta[..., 12:] = 1
    found = MAPS["coherence"](delta, delta, delta, 0, amount=1.0)[0, 0]
    assert float(found[4:20, 18:22].min()) == pytest.approx(2.0, abs=1e-4)
    assert float(found[4:20, 2:8].mean()) < 1


def test_structure_finds_the_joint_that_guidance_made():
    apart = torch.zeros(1, 1, 16, 24)
    apart[..., 4:12, 2:9] = apart[..., 4:12, 15:22] = 1
    joined = apart.clone()
    joined[..., 8, 9:15] = 1
    found = MAPS["structure"](joined - apart, joined, apart, 0, amount=1.0, probes=64)[0, 0]
    assert float(found[8, [8, 9, 14, 15]].min()) > 0.3  # the joint's two ends
    assert float(found[:, :7].max()) == 0 and float(found[:, 17:].max()) == 0


def test_where_guidance_joins_next_to_nothing_structure_is_next_to_nothing():
    latent = picture((16, 20))
    rounding = 1e-6 * torch.randn(latent.shape, generator=torch.Generator().manual_seed(3))
    found = MAPS["structure"](rounding, latent + rounding, latent, 0)
    assert float(found.max()) < 0.05  # of 16


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("space", [(8, 8), (9, 13), (3, 9, 8), (1, 8, 8), (1, 1)])
def test_maps_are_finite_and_never_negative(name, space):
    for latent in (picture(space), torch.zeros(1, 4, *space), torch.full((1, 4, *space), 1e4)):
        found = MAPS[name](latent, latent, torch.zeros_like(latent), 0)
        assert found.shape == (1, 1, *space) and bool(torch.isfinite(found).all())
        assert float(found.min()) >= 0
