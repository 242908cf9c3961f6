"""How each model family reads text: (model) -> its row of FAMILIES, or None where only latent mode is left.

Where text and picture share one attention, the regions' texts are put behind the prompt's own, and every
text keeps the rotary positions that it would have alone.
"""
from __future__ import annotations

from typing import NamedTuple

import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import Tensor


class Family(NamedTuple):
    """reach: cross (UNet cross attention), joint (one sequence) or read (a DiT's cross attention).

    patch: name of the net's patch size. embedder, axes: its rotary embedding, and the axes on which text
    counts up. anchor: where a text stands: at its start, or with its end at the end of the prompt's own text
    (base) or of all texts (end). raw: take texts as encoded, before the model pads them.
    """

    name: str
    reach: str
    patch: str = "patch_size"
    embedder: str = ""
    axes: tuple[int, ...] = ()
    anchor: str = "start"
    raw: bool = False


UNET = Family("UNet", "cross")
FAMILIES = {
    "SD3": Family("SD3", "joint"),
    "Flux": Family("Flux", "joint"),
    "Flux2": Family("Flux 2", "joint", embedder="pe_embedder", axes=(3,), anchor="base", raw=True),
    "Chroma": Family("Chroma", "joint"),
    "QwenImage": Family("Qwen-Image", "joint", embedder="pe_embedder", axes=(0, 1, 2)),
    "Lumina2": Family("Lumina 2", "joint", embedder="rope_embedder", axes=(0,), anchor="end"),
    "Anima": Family("Anima", "read", patch="patch_spatial"),
}  # by the class of the model, exactly: what derives from one may place its text otherwise


def find_family(model) -> Family | None:
    """The family of a ModelPatcher's model."""
    if isinstance(model.model.diffusion_model, UNetModel):
        return UNET
    return FAMILIES.get(type(model.model).__name__)


def shifts(family: Family, lengths: tuple[int, ...], total: int, axes: int) -> Tensor:
    """How far each text token's position moves [sum L, axes], so that each text stands as if alone.

    lengths: of the texts, the prompt's own first; total: with padding; axes: that positions have.
    """
    start, rows = 0, []
    for length in lengths:
        aim = {"start": 0, "base": lengths[0] - length, "end": total - length}[family.anchor]
        row = torch.zeros(length, axes)
        row[:, list(family.axes)] = aim - start
        rows.append(row)
        start += length
    return torch.cat(rows)
