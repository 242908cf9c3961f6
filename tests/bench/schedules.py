"""Error of every schedule, ours beside the hosts': COMFYUI_PATH=.. PYTHON tests/bench/schedules.py > table.md

Each figure is the median relative error at the end of 24 exact trajectories, as a geometric mean over three
models (see exact_models.py) drawn with seeds that no rule was chosen on.
"""
import math

from exact_models import FAMILIES, MODELS, Problem, host_schedules
from tweedie_pack.samplers.recommend import recommend, recommended
from tweedie_pack.samplers.schedules import SCHEDULES

EVALUATIONS = (5, 8, 10, 15, 20)
SAMPLERS = {  # family -> sampler -> kind of solver
    "SD, epsilon": {"euler": "first_order", "dpmpp_2m": "multistep", "res_multistep": "multistep",
                    "heun": "single_step"},
    "v, zero SNR": {"euler": "first_order", "dpmpp_2m": "multistep", "tweedie_2m": "multistep",
                    "safe heun": "single_step"},
    "flow, Flux": {"euler": "first_order", "dpmpp_2m": "log_sigma", "tweedie_2m": "multistep",
                   "heun": "single_step"},
}


def column(problems, sampler, solver, evaluations):
    """name -> error for one sampler at one number of evaluations; hosts', ours, and the recommended one."""
    steps = evaluations
    if solver == "single_step":  # two evaluations a step, one at the last step, and one at a safe first step
        steps = evaluations // 2 + 1 if sampler.startswith("safe") else (evaluations + 1) // 2
    table, flow = problems[0].sampling.sigmas, problems[0].flow

    def mean(sigmas):
        return math.exp(sum(math.log(problem.error(sampler, sigmas)) for problem in problems) / len(problems))
    hosts = {name: mean(sigmas) for name, sigmas in host_schedules(problems[0].sampling, steps, flow).items()}
    ours = {plugin.label: mean(plugin.run(steps, table)) for plugin in SCHEDULES.values()}
    name = recommend(steps, table, solver)[0]
    return hosts, ours, mean(recommended(steps, table, solver)), name


def report(family, sampler, solver):
    problems = [Problem(family, model, count=24, seed=101, mixture_seed=7) for model in MODELS]
    columns = [column(problems, sampler, solver, evaluations) for evaluations in EVALUATIONS]
    print(f"\n### {family}: `{sampler}`\n")
    print("| schedule | " + " | ".join(f"{n}" for n in EVALUATIONS) + " |\n|---|" + "---|" * len(EVALUATIONS))
    best = [min(hosts.values()) for hosts, *_ in columns]
    chosen = [f"**{error:.4f}** ({error / low - 1:+.0%})"
              for (*_, error, _), low in zip(columns, best, strict=True)]
    names = ", ".join(dict.fromkeys(name for *_, name in columns))
    print(f"| **recommended** ({names}) | " + " | ".join(chosen) + " |")
    for part, prefix in ((1, "Tweedie "), (0, "")):
        for name in columns[0][part]:
            cells = [f"{c[part][name]:.4f}" if name in c[part] else "-" for c in columns]
            print(f"| {prefix}{name} | " + " | ".join(cells) + " |", flush=True)
    return [error / low for (*_, error, _), low in zip(columns, best, strict=True)]


if __name__ == "__main__":
    ratios = {(family, sampler): report(family, sampler, solver)
              for family in FAMILIES for sampler, solver in SAMPLERS[family].items()}
    every = [ratio for row in ratios.values() for ratio in row]
    print(f"\n{sum(ratio < 1 for ratio in every)} of {len(every)} columns ahead of the best host schedule, "
          f"worst {max(every) - 1:+.1%}, median {sorted(every)[len(every) // 2] - 1:+.0%}.")
