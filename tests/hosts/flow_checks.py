"""Runs in ComfyUI's Python: the flow nodes on tiny SD3 and Flux models of the host's, as a line of JSON."""
import json
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import in_comfyui  # noqa: F401, I001
import comfy.sample
import comfy.samplers
import torch
from hosts.tiny_families import MODELS, conditioning
from tweedie_pack.nodes import flow, measure, schedules, zero_snr

schedules.register_menus()


class Note:
    """Remembers what a run began with."""

    def __call__(self, executor, guider, sigmas, *arguments, **options):
        self.sigmas, sampling = sigmas.tolist(), guider.inner_model.model_sampling
        self.half = float(sampling.percent_to_sigma(0.5))
        return executor(guider, sigmas, *arguments, **options)


def run(model, width, scheduler, sampler, side, note=None, callback=None):
    """Samples [1,16,side,side]; returns the latent."""
    patched = model.clone()
    if note:
        patched.add_wrapper("sampler_sample", note)
    latent = torch.zeros(1, 16, side, side)
    noise = comfy.sample.prepare_noise(latent, 1)
    return comfy.sample.sample(patched, noise, 4, 3.0, sampler, scheduler, conditioning(width),
                               conditioning(width), latent, disable_pbar=True, seed=1, callback=callback)


def stop(step, *rest):
    raise KeyboardInterrupt


def check(name):
    build, width = MODELS[name]
    model = build()
    before, facts = run(model, width, "simple", "euler", 16), {}
    sampling = model.get_model_object("model_sampling")
    neutral = flow.TweedieFlowShift.execute(model, "fixed", 0.0)[0]
    facts["neutral"] = torch.equal(run(neutral, width, "simple", "euler", 16), before)
    shifted, note = flow.TweedieFlowShift.execute(model, "sqrt", 0.0)[0], Note()
    for side in (16, 128, 8):
        run(shifted, width, "simple", "euler", side, note)
        facts[f"sigmas_{side}"], facts[f"half_{side}"] = note.sigmas, note.half
    facts["own"] = comfy.samplers.calculate_sigmas(sampling, "simple", 4).tolist()
    facts["own_half"] = float(sampling.percent_to_sigma(0.5))
    kept = shifted.get_model_object("model_sampling")
    table = kept.sigmas.clone()
    try:
        run(shifted, width, "simple", "euler", 16, callback=stop)
    except KeyboardInterrupt:
        facts["undone"] = torch.equal(kept.sigmas, table) and kept.shift == sampling.shift
    facts["untouched"] = torch.equal(run(model, width, "simple", "euler", 16), before)
    facts["finite"] = {scheduler: bool(torch.isfinite(run(model, width, scheduler, "tweedie_2m", 16)).all())
                       for scheduler in comfy.samplers.SCHEDULER_NAMES if scheduler.startswith("tweedie_")}
    safe = zero_snr.TweedieSafeFirstStep.execute(comfy.samplers.sampler_object("euler"))[0]
    sigmas = comfy.samplers.calculate_sigmas(sampling, "tweedie_karras", 4)
    noise = comfy.sample.prepare_noise(torch.zeros(1, 16, 16, 16), 1)
    plain, wrapped = (comfy.sample.sample_custom(model, noise, 3.0, sampler, sigmas, conditioning(width),
                                                 conditioning(width), torch.zeros(1, 16, 16, 16),
                                                 disable_pbar=True, seed=1)
                      for sampler in (comfy.samplers.sampler_object("euler"), safe))
    facts["safe_euler"] = float((plain - wrapped).abs().max())
    try:
        zero_snr.TweedieZeroTerminalSNR.execute(model, 0.7, True)
    except ValueError as error:
        facts["refused"] = str(error)
    return facts


def measured():
    """A tiny search on the Flux model, twice: the second answer comes from the cache."""
    build, width = MODELS["flux"]
    model, folder = build(), pathlib.Path(os.environ["TWEEDIE_PROBE"])
    measure.CACHE.folder = folder / "cache"
    inputs = (model, conditioning(width), conditioning(width), comfy.samplers.sampler_object("euler"),
              {"samples": torch.zeros(1, 16, 8, 8)}, 3, 1.0, 16, 8, 0)
    first, second = (measure.TweedieMeasureSchedule.execute(*inputs) for _ in range(2))
    other = measure.TweedieMeasureSchedule.execute(*inputs, text=first[1].splitlines()[-1])
    return {"sigmas": first[0].tolist(), "again": second[0].tolist(), "imported": other[0].tolist(),
            "report": second[1], "files": len(list(measure.CACHE.folder.iterdir()))}


with torch.inference_mode():
    print(json.dumps({name: check(name) for name in MODELS} | {"measured": measured()}))
