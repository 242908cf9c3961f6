"""Regions inside a run: entries of a conditioning that carry a Plan are routed in the attention of the model.

All hooks are put into one step's own copy of the model options, behind whatever else is there, so patches and
attention backends of others stay in force, and nothing is left when the run ends.
"""
from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import partial

import comfy.patcher_extension
import comfy.sampler_helpers
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ..controls.cross import Cross, Program, Texts
from ..controls.joint import Prompt, read_prompts
from ..controls.regions import MaskSet
from .adapters import Lora
from .families import Family, find_family
from .regional_lora import ROUTES, Route
from .sequences import fill_gaps, lay

log = logging.getLogger("tweedie")
KEY = "tweedie_regions"
OWN = ("pooled_output", "t5xxl_ids", "t5xxl_weights", "attention_mask")  # what a region's text brings along


@dataclass(frozen=True, eq=False)
class Plan:
    """Carried by an entry of a conditioning: regions, and the CONDITIONING of each.

    isolation: share of the run, from its start, in which a region's picture tokens don't see the others'.
    loras: of each region, where one has a LoRA.
    """

    masks: MaskSet
    texts: tuple[list, ...]
    isolation: float = 0.0
    loras: tuple[Lora | None, ...] = ()

    def name(self, number: int) -> str:
        return f"tweedie region {id(self)} {number}"


@dataclass
class RegionalRun:
    """One run's memory: its guider, whose conds the host has encoded; projected texts; lanes."""

    guider: object
    family: Family
    texts: Texts = field(default_factory=Texts)
    lanes: dict = field(default_factory=dict)
    spans: dict[Plan, list[tuple[float, float]]] = field(default_factory=dict)
    said: set[str] = field(default_factory=set)

    def say(self, text: str) -> None:
        if text not in self.said:
            self.said.add(text)
            log.warning("%s", text)

    def encoded(self, plan: Plan, number: int) -> dict:
        """The host's processed entry of a region's text."""
        return self.guider.conds[plan.name(number)][0]

    def active(self, plan: Plan, sampling, sigma: float) -> tuple[int, ...]:
        """Numbers of the regions that act; when they do is read once, as reading waits for the device."""
        if plan not in self.spans:
            self.spans[plan] = spans_of(plan.masks, sampling)
        return plan.masks.active(sigma, self.spans[plan])


def spans_of(masks: MaskSet, sampling) -> list[tuple[float, float]]:
    """Sigmas where each region starts and ends."""
    return [(sampling.percent_to_sigma(region.start), sampling.percent_to_sigma(region.end))
            for region in masks.regions]


def begin(executor, *arguments, **options):
    """OUTER_SAMPLE: let the host encode the regions' texts with the run's own, and open the run's memory."""
    guider = executor.class_obj
    run = RegionalRun(guider, find_family(guider.model_patcher))
    for kind, conds in list(guider.conds.items()):
        for plan in [cond[KEY] for cond in conds if KEY in cond]:
            for number, text in enumerate(plan.texts):
                entry = {key: value for key, value in text[0][1].items() if key in OWN}
                guider.conds[plan.name(number)] = comfy.sampler_helpers.convert_cond(
                    [[text[0][0], {**entry, "prompt_type": kind}]])
    guider.model_options[KEY] = run
    return executor(*arguments, **options)


def find_acting(run: RegionalRun, model, conds: list, sigma: float) -> dict:
    """uuid -> (entry, plan, numbers of the regions that act now)."""
    found = {}
    for cond in [cond for group in conds for cond in group or () if KEY in cond]:
        mask = cond["model_conds"].get("attention_mask")
        if cond.get("area") or (mask is not None and mask.cond.ndim > 2):
            run.say("regions: a prompt with an area or an attention mask of its own is left without regions; "
                    "use masks of the picture instead")
            continue
        active = run.active(cond[KEY], model.model_sampling, sigma)
        if active:
            found[cond["uuid"]] = cond, cond[KEY], active
    return found


def route_step(executor, model, conds, x, timestep, model_options):
    """CALC_COND_BATCH: this step's hooks, or the host's own call where no region acts."""
    run = model_options.get(KEY)
    usable = run is not None and run.family is not None
    acting = find_acting(run, model, conds, float(timestep[0])) if usable else {}
    if not acting:
        return executor(model, conds, x, timestep, model_options)
    options = {**model_options, "transformer_options": {**model_options.get("transformer_options", {})}}
    if run.family.reach == "cross":
        places = hook_unet(run, model, acting, x, options["transformer_options"])
    else:
        conds, places, gaps = lay(run, model, conds, acting, x, float(timestep[0]))
        hook_sequence(run, places, options["transformer_options"])
        if gaps:
            add_wrapper(options["transformer_options"], partial(fill_gaps, gaps))
    options["transformer_options"][ROUTES] = {
        uuid: Route(tuple(plan.loras[number] for number in active), places[uuid])
        for uuid, (_, plan, active) in acting.items() if any(plan.loras)}
    return executor(model, conds, x, timestep, options)


