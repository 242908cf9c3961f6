"""(captions, controls) -> Denoise: the tiny model guided under several ControlNets, joined by a policy."""
from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...controls.calls import run_with
from ...controls.multi import Batch, Kept, Policy, Residuals, Reuse, Rule, Weigher, join, longest
from .model import Denoise, Tiny, embed, predict

Pair = tuple["list[Tensor] | None", "Tensor | None"]  # as `diffusers` has residuals: way down, middle
OFF = Reuse()


class Control(NamedTuple):
    """A ControlNet; hints [B,1|3,8h,8w] in 0..1. Its residuals are multiplied by strength and by the rule."""

    net: nn.Module
    hints: Tensor
    strength: float = 1.0
    rule: Rule = Rule()


class Voice:
    """A control in a run: its hints are encoded once, and what it said last is kept."""

    def __init__(self, control: Control, reuse: Reuse):
        self.control, self.reuse, self.weigher = control, reuse, Weigher(control.rule)
        self.features = control.net.controlnet_cond_embedding(control.hints.expand(-1, 3, -1, -1))
        self.kept: Kept | None = None

    def ask(self, noisy: Tensor, t: Tensor, context: Tensor, step: int, last: int) -> Residuals:
        if self.kept is None or not self.reuse.allows(self.kept, step, last, noisy):
            features = self.features.repeat(len(noisy) // len(self.features), 1, 1, 1)
            down, middle = run_with(self.control.net, {"controlnet_cond_embedding": lambda hints: features}, {
                "sample": noisy, "timestep": t, "encoder_hidden_states": context, "return_dict": False,
                "controlnet_cond": self.control.hints, "conditioning_scale": self.control.strength})
            self.kept = Kept(step, noisy, {"output": list(down), "middle": [middle]}, None)
        return self.kept.residuals


@torch.no_grad()
def guide_controls(model: Tiny, captions: Sequence[str], scale: float, controls: Sequence[Control],
                   policy: Policy, reuse: Reuse = OFF, sigmas: Tensor | None = None) -> Denoise:
    """`guide` under several controls, as hosts blend them. sigmas [n+1]: the run's, which reuse counts by."""
    if reuse.mode != OFF.mode and sigmas is None:
        raise ValueError(f"Controls: reuse is by {reuse.mode}, but there are no sigmas; give the run's")
    kinds = (0,) if scale == 1 else (0, 1)
    context = torch.cat([embed(model, captions), embed(model, [""] * len(captions))][:len(kinds)])
    ordered = sorted(controls, key=lambda control: -control.rule.priority)
    voices = [Voice(control, reuse) for control in ordered if control.strength]

    def denoise(x: Tensor, sigma: float) -> Tensor:
        step, last = (0, 0) if sigmas is None else (int((sigmas > sigma * (1 + 1e-5)).sum()), len(sigmas) - 2)

        def blend(noisy: Tensor, t: Tensor, context: Tensor, hints: None, return_dict: bool) -> Pair:
            progress = 1 - float(t[0]) / (len(model.table) - 1)
            batch = Batch(len(noisy), kinds, tuple(noisy.shape[-2:]))
            acting = [(voice, now) for voice in voices if (now := voice.control.rule.curve(progress))]
            if not acting:
                return None, None
            said = [voice.ask(noisy, t, context, step, last) for voice, _ in acting]
            parts = [voice.weigher.weigh(residuals, now, batch)
                     for (voice, now), residuals in zip(acting, said, strict=True)]
            joined = join(parts, policy, longest(said))
            return joined["output"], joined["middle"][0]

        cond, *uncond = predict(model, x.repeat(len(kinds), 1, 1, 1), sigma, context, blend).chunk(len(kinds))
        return uncond[0] + scale * (cond - uncond[0]) if uncond else cond

    return denoise
