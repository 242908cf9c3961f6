"""A schedule measured on the user's own model and settings, kept in the pack's `cache/` folder."""
from __future__ import annotations

import pathlib

import comfy.sample
import comfy.utils
import torch
from comfy.samplers import KSAMPLER
from comfy_api.latest import io

from ..samplers.curve import describe
from ..samplers.measure import LEAST_TRAJECTORIES, Cache, Measured, cache_key, from_text, measure
from .model import is_flow, table

CACHE = Cache(pathlib.Path(__file__).resolve().parents[1] / "cache")


def fingerprint(model) -> list:
    """What tells two models apart: family, noise table, patches and strengths, a few weights by value."""
    weights = model.model_state_dict()
    names = sorted(weights)[:: max(len(weights) // 16, 1)]
    originals = {name: model.backup[name].weight if name in model.backup else weights[name] for name in names}
    values = {name: weight.flatten()[:8].float().tolist() for name, weight in originals.items()
              if not weight.is_meta}
    patches = {name: [patch[0] for patch in rows] for name, rows in model.patches.items()}
    return [type(model.model).__name__, table(model), len(weights), values, patches]


def roller(model, positive, negative, sampler, latent: torch.Tensor, cfg: float, seed: int, trajectories: int,
           batch: int):
    """A rollout for `measure`: whole runs of the host's own sampler, in batches, from fixed noise."""
    latent = comfy.sample.fix_empty_latent_channels(model, latent[:1])
    noise = torch.randn([trajectories, *latent.shape[1:]], generator=torch.Generator().manual_seed(seed))

    def rollout(sigmas: torch.Tensor, count: int) -> torch.Tensor:
        parts = [comfy.sample.sample_custom(model, part, cfg, sampler, sigmas, positive, negative,
                                            latent.repeat(len(part), *[1] * (latent.ndim - 1)),
                                            disable_pbar=True, seed=seed).cpu().float()
                 for part in noise[:count].split(batch)]
        return torch.cat(parts)
    return rollout


class TweedieMeasureSchedule(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TweedieMeasureSchedule", display_name="Tweedie Measure Schedule",
            category="tweedie/schedules",
            description="Searches the best schedule for this model, sampler, CFG, size and step count by "
                        "running it. Takes as long as some hundred pictures, once; the result is kept and "
                        "can be shared as text.",
            search_aliases=["optimal steps", "align your steps", "GITS"],
            inputs=[
                io.Model.Input("model"), io.Conditioning.Input("positive"), io.Conditioning.Input("negative"),
                io.Sampler.Input("sampler"),
                io.Latent.Input("latent", tooltip="Its size counts, not its content."),
                io.Int.Input("steps", default=8, min=2, max=50),
                io.Float.Input("cfg", default=5.0, min=0.0, max=100.0, step=0.1),
                io.Int.Input("trajectories", default=LEAST_TRAJECTORIES, min=LEAST_TRAJECTORIES, max=256,
                             tooltip="Different noises that the schedule must serve."),
                io.Int.Input("batch", default=4, min=1, max=64,
                             tooltip="How many run at once; less takes less memory."),
                io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFF),
                io.String.Input("text", default="", multiline=True, optional=True, tooltip=(
                    "Paste a line of somebody's report here to use that instead of measuring.")),
            ],
            outputs=[io.Sigmas.Output(), io.String.Output(display_name="report")])

    @classmethod
    def execute(cls, model, positive, negative, sampler, latent, steps, cfg, trajectories, batch, seed,
                text="") -> io.NodeOutput:
        sigmas = table(model)
        if text.strip():
            return cls.answer(from_text(text, sigmas), model, "imported")
        samples = torch.zeros_like(latent["samples"][:1])
        name = (getattr(sampler, "sampler_function", sampler).__name__ if isinstance(sampler, KSAMPLER)
                else repr(sampler))
        key = cache_key(model=fingerprint(model), sampler=name, options=getattr(sampler, "extra_options", {}),
                        cfg=cfg, size=list(samples.shape), steps=steps, trajectories=trajectories, seed=seed)
        if (known := CACHE.read(key, sigmas)) is not None:
            return cls.answer(known, model, f"kept from before, key {key}")
        rollout = roller(model, positive, negative, sampler, samples, cfg, seed, trajectories, batch)
        bar = comfy.utils.ProgressBar(100)
        found = measure(rollout, sigmas, steps, trajectories,
                        lambda done, planned: bar.update_absolute(100 * done // planned, 100))
        CACHE.write(key, found)
        return cls.answer(found, model, f"measured, key {key}")

    @classmethod
    def answer(cls, found: Measured, model, origin: str) -> io.NodeOutput:
        report = "\n".join([
            f"{origin}: {describe(found.sigmas, is_flow(model.get_model_object('model_sampling')))}",
            f"error against a 64-step run: median {found.median:.4f}, mean {found.mean:.4f}; "
            f"grown from {found.candidate}",
            found.to_text()])
        return io.NodeOutput(found.sigmas, report, ui={"text": [report]})


NODES = [TweedieMeasureSchedule]
