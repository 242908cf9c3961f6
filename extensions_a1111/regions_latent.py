"""Regions by predictions of the whole picture, one for each text, blended by shares [1+R,H,W]."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..controls.attention import TINY
from . import host
from .regions_run import Picture, Run, Schedule, pick, stack_texts, text_of
from .scope import patched

SHARE = "tweedie_share"  # in an entry's conditioning: how much of each place is its


def shares_of(run: Run, picture: Picture, device: torch.device) -> Tensor:
    """[1+R,H,W], the base's first."""
    return picture.masks.on(run.full, run.full, picture.numbers, device)


def has_base(run: Run, picture: Picture) -> bool:
    """Whether any place is left for the base prompt: it would cost a call of the model."""
    return bool((shares_of(run, picture, torch.device("cpu"))[0] > TINY).any())


def marked(schedule: Schedule, like: Any) -> Schedule:
    """With the mark, a token of one value, that sd-webui-controlnet puts before prompts, if `like` has it."""
    first = text_of(like)[0]
    if not bool((first == first[0]).all()) or not first[0]:
        return schedule

    def mark(cond):
        text = torch.cat([first[None].to(text_of(cond)), text_of(cond)])
        return {**cond, "crossattn": text} if isinstance(cond, dict) else text
    return [part._replace(cond=mark(part.cond)) for part in schedule]


def add_prompts(run: Run, cond: Any, uncond: Any) -> Any:
    """A1111's conditioning with every region as a prompt of its own, as AND would add it; negatives last."""
    from modules.prompt_parser import ComposableScheduledPromptConditioning as Prompt
    from modules.prompt_parser import MulticondLearnedConditioning

    batch = []
    for prompts, against, picture in zip(cond.batch, uncond, run.pictures, strict=True):
        if picture is None:
            batch.append(prompts)
            continue
        own = [marked(schedule, prompts[0].schedules[0].cond) for schedule in picture.positives]
        own += [marked(schedule, against[0].cond) for schedule in picture.negatives or ()]
        batch.append([*prompts[:1 if has_base(run, picture) else 0], *map(Prompt, own)])
    return MulticondLearnedConditioning(cond.shape, batch)


def blend_rows(run: Run, x_out: Tensor, conds_list: list, uncond_rows: Tensor) -> tuple[Tensor, list]:
    """Rows and prompts as if every picture had one prompt and one negative."""
    rows, lists, negatives = [], [], []
    for prompts, picture, negative in zip(conds_list, run.pictures, uncond_rows, strict=True):
        if picture is None:
            lists.append([(len(rows) + number, weight) for number, (_, weight) in enumerate(prompts)])
            rows += [x_out[row] for row, _ in prompts]
            negatives.append(negative)
            continue
        shares = shares_of(run, picture, x_out.device).to(x_out)
        mine, count = [x_out[row] for row, _ in prompts], len(picture.positives) + has_base(run, picture)
        lists.append([(len(rows), 1.0)])
        rows.append(blend(shares[-count:], mine[:count]))
        negatives.append(blend(shares, [negative, *mine[count:]]) if mine[count:] else negative)
    return torch.stack(rows + negatives), lists


def blend(shares: Tensor, predictions: Sequence[Tensor]) -> Tensor:
    return sum(share * one for share, one in zip(shares, predictions, strict=True))


@contextmanager
def blend_prompts(run: Run, guide: Any) -> Iterator[None]:
    """A1111: a row of the model's batch for every region; whoever combines rows sees one for each picture."""
    begin, combine, given, own = guide.forward, guide.combine_denoised, None, None

    def forward(x, sigma, uncond, cond, *arguments, **options):
        nonlocal given, own
        if not run.acts(host.true_sigma(guide, sigma)):
            given = own = None
        elif given is not cond:
            given, own = cond, add_prompts(run, cond, uncond)
        return begin(x, sigma, uncond, own or cond, *arguments, **options)

    def combine_denoised(x_out, conds_list, uncond, cond_scale):
        if own and list(map(len, own.batch)) == list(map(len, conds_list)):  # not so when the refiner comes
            x_out, conds_list = blend_rows(run, x_out, conds_list, x_out[-uncond.shape[0]:])
        return combine(x_out, conds_list, uncond, cond_scale)

    with patched(guide, forward=forward, combine_denoised=combine_denoised):
        yield


