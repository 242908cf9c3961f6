"""(denoise, start [B,3,H,W], sigmas [n+1]) -> pictures, by the samplers of `diffusers`, and how far they are off.

The denoiser is exact (exact.py, gallery.py) and is handed to the library as v-prediction, which is finite at every
sigma. Nothing here knows a page or a console.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..samplers.flow import shift_time
from ..samplers.schedules import SCHEDULES
from ..samplers.zero_snr import calibrate_dc, rescale_table
from .exact import Mixture, guided, power_law
from .gallery import PAINTERS, PLAIN, SIZE, only

STD, ALPHA = 0.1, 3.0  # spread around each picture: DCT variances that fall like 1/(1 + radius)^3, 0.1 in all
SCALE = 3.0  # classifier-free guidance
FINE = 240  # Heun steps of the exact end point
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}  # Stable Diffusion's
LIBRARY = {
    "diffusers: Karras": {"use_karras_sigmas": True},
    "diffusers: exponential": {"use_exponential_sigmas": True},
    "diffusers: beta": {"use_beta_sigmas": True},
    "diffusers: linspace": {"timestep_spacing": "linspace"},
    "diffusers: trailing": {"timestep_spacing": "trailing"},
}


class Run(NamedTuple):
    """pictures [B,3,H,W] are the end points, errors [B] their relative RMSE against the exact ones."""

    sampler: str
    schedule: str
    steps: int
    pictures: Tensor
    errors: Tensor


class Brightness(NamedTuple):
    """law: the mean that theory gives for a start of pure noise, NaN where it does not apply; means [B] as found."""

    way: str
    caption: str
    law: float
    means: Tensor
    picture: Tensor


def stable_diffusion_table() -> Tensor:
    """Sigmas [1000] of SD 1.5 and 2, ascending: scaled-linear betas (Rombach et al. 2022)."""
    betas = torch.linspace(BETAS["beta_start"]**0.5, BETAS["beta_end"]**0.5, 1000, dtype=torch.float64) ** 2
    alpha_bar = (1 - betas).cumprod(0)
    return ((1 - alpha_bar) / alpha_bar).sqrt()


def standard_tables() -> dict[str, Tensor]:
    """One table of each kind: ordinary, rescaled to zero terminal SNR, flow with shift 3 (SD3)."""
    ordinary = stable_diffusion_table()
    time = torch.arange(1, 1001, dtype=torch.float64) / 1000
    return {"Stable Diffusion": ordinary, "Zero terminal SNR": rescale_table(ordinary),
            "Flow, shift 3": shift_time(time, 3.0)}


def euler(sigmas: Tensor):
    from diffusers import EulerDiscreteScheduler
    scheduler = EulerDiscreteScheduler(prediction_type="v_prediction", **BETAS)
    scheduler.set_timesteps(sigmas=sigmas.tolist())
    return scheduler


def dpm_2m(sigmas: Tensor):
    """DPM-Solver++(2M). Its `set_timesteps` takes no sigmas, so they replace those that it chose."""
    from diffusers import DPMSolverMultistepScheduler
    scheduler = DPMSolverMultistepScheduler(prediction_type="v_prediction", **BETAS)
    scheduler.set_timesteps(len(sigmas) - 1)
    scheduler.sigmas = sigmas.float()
    return scheduler


SAMPLERS: dict[str, tuple[Callable, bool]] = {  # name -> (maker, does it keep x as x0 + sigma n?)
    "DPM-Solver++ 2M": (dpm_2m, False),
    "Euler": (euler, True),
}


def library_sigmas(options: dict, steps: int) -> Tensor:
    """What the library itself would run over."""
    from diffusers import EulerDiscreteScheduler
    scheduler = EulerDiscreteScheduler(**BETAS, **options)
    scheduler.set_timesteps(steps)
    return scheduler.sigmas


def sample(sampler: str, denoise: Callable, start: Tensor, sigmas: Tensor) -> Tensor:
    """Run a library sampler from `start` = x0 + sigmas[0] n; `denoise(x, sigma)` gets x in that form too."""
    make, exploding = SAMPLERS[sampler]
    scheduler = make(sigmas)
    scheduler.set_begin_index(0)
    x = start.float() if exploding else start.float() / math.hypot(1, float(sigmas[0]))
    for i, t in enumerate(scheduler.timesteps):
        sigma = float(scheduler.sigmas[i])
        alpha = 1 / math.hypot(1, sigma)
        scaled = scheduler.scale_model_input(x, t)  # alpha x0 + alpha sigma n
        v = (alpha * scaled - denoise(scaled / alpha, sigma)) / (alpha * sigma)
        x = scheduler.step(v, t, x).prev_sample
    return x.double()


def relative_error(pictures: Tensor, exact: Tensor) -> Tensor:
    """RMSE of each picture [B] over the exact end point's own RMS, in its values of -1..1."""
    inner = (1, 2, 3)
    return ((pictures - exact) ** 2).mean(inner).sqrt() / (exact**2).mean(inner).sqrt()


