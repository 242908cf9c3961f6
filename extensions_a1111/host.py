"""Where each host keeps what: (sd_model, sampler) -> sigma table, prediction, reference size, guidance hook.

A1111 keeps the table in `sd_model.alphas_cumprod`, which the denoiser copies when it is built; Forge and Neo
in `unet.model.predictor`; reForge in `unet.model.model_sampling` and, for its schedules, in `alphas_cumprod`.
"""
from __future__ import annotations

import functools
import importlib.metadata
import pathlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor

from ..controls.blends import BLENDS
from ..controls.hands.detectors import DETECTORS
from ..controls.hands.score import SCORERS
from ..controls.layouts import LAYOUTS
from ..plugin import load_plugins
from ..samplers.schedules import SCHEDULES
from ..samplers.spectral import BANDS
from ..samplers.structure import MAPS
from ..samplers.table import TERMINAL, is_flow
from ..samplers.zero_snr import rescale_table
from .scope import patched


class Step(NamedTuple):
    """One guided step in k-diffusion's form: x, and estimates of x0, all [B,C,*S]; sigma [B].

    With several prompts joined by AND, `cond` is their combination at guidance 1. uncond is None or all zeros
    where the host skipped it.
    """

    x: Tensor
    sigma: Tensor
    guided: Tensor
    cond: Tensor
    uncond: Tensor | None
    scale: float


Change = Callable[[Step], Tensor]  # -> what to take in place of `guided`; the same object for no change

FAMILIES = {"is_sd1": "SD15", "is_sd2": "SD15", "is_sdxl": "SDXL", "is_sd3": "SD3", "is_wan": "Wan21"}


@functools.cache
def load_strangers() -> tuple[str, ...]:
    """Load third-party plugins, once for each load of the pack; returns a line for each that failed."""
    folder = pathlib.Path(__file__).resolve().parents[1] / "plugins"
    points = importlib.metadata.entry_points(group="tweedie_pack.plugins")
    registries = {"SCHEDULES": SCHEDULES, "BANDS": BANDS, "MAPS": MAPS, "LAYOUTS": LAYOUTS,
                  "BLENDS": BLENDS, "DETECTORS": DETECTORS, "SCORERS": SCORERS}
    return tuple(load_plugins(folder, __package__.partition(".")[0], registries, points))


def sigma_keeper(sd_model: Any) -> Any | None:
    """The module with the buffers `sigmas` and `log_sigmas` on Forge, Neo and reForge; None on A1111."""
    if not hasattr(sd_model, "forge_objects"):
        return None
    model = sd_model.forge_objects.unet.model
    return model.predictor if hasattr(model, "predictor") else model.model_sampling


def model_table(sd_model: Any) -> Tensor:
    """The model's own sigmas, ascending [T]."""
    keeper = sigma_keeper(sd_model)
    if keeper is not None:
        return keeper.sigmas
    if not hasattr(sd_model, "alphas_cumprod"):  # Forge's stand-in, until the first picture
        raise ValueError("Sigma table: no model is loaded yet; make a picture first")
    return ((1 - sd_model.alphas_cumprod) / sd_model.alphas_cumprod).sqrt()


def prediction(sd_model: Any) -> str:
    """epsilon, v, flow or edm; what has no discrete table counts as edm."""
    if is_flow(model_table(sd_model)):
        return "flow"
    keeper = sigma_keeper(sd_model)
    if keeper is None:
        return "v" if sd_model.parameterization == "v" else "epsilon"
    kinds = {kind.__name__ for kind in type(keeper).__mro__} | {getattr(keeper, "prediction_type", "")}
    if {"EDM", "edm"} & kinds or any("Continuous" in kind for kind in kinds):
        return "edm"
    return "v" if {"V_PREDICTION", "v_prediction"} & kinds else "epsilon"


def reference_size(sd_model: Any) -> int:
    """Latent positions of the size that the model was trained at: 512, 768 or 1024 pixels square."""
    if getattr(sd_model, "is_sd1", False):
        return 64 * 64
    if getattr(sd_model, "is_sd2", False):
        return 96 * 96 if prediction(sd_model) == "v" else 64 * 64
    return 128 * 128


