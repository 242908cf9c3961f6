"""Row "schedules": how far from the end of the same trajectory does every schedule leave a trained model?"""
from __future__ import annotations

from collections.abc import Iterator
from random import Random

import numpy as np
import torch
from torch import Tensor
from tweedie_pack.demo.sampling import SAMPLERS, fine_grid, relative_error, sample
from tweedie_pack.demo.tiny.model import guide
from tweedie_pack.demo.world import one_hand, one_shape
from tweedie_pack.samplers.recommend import recommended
from tweedie_pack.samplers.schedules import SCHEDULES

from .hosts import HOSTS
from .result import Result, Table
from .work import SAMPLER, batches, model, noise, pictures, share

COUNTS, FINE, CHECKED, SCALE = (5, 8, 12, 20), 200, 8, 3.0
MODELS = {"v": "v, zero SNR", "epsilon": "epsilon, ordinary table"}
RUNS = (("v", SAMPLER), ("epsilon", SAMPLER))
OURS = "Recommended"
ABOUT = (
    f"Distance of the latents from the solution of {FINE} steps ({SAMPLER} over equal steps of log-SNR from "
    "the table's end to its beginning): RMSE over the solution's RMS, median over seeds. Captions of one "
    f"shape and of hands in turn, guidance {SCALE:g}; hosts' formulas in `tests/bench/score/hosts.py`. Then "
    "the same for pictures, of the recommended and the best host schedule alone.")


def captions(seeds: range) -> list[str]:
    return [(one_hand if seed % 2 else one_shape)(Random(seed)).caption for seed in seeds]


def lay(sampler: str, steps: int, table: Tensor) -> dict[str, Tensor]:
    """Name -> sigmas: the recommended one, every one of ours with its defaults, the hosts'."""
    ours = {f"Tweedie {plugin.label}": plugin(steps, table) for plugin in SCHEDULES.values()}
    hosts = {name: schedule(steps, table) for name, schedule in HOSTS.items()}
    return {OURS: recommended(steps, table, SAMPLERS[sampler][2]), **ours, **hosts}


def solve(prediction: str, seeds: range, fine: int) -> Tensor:
    """The end of each seed's trajectory [N,4,16,16], whichever sampler finds it."""
    tiny = model(prediction)
    sigmas = fine_grid(tiny.table, fine, float(tiny.table[0]))
    return sample(SAMPLER, guide(tiny, captions(seeds), SCALE), sigmas[0] * noise(seeds), sigmas)


def run(prediction: str, sampler: str, steps: int, seeds: range) -> dict[str, Tensor]:
    """Schedule -> latents [N,4,16,16]."""
    tiny = model(prediction)
    denoise, start = guide(tiny, captions(seeds), SCALE), noise(seeds)
    return {name: sample(sampler, denoise, sigmas[0] * start, sigmas)
            for name, sigmas in lay(sampler, steps, tiny.table).items()}


def show(prediction: str, latents: Tensor) -> Tensor:
    return pictures(model(prediction), latents)


def best(cells: dict, steps: str, hosts: bool) -> tuple[str, str]:
    """The cell of the lowest median, among the hosts' schedules or ours."""
    named = {cell: np.median(values) for cell, values in cells.items()
             if cell[1] == steps and (cell[0] in HOSTS) == hosts}
    return min(named, key=named.get)


def tabulate(prediction: str, sampler: str, ends: dict, exact: Tensor) -> Table:
    cells = {(name, f"{steps} steps"): relative_error(found, exact).tolist()
             for steps in COUNTS for name, found in ends[prediction, sampler, steps].items()}
    columns = list(dict.fromkeys(column for _, column in cells))
    hosts = {column: best(cells, column, True) for column in columns}
    return Table(f"{MODELS[prediction]}: {sampler}", "relative error of latents", cells, "median", "lower",
                 [((OURS, column), hosts[column]) for column in columns],
                 {*hosts.values(), *(best(cells, column, False) for column in columns)}, 4, True)


def tabulate_pictures(tables: dict[tuple[str, str], Table], ends: dict, exact: dict) -> Iterator[Table]:
    """The recommended and the best host schedule again, as pictures, in steps of 1/255."""
    jobs = {(prediction, "exact"): (prediction, exact[prediction]) for prediction in MODELS}
    for (prediction, sampler), table in tables.items():
        for pair in table.compare:
            for name, column in pair:
                key = prediction, sampler, int(column.split()[0])
                jobs[(*key, name)] = prediction, ends[key][name]
    shown = dict(zip(jobs, share(show, jobs.values(), "decode"), strict=True))
    for (prediction, sampler), table in tables.items():
        cells: dict = {}
        for _, (host, column) in table.compare:
            for name, line in ((OURS, OURS), (host, "best host schedule")):
                error = shown[prediction, sampler, int(column.split()[0]), name] - shown[prediction, "exact"]
                cells[line, column] = (255 * error.square().mean((1, 2, 3)).sqrt()).tolist()
        compare = [((OURS, column), ("best host schedule", column)) for (_, column), _ in table.compare]
        yield Table(f"{table.title}, pictures", "RMSE in 1/255", cells, "median", "lower", compare, (), 2)


def measure(seeds: int) -> Result:
    parts = batches(seeds)
    few = range(min(CHECKED, parts[0].stop))
    fine = [(prediction, few, 2 * FINE) for prediction in MODELS]
    fine += [(prediction, part, FINE) for prediction in MODELS for part in parts]
    solved = share(solve, fine, "solutions")
    exact = {prediction: torch.cat([end for task, end in zip(fine, solved, strict=True)
                                    if task[0] == prediction and task[2] == FINE]) for prediction in MODELS}
    tasks = [(*pair, steps, part) for steps in reversed(COUNTS) for pair in RUNS for part in parts]
    ends: dict = {}
    for (*key, _), found in zip(tasks, share(run, tasks, "schedules"), strict=True):
        whole = ends.setdefault(tuple(key), {})
        for name, latents in found.items():
            whole[name] = torch.cat([whole[name], latents]) if name in whole else latents
    tables = {(prediction, sampler): tabulate(prediction, sampler, ends, exact[prediction])
              for prediction, sampler in RUNS}
    drifts = {prediction: relative_error(exact[prediction][: len(few)], twice)
              for prediction, twice in zip(MODELS, solved, strict=False)}
    notes = [f"Is it converged? With {2 * FINE} steps the solution moves by "
             + ", ".join(f"{float(d.median()):.2%} (median of {len(few)}; at most {float(d.max()):.2%}; "
                         f"{MODELS[p]})" for p, d in drifts.items()) + ".",
             "In bold: the best of ours and of the hosts', column by column. The host that the recommended "
             "schedule is compared with was chosen on the same seeds, which favours the host."]
    return Result(ABOUT, [*tables.values(), *tabulate_pictures(tables, ends, exact)], notes)
