"""Guidance reweighted per frequency, time and place, and its corrections, as pre-CFG hooks on a clone.

A hook gets the estimates of x0 of the positive and the negative pass and moves the positive one, so it works
beside CFG functions, post-CFG hooks and cfg++ samplers, whatever they do with the two.
"""
from __future__ import annotations

import torch
from comfy_api.latest import io
from torch import Tensor

from ..plugin import read_knobs
from ..samplers.guidance import GROUPS, Companions, Memory, guide
from ..samplers.power import calibrate, find_powers, from_text, to_text
from ..samplers.recipe import Settings, compose
from ..samplers.spectral import BANDS, Recipe, Window, gate, reweight
from ..samplers.structure import MAPS
from ..samplers.table import to_edm
from .distilled import PASSES, check, second_pass
from .model import is_flow
from .run import KEY, Run, add_hook, packed, progress, regions
from .widgets import choose, chooser, options, widget

CATEGORY = "tweedie/guidance"
PACKED = ("guidance: this latent packs several streams (audio beside video) or has no rows and columns; "
          "nothing is changed")
ALONE = ("guidance: there is no negative pass (cfg 1), so there is no difference to weigh and nothing is "
         "changed; raise cfg, or for a guidance-distilled model set `distilled`")
NO_PASS = ("guidance: this model has no guidance value to vary (`distilled` guidance), or no numbered blocks "
           "to skip (skip_layer), so nothing is changed; choose the other, or off")


def powers_of(model, text: str) -> tuple[float, ...]:
    """P of the model's latents: from text, else from the shipped table."""
    if text.strip():
        return from_text(text)
    latent_format = model.get_model_object("latent_format")
    return find_powers([kind.__name__ for kind in type(latent_format).__mro__], latent_format.latent_channels)


def acts(sigma: Tensor, window: Window) -> bool:
    """Is this moment within the window? To know it, the host waits for the device; a pass takes longer."""
    return bool(gate("constant", to_edm(sigma.float(), window.flow), window).any())


def counterpart(args: dict, run: Run, window: Window, distilled: dict) -> tuple[Tensor, float] | None:
    """The estimate that the positive one is held against, and guidance's scale; None for nothing to do."""
    if args["conds"][1] is not None:
        return args["conds_out"][1], args["cond_scale"]
    if distilled["distilled"] == "off":
        run.say(ALONE)
        return None
    if not acts(args["sigma"], window):
        return None
    estimate = second_pass(args, distilled)
    if estimate is None:
        run.say(NO_PASS)
        return None
    return estimate, 1.0


def spectral_hook(recipe: Recipe, start: float, end: float, distilled: dict):
    def push(args):
        run, outputs = args["model_options"][KEY], args["conds_out"]
        if packed(args):
            run.say(PACKED)
            return outputs
        window = run.window(args, start, end)
        found = counterpart(args, run, window, distilled)
        if found is None:
            return outputs
        run.calls[push] += 1
        cond, (uncond, scale) = outputs[0], found
        delta, seed = cond - uncond, (run.seed + run.calls[push]) % 2**63
        change = reweight(delta, recipe, window, args["sigma"], uncond + delta * scale, uncond, seed,
                          regions(args, run))
        return [(cond.float() + change).to(cond.dtype), *outputs[1:]]
    return push


