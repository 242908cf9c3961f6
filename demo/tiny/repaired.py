"""(crops of hands) -> crops drawn again by the tiny model: what a host's sampler is to hand repair."""
from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ...controls.blends import BLENDS
from ...controls.curves import read_curve
from ...controls.hands.crop import Limits
from ...controls.hands.prepare import Crop
from ...controls.hands.repair import Draw, batches
from ...controls.masks import fit
from ...controls.multi import Rule
from ...samplers.recommend import recommended
from ..sampling import sample
from . import nets
from .controlled import Control, guide_controls
from .model import Denoise, Tiny, decode

SIDE, CELL, BATCH = 128, 8, 32  # pixels that the model was taught, pixels of a latent's cell, crops at once
LIMITS = Limits(SIDE, SIDE, SIDE, CELL)


@torch.no_grad()
def encode(model: Tiny, pictures: Tensor) -> Tensor:
    """Pictures [B,3,8h,8w] in 0..1 to scaled latents [B,4,h,w], without the encoder's noise."""
    return model.vae.encode(pictures.float() * 2 - 1).latent_dist.mean * nets.SCALE


def keep(denoise: Denoise, latent: Tensor, noise: Tensor, masks: Tensor) -> Denoise:
    """Only where masks [B,1,h,w] are above 0 is anything drawn; elsewhere the latent stays."""
    def masked(x: Tensor, sigma: float) -> Tensor:
        x0 = denoise(x * masks + (latent + sigma * noise) * (1 - masks), sigma)
        return x0 * masks + latent * (1 - masks)

    return masked


def painter(model: Tiny, caption: Callable[[Crop], str], sampler: str, steps: int = 20, scale: float = 5.0,
            strength: float = 0.7, control: nn.Module | None = None, weight: float = 0.55,
            end: float = 0.75) -> Draw:
    """What `repair` draws with. strength is of denoising: the last `steps` of steps / strength are run."""
    sigmas = recommended(round(steps / strength), model.table, "multistep")[-steps - 1:]

    @torch.no_grad()
    def paint(crops: Sequence[Crop]) -> Tensor:
        latent = encode(model, torch.stack([one.picture for one in crops]))
        noise = torch.stack([torch.randn(latent.shape[1:], generator=torch.Generator().manual_seed(one.seed))
                             for one in crops])
        masks = torch.stack([fit(one.mask, tuple(latent.shape[2:])) for one in crops])[:, None]
        controls = []
        if control is not None and crops[0].depth is not None:
            hints = torch.stack([one.depth for one in crops])[:, None]
            controls = [Control(control, hints, weight, Rule(read_curve(f"0:1, {end}:1, {end}:0", "depth")))]
        denoise = guide_controls(model, [caption(one) for one in crops], scale, controls, BLENDS["sum"])
        run = keep(denoise, latent, noise, masks)
        return decode(model, sample(sampler, run, latent + sigmas[0] * noise, sigmas))

    def draw(crops: Sequence[Crop]) -> list[Tensor]:
        done: dict[int, Tensor] = {}
        for batch in batches(crops, BATCH):
            done |= dict(zip(batch, paint([crops[index] for index in batch]), strict=True))
        return [done[index] for index in range(len(crops))]

    return draw
