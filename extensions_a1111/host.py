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
from typing import Any

from torch import Tensor

from ..plugin import load_plugins
from ..samplers.schedules import SCHEDULES
from ..samplers.table import TERMINAL, is_flow
from ..samplers.zero_snr import rescale_table
from .scope import patched

Change = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # (x [B,C,H,W], sigma [B], guided, cond)


@functools.cache
def load_strangers() -> tuple[str, ...]:
    """Load third-party plugins, once for each load of the pack; returns a line for each that failed."""
    folder = pathlib.Path(__file__).resolve().parents[1] / "plugins"
    points = importlib.metadata.entry_points(group="tweedie_pack.plugins")
    return tuple(load_plugins(folder, __package__.partition(".")[0], {"SCHEDULES": SCHEDULES}, points))


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


@contextmanager
def after_cfg(sd_model: Any, sampler: Any, change: Change) -> Iterator[None]:
    """Put every guided estimate through `change`."""
    if sigma_keeper(sd_model) is None:
        with after_combine(sampler.model_wrap_cfg, change):
            yield
        return
    unet = sd_model.forge_objects.unet.clone()
    unet.set_model_sampler_post_cfg_function(
        lambda args: change(args["input"], args["sigma"], args["denoised"], args["cond_denoised"]))
    with patched(sd_model.forge_objects, unet=unet):
        yield


@contextmanager
def after_combine(guide: Any, change: Change) -> Iterator[None]:
    """A1111's way: `combine_denoised` knows the estimates, `forward` knows x and sigma.

    With several prompts joined by AND, `cond` is their combination at guidance 1.
    """
    forward, combine, now = guide.forward, guide.combine_denoised, {}

    def note(x, sigma, *arguments, **options):
        now.update(x=x, sigma=sigma)
        return forward(x, sigma, *arguments, **options)

    def combine_and_change(x_out, conds_list, uncond, cond_scale):
        guided = combine(x_out, conds_list, uncond, cond_scale)
        if cond_scale == 1:
            return guided
        return change(now["x"], now["sigma"], guided, combine(x_out, conds_list, uncond, 1.0))

    with patched(guide, forward=note, combine_denoised=combine_and_change):
        yield
