"""What a TweedieRegion holds until the picture's size is known: (place, canvas) -> Region."""
from __future__ import annotations

from typing import Any, NamedTuple

import torch

from ..controls.masks import SIDE, box_mask, fit
from ..controls.regions import Region


class Place(NamedTuple):
    """region: as asked, its mask painted, or [1,1] where `whole`; box: left, top, right, bottom in pixels."""

    region: Region
    whole: bool
    box: tuple[float, float, float, float] | None
    texts: list
    negatives: list | None
    feather: float
    lora: tuple[str, float] | None

    def draw(self, size: tuple[int, int]) -> Region:
        """The region on a canvas of that many rows and columns; a box cuts a mask."""
        if self.box is None:
            return self.region._replace(mask=torch.ones(size)) if self.whole else self.region
        left, top, right, bottom = self.box
        box = box_mask((left / size[1], top / size[0], right / size[1], bottom / size[0]), size)
        return self.region._replace(mask=box if self.whole else box * fit(self.region.mask, size))


def first_box(box: Any) -> tuple[float, float, float, float] | None:
    """A BOUNDING_BOX, or the first of a list of them, or of lists of them."""
    while isinstance(box, (list, tuple)):
        if not box:
            raise ValueError("Region: its list of boxes is empty; nothing was found to put a region on")
        box = box[0]
    if box is None:
        return None
    x, y, width, height = (float(box[side]) for side in ("x", "y", "width", "height"))
    if not (abs(x) < SIDE and abs(y) < SIDE and 0 < width < SIDE and 0 < height < SIDE):
        raise ValueError(f"Region: its box is {box}; give x, y and a width and height above 0, in pixels")
    return x, y, x + width, y + height


def canvas(places: list[Place], width: int, height: int) -> tuple[int, int]:
    """Rows and columns: as given, else of the largest mask; ValueError for boxes and neither."""
    if width and height:
        return height, width
    sizes = [tuple(place.region.mask.shape[-2:]) for place in places if not place.whole]
    if not sizes and any(place.box is not None for place in places):
        raise ValueError("Regions: boxes are in pixels, and the picture's size is not known; set width and "
                         "height")
    return max(sizes, key=lambda size: size[0] * size[1], default=(64, 64))


def one_text(conditioning: list, name: str) -> list:
    if len(conditioning) != 1:
        raise ValueError(f"{name}: its conditioning holds {len(conditioning)} prompts; join them by "
                         "Conditioning Concat, or make a region of each")
    return conditioning
