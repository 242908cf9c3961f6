"""(crops) -> crops re-diffused by the host's sampler, VAE and ControlNet: many hands in one latent batch."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import comfy.model_management as management
import comfy.sample
import comfy.utils
import latent_preview
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy_extras.nodes_upscale_model import ImageUpscaleWithModel
from torch import Tensor

from ..controls.hands.crop import LIMITS, Limits
from ..controls.hands.prepare import Crop
from ..controls.hands.repair import batches
from .latent_regions import LAYOUT
from .model import reference_tokens
from .regional import KEY as REGIONS

# What a prompt says of the whole picture, and is wrong on a part of it.
WHOLE = ("area", "mask", "set_area_to_bounds", "control", "control_apply_to_uncond", "gligen",
         "concat_latent_image", "concat_mask", "noise_concat", "reference_latents", "attention_mask",
         "width", "height", "crop_w", "crop_h", "target_width", "target_height",
         REGIONS, LAYOUT)


class Sampling(NamedTuple):
    steps: int
    cfg: float
    sampler: str
    scheduler: str
    denoise: float


class Depth(NamedTuple):
    """A ControlNet for the fitted hand's depth."""

    net: Any
    strength: float
    end: float


def limits_of(model, vae) -> Limits:
    """Crop sizes that the model can draw, and the pixels of its latent cell or token."""
    cell = vae.spacial_compression_encode()
    net = model.model.diffusion_model
    if not isinstance(net, UNetModel):
        patch = getattr(net, "patch_size", 2)
        return LIMITS["dit"]._replace(token=cell * (patch if isinstance(patch, int) else patch[-1]))
    side = round(reference_tokens(model, (1, 4, 8, 8)) ** 0.5) * cell
    if side >= 1024:
        return LIMITS["sdxl"]._replace(token=cell)
    if side >= 512:
        return LIMITS["sd1"]._replace(low=side, high=max(side, LIMITS["sd1"].high), token=cell)
    return Limits(side, side, cell, cell)  # the pack's own tiny model


def enlarger(upscale_model):
    """The host's node for upscale models, for one picture [3,h,w]."""
    def enlarge(picture: Tensor) -> Tensor:
        [large] = ImageUpscaleWithModel.execute(upscale_model, picture.movedim(0, -1)[None]).result
        return large[0].movedim(-1, 0).cpu().float()
    return enlarge


def on_crop(prompt: list, **values: Any) -> list:
    """The prompt without what belongs to the whole picture, and with what belongs to the crop."""
    return [[text, {name: value for name, value in old.items() if name not in WHOLE} | values]
            for text, old in prompt]


def soften(sigma: Tensor, mask: Tensor, extra_options: dict) -> Tensor:
    """Differential diffusion (Levin and Fried 2023): a soft mask opens place by place as the run goes on."""
    sampling, sigmas = extra_options["model"].inner_model.model_sampling, extra_options["sigmas"]
    first, last, now = (sampling.timestep(value) for value in (
        sigmas[0], torch.maximum(sigmas[-1], torch.as_tensor(sampling.sigma_min).to(sigmas)), sigma[0]))
    return (mask >= (now - last) / (first - last).clamp_min(1e-6)).to(mask)


class Painter:
    """Draws crops; counts its steps over all of them on one progress bar."""

    def __init__(self, model, vae, positive: list, negative: list, sampling: Sampling, depth: Depth | None):
        self.model, self.vae, self.positive, self.negative = model, vae, positive, negative
        self.sampling, self.depth = sampling, depth
        if "denoise_mask_function" not in model.model_options:
            self.model = model.clone()
            self.model.set_model_denoise_mask_function(soften)

    def __call__(self, crops: Sequence[Crop]) -> list[Tensor]:
        done: dict[int, Tensor] = {}
        latents = {id(one.picture): one.picture for one in crops}
        latents = {key: self.encode(picture) for key, picture in latents.items()}
        bar = comfy.utils.ProgressBar(len(crops) * self.sampling.steps)
        for batch in batches(crops, self.room(next(iter(latents.values())))):
            chosen = [crops[index] for index in batch]
            latent = torch.cat([latents[id(one.picture)] for one in chosen])
            painted = self.decode(self.sample(chosen, latent, self.ticker(bar, len(done), len(chosen))))
            done |= dict(zip(batch, painted, strict=True))
        return [done[index] for index in range(len(crops))]

    def room(self, latent: Tensor) -> int:
        """How many crops fit into the memory that is free."""
        needed = self.model.memory_required([1, *latent.shape[1:]])
        return max(1, int(management.get_free_memory(self.model.load_device) / max(2 * needed, 1)))

    def ticker(self, bar, before: int, count: int):
        viewer = latent_preview.get_previewer(self.model.load_device, self.model.model.latent_format)

        def tick(step: int, x0: Tensor, x: Tensor, total: int) -> None:
            preview = viewer.decode_latent_to_preview_image("JPEG", x0) if viewer else None
            bar.update_absolute(self.sampling.steps * (before + count * (step + 1) / total), preview=preview)
        return tick

    def encode(self, picture: Tensor) -> Tensor:
        """[3,h,w] to a latent [1,C,h,w], or [1,C,1,h,w] of a VAE for video."""
        latent = self.vae.encode(picture.movedim(0, -1)[None])
        return comfy.sample.fix_empty_latent_channels(self.model, latent)

    def decode(self, latents: Tensor) -> list[Tensor]:
        rows = [latents] if latents.ndim == 4 else latents.split(1)
        pictures = torch.cat([self.vae.decode(row).flatten(0, -4) for row in rows])
        return list(pictures.cpu().float().movedim(-1, 1))

    def masked(self, chosen: Sequence[Crop], latent: Tensor, masks: Tensor) -> dict:
        """What an inpainting model sees beside its input: the crop without what is to be drawn."""
        probe = self.model.model.concat_cond(noise=latent[:1].float(), latent_image=latent[:1].float(),
                                             device=latent.device)
        if probe is None:
            return {}
        grey = {}
        for one in chosen:
            if id(one.picture) not in grey:
                grey[id(one.picture)] = self.encode(torch.where(one.mask.round() > 0, 0.5, one.picture))
        return {"concat_latent_image": torch.cat([grey[id(one.picture)] for one in chosen]),
                "concat_mask": masks}

    def sample(self, chosen: Sequence[Crop], latent: Tensor, tick) -> Tensor:
        masks = torch.stack([one.mask for one in chosen])[:, None]
        values = self.masked(chosen, latent, masks)
        if self.depth is not None and chosen[0].depth is not None:
            hints = torch.stack([one.depth for one in chosen])[:, None].expand(-1, 3, -1, -1)
            net = self.depth.net.copy().set_cond_hint(hints, self.depth.strength, (0.0, self.depth.end),
                                                      vae=self.vae)
            values |= {"control": net, "control_apply_to_uncond": False}
        noise = torch.cat([comfy.sample.prepare_noise(latent[i:i + 1], one.seed % 2**64)
                           for i, one in enumerate(chosen)])
        run = self.sampling
        return comfy.sample.sample(
            self.model, noise, run.steps, run.cfg, run.sampler, run.scheduler,
            on_crop(self.positive, **values), on_crop(self.negative, **values), latent, denoise=run.denoise,
            noise_mask=masks, callback=tick, disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=chosen[0].seed % 2**64)
