"""(Settings, a picture's prompts) -> Tree of texts; (Settings, Tree, canvas) -> MaskSet; told in words."""
from __future__ import annotations

import re
from collections.abc import Iterator

import torch
from torch import Tensor

from ..controls.grammar import MOST, Tree, parse
from ..controls.layouts import LAYOUTS, Size
from ..controls.masks import box_mask
from ..controls.preview import overlay
from ..controls.regions import MaskSet, Region, gather
from .regions_panel import PAINTED, TILED, Settings

COARSE = (64, 64)  # a canvas to count regions on
PLAIN = ("there is one region, the whole picture, so the picture is the host's own; write BREAK, ADDCOL or "
         "ADDROW between regions")


def draw_shapes(settings: Settings, size: Size) -> Tensor:
    """Masks [R,H,W] of a layout that the prompt has no part in."""
    if settings.layout == PAINTED and settings.picture is None:
        raise ValueError(f"Regions: layout {PAINTED} has no picture; paint one, or give it as base64")
    return LAYOUTS[settings.layout](settings.picture if settings.layout == PAINTED else settings.shapes, size)


def count_shapes(settings: Settings) -> int | None:
    """How many regions the layout has; None where the prompt tells."""
    return None if settings.layout in TILED else len(draw_shapes(settings, COARSE))


def read_tree(settings: Settings, prompt: str, negative: str, count: int | None) -> Tree:
    """The prompt's regions; with `count` shapes its parts go to them in order, and boxes mean nothing."""
    if count is None:
        return parse(prompt, negative, settings.layout, settings.ratios, settings.base_ratio, settings.flip,
                     settings.flip_prompts)
    tree = parse(prompt, negative, "columns", ",".join("1" * MOST), settings.base_ratio,
                 flip_prompts=settings.flip_prompts)
    if len(tree.cells) != count and not is_plain(tree):
        raise ValueError(f"Regions: the prompt has {len(tree.cells)} parts, the layout "
                         f"{LAYOUTS[settings.layout].label} {count} regions; write a part for each, with "
                         "BREAK between them")
    return tree._replace(notes=tuple(note for note in tree.notes if note.source != "ratios"))


def is_plain(tree: Tree) -> bool:
    """Is it one prompt for the whole picture, which needs nothing of us?"""
    return tree.base is None and len(tree.cells) == 1 and tree.cells[0].text == tree.whole


def base_of(tree: Tree) -> str:
    """What the host itself is to read: nothing in it parts prompts or weighs all of them."""
    if is_plain(tree):
        return tree.whole
    text = tree.whole if tree.base is None else tree.base
    text = re.sub(r"\bAND\b", "and", text)
    return re.sub(r":\s*[-+]?[.\d]+\s*\Z", r"\g<0>,", text)


def draw_masks(settings: Settings, tree: Tree, size: Size) -> MaskSet:
    """The tree's regions on a canvas of that many rows and columns; what they leave open is the base's."""
    if settings.layout in TILED:
        masks = [box_mask(cell.box, size) for cell in tree.cells]
    else:
        masks = list(draw_shapes(settings, size))
    regions = [Region(mask, base_ratio=cell.base_ratio, start=settings.start_percent,
                      end=settings.end_percent) for mask, cell in zip(masks, tree.cells, strict=True)]
    return gather(regions, size, [settings.feather] * len(regions))


def lay_over(image, settings: Settings, tree: Tree):
    """A finished picture of Pillow's with the regions' colours over it."""
    from PIL import Image
    masks = draw_masks(settings, tree, (image.height, image.width))
    pixels = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8)
    picture = pixels.view(image.height, image.width, 3) / 255
    shown = overlay(picture, masks.shares(tuple(range(len(masks.regions)))))
    return Image.fromarray((shown * 255).round().byte().numpy())


def tell_notes(tree: Tree) -> Iterator[str]:
    return (f"{note.source}, character {note.at + 1}: {note.text}" for note in tree.notes)


def tell(tree: Tree) -> str:
    """What was read, and what is doubtful about it, a line each."""
    if is_plain(tree):
        return "\n".join([PLAIN, *tell_notes(tree)])
    lines = [f"base: {base_of(tree)}", f"negative: {tree.negative}"]
    for number, cell in enumerate(tree.cells, 1):
        own = "" if cell.negative == tree.negative else f" (negative: {cell.negative})"
        lines.append(f"region {number}: {cell.text}{own}")
    return "\n".join([*lines, *tell_notes(tree)])
