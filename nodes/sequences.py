"""The regions' texts put behind a prompt's own, for models whose texts and picture share one attention."""
from __future__ import annotations

import math

import comfy.utils
import torch
from torch import Tensor

from ..controls.joint import Prompt, rotations
from .families import shifts


def multiple_of(net) -> int:
    """Z-Image fills every text up to a multiple of this, with a token of its own."""
    return getattr(net, "pad_tokens_multiple", None) or 1


def text_of(entry: dict, family) -> Tensor:
    """An entry's text [1|B,L,C] as the model takes it, without what the model alone would pad."""
    return entry["cross_attn"] if family.raw else entry["model_conds"]["c_crossattn"].cond


def picture_grid(family, net, x: Tensor) -> tuple[tuple[int, int], int]:
    """Rows and columns of tokens, and frames, of a latent [B,C,(T,)H,W]."""
    patch = getattr(net, family.patch)
    patch = patch if isinstance(patch, int) else patch[-1]
    return tuple(math.ceil(side / patch) for side in x.shape[-2:]), x.shape[2] if x.ndim == 5 else 1


def stretch(text: Tensor, length: int) -> Tensor:
    """Zeros behind a text."""
    return torch.nn.functional.pad(text, (0, 0, 0, length - text.shape[1]))


def collect(run, conds: list, acting: dict) -> dict:
    """uuid -> texts, the prompt's own first, of entries that act and of those that would share their call."""
    texts = {uuid: [cond["model_conds"]["c_crossattn"].cond,
                    *(text_of(run.encoded(plan, number), run.family) for number in active)]
             for uuid, (cond, plan, active) in acting.items()}
    shapes = {text[0].shape for text in texts.values()}
    for cond in [cond for group in conds for cond in group or ()]:
        if cond["uuid"] not in texts and cond["model_conds"]["c_crossattn"].cond.shape in shapes:
            texts[cond["uuid"]] = [cond["model_conds"]["c_crossattn"].cond]
    return texts


def lay(run, model, conds: list, acting: dict, x: Tensor, sigma: float) -> tuple[list, dict, dict]:
    """Entries with their regions' texts behind them; a Prompt for each by uuid; and its gaps, where filled.

    An entry that would have shared a call with one of them is filled up to the same length, and still does.
    """
    family, net = run.family, model.diffusion_model
    step, (grid, frames) = multiple_of(net), picture_grid(family, net, x)
    texts = collect(run, conds, acting)
    lengths = {uuid: tuple(math.ceil(text.shape[1] / step) * step for text in group)
               for uuid, group in texts.items()}
    total = max(sum(group) for group in lengths.values())
    picture = frames * grid[0] * grid[1]
    while total in (picture, math.ceil(picture / step) * step):  # lengths tell an attention's kind
        total += step
    prompts = {}
    for uuid, group in lengths.items():
        cond, plan, active = acting.get(uuid, (None, None, ()))
        isolated = plan is not None and plan.isolation > 0 and (
            sigma > model.model_sampling.percent_to_sigma(plan.isolation))
        prompts[uuid] = Prompt(plan and plan.masks, active, group, total, grid, frames, tuple(x.shape[-2:]),
                               isolated, padding_before(family, cond), angles_of(family, net, group, total))
    gaps = {uuid: gaps_of(texts[uuid], group, total) for uuid, group in lengths.items() if step > 1}
    return [group and [extend(cond, texts.get(cond["uuid"]), prompts.get(cond["uuid"])) for cond in group]
            for group in conds], prompts, gaps


def padding_before(family, cond: dict | None) -> int:
    """How many tokens the model has put in front of the prompt's own text."""
    if cond is None or not family.raw:
        return 0
    return cond["model_conds"]["c_crossattn"].cond.shape[1] - cond["cross_attn"].shape[1]


def angles_of(family, net, lengths: tuple[int, ...], total: int) -> Tensor | None:
    if not family.axes:
        return None
    embedder = getattr(net, family.embedder)
    moves = shifts(family, lengths, total, len(embedder.axes_dim))
    return rotations(moves, embedder.axes_dim, embedder.theta)


def extend(cond: dict, texts: list[Tensor] | None, prompt: Prompt | None) -> dict:
    """The entry, its text and its text's mask as long as the prompt's."""
    if texts is None:
        return cond
    given, batch = cond["model_conds"], max(len(text) for text in texts)
    whole = torch.cat([comfy.utils.repeat_to_batch_size(stretch(text.to(texts[0]), length), batch)
                       for text, length in zip(texts, prompt.lengths, strict=True)], 1)
    new = {**given, "c_crossattn": given["c_crossattn"]._copy_with(stretch(whole, prompt.text))}
    mask = given.get("attention_mask")
    if mask is not None and mask.cond.ndim == 2 and mask.cond.shape[1] == texts[0].shape[1]:
        more, seen = prompt.text - mask.cond.shape[1], 0 if mask.cond.is_floating_point() else 1
        new["attention_mask"] = mask._copy_with(torch.nn.functional.pad(mask.cond, (0, more), value=seen))
    return {**cond, "model_conds": new}


def gaps_of(texts: list[Tensor], lengths: tuple[int, ...], total: int) -> Tensor:
    """[total], true where a text was filled up to a multiple."""
    gaps, start = torch.zeros(total, dtype=torch.bool), 0
    for text, length in zip(texts, lengths, strict=True):
        gaps[start + text.shape[1]:start + length] = True
        start += length
    return gaps


def fill_gaps(gaps: dict, executor, x, timesteps, context, *arguments, **options):
    """DIFFUSION_MODEL: puts the model's own padding token into the gaps, as it would have done itself."""
    net, uuids = executor.class_obj, options["transformer_options"]["uuids"]
    if not all(uuid in gaps for uuid in uuids):
        return executor(x, timesteps, context, *arguments, **options)
    size = len(context) // len(uuids)
    where = torch.stack([gaps[uuid] for uuid in uuids]).repeat_interleave(size, 0)[..., None]

    def fill(module, given, embedded):
        token = net.cap_pad_token.to(embedded, copy=True)
        return torch.where(where.to(embedded.device), token, embedded)

    hook = net.cap_embedder.register_forward_hook(fill)
    try:
        return executor(x, timesteps, context, *arguments, **options)
    finally:
        hook.remove()
