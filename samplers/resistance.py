"""(features [B,C,*S]) -> effective-resistance leverage of the grid's edges, and its mean at each cell [B,*S].

Cells of a latent are nodes, neighbours along each axis of S are joined, and alike neighbours conduct well.
The leverage c R of an edge (conductance times effective resistance) is the chance that a random spanning
tree holds it: 1 for a bridge, small inside a mesh (Spielman & Srivastava 2011). Foster 1949: it adds up to
nodes - 1.
Published: leverage, and its estimate by random signs (Hutchinson 1990). Ours: its use on a denoised latent as
a weight of guidance. "Generative Myopia" (Siami 2025), which weights graph edges so in training, has no image
model; nothing there says that this repairs pictures.

An edge field is a list with one tensor for each axis of S, that axis one shorter. Only slices, sums and
products: any backend, and the host never waits for the device.
"""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

RIDGE = 0.01  # each node is tied to ground by this share of its degree, which bounds the solver's condition
ITERATIONS = 24  # of the solver; at this ridge within 0.016 RMSE of its limit; 16 probes: 0.07
FLOOR = 1e-3  # conductance between neighbours that have nothing in common

Edges = list[Tensor]


def ends(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Of every edge along `axis`, the value at its first and at its second node."""
    size = x.shape[axis] - 1
    return x.narrow(axis, 0, size), x.narrow(axis, 1, size)


def axes_of(edges: Sequence[Tensor]) -> range:
    return range(-len(edges), 0)


def differences(x: Tensor, rank: int) -> Edges:
    """First node minus second, along each of the last `rank` axes."""
    pairs = [ends(x, axis) for axis in range(-rank, 0)]
    return [first - second for first, second in pairs]


def divergence(edges: Edges, like: Tensor, sign: int = -1) -> Tensor:
    """Sum at each node [*like] of what its edges hold, times `sign` at second nodes."""
    total = torch.zeros_like(like)
    for edge, axis in zip(edges, axes_of(edges), strict=True):
        first, second = ends(total, axis)
        first += edge
        second += sign * edge
    return total


def channel_spread(latent: Tensor) -> Tensor:
    """Standard deviation [B,C,1,..] of each channel over S; divided by it, all channels have a say."""
    return latent.float().std(tuple(range(2, latent.ndim)), correction=0, keepdim=True).clamp_min(1e-6)


def square_steps(features: Tensor) -> Edges:
    """Squared distance of neighbours' features, an edge field over [B,*S]."""
    return [step.square().sum(1) for step in differences(features, features.ndim - 2)]


def spread(steps: Edges, contrast: float) -> Tensor:
    """tau^2 [B]: `contrast` times the mean squared distance; the median would be 0 in flat pictures."""
    count = sum(step[0].numel() for step in steps)
    total = sum(step.flatten(1).sum(1) for step in steps)
    return (contrast * total / count).clamp_min(1e-12)


def conduct(steps: Edges, tau2: Tensor) -> Edges:
    """exp(-distance^2 / (2 tau^2)) + FLOOR."""
    return [torch.exp(-step / (2 * tau2.reshape(-1, *[1] * (step.ndim - 1)))) + FLOOR for step in steps]


def solve(right: Tensor, conductances: Edges, degree: Tensor, ridge: float, iterations: int) -> Tensor:
    """(L + ridge Deg) x = right by Chebyshev's iteration (Golub & Varga 1961), scaled by the degrees.

    Scaled, L x is each node less the mean of its neighbours, and the eigenvalues lie within ridge..2 + ridge,
    so no inner product is needed.
    """
    middle, half = 1 + ridge, 1.0
    rho, inverse = half / middle, 1 / degree
    shares = [(c * first, c * second) for c, axis in zip(conductances, axes_of(conductances), strict=True)
              for first, second in [ends(inverse, axis)]]
    residual = right * inverse
    x, step = torch.zeros_like(right), residual / middle
    for _ in range(iterations):
        x = x + step
        residual = residual.sub(step, alpha=1 + ridge)
        for (of_second, of_first), axis in zip(shares, axes_of(conductances), strict=True):
            (at_first, at_second), (first, second) = ends(residual, axis), ends(step, axis)
            at_first.addcmul_(of_second, second)
            at_second.addcmul_(of_first, first)
        following = 1 / (2 * middle / half - rho)
        step = (following * rho * step).add(residual, alpha=2 * following / half)
        rho = following
    return x


def random_signs(conductances: Edges, probes: int, seed: int) -> Edges:
    """+-1 for each probe and edge [1,probes,..]; drawn on the CPU, so every device gets the same."""
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randint(0, 2, (1, probes, *c.shape[1:]), generator=generator, dtype=torch.int8) * 2 - 1)
            .to(c.device, non_blocking=True).to(c.dtype) for c in conductances]


def leverage(conductances: Edges, probes: int, seed: int, ridge: float = RIDGE,
             iterations: int = ITERATIONS) -> Edges:
    """Leverage 0..1 of every edge [B,..]: the diagonal of the projection C^1/2 B L^+ B^T C^1/2.

    Hutchinson's estimate: the mean over `probes` of q (P q), of variance l (1 - l) / probes.
    """
    signs = random_signs(conductances, probes, seed)
    roots = [c.sqrt().unsqueeze(1) for c in conductances]
    batch, space = len(conductances[0]), node_space(conductances)
    like = roots[0].new_zeros(batch, probes, *space)
    wide = [c.unsqueeze(1) for c in conductances]
    degree = divergence(wide, roots[0].new_zeros(batch, 1, *space), sign=1)
    right = divergence([r * q for r, q in zip(roots, signs, strict=True)], like)
    potential = solve(right, wide, degree, ridge, iterations)
    seen = [r * d for r, d in zip(roots, differences(potential, len(roots)), strict=True)]
    return [(q * p).mean(1).clamp(0, 1) for q, p in zip(signs, seen, strict=True)]


def node_space(edges: Edges) -> tuple[int, ...]:
    """S, from an edge field over [B,*S]."""
    last = list(edges[-1].shape[1:])
    return (*last[:-1], last[-1] + 1)


def at_nodes(values: Edges, weights: Edges) -> Tensor:
    """Weighted mean [B,*S] of the edges at each node.

    Weights of leverage must be the conductances: a node's plain sum of leverages is its expected degree in a
    random spanning tree, which is about 2 everywhere and tells nothing.
    """
    like = values[0].new_zeros(len(values[0]), *node_space(values))
    total = divergence([v * w for v, w in zip(values, weights, strict=True)], like, sign=1)
    return total / divergence(weights, like, sign=1).clamp_min(1e-9)
