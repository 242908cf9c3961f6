"""ComfyUI's own samplers and schedules (COMFYUI_PATH) on models whose denoiser is known in closed form.

Runs in the host's Python. A problem is a family (how noise is counted) and one of three models: a power-law
Gaussian, a mixture of 32 picture-like Gaussians, and that mixture guided with CFG 5 towards 8 of them.
"""
import math
import pathlib
import sys

import numpy as np
import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # its conftest, not that of hosts/
import in_comfyui  # noqa: F401, I001
import comfy.k_diffusion.sampling as k_diffusion
import comfy.model_sampling as ms
import comfy.samplers
from comfy_extras import nodes_align_your_steps, nodes_gits, nodes_optimalsteps
from tweedie_pack.demo import exact
from tweedie_pack.samplers.solvers import sample_2m, with_safe_start

MODELS = ("gaussian", "mixture", "guided")


class Settings:
    def __init__(self, **settings):
        self.sampling_settings = settings


def sampling(base, kind, *arguments, **options):
    return type("Sampling", (base, kind), {})(*arguments, **options)


FAMILIES = {
    "SD, epsilon": sampling(ms.ModelSamplingDiscrete, ms.EPS),
    "v, zero SNR": sampling(ms.ModelSamplingDiscrete, ms.V_PREDICTION, zsnr=True),
    "flow, Flux": sampling(ms.ModelSamplingFlux, ms.CONST, Settings()),
}


class Counted:
    """What the host's samplers call: model(x, sigma), with the attributes that they look for."""

    def __init__(self, model_sampling, denoise):
        self.inner_model = self.model_patcher = self
        self.model_sampling, self.denoise, self.calls, self.model_options = model_sampling, denoise, 0, {}

    def get_model_object(self, name):
        return self.model_sampling

    def __call__(self, x, sigma, **extra):
        self.calls += 1
        return self.denoise(x, sigma.flatten()[0])


def log_linear(levels, count):
    place = np.linspace(0, 1, len(levels))
    values = np.exp(np.interp(np.linspace(0, 1, count), place, np.log(levels[::-1])))[::-1].copy()
    values[-1] = 0
    return torch.tensor(values, dtype=torch.float64)


def host_schedules(model_sampling, steps, flow):
    """Every scheduler of the stock menu that starts at the model's maximum, and the host's table nodes."""
    rows = {name: comfy.samplers.calculate_sigmas(model_sampling, name, steps).double()
            for name in comfy.samplers.SCHEDULER_NAMES
            if not name.startswith("tweedie") and name != "ddim_uniform"}
    if flow:
        rows["OSS (Flux)"] = log_linear(nodes_optimalsteps.NOISE_LEVELS["FLUX"], steps + 1)
    else:
        for kind in ("SD1", "SDXL"):
            rows[f"AYS ({kind})"] = log_linear(nodes_align_your_steps.NOISE_LEVELS[kind], steps + 1)
        rows["GITS"] = log_linear(nodes_gits.NOISE_LEVELS[1.20][max(min(steps, 20), 2) - 2], steps + 1)
    top = float(model_sampling.sigma_max)
    return {name: sigmas for name, sigmas in rows.items()
            if torch.isfinite(sigmas).all() and math.isclose(float(sigmas[0]), top, rel_tol=0.01)}


class Problem:
    """`count` trajectories of one model in one family, with their exact ends."""

    def __init__(self, family, model, count=32, seed=5, mixture_seed=3):
        self.sampling, self.flow = FAMILIES[family], family.startswith("flow")
        mixture = exact.random_mixture(seed=mixture_seed)
        if model == "gaussian":
            mixture = exact.Mixture(torch.zeros(1, 4, 16, 16), exact.power_law(16, 16, 0.9, 2.5))
        weights = torch.cat([torch.zeros(8), torch.full([24], -40.0)]).double()
        denoise = exact.guided(mixture, 5.0, weights) if model == "guided" else mixture.denoise
        generator, top = torch.Generator().manual_seed(seed), float(self.sampling.sigma_max)
        noise = torch.randn([count, 4, 16, 16], generator=generator, dtype=torch.float64)
        start = 4000.0 if self.flow else top
        x = noise * start + (mixture.sample(count, generator) if top == start < 1000 else 0)
        fine = torch.linspace(math.log(start), math.log(1e-3), 1500, dtype=torch.float64).exp()
        self.end = exact.solve(denoise, x, torch.cat([fine, fine.new_zeros(1)]))
        self.x, self.denoise = (noise, exact.on_flow(denoise)) if self.flow else (x, denoise)

    def run(self, sampler, sigmas):
        """End of every trajectory by `tweedie_2m`, a host sampler, or `safe <host sampler>`."""
        model, sigmas = Counted(self.sampling, self.denoise), sigmas.double()
        if sampler == "tweedie_2m":
            return sample_2m(model, self.x.clone(), sigmas, disable=True, flow=self.flow)
        function = getattr(k_diffusion, "sample_" + sampler.removeprefix("safe "))
        if sampler.startswith("safe "):
            function = with_safe_start(function, self.flow)
        return function(model, self.x.clone(), sigmas, extra_args={}, disable=True)

    def errors(self, sampler, sigmas):
        """Relative RMSE at the end, one for each trajectory [count]."""
        difference = (self.run(sampler, sigmas) - self.end).flatten(1).norm(dim=1)
        return difference / self.end.flatten(1).norm(dim=1)

    def error(self, sampler, sigmas):
        return float(self.errors(sampler, sigmas).median())
