"""(crops) -> crops redrawn by the host, in img2img passes of their own that leave nothing behind.

A pass has a script that opens the soft mask place by place, and takes the pictures as floats. Crops go in as
8 bits, for a pass accepts nothing else; what isn't redrawn is never taken from them.
"""
from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from modules import devices, extra_networks, processing, scripts, sd_models, shared
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ..controls.hands.crop import LIMITS, Limits
from ..controls.hands.prepare import Crop
from ..controls.hands.repair import batches
from . import host
from .controls_units import find_network
from .hands_files import find_controlnet
from .hands_panel import NETWORK, TITLE, Panel
from .scope import patched

INNER = "tweedie_hands_inner"  # of a pass over crops
KEPT = ("scheduler", "eta", "s_churn", "s_tmin", "s_tmax", "s_noise", "s_min_uncond", "distilled_cfg_scale")
MOST, AREA = 8, 8 * 512 * 512  # crops in one pass, and their pixels


class Stopped(Exception):
    """The user has skipped or interrupted the run."""


def check_stopped() -> None:
    state = shared.state
    if state.interrupted or state.skipped or state.stopping_generation:
        raise Stopped


def limits_of(sd_model: Any) -> Limits:
    """Crop sizes that the model can draw, and the pixels of its latent cell or token."""
    owner = sd_model.forge_objects.unet if hasattr(sd_model, "forge_objects") else sd_model
    if not hasattr(owner.model.diffusion_model, "input_blocks"):
        return LIMITS["dit"]
    side = 8 * math.isqrt(host.reference_size(sd_model))
    if side >= 1024:
        return LIMITS["sdxl"]
    if getattr(sd_model, "image_size", 64) < 64:  # the pack's own tiny model
        return Limits(8 * sd_model.image_size, 8 * sd_model.image_size, 8, 8)
    return LIMITS["sd1"]._replace(low=side, high=max(side, LIMITS["sd1"].high))


def to_image(picture: Tensor) -> Image.Image:
    """[3,h,w] of 0..1, rounded to 8 bits."""
    return Image.fromarray((picture.clamp(0, 1) * 255).round().byte().movedim(0, -1).cpu().numpy())


@contextmanager
def options(**values: Any) -> Iterator[None]:
    """The host's settings, for a while; one that was never set is unset again."""
    data = shared.opts.data
    kept = {name: data[name] for name in values if name in data}
    data.update(values)
    try:
        yield
    finally:
        for name in values:
            data.pop(name)
        data.update(kept)


@contextmanager
def without_controls(p: Any) -> Iterator[None]:
    """sd-webui-controlnet's units hang in the model until the run ends: take them out, and in again."""
    found = find_network(p)
    if found is None:
        yield
        return
    script, _ = found
    units = p.script_args[script.args_from:script.args_to]
    take_out(script, p, units)
    try:
        yield
    finally:
        script.process(p, *units)


def take_out(script: Any, p: Any, units: Sequence[Any]) -> None:
    script.postprocess(p, SimpleNamespace(images=[], extra_generation_params={}), *units)


@contextmanager
def apart(p: Any) -> Iterator[None]:
    """What the host keeps of the outer run stays as it is: notes, networks, history, count of steps."""
    notes = p.sd_model
    if not hasattr(notes, "extra_generation_params"):  # A1111 and reForge
        from modules.sd_hijack import model_hijack as notes
    with ExitStack() as stack:
        stack.enter_context(patched(shared.cmd_opts, no_prompt_history=True))
        stack.enter_context(patched(shared.total_tqdm, update=lambda: None, updateTotal=lambda total: None))
        stack.enter_context(patched(notes, comments=[], extra_generation_params={}))
        stack.enter_context(patched(shared.state, textinfo="Hand repair"))
        stack.enter_context(options(save_init_img=False))
        stack.enter_context(without_controls(p))
        stack.callback(take_back_model, p)
        yield


def take_back_model(p: Any) -> None:
    """The outer run's networks and merged tokens, which a pass ends for the whole model."""
    if not p.disable_extra_networks:
        with devices.autocast():
            extra_networks.activate(p, p.extra_network_data)
    if host.sigma_keeper(p.sd_model) is None:
        sd_models.apply_token_merging(p.sd_model, p.get_token_merging_ratio())


class Redraw(scripts.Script):
    """The script of one pass over crops of one size."""

    filename, args_from, args_to = __file__, 0, 0

    def __init__(self, crops: Sequence[Crop]):
        self.crops, self.masks, self.pictures = crops, None, None

    def title(self) -> str:
        return f"{TITLE}: crops"

    def process(self, p, *args) -> None:
        p.all_seeds = [one.seed for one in self.crops]

    def process_batch(self, p, *args, **kwargs) -> None:
        latent = p.init_latent
        masks = torch.stack([one.mask for one in self.crops])[:, None].float()
        small = functional.interpolate(masks, latent.shape[-2:], mode="area")
        between = [1] * (latent.ndim - 4)  # frames
        small = small.reshape(len(masks), 1, *between, *latent.shape[-2:])
        self.masks = small.to(latent.device, devices.dtype)
        p.nmask = self.opened(0.0)
        p.mask = 1 - p.nmask
        if p.is_using_inpainting_conditioning:
            forge = host.sigma_keeper(p.sd_model) is not None
            pictures = torch.stack([one.picture for one in self.crops])
            pictures = pictures.to(shared.device, torch.float32 if forge else devices.dtype_vae)
            with devices.autocast():
                p.image_conditioning = p.img2img_image_conditioning(2 * pictures - 1, latent, masks.round())

    def opened(self, progress: float) -> Tensor:
        """Where the model draws: differential diffusion (Levin and Fried 2023)."""
        return (self.masks > min(max(1 - progress, 0), 0.99)).to(self.masks)

    def on_mask_blend(self, p, blend, *args) -> None:
        if blend.is_final_blend:
            blend.blended_latent = blend.current_latent  # steps were blended, and what is pasted is masked
            return
        guide = blend.denoiser
        guide.nmask = self.opened((guide.step + 2) / guide.total_steps)
        guide.mask = 1 - guide.nmask

    def postprocess_batch(self, p, *args, images, **kwargs) -> None:
        self.pictures = [image.float().cpu() for image in images]


