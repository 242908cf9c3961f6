"""Runs in ComfyUI's Python: what tests/hosts/test_exact_models.py asserts, as one line of JSON."""
import json
import math
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "bench"))
from exact_models import FAMILIES, MODELS, Counted, Problem, exact, host_schedules, k_diffusion, ms, torch
from schedules import column
from tweedie_pack.samplers.measure import measure
from tweedie_pack.samplers.schedules import SCHEDULES
from tweedie_pack.samplers.zero_snr import rescale_table

SD, ZERO, FLUX = FAMILIES.values()
COLUMNS = (("SD, epsilon", "euler", "first_order", 10), ("SD, epsilon", "dpmpp_2m", "multistep", 10),
           ("v, zero SNR", "safe heun", "single_step", 10), ("flow, Flux", "tweedie_2m", "multistep", 8),
           ("flow, Flux", "dpmpp_2m", "log_sigma", 10))


def order(sampler):
    """Order of convergence from 80 to 160 steps on a Gaussian, against its closed-form path to sigma_min."""
    model = exact.Mixture(torch.zeros(1, 4, 16, 16), exact.power_law(16, 16, 0.9, 2.5))
    low, high = 0.03, float(SD.sigma_max)
    x = torch.randn([16, 4, 16, 16], generator=torch.Generator().manual_seed(0), dtype=torch.float64) * high
    scale = ((model.variance + low**2) / (model.variance + high**2)).sqrt()
    end = model.inverse_dct(model.dct(x).flatten(1) * scale)
    error = []
    for steps in (80, 160):
        sigmas = SCHEDULES["karras"].run(steps + 1, SD.sigmas, last=low).double()[:-1]
        out = getattr(k_diffusion, f"sample_{sampler}")(
            Counted(SD, model.denoise), x, sigmas, extra_args={}, disable=True)
        error.append(float((out - end).norm()))
    return math.log2(error[0] / error[1])


def measured(steps):
    """Held-out (median, mean) of a measured schedule, then of every host schedule: CFG 5, 2M."""
    train = Problem("SD, epsilon", "guided", count=16, seed=77)
    held_out = Problem("SD, epsilon", "guided", count=64, seed=5)

    def rollout(sigmas, count):
        model = Counted(SD, train.denoise)
        return k_diffusion.sample_dpmpp_2m(model, train.x[:count].clone(), sigmas.double(), extra_args={},
                                           disable=True)
    found = measure(rollout, SD.sigmas, steps)
    rows = {"measured": found.sigmas, **host_schedules(SD, steps, False)}
    errors = {name: held_out.errors("dpmpp_2m", sigmas) for name, sigmas in rows.items()}
    return {name: [float(error.median()), float(error.mean())] for name, error in errors.items()}


def recommended_ratio(family, sampler, solver, evaluations):
    """Error of the recommended schedule over the best host schedule's, on seeds of their own."""
    problems = [Problem(family, model, count=12, seed=31, mixture_seed=11) for model in MODELS]
    hosts, _, ours, _ = column(problems, sampler, solver, evaluations)
    return ours / min(hosts.values())


def best_host(problem, sampler, steps):
    rows = host_schedules(problem.sampling, steps, problem.flow)
    return min(problem.error(sampler, sigmas) for sigmas in rows.values())


flow, zero = Problem("flow, Flux", "mixture", seed=7), Problem("v, zero SNR", "mixture", seed=9)
simple = host_schedules(ZERO, 6, False)["simple"]
karras = k_diffusion.get_sigmas_karras(20, float(SD.sigma_min), float(SD.sigma_max), 7.0)
ours = SCHEDULES["karras"].run(20, SD.sigmas, last=float(SD.sigma_min))
rescaled, theirs = rescale_table(SD.sigmas), ms.rescale_zero_terminal_snr_sigmas(SD.sigmas)
print(json.dumps({
    "order": {name: order(name) for name in ("euler", "dpmpp_2m")},
    "flow": {name: flow.error("tweedie_2m", SCHEDULES[name].run(10, FLUX.sigmas))
             for name in ("karras", "beta")},
    "flow_host": flow.error("dpmpp_2m", host_schedules(FLUX, 10, True)["karras"]),
    "zero": zero.error("tweedie_2m", SCHEDULES["zero_snr"].run(10, ZERO.sigmas)),
    "zero_host": best_host(zero, "dpmpp_2m", 10),
    "heun_safe": zero.error("safe heun", simple),
    "heun_host": zero.error("heun", host_schedules(ZERO, 5, False)["simple"]),
    "recommended": {str(where): recommended_ratio(*where) for where in COLUMNS},
    "measured": {steps: measured(steps) for steps in (5, 8)},
    "karras": float((ours[:-1] / karras[:-1] - 1).abs().max()),
    "rescaled": float((rescaled[:-1] / theirs[:-1] - 1).abs().max()),
}))