def zero_snr_changes(sd_model: Any) -> list[tuple[Any, dict[str, Tensor]]]:
    """What to set on what, so that the table ends at zero SNR; empty where the host's own option did that."""
    table = model_table(sd_model)
    if float(table[-1]) > TERMINAL:
        return []
    sigmas, keeper = rescale_table(table), sigma_keeper(sd_model)
    changes = [] if keeper is None else [(keeper, {"sigmas": sigmas, "log_sigmas": sigmas.log()})]
    if hasattr(sd_model, "alphas_cumprod"):
        alphas = sd_model.alphas_cumprod
        changes.append((sd_model, {"alphas_cumprod": (1 / (1 + sigmas.double() ** 2)).to(alphas)}))
    return changes


@contextmanager
def fresh_denoiser(sampler: Any) -> Iterator[None]:
    """Let the sampler build its denoiser from the table as it is now; img2img's is from the run before."""
    guide = sampler.model_wrap_cfg
    with patched(guide, model_wrap=None), patched(sampler, model_wrap=guide.inner_model):
        yield


def latent_format(sd_model: Any) -> str:
    """As power.POWER names it; else the name of the model's class, which on Forge is `Flux` for Flux."""
    return next((family for flag, family in FAMILIES.items() if getattr(sd_model, flag, False)),
                type(sd_model).__name__)


def asked_scale(p: Any) -> float:
    """What the user set for this pass; Forge and its kin have another one for hires."""
    return p.hr_cfg if getattr(p, "is_hr_pass", False) and hasattr(p, "hr_cfg") else p.cfg_scale


@contextmanager
def after_cfg(p: Any, change: Change) -> Iterator[None]:
    """Put every guided estimate of this pass through `change`."""
    if sigma_keeper(p.sd_model) is None:
        with after_combine(p.sampler.model_wrap_cfg, change):
            yield
        return

    def post_cfg(args: dict) -> Tensor:  # a plain function: clones deep-copy options, and take it as it is
        scale = args["cond_scale"] if "cond_scale" in args else asked_scale(p)
        return change(Step(args["input"], args["sigma"], args["denoised"], args["cond_denoised"],
                           args["uncond_denoised"], scale))

    unet = p.sd_model.forge_objects.unet.clone()
    unet.set_model_sampler_post_cfg_function(post_cfg)
    with patched(p.sd_model.forge_objects, unet=unet):
        yield


@contextmanager
def after_combine(guide: Any, change: Change) -> Iterator[None]:
    """A1111's way: `combine_denoised` knows the estimates, `forward` knows x and sigma."""
    forward, combine, now = guide.forward, guide.combine_denoised, {}

    def note(x, sigma, *arguments, **options):
        now.update(x=x, sigma=sigma)
        return forward(x, sigma, *arguments, **options)

    def combine_and_change(x_out, conds_list, uncond, cond_scale):
        guided = combine(x_out, conds_list, uncond, cond_scale)
        if cond_scale == 1:
            return guided
        cond = combine(x_out, conds_list, uncond, 1.0)
        step = Step(now["x"], now["sigma"], guided, cond, x_out[-uncond.shape[0]:], cond_scale)
        return change_noise(guide, step, change) if hasattr(guide, "alphas") else change(step)

    with patched(guide, forward=note, combine_denoised=combine_and_change):
        yield


def change_noise(guide: Any, step: Step, change: Change) -> Tensor:
    """`change` for DDIM, PLMS and UniPC, whose step holds estimates of noise, and a timestep for sigma."""
    x, timestep = step.x, step.sigma
    if guide.mask is not None:  # blended in before the model sees it
        x = x * guide.nmask + guide.init_latent * guide.mask
    sigma = true_sigma(guide, timestep)
    wide = sigma.reshape(-1, *[1] * (x.ndim - 1))
    guided, cond, uncond = (guide.get_pred_x0(x, noise, timestep) for noise in step[2:5])
    changed = change(Step(x * (1 + wide**2).sqrt(), sigma, guided, cond, uncond, step.scale))
    return step.guided - ((changed - guided) / wide).to(step.guided)


def true_sigma(guide: Any, sigma: Tensor) -> Tensor:
    """Sigmas [B] of a step of A1111; DDIM, PLMS and UniPC give timesteps for them."""
    if not hasattr(guide, "alphas"):
        return sigma
    alpha_bar = guide.alphas[sigma.long()]
    return ((1 - alpha_bar) / alpha_bar).sqrt()


def attention_kernel(unet: Any) -> Callable[..., Tensor]:
    """Forge's and its kin's attention, (q, k, v, heads) -> output, all [B,N,C]."""
    if hasattr(unet.model, "predictor"):
        from backend.attention import attention_function
        return attention_function
    from ldm_patched.ldm.modules.attention import optimized_attention
    return optimized_attention
