"""(module, loss) -> the module trained: one resumable loop, its gradients shared by all processes."""
from __future__ import annotations

import math
import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from .muon import optimisers

SAVE_EVERY = 250


class Plan(NamedTuple):
    """steps, pictures a step in all processes together, peak learning rate, weights that Adam trains."""

    steps: int
    batch: int
    lr: float
    first: tuple[str, ...]


class Job(NamedTuple):
    folder: pathlib.Path
    device: str
    rank: int
    workers: int


def learning_rate(step: int, plan: Plan) -> float:
    """50 steps up, flat for 40 % of the plan, then a cosine down to 1 %."""
    done = step / plan.steps
    fall = 1.0 if done < 0.4 else 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (done - 0.4) / 0.6))
    return plan.lr * min(1.0, (step + 1) / 50) * fall


@torch.no_grad()
def blend(averages: list[Tensor], currents: list[Tensor], count: Tensor | int) -> None:
    """Exponential average over 500 steps, or over a ninth of those done: a short run must not lag behind."""
    share = max(0.002, 9 / (10 + int(count)))
    for average, current in zip(averages, currents, strict=True):
        average.lerp_(current.to(average.dtype), share)


def share_gradients(parameters: list[nn.Parameter]) -> None:
    """The mean gradient over all processes."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def fit(job: Job, name: str, plan: Plan, module: nn.Module,
        loss: Callable[[int, torch.Generator], Tensor]) -> None:
    """Train `module`'s parameters that need gradients, and leave its running average in it."""
    path = job.folder / f"{name}.pt"
    learners = optimisers([module], plan.lr, plan.first)
    average = AveragedModel(module, multi_avg_fn=blend)
    parameters = [p for p in module.parameters() if p.requires_grad]
    start = 0
    if path.exists():
        saved = torch.load(path, weights_only=True)
        start = saved["step"]
        module.load_state_dict(saved["module"])
        average.load_state_dict(saved["average"])
        for learner, state in zip(learners, saved["learners"], strict=True):
            learner.load_state_dict(state)
    bar = tqdm(range(start, plan.steps), name, plan.steps, initial=start, disable=job.rank > 0, mininterval=5)
    smooth = math.nan
    for step in bar:
        generator = torch.Generator().manual_seed(step * job.workers + job.rank)
        value = loss(step, generator)
        for learner in learners:
            learner.zero_grad()
            for group in learner.param_groups:
                group["lr"] = learning_rate(step, plan)
        value.backward()
        if job.workers > 1:
            share_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, 2.0)
        for learner in learners:
            learner.step()
        average.update_parameters(module)
        smooth = value.item() if math.isnan(smooth) else 0.98 * smooth + 0.02 * value.item()
        bar.set_postfix(loss=f"{smooth:.4f}", refresh=False)
        if job.rank == 0 and ((step + 1) % SAVE_EVERY == 0 or step + 1 == plan.steps):
            state = {"step": step + 1, "module": module.state_dict(), "average": average.state_dict(),
                     "learners": [learner.state_dict() for learner in learners]}
            torch.save(state, path.with_suffix(".new"))
            os.replace(path.with_suffix(".new"), path)
    module.load_state_dict(average.module.state_dict())
