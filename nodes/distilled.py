"""(hook args, choice) -> estimate of x0 by a second pass that stands in for the negative one at cfg 1."""
from __future__ import annotations

import re

import comfy.conds
import comfy.model_patcher
import comfy.samplers
import torch
from comfy_api.latest import io
from torch import Tensor

LOW = io.Float.Input("low", default=1.0, min=0.0, max=100.0, step=0.1, tooltip=(
    "The lower of the two guidance values; the higher one is the prompt's own."))
LAYERS = io.String.Input("layers", default="7, 8, 9", tooltip=(
    "Numbers of the transformer blocks that the second pass leaves out."))
PASSES = {"off": [], "guidance": [LOW], "skip_layer": [LAYERS]}


def evaluate(args: dict, conds: list[dict], options: dict) -> Tensor:
    return comfy.samplers.calc_cond_batch(args["model"], [conds], args["input"], args["sigma"], options)[0]


def at_low_guidance(args: dict, low: float) -> Tensor | None:
    """The positive pass at guidance `low`; None where the model takes no guidance value."""
    conds = []
    for cond in args["conds"][0]:
        if "guidance" not in cond["model_conds"]:
            return None
        value = comfy.conds.CONDRegular(torch.full_like(cond["model_conds"]["guidance"].cond, low))
        conds.append(cond | {"model_conds": cond["model_conds"] | {"guidance": value}})
    return evaluate(args, conds, args["model_options"])


def without_layers(args: dict, layers: list[int]) -> Tensor | None:
    """The positive pass less some blocks, as Skip Layer Guidance has it (Stability AI 2024); UNets: None."""
    if hasattr(args["model"].diffusion_model, "input_blocks"):
        return None

    def skip(block_args, extra):
        return block_args
    options = args["model_options"].copy()  # the host's function writes into it
    for layer in layers:
        for kind in ("double_block", "single_block"):
            options = comfy.model_patcher.set_model_options_patch_replace(options, skip, "dit", kind, layer)
    return evaluate(args, args["conds"][0], options)


def read_layers(text: str) -> list[int]:
    layers = [int(number) for number in re.findall(r"\d{1,3}", text)]
    if not layers:
        raise ValueError(f"Spectral guidance: layers is {text[:60]!r}; give block numbers such as 7, 8, 9")
    return layers


def check(choice: dict) -> None:
    """Raise ValueError for layers that no one can skip."""
    if choice["distilled"] == "skip_layer":
        read_layers(choice["layers"])


def second_pass(args: dict, choice: dict) -> Tensor | None:
    """None where the model has nothing of the kind to vary."""
    if choice["distilled"] == "guidance":
        return at_low_guidance(args, choice["low"])
    return without_layers(args, read_layers(choice["layers"]))