def attend_unet(q: Tensor, k: Tensor, v: Tensor, options: dict) -> Tensor:
    return optimized_attention(q, k, v, options["n_heads"], attn_precision=options["attn_precision"],
                               transformer_options=options)


def hook_unet(run: RegionalRun, model, acting: dict, x: Tensor, options: dict) -> dict[object, Program]:
    """attn2_patch behind all others, attn2_replace in every block around what is there; programs by uuid."""
    programs = {uuid: Program(plan.masks, active, tuple(
        run.encoded(plan, number)["model_conds"]["c_crossattn"].cond for number in active))
        for uuid, (_, plan, active) in acting.items()}
    hooked = any("hooks" in cond for cond, _, _ in acting.values())  # LoRAs that change over the run

    def who(options):
        uuids = options["uuids"]
        return [programs.get(uuid) for uuid in uuids], None if hooked else tuple(uuids)

    cross = Cross(attend_unet, who, tuple(x.shape[-2:]), run.texts)
    patches = options["patches"] = {**options.get("patches", {})}
    patches["attn2_patch"] = [*patches.get("attn2_patch", []), cross.append]
    replaced = options["patches_replace"] = {**options.get("patches_replace", {})}
    theirs, net = replaced.get("attn2", {}), model.diffusion_model
    blocks = [("input", number) for number in range(len(net.input_blocks))] + [("middle", 0)] + [
        ("output", number) for number in range(len(net.output_blocks))]
    replaced["attn2"] = {block: partial(cross.replace, theirs=theirs.get(block))
                         for block in [*blocks, *theirs]}
    return programs


def hook_sequence(run: RegionalRun, prompts: dict[object, Prompt], options: dict) -> None:
    """optimized_attention_override around what is there: prompts by the uuid of their entry."""
    previous = options.get("optimized_attention_override")

    def override(attention, q, k, v, heads, *arguments, **keywords):
        if arguments:
            keywords["mask"], arguments = arguments[0], arguments[1:]

        def attend(q, k, v, mask):
            now = {**keywords, "mask": mask}
            if previous is not None:
                return previous(attention, q, k, v, heads, *arguments, **now)
            return attention(q, k, v, heads, *arguments, **now)

        uuids = (keywords.get("transformer_options") or {}).get("uuids", ())
        batch = [prompts.get(uuid) for uuid in uuids]
        if not any(batch):
            return attend(q, k, v, keywords.get("mask"))
        dims = 2 if keywords.get("skip_reshape") else 1, 2 if keywords.get("skip_output_reshape") else 1
        return read_prompts(attend, q, k, v, keywords.get("mask"), batch, dims, run.lanes)

    options["optimized_attention_override"] = override


def add_wrapper(options: dict, wrapper) -> None:
    """A wrapper of the net's forward, innermost."""
    kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
    wrappers = options["wrappers"] = {**options.get("wrappers", {})}
    wrappers[kind] = {**wrappers.get(kind, {}), KEY: [wrapper]}


def guide_places(masks: MaskSet, args: dict) -> list[Tensor]:
    """Pre-CFG: each region's own guidance scale, by scaling the difference to the negative there."""
    outputs, scale = args["conds_out"], args["cond_scale"]
    if args["conds"][1] is None or scale == 0 or args["input"].ndim not in (4, 5):
        return outputs
    size = tuple(args["input"].shape[-2:])
    active = masks.active(float(args["sigma"][0]), spans_of(masks, args["model"].model_sampling))
    factor = masks.scales(masks.on(size, size, active, outputs[0].device), scale) / scale
    cond, uncond = outputs[0], outputs[1]
    return [uncond + (cond - uncond) * factor.to(cond), *outputs[1:]]


def add_regions(model, masks: MaskSet):
    """A clone of the model on which entries with a Plan are routed, and regions have their own scale."""
    patched = model.clone()
    kinds = comfy.patcher_extension.WrappersMP
    if not patched.get_wrappers(kinds.OUTER_SAMPLE, KEY):
        patched.add_wrapper_with_key(kinds.OUTER_SAMPLE, KEY, begin)
        patched.add_wrapper_with_key(kinds.CALC_COND_BATCH, KEY, route_step)
    return with_scales(patched, masks)


def with_scales(model, masks: MaskSet):
    """The model, or a clone of it on which regions have their own guidance scale."""
    if all(region.cfg is None for region in masks.regions):
        return model
    patched = model.clone()
    patched.set_model_sampler_pre_cfg_function(partial(guide_places, masks))
    return patched
