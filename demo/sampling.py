"""(denoise, start [B,C,H,W], sigmas [n+1]) -> end points, by the samplers of `diffusers`, and their errors.

Any denoiser is handed to the library as v-prediction, which is finite at every sigma. Errors are those of an
exact one (exact.py, gallery.py). Nothing here knows a page or a console.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import NamedTuple

import torch
from torch import Tensor

from ..samplers.flow import shift_time
from ..samplers.recommend import Solver, recommended
from ..samplers.schedules import SCHEDULES
from ..samplers.zero_snr import calibrate_dc, rescale_table
from .exact import Mixture, guided, power_law, solve
from .gallery import PAINTERS, PLAIN, SIZE, only, paint

STD, ALPHA = 0.1, 3.0  # spread around each picture: DCT variances that fall like 1/(1 + radius)^3, 0.1 in all
SCALE = 3.0  # classifier-free guidance
FINE = 240  # Heun steps of the exact end point
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}  # Stable Diffusion's
SHIFTED, SHIFT = ("logit_normal", "cosine"), 3.0  # shown again with this shift, chosen by hand
LIBRARY = {
    "diffusers: Karras": {"use_karras_sigmas": True},
    "diffusers: exponential": {"use_exponential_sigmas": True},
    "diffusers: beta": {"use_beta_sigmas": True},
    "diffusers: linspace": {"timestep_spacing": "linspace"},
    "diffusers: trailing": {"timestep_spacing": "trailing"},
}


class Run(NamedTuple):
    """errors [B]: relative RMSE of the end points against the exact ones."""

    sampler: str
    schedule: str
    steps: int
    errors: Tensor


class Brightness(NamedTuple):
    """law: the mean that theory gives from pure noise, NaN where it does not apply; means [B] as found."""

    way: str
    caption: str
    law: float
    means: Tensor


class Report(NamedTuple):
    """What one demo found. exact [B,3,H,W]: end points; settings: what is needed to make it again."""

    exact: Tensor
    runs: Sequence[Run]
    brightness: Sequence[Brightness]
    settings: Mapping[str, str]


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


SAMPLERS: dict[str, tuple[Callable, bool, Solver]] = {  # name -> (maker, is x kept as x0 + sigma n?, kind)
    "DPM-Solver++ 2M": (dpm_2m, False, "multistep"),
    "Euler": (euler, True, "first_order"),
}


def library_sigmas(options: dict, steps: int) -> Tensor:
    """What the library itself would run over."""
    from diffusers import EulerDiscreteScheduler
    scheduler = EulerDiscreteScheduler(**BETAS, **options)
    scheduler.set_timesteps(steps)
    return scheduler.sigmas


def sample(sampler: str, denoise: Callable, start: Tensor, sigmas: Tensor) -> Tensor:
    """Run a library sampler from `start` = x0 + sigmas[0] n; `denoise(x, sigma)` gets x in that form too."""
    make, exploding, _ = SAMPLERS[sampler]
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


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def fine_grid(table: Tensor, steps: int = FINE, low: float = 0.001) -> Tensor:
    """Equal steps of log-SNR from the table's maximum, then 0: [steps + 1].

    The first step is split off short, because `solve` takes it with Euler's rule.
    """
    top = float(table[-1])
    rest = torch.linspace(math.log(top * (1 - 1e-4)), math.log(low), steps - 1, dtype=torch.float64).exp()
    return torch.cat([rest.new_tensor([top]), rest, rest.new_zeros(1)])


def gallery_model(pictures: Tensor) -> Mixture:
    return Mixture(pictures, power_law(SIZE, SIZE, STD, ALPHA))


class Coefficients(Mixture):
    """The same mixture over coefficients of the DCT, which is orthonormal: the same errors, half the time."""

    def __init__(self, model: Mixture):
        self.shape, self.variance = model.shape, model.variance
        self.means, self.squares = model.means, model.squares

    def dct(self, x: Tensor) -> Tensor:
        return x

    def inverse_dct(self, x: Tensor) -> Tensor:
        return x.reshape(-1, *self.shape)


def schedules(steps: int, table: Tensor, solver: Solver) -> dict[str, Tensor]:
    """The recommended schedule, each one with its defaults, two of them shifted too, the library's own."""
    ours = {"Recommended": recommended(steps, table, solver)}
    ours |= {plugin.label: plugin(steps, table) for plugin in SCHEDULES.values()}
    ours |= {f"{SCHEDULES[id].label}, shift {SHIFT:g}": SCHEDULES[id](steps, table, shift=SHIFT)
             for id in SHIFTED}
    return ours | {name: library_sigmas(options, steps) for name, options in LIBRARY.items()}


