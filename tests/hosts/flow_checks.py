"""Runs in ComfyUI's Python: the flow nodes on tiny SD3 and Flux models of the host's, as a line of JSON."""
import json
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import in_comfyui  # noqa: F401, I001
import comfy.model_base
import comfy.sample
import comfy.samplers
import comfy.supported_models
import torch
from comfy.model_patcher import ModelPatcher
from tweedie_pack.nodes import flow, measure, schedules, zero_snr

schedules.register_menus()
CPU = torch.device("cpu")


def small(config, base, **unet):
    """A ModelPatcher on a randomly filled model of the host's class, some ten thousand parameters."""
    unet |= {"in_channels": 16, "out_channels": 16, "patch_size": 2, "dtype": torch.float32}
    settings = config({"image_model": None, **unet})
    settings.unet_config, settings.manual_cast_dtype = unet, None
    model = base(settings, device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return ModelPatcher(model, CPU, CPU)


MODELS = {
    "sd3": (lambda: small(
        comfy.supported_models.SD3, comfy.model_base.SD3, depth=2, input_size=None, adm_in_channels=8,
        num_patches=64 * 64, pos_embed_max_size=64, qk_norm=None, x_block_self_attn_layers=[],
        context_embedder_config={"target": "torch.nn.Linear",
                                 "params": {"in_features": 12, "out_features": 128}}), 12),
    "flux": (lambda: small(
        comfy.supported_models.Flux, comfy.model_base.Flux, image_model="flux", vec_in_dim=8,
        context_in_dim=12, hidden_size=48, mlp_ratio=2.0, num_heads=2, depth=2, depth_single_blocks=2,
        axes_dim=[4, 10, 10], theta=10000, qkv_bias=True, guidance_embed=True, txt_ids_dims=[]), 12),
}


class Note:
    """Remembers what a run began with."""

    def __call__(self, executor, guider, sigmas, *arguments, **options):
        self.sigmas, sampling = sigmas.tolist(), guider.inner_model.model_sampling
        self.half = float(sampling.percent_to_sigma(0.5))
        return executor(guider, sigmas, *arguments, **options)


def conditioning(width):
    generator = torch.Generator().manual_seed(1)
    return [[torch.randn(1, 4, width, generator=generator),
             {"pooled_output": torch.randn(1, 8, generator=generator)}]]


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