def fine_grid(table: Tensor, steps: int = FINE, low: float = 0.001) -> Tensor:
    """Equal steps of log-SNR from the table's maximum, then 0: [steps + 1].

    The first step is split off short, because `solve` takes it with Euler's rule.
    """
    top = float(table[-1])
    rest = torch.linspace(math.log(top * (1 - 1e-4)), math.log(low), steps - 1, dtype=torch.float64).exp()
    return torch.cat([rest.new_tensor([top]), rest, rest.new_zeros(1)])


def gallery_model(pictures: Tensor) -> Mixture:
    return Mixture(pictures, power_law(SIZE, SIZE, STD, ALPHA))


def schedules(steps: int, table: Tensor) -> dict[str, Tensor]:
    """Every schedule of the pack with its defaults, then the library's own."""
    ours = {plugin.label: plugin(steps, table) for plugin in SCHEDULES.values()}
    return ours | {name: library_sigmas(options, steps) for name, options in LIBRARY.items()}


def pure_noise(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, SIZE, SIZE, generator=generator, dtype=torch.float64)


def guide(model: Mixture, captions: Sequence[str], repeats: int) -> Callable:
    """Guided denoiser of a batch: every caption once, `repeats` times over."""
    weights = torch.stack([only(captions, caption) for caption in PAINTERS])
    return guided(model, SCALE, weights.repeat(repeats, 1))


def compare(denoise: Callable, start: Tensor, exact: Tensor, table: Tensor, counts: Sequence[int]) -> Iterator[Run]:
    """Every sampler at every step count over every schedule, from one start [B,3,H,W]."""
    for sampler in SAMPLERS:
        for steps in counts:
            for name, sigmas in schedules(steps, table).items():
                pictures = sample(sampler, denoise, start, sigmas)
                yield Run(sampler, name, steps, pictures, relative_error(pictures, exact))


def mean_law(mean: float, model: Mixture, sigma: float) -> float:
    """Mean brightness of an exact solution that starts at `sigma` from pure noise: mean (1 - f).

    f = v / sqrt(s^2 + v^2): s the prior's deviation of a picture's mean, v = sigma / sqrt(pixels). A short table
    leaves f far above 0, so the mean stays near that of noise, which is grey.
    """
    pixels = SIZE * SIZE
    prior = float(model.variance[0]) / pixels
    return mean * (1 - math.sqrt(prior / (prior + sigma**2 / pixels)))


def compare_brightness(model: Mixture, captions: Sequence[str], noise: Tensor, steps: int) -> Iterator[Brightness]:
    """Pure black and white from pure noise [B,3,H,W]: ordinary table, DC-calibrated start, rescaled table."""
    tables = standard_tables()
    ordinary, rescaled = tables["Stable Diffusion"], tables["Zero terminal SNR"]
    ways = {"ordinary table": (ordinary, "karras", False), "ordinary table, DC-calibrated start": (ordinary, "karras", True),
            "rescaled to zero terminal SNR": (rescaled, "zero_snr", False)}
    for way, (table, schedule, calibrated) in ways.items():
        sigmas = SCHEDULES[schedule](steps, table)
        for caption, value in PLAIN.items():
            denoise = guided(model, 1.0, only(captions, caption))
            top = float(sigmas[0])
            start = top * noise
            if calibrated:
                start = calibrate_dc(lambda x, top=top, denoise=denoise: denoise(x, top), start, top)
            pictures = sample("DPM-Solver++ 2M", denoise, start, sigmas)
            law = math.nan if calibrated else mean_law(value, model, top)
            yield Brightness(way, caption, law, pictures.mean((1, 2, 3)), pictures[0])
