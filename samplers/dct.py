"""x [B,C,*S] -> its DCT-II over S (rows and columns, for video time too) and back, by matrix products.

Unlike the FFT, the cosine transform reflects at borders, so a ramp does not leak into high frequencies; as a
product of matrices it takes any size on any backend.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=64)
def matrix(size: int, device: torch.device) -> Tensor:
    """Orthonormal DCT-II (Ahmed, Natarajan & Rao 1974) [size,size], float32: row k is frequency k."""
    with torch.inference_mode(False):
        k, i = torch.arange(size, dtype=torch.float64)[:, None], torch.arange(size, dtype=torch.float64)
        rows = torch.cos(math.pi * (i + 0.5) * k / size) * math.sqrt(2 / size)
        rows[0] /= math.sqrt(2)
        return rows.float().to(device)


def dct(x: Tensor) -> Tensor:
    """Coefficients of x [B,C,*S] in float32."""
    out = x.float() @ matrix(x.shape[-1], x.device).T
    for axis in range(2, x.ndim - 1):
        out = (matrix(x.shape[axis], x.device) @ out.transpose(axis, -2)).transpose(axis, -2)
    return out


def inverse_dct(coefficients: Tensor) -> Tensor:
    """[B,C,*S] in float32."""
    out = coefficients @ matrix(coefficients.shape[-1], coefficients.device)
    for axis in range(2, coefficients.ndim - 1):
        out = (matrix(coefficients.shape[axis], coefficients.device).T @ out.transpose(axis, -2)
               ).transpose(axis, -2)
    return out


@lru_cache(maxsize=64)
def radius(space: Sequence[int], device: torch.device) -> Tensor:
    """Frequency of each coefficient [*space] relative to Nyquist, 0 to sqrt(number of axes).

    1 is one sign change a cell along one axis, whatever the size: isotropic in pixels.
    """
    with torch.inference_mode(False):
        total = torch.zeros(space, dtype=torch.float64)
        for axis, size in enumerate(space):
            ahead = [1] * axis + [size] + [1] * (len(space) - axis - 1)
            total = total + (torch.arange(size, dtype=torch.float64) / size).square().reshape(ahead)
        return total.sqrt().float().to(device)
