"""(captions) -> pictures by the tiny model: its weights, its denoiser in the form of the samplers' core."""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...samplers.zero_snr import rescale_cfg, rescale_table
from ..sampling import stable_diffusion_table
from . import nets
from .checkpoint import TOKEN_NAME, read
from .layout import to_library
from .words import tokenize

Denoise = Callable[[Tensor, float], Tensor]  # (x0 + sigma n [B,4,h,w], sigma) -> x0 [B,4,h,w]
# (x, sigma [B], guided, cond, uncond) -> guided, of estimates of x0 [B,4,h,w]
Change = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


class Tiny(NamedTuple):
    """The model as hosts see it: latents are scaled, `table` holds its sigmas [1000], `v` or epsilon."""

    vae: nn.Module
    text: nn.Module
    unet: nn.Module
    table: Tensor
    v: bool


def fill(module: nn.Module, kind: str, name: str) -> nn.Module:
    """The module with the weights of that name, ready to run in float32."""
    state = read(name)
    tokens = state.pop(TOKEN_NAME, None)
    state = to_library(kind, state)
    if tokens is not None:
        state[TOKEN_NAME.removeprefix("text_model.")] = tokens
    module.load_state_dict({key: value.float() for key, value in state.items()})
    return module.eval().requires_grad_(False)


def load(prediction: str = "v") -> Tiny:
    """prediction: "v" (zero terminal SNR) or "epsilon" (ordinary table)."""
    table = stable_diffusion_table()
    return Tiny(fill(nets.new_vae(), "vae", "vae"), fill(nets.new_text_encoder(), "text", "text"),
                fill(nets.new_unet(), "unet", f"unet_{prediction}"),
                rescale_table(table) if prediction == "v" else table, prediction == "v")


def load_control(model: Tiny, hint: str) -> nn.Module:
    """The ControlNet for "edges" or "depth"."""
    return fill(nets.new_controlnet(model.unet), "control", f"control_{hint}")


@torch.no_grad()
def embed(model: Tiny, captions: Sequence[str]) -> Tensor:
    """Captions to what the cross attention reads [B,77,128]."""
    return model.text(tokenize(captions)).last_hidden_state


def steps_of(table: Tensor, sigma: float) -> float:
    """The model's own time for a sigma: linear between the table's log sigmas."""
    logs = table.double().log()
    at = float(logs.new_tensor(math.log(sigma)).clamp(logs[0], logs[-1]))
    high = int(torch.searchsorted(logs, at).clamp(1, len(logs) - 1))
    low = high - 1
    return low + (at - float(logs[low])) / float(logs[high] - logs[low])


@torch.no_grad()
def predict(model: Tiny, x: Tensor, sigma: float, context: Tensor, control: nn.Module | None = None,
            hints: Tensor | None = None) -> Tensor:
    """The estimate of x0 [B,4,h,w] for x = x0 + sigma n; under a control, `hints` is [B,3,8h,8w] in 0..1."""
    alpha = 1 / math.hypot(1, sigma)
    noisy, t = alpha * x.float(), torch.full((len(x),), steps_of(model.table, sigma))
    down, middle = control(noisy, t, context, hints, return_dict=False) if control else (None, None)
    out = model.unet(noisy, t, context, down_block_additional_residuals=down,
                     mid_block_additional_residual=middle).sample
    return (alpha**2 * x - alpha * sigma * out) if model.v else x - sigma * out


def guide(model: Tiny, captions: Sequence[str], scale: float, phi: float = 0.0,
          control: nn.Module | None = None, hints: Tensor | None = None,
          change: Change | None = None) -> Denoise:
    """Classifier-free guidance in one batch; `hints` are [B,1|3,8h,8w].

    `change` may replace the guided estimate, `phi` rescales it (Lin et al. 2023); at scale 1 neither acts.
    """
    both = torch.cat([embed(model, captions), embed(model, [""] * len(captions))])
    twice = hints.expand(-1, 3, -1, -1).repeat(2, 1, 1, 1) if control else None

    def denoise(x: Tensor, sigma: float) -> Tensor:
        if scale == 1:
            return predict(model, x, sigma, both[:len(x)], control, twice[:len(x)] if control else None)
        cond, uncond = predict(model, x.repeat(2, 1, 1, 1), sigma, both, control, twice).chunk(2)
        sigmas = torch.full((len(x),), sigma)
        guided = uncond + scale * (cond - uncond)
        if change:
            guided = change(x, sigmas, guided, cond, uncond)
        return rescale_cfg(x, sigmas, guided, cond, phi)

    return denoise


@torch.no_grad()
def decode(model: Tiny, latents: Tensor) -> Tensor:
    """Scaled latents [B,4,h,w] to pictures [B,3,8h,8w] in 0..1."""
    return (model.vae.decode(latents.float() / nets.SCALE).sample / 2 + 0.5).clamp(0, 1)
