"""The regions of a conditioning, laid over a finished picture: who painted what."""
from __future__ import annotations

import torch
from comfy_api.latest import io

from ..controls.preview import overlay
from ..controls.regions import MaskSet
from .latent_regions import LAYOUT
from .regional import KEY


def masks_of(conditioning: list) -> MaskSet:
    """The regions that a conditioning carries, in either mode; ValueError for one without."""
    for _, values in conditioning:
        if KEY in values:
            return values[KEY].masks
        if LAYOUT in values:
            return values[LAYOUT]
    raise ValueError("Region overlay: this conditioning has no regions; connect `positive` of Tweedie "
                     "Regional Prompt or Tweedie Regions")


class TweedieRegionOverlay(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TweedieRegionOverlay", display_name="Tweedie Region Overlay", category="tweedie/regions",
            description="Lays the regions' colours over the picture that was painted with them.",
            inputs=[io.Image.Input("image"), io.Conditioning.Input("positive"),
                    io.Float.Input("opacity", default=0.45, min=0.0, max=1.0, step=0.05)],
            outputs=[io.Image.Output()])

    @classmethod
    def execute(cls, image, positive, opacity) -> io.NodeOutput:
        masks = masks_of(positive)
        shares = masks.shares(tuple(range(len(masks.regions))))
        return io.NodeOutput(torch.stack([overlay(picture[..., :3], shares, opacity) for picture in image]))


NODES = [TweedieRegionOverlay]
