"""Models whose denoiser is known in closed form, so that a sampler's error is a number and not an opinion.

A mixture of Gaussians with means mu_k [K,C,H,W] and one covariance, diagonal in the DCT. With
x = x0 + sigma n, E[x0|x] = sum_k r_k (mu_k + var/(var + sigma^2) (x - mu_k)), r_k the posterior of
component k (Tweedie's formula).
"""
from __future__ import annotations

import math

import torch
from torch import Tensor


def dct_matrix(n: int) -> Tensor:
    """Orthonormal DCT-II [n,n], float64."""
    k, i = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(n, dtype=torch.float64)[None]
    matrix = torch.cos(math.pi * (i + 0.5) * k / n) * math.sqrt(2 / n)
    matrix[0] /= math.sqrt(2)
    return matrix


def power_law(height: int, width: int, std: float, alpha: float) -> Tensor:
    """DCT variances [H,W] that fall like 1/(1 + radius)^alpha, as pictures' do; their mean is std^2."""
    y, x = torch.arange(height, dtype=torch.float64)[:, None], torch.arange(width, dtype=torch.float64)[None]
    power = (1 + (y**2 + x**2).sqrt()) ** -alpha
    return power / power.mean() * std**2


class Mixture:
    """means [K,C,H,W], variance of one DCT coefficient (a number or [H,W]); float64 throughout."""

    def __init__(self, means: Tensor, variance: Tensor | float):
        self.shape = means.shape[1:]
        self.rows, self.columns = dct_matrix(means.shape[-2]), dct_matrix(means.shape[-1])
        self.means = self.dct(means.double()).flatten(1)  # [K,D]
        self.squares = self.means**2
        self.variance = torch.as_tensor(variance, dtype=torch.float64).expand(self.shape).flatten()  # [D]

    def dct(self, x: Tensor) -> Tensor:
        return self.rows @ x @ self.columns.T

    def inverse_dct(self, x: Tensor) -> Tensor:
        return self.rows.T @ x.reshape(-1, *self.shape) @ self.columns

    def observe(self, x: Tensor, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
        """x [B,C,H,W] -> its coefficients [B,D] and their variance around every mean [B or 1,D]."""
        sigma = torch.as_tensor(sigma, dtype=torch.float64).reshape(-1, 1)
        return self.dct(x.double()).flatten(1), self.variance + sigma**2

    def fit(self, z: Tensor, total: Tensor) -> Tensor:
        """Log-likelihood of every component [B,K]; terms that all share are left out."""
        return (z / total) @ self.means.T - 0.5 * (1 / total) @ self.squares.T

    def mix(self, fit: Tensor, log_weights: Tensor | None = None) -> Tensor:
        """sum_k r_k mu_k [B,D], r_k the posterior of component k; log_weights [K] or [B,K] join its log."""
        return torch.softmax(fit if log_weights is None else fit + log_weights, 1) @ self.means

    def shrink(self, z: Tensor, total: Tensor, mean: Tensor) -> Tensor:
        """mean + var/(var + sigma^2) (z - mean), back to a picture [B,C,H,W]."""
        return self.inverse_dct(mean + self.variance / total * (z - mean))

    def denoise(self, x: Tensor, sigma: Tensor | float, log_weights: Tensor | None = None) -> Tensor:
        """E[x0|x] [B,C,H,W] for sigma a number or [B]; log_weights [K] restricts or reweights components."""
        z, total = self.observe(x, sigma)
        return self.shrink(z, total, self.mix(self.fit(z, total), log_weights)).to(x.dtype)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        component = torch.randint(len(self.means), [count], generator=generator)
        noise = torch.randn(count, self.means.shape[1], generator=generator, dtype=torch.float64)
        return self.inverse_dct(self.means[component] + noise * self.variance.sqrt())


def random_mixture(size: int = 16, channels: int = 4, components: int = 32, mean_std: float = 0.55,
                   inner_std: float = 0.6, alpha: float = 2.5, seed: int = 3) -> Mixture:
    """Picture-like random fields as means, with a power-law covariance: the benchmark's model."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(components, channels, size, size, generator=generator, dtype=torch.float64)
    matrix = dct_matrix(size)
    means = matrix.T @ (noise * power_law(size, size, mean_std, alpha).sqrt()) @ matrix
    return Mixture(means, power_law(size, size, inner_std, alpha))


def guided(model: Mixture, scale: float, log_weights: Tensor):
    """Classifier-free guidance of one class against the whole mixture: u + scale (c - u)."""
    def denoise(x: Tensor, sigma: Tensor | float) -> Tensor:
        z, total = model.observe(x, sigma)
        fit = model.fit(z, total)
        plain = model.mix(fit)  # the estimate is linear in it, so guiding it guides the estimate
        mean = plain + scale * (model.mix(fit, log_weights) - plain)
        return model.shrink(z, total, mean).to(x.dtype)
    return denoise


def solve(denoise, x: Tensor, sigmas: Tensor) -> Tensor:
    """Heun's method over x0 + sigma n down to sigma 0, first step in the safe form: the reference."""
    for i, (sigma, then) in enumerate(zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True)):
        d = (x - denoise(x, sigma)) / sigma
        ahead = x + (then - sigma) * d
        x = (ahead if i == 0 or then == 0
             else x + (then - sigma) * (d + (ahead - denoise(ahead, then)) / then) / 2)
    return x


def on_flow(denoise):
    """The same model seen as a flow model: x = (1-s) x0 + s n is x0 + e n with e = s/(1-s), scaled by 1-s."""
    def flow_denoise(x: Tensor, sigma: Tensor | float) -> Tensor:
        sigma = torch.as_tensor(sigma, dtype=torch.float64).clamp(max=1 - 1e-7)
        keep = (1 - sigma).reshape(-1, 1, 1, 1)
        return denoise(x / keep, sigma / (1 - sigma))
    return flow_denoise