@contextmanager
def weigh_entries(run: Run, guide: Any) -> Iterator[None]:
    """Forge and its kin: an entry for every region in the conditioning of each step, weighed by its share.

    The host takes the mean over entries, and its own masks know no latents [B,C,T,H,W], such as Anima's.
    """
    def modify(model, x, timestep, uncond, cond, scale, options, seed):
        if run.acts(timestep):
            positives = [picture and picture.positives for picture in run.pictures]
            negatives = [picture and picture.negatives for picture in run.pictures]
            cond = spread(run, cond, positives, guide.step, x.device)
            uncond = uncond and spread(run, uncond, negatives, guide.step, x.device)
        return model, x, timestep, uncond, cond, scale, options, seed

    objects = run.p.sd_model.forge_objects
    unet = objects.unet.clone()
    previous = unet.model_options.get("model_function_wrapper")

    def apply(apply_model, call):
        given = dict(call["c"])
        share = given.pop(SHARE, None)
        out = previous(apply_model, {**call, "c": given}) if previous else apply_model(
            call["input"], call["timestep"], **given)
        return out if share is None else out * share.reshape(
            len(share), *[1] * (out.ndim - 3), *share.shape[1:]).to(out)

    unet.add_conditioning_modifier(modify)
    unet.set_model_unet_function_wrapper(apply)
    with patched(objects, unet=unet):
        yield


def spread(run: Run, entries: list[dict], schedules: list[list[Schedule] | None], step: int,
           device: torch.device) -> list[dict]:
    """The host's entries, if any place is theirs, and one for each region with the texts of all pictures."""
    given = entries[0]["model_conds"]
    most = max(len(texts or ()) for texts in schedules)
    shares = torch.zeros(1 + most, len(schedules), *run.full, device=device)
    for image, (picture, texts) in enumerate(zip(run.pictures, schedules, strict=True)):
        if texts:
            shares[:1 + len(texts), image] = shares_of(run, picture, device)
        else:
            shares[0, image] = 1
    kept = [(entry, shares[0]) for entry in entries if bool((shares[0] > TINY).any())]
    for region in range(most):
        conds = [texts[region][pick(texts[region], step)].cond if texts and region < len(texts)
                 else base_cond(given, image) for image, texts in enumerate(schedules)]
        kept.append((retext(entries[0], conds), shares[1 + region]))
    return [weigh(entry, share, len(kept)) for entry, share in kept]


def weigh(entry: dict, share: Tensor, count: int) -> dict:
    """The entry, one of so many, so that the host's mean of them all is their sum by shares [B,H,W].

    Strengths add up to one prompt's: their sum multiplies guidance.
    """
    given = entry["model_conds"]
    return {**entry, "strength": entry.get("strength", 1.0) / count,
            "model_conds": {**given, SHARE: given["c_crossattn"]._copy_with(share * count)}}


def base_cond(given: dict, image: int) -> Tensor | dict:
    """What a picture itself says, in the form of the host's texts."""
    text = given["c_crossattn"].cond[image]
    return {"crossattn": text, "vector": given["y"].cond[image]} if "y" in given else text


def retext(entry: dict, conds: Sequence[Tensor | dict]) -> dict:
    """The entry with other texts, and their pooled vectors where it has one."""
    given = dict(entry["model_conds"])
    text = given["c_crossattn"]
    given["c_crossattn"] = text._copy_with(stack_texts([text_of(cond) for cond in conds]).to(text.cond))
    new = {**entry, "cross_attn": given["c_crossattn"].cond, "model_conds": given}
    if "y" in given:
        vectors = torch.stack([cond["vector"] for cond in conds])
        given["y"] = given["y"]._copy_with(vectors.to(given["y"].cond))
        new["pooled_output"] = given["y"].cond
    return new
