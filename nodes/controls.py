"""Several ControlNets that share a picture: the chain of the stock apply nodes as one blended control."""
from __future__ import annotations

import logging
from typing import NamedTuple

from comfy_api.latest import io

from ..controls.blends import BLENDS
from ..controls.curves import CURVES, LAYERS, ONE_SIDED, read_curve, read_layers
from ..controls.multi import Reuse, Rule, check_masks
from ..plugin import read_knobs
from .blended import BlendControl, absorb, chain_of
from .overlay import masks_of
from .widgets import choose, chooser, options, widget

log = logging.getLogger("tweedie")
CATEGORY = "tweedie/controls"
RuleType = io.Custom("TWEEDIE_CONTROL_RULE")
MOST = 16  # rules


class Asked(NamedTuple):
    """A rule, and the number of the prompt's region that is its mask; 0 for none."""

    rule: Rule
    region: int


def place_rule(asked: Asked, positive: list) -> Rule:
    """The rule with its region's mask."""
    rule, number = asked
    if not number:
        return rule
    try:
        masks = masks_of(positive)
    except ValueError:
        raise ValueError(f"Control rule: region is {number}, the prompt has none; connect `positive` of a "
                         "regional prompt, or give 0") from None
    if number > len(masks.regions):
        raise ValueError(f"Control rule: region is {number}, the prompt has {len(masks.regions)}; give the "
                         "number of one, or 0")
    share = masks.shares(tuple(range(len(masks.regions))))[number][None]
    if rule.mask is not None:
        raise ValueError("Control rule: it has a mask and a region; take one of them away")
    return Rule(rule.curve, check_masks(share, f"Region {number}"), rule.layers, rule.uncond, rule.priority)


class TweedieControlRule(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TweedieControlRule", display_name="Tweedie Control Rule", category=CATEGORY,
            description="When, where and how deep one control acts. It multiplies the apply node's strength.",
            search_aliases=["controlnet schedule", "controlnet mask", "timestep keyframe", "soft weights"],
            inputs=[
                io.String.Input("strength_curve", default="always", tooltip=(
                    f"{', '.join(CURVES)}; or points progress:weight such as 0:1, 0.6:1, 0.6:0. Progress is "
                    "what start_percent counts, 0 to 1.")),
                io.Mask.Input("mask", optional=True, tooltip="Where it acts; one, or one for each picture."),
                io.String.Input("layers", default="even", tooltip=(
                    f"{', '.join(LAYERS)}; or points depth:weight, depth 0 being the layers nearest to the "
                    "picture, 1 the deepest.")),
                io.Float.Input("uncond", default=1.0, min=0.0, max=10.0, step=0.05, tooltip=(
                    "Factor for the negative prompt's pass; at 0 it is not computed there.")),
                io.Float.Input("priority", default=0.0, min=-100.0, max=100.0, step=1.0, tooltip=(
                    "The higher comes first in policy project.")),
                io.Int.Input("region", default=0, min=0, max=64, optional=True, advanced=True, tooltip=(
                    "Number of the region of the regional prompt that is the mask; 0 for none.")),
            ],
            outputs=[RuleType.Output(display_name="rule")])

    @classmethod
    def execute(cls, strength_curve, layers, uncond, priority, mask=None, region=0) -> io.NodeOutput:
        if layers.strip().lower() == ONE_SIDED:
            uncond = 0.0
        name = "Control rule"
        return io.NodeOutput(Asked(Rule(
            read_curve(strength_curve, f"{name}, strength_curve"),
            None if mask is None else check_masks(mask, name), read_layers(layers, f"{name}, layers"),
            uncond, priority), region))


class TweedieControlBlend(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        knobs = {knob.name: knob for knob in read_knobs(Reuse)}
        reuse = {name: [widget(knobs[name])] if name in knobs else [] for name in knobs["mode"].choices}
        return io.Schema(
            node_id="TweedieControlBlend", display_name="Tweedie Control Blend", category=CATEGORY,
            description="Joins all ControlNets that these prompts carry into one. It goes behind the apply "
                        "nodes. With policy sum and no rules it changes nothing but the time.",
            search_aliases=["multi controlnet", "controlnet stack", "combine controlnets"],
            inputs=[
                io.Conditioning.Input("positive"), io.Conditioning.Input("negative"),
                chooser("policy", BLENDS, "How the controls are joined at each place. Sum is what ComfyUI "
                                          "does."),
                io.DynamicCombo.Input("reuse", options=options(reuse), tooltip=(
                    "Let residuals of an earlier step stand in: fewer calls, another picture.")),
                io.Autogrow.Input("rules", template=io.Autogrow.TemplatePrefix(
                    RuleType.Input("rule", tooltip="The first is for the control that was applied first."),
                    prefix="rule", min=0, max=MOST)),
                io.Boolean.Input("union", default=False, optional=True, advanced=True, tooltip=(
                    "One call for all types of the same union ControlNet, as it was trained for: faster, "
                    "another picture.")),
            ],
            outputs=[io.Conditioning.Output(display_name="positive"),
                     io.Conditioning.Output(display_name="negative")])

    @classmethod
    def execute(cls, positive, negative, policy, reuse, rules=None, union=False) -> io.NodeOutput:
        placed = [place_rule(asked, positive) for asked in (rules or {}).values()]
        most = max(len(chain_of(values.get("control"))) for _, values in [*positive, *negative])
        if len(placed) > most:
            raise ValueError(f"Control blend: there are {len(placed)} rules for {most} controls; take rules "
                             "away, or connect more controls")
        if not most:
            log.warning("Control blend: neither prompt has a control; connect it behind the apply nodes")
        joined, kind = choose(BLENDS, policy, "policy"), reuse["reuse"]
        again = Reuse(kind, **{name: value for name, value in reuse.items() if name != "reuse"})
        blends: dict[int, BlendControl] = {}

        def blend(values: dict) -> dict:
            control = values.get("control")
            if control is None:
                return values
            if id(control) not in blends:  # prompts that share a chain go on sharing it, and so a batch
                blends[id(control)] = absorb(control, placed, joined, again, union)
            return {**values, "control": blends[id(control)]}

        return io.NodeOutput(*([[text, blend(values)] for text, values in prompt]
                               for prompt in (positive, negative)))


NODES = [TweedieControlBlend, TweedieControlRule]