def pure_noise(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, SIZE, SIZE, generator=generator, dtype=torch.float64)


def guide(model: Mixture, captions: Sequence[str], repeats: int) -> Callable:
    """Guided denoiser of a batch: every caption once, `repeats` times over."""
    weights = torch.stack([only(captions, caption) for caption in PAINTERS])
    return guided(model, SCALE, weights.repeat(repeats, 1))


def compare(denoise: Callable, start: Tensor, exact: Tensor, table: Tensor,
            counts: Sequence[int]) -> Iterator[Run]:
    """Every sampler at every step count over every schedule, from one start [B,3,H,W]."""
    for sampler, (_, _, solver) in SAMPLERS.items():
        for steps in counts:
            for name, sigmas in schedules(steps, table, solver).items():
                pictures = sample(sampler, denoise, start, sigmas)
                yield Run(sampler, name, steps, relative_error(pictures, exact))


def mean_law(mean: float, model: Mixture, sigma: float) -> float:
    """Mean brightness of an exact solution that starts at `sigma` from pure noise: mean (1 - f).

    f = v / sqrt(s^2 + v^2): s the prior's deviation of a picture's mean, v = sigma / sqrt(pixels). A short
    table leaves f far above 0, so the mean stays near that of noise, which is grey.
    """
    pixels = SIZE * SIZE
    prior = float(model.variance[0]) / pixels
    return mean * (1 - math.sqrt(prior / (prior + sigma**2 / pixels)))


def compare_brightness(model: Mixture, captions: Sequence[str], noise: Tensor,
                       steps: int) -> Iterator[Brightness]:
    """Pure black and white from pure noise [B,3,H,W]: ordinary table, DC-calibrated start, rescaled table."""
    tables = standard_tables()
    ordinary, rescaled = tables["Stable Diffusion"], tables["Zero terminal SNR"]
    ways = {"ordinary table": (ordinary, "karras", False),
            "ordinary table, DC-calibrated start": (ordinary, "karras", True),
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
            yield Brightness(way, caption, law, pictures.mean((1, 2, 3)))


def list_settings(count: int, seed: int, noises: int, fine: int, drift: float) -> dict[str, str]:
    top = f"{stable_diffusion_table()[-1]:.2f}, the end of Stable Diffusion's table"
    return {
        "Model": f"{count} pictures of {SIZE}x{SIZE}, around each a spread of {STD:g} whose variance falls "
                 f"like radius^-{ALPHA:g}; guidance {SCALE:g}",
        "Start": f"pure noise at sigma {top}; seed {seed}, {noises} for each of {len(PAINTERS)} captions",
        "Samplers": f"{', '.join(SAMPLERS)} of diffusers {version('diffusers')}, v-prediction",
        "Exact end point": f"Heun, {fine} steps; with half as many it moves by {drift:.2%} (median)",
    }


def make_report(seed: int, noises: int, counts: Sequence[int], say: Callable[[str], None],
                variants: int = 5, fine: int = FINE) -> Report:
    """All that the exact model can tell: a start per caption and noise, sampled every way."""
    pictures, captions = paint(variants=variants)
    model, table = gallery_model(pictures), stable_diffusion_table()
    denoise = guide(Coefficients(model), captions, noises)
    start = table[-1] * model.dct(pure_noise(len(PAINTERS) * noises, seed))
    say("exact end points")
    exact, rough = (solve(denoise, start, fine_grid(table, steps)) for steps in (fine, fine // 2))
    runs = []
    for run in compare(denoise, start, exact, table, counts):
        runs.append(run)
        say(f"{run.sampler}, {run.steps} steps, {run.schedule}: {run.errors.median():.1%} off")
    say("black and white")
    tones = list(compare_brightness(model, captions, pure_noise(8, seed), max(counts)))
    drift = float(relative_error(rough, exact).median())
    settings = list_settings(len(pictures), seed, noises, fine, drift)
    return Report(model.inverse_dct(exact), runs, tones, settings)