class TweedieSpectralGuidance(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        knobs = {knob.name: widget(knob) for knob in read_knobs(Settings)}
        return io.Schema(
            node_id="TweedieSpectralGuidance", display_name="Tweedie Spectral Guidance", category=CATEGORY,
            description="Weighs classifier-free guidance per frequency band, over the run and by structure, "
                        "at the energy of plain guidance. Equal gains and no structure change nothing.",
            search_aliases=["FreSca", "FDG", "frequency guidance", "equalizer", "cfg", "hands"],
            inputs=[
                io.Model.Input("model"),
                chooser("bands", BANDS, "Gain over frequency, as a fraction of the latent's Nyquist."),
                knobs["time"],
                chooser("structure", MAPS, "Where in the picture guidance is concentrated."),
                knobs["strength"], knobs["keep_energy"], knobs["start_percent"], knobs["end_percent"],
                io.DynamicCombo.Input("distilled", options=options(PASSES), optional=True, tooltip=(
                    "What stands in for the negative pass at cfg 1: one more pass, at a lower guidance value "
                    "or with layers skipped. Off: nothing is changed there.")),
                io.String.Input("power", default="", optional=True, advanced=True, tooltip=(
                    "For time `deciding`: the power of clean latents as Tweedie Latent Power writes it; "
                    "empty takes the table for the model's latent format.")),
            ],
            outputs=[io.Model.Output()])

    @classmethod
    def execute(cls, model, bands, time, structure, strength, keep_energy, start_percent, end_percent,
                distilled=None, power="") -> io.NodeOutput:
        settings = Settings(time, strength, keep_energy, start_percent, end_percent).checked()
        powers = powers_of(model, power) if time == "deciding" else ()
        where = choose(MAPS, structure, "structure") if structure["structure"] != "off" else None
        recipe = compose(choose(BANDS, bands, "bands"), where, settings, powers)
        recipe.excess((8, 8), torch.device("cpu"))  # so that a wrong knob is refused here
        distilled = distilled or {"distilled": "off"}
        check(distilled)
        hook = spectral_hook(recipe, settings.start_percent, settings.end_percent, distilled)
        return io.NodeOutput(add_hook(model, hook))


def correction_hook(companions: Companions):
    def push(args):
        run, outputs, scale = args["model_options"][KEY], args["conds_out"], args["cond_scale"]
        if packed(args):
            run.say(PACKED)
            return outputs
        if args["conds"][1] is None or scale == 0:
            run.say(ALONE)
            return outputs
        cond, uncond = outputs[0].float(), outputs[1].float()
        memory = run.memories.setdefault(push, Memory())
        guided = guide(args["input"], args["sigma"], cond, uncond, scale, companions, memory,
                       is_flow(args["model"].model_sampling), progress(args))
        change = (guided - (uncond + (cond - uncond) * scale)) / scale
        return [(cond + change).to(outputs[0].dtype), *outputs[1:]]
    return push


def switch(name: str) -> io.Input:
    """off, or on with the correction's own knobs; a number where 0 is off."""
    knobs = {knob.name: knob for knob in read_knobs(Companions)}
    if knobs[name].kind is float:
        return widget(knobs[name])
    choices = {"off": [], "on": [widget(knobs[knob]) for knob in GROUPS[name]]}
    return io.DynamicCombo.Input(name, options=options(choices))


class TweedieGuidance(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TweedieGuidance", display_name="Tweedie Guidance", category=CATEGORY,
            description="Corrections of classifier-free guidance, each as its paper has it: APG, CFG-Zero*, "
                        "CFG rescale and a guidance interval.",
            search_aliases=["APG", "CFG-Zero*", "RescaleCFG", "guidance interval", "cfg"],
            inputs=[io.Model.Input("model"), *(switch(name) for name in GROUPS)],
            outputs=[io.Model.Output()])

    @classmethod
    def execute(cls, model, apg, cfg_zero_star, rescale, interval) -> io.NodeOutput:
        values = {"rescale": rescale}
        for name, value in (("apg", apg), ("cfg_zero_star", cfg_zero_star), ("interval", interval)):
            values |= {key: knob for key, knob in value.items() if key != name}
            values[name] = value[name] == "on"
        companions = Companions(**values).checked()
        if companions.neutral:
            return io.NodeOutput(model)
        return io.NodeOutput(add_hook(model, correction_hook(companions), last=True))


class TweedieLatentPower(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TweedieLatentPower", display_name="Tweedie Latent Power", category=CATEGORY,
            description="Measures the power of clean latents per frequency, for Tweedie Spectral Guidance's "
                        "time `deciding`. Encode some twenty pictures of the kind that you make.",
            search_aliases=["calibrate", "spectrum"],
            inputs=[io.Model.Input("model"),
                    io.Latent.Input("latent", tooltip="Clean latents: VAE Encode of finished pictures.")],
            outputs=[io.String.Output(display_name="power")])

    @classmethod
    def execute(cls, model, latent) -> io.NodeOutput:
        return io.NodeOutput(to_text(calibrate(model.model.process_latent_in(latent["samples"]))))


NODES = [TweedieSpectralGuidance, TweedieGuidance, TweedieLatentPower]