class Painter:
    """Draws crops of one picture of p; `texts` are the prompt and the negative one of each hand."""

    def __init__(self, p: Any, panel: Panel, texts: Sequence[tuple[str, str]]):
        self.p, self.panel, self.texts = p, panel, texts
        self.caches = [[None] * len(p.cached_c) for _ in range(2)]

    def __call__(self, crops: Sequence[Crop]) -> list[Tensor]:
        done: dict[int, Tensor] = {}
        chunks, state = self.chunks(crops), shared.state
        begun = state.job_no
        state.job_count += len(chunks)
        try:
            with apart(self.p):
                for chunk in chunks:
                    done |= zip(chunk, self.draw([crops[index] for index in chunk]), strict=True)
        finally:
            state.job_count -= len(chunks) - (state.job_no - begun)  # passes that didn't come to their end
        return [done[index].clone() for index in range(len(crops))]  # of Forge's inference mode

    def chunks(self, crops: Sequence[Crop]) -> list[list[int]]:
        """Indices of crops that one pass can draw: of one size, of the same extra networks and depth."""
        groups: dict[tuple, list[int]] = {}
        for index, one in enumerate(crops):
            networks = tuple(NETWORK.findall(self.texts[one.hand][0]))
            groups.setdefault((tuple(one.picture.shape), networks, id(one.depth)), []).append(index)
        small = any(getattr(shared.cmd_opts, name, False) for name in ("lowvram", "medvram"))
        return [[group[number] for number in batch] for (shape, *_), group in groups.items()
                for batch in batches([crops[index] for index in group],
                                     1 if small else min(max(AREA // (shape[1] * shape[2]), 1), MOST))]

    def draw(self, crops: Sequence[Crop]) -> list[Tensor]:
        check_stopped()
        redraw, controls = Redraw(crops), None
        units = [self.unit(crops[0].depth)] if crops[0].depth is not None else []
        inner = self.begin(crops)
        inner.scripts = scripts.ScriptRunner()
        inner.scripts.alwayson_scripts = [redraw]
        if units:
            controls = fresh_controlnet(self.p)
            inner.scripts.alwayson_scripts.append(controls)
        inner.script_args = units or [None]
        try:
            with torch.random.fork_rng():  # VAEs that sample take the global noise
                torch.manual_seed(crops[0].seed)
                processing.process_images(inner)
        finally:
            if getattr(controls, "latest_network", None) is not None:  # after an error
                take_out(controls, inner, units)
        check_stopped()
        if redraw.pictures is None:
            raise RuntimeError(f"{TITLE}: the host drew nothing; its log says why")
        return redraw.pictures

    def begin(self, crops: Sequence[Crop]) -> Any:
        p, (h, w) = self.p, crops[0].picture.shape[1:]
        texts = [self.texts[one.hand] for one in crops]
        inner = processing.StableDiffusionProcessingImg2Img(
            outpath_samples=p.outpath_samples, outpath_grids=p.outpath_grids, width=w, height=h,
            prompt=[text for text, _ in texts], negative_prompt=[text for _, text in texts],
            seed=crops[0].seed, subseed=0, sampler_name=p.sampler_name, batch_size=len(crops), n_iter=1,
            steps=self.panel["steps"] or p.steps, cfg_scale=p.cfg_scale, restore_faces=False, tiling=p.tiling,
            do_not_save_samples=True, do_not_save_grid=True, do_not_reload_embeddings=True,
            disable_extra_networks=p.disable_extra_networks, denoising_strength=self.panel["denoise"],
            init_images=[to_image(one.picture) for one in crops], inpaint_full_res=False,
            **{name: getattr(p, name) for name in KEPT if hasattr(p, name)})
        inner.cached_c, inner.cached_uc = self.caches
        inner.color_corrections, inner.is_api = [], True
        setattr(inner, INNER, True)
        inner._ad_inner = True  # by which extensions know a pass over a detail
        return inner

    def unit(self, depth: Tensor) -> dict[str, Any]:
        """A ControlNet unit, as the API of the family takes it; all crops of a pass share the depth."""
        forge = host.sigma_keeper(self.p.sd_model) is not None
        return {"enabled": True, "image": np.array(to_image(depth.expand(3, -1, -1))),
                "module": "None" if forge else "none", "model": self.panel["depth_model"],
                "weight": self.panel["depth_strength"], "guidance_start": 0.0,
                "guidance_end": self.panel["depth_end"], "control_mode": "Balanced",
                "resize_mode": "Crop and Resize", "pixel_perfect": False, "save_detected_map": False}


def fresh_controlnet(p: Any) -> Any:
    """A script of its own, so that the outer run's keeps what it holds."""
    own = find_controlnet(p)
    script = type(own)()
    script.filename, script.args_from, script.args_to = own.filename, 0, 1
    script.is_txt2img, script.is_img2img = False, True
    if hasattr(own, "latest_model_hash"):  # by which sd-webui-controlnet knows that its loaded nets still fit
        script.latest_model_hash, own.latest_model_hash = own.latest_model_hash, p.sd_model.sd_model_hash
    return script
