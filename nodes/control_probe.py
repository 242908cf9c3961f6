"""A picture of what the controls of a blend did in a run: each one's share by step and layer."""
from __future__ import annotations

from comfy_api.latest import io, ui

from ..samplers.shares import draw_shares, stack
from .blended import BlendControl
from .controls import CATEGORY


class TweedieControlProbe(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TweedieControlProbe", display_name="Tweedie Control Probe", category=CATEGORY,
            description="Draws how much each control of Tweedie Control Blend says at every step and layer, "
                        "and when its net is not called at all.",
            search_aliases=["controlnet strength", "plot controlnet"],
            inputs=[io.Conditioning.Input("positive", tooltip="Of Tweedie Control Blend."),
                    io.Latent.Input("latent", tooltip="The sampler's, so that this is drawn after the run.")],
            outputs=[io.Image.Output()], is_output_node=True)

    @classmethod
    def execute(cls, positive, latent) -> io.NodeOutput:
        blend = next((values["control"].blend for _, values in positive
                      if isinstance(values.get("control"), BlendControl)), None)
        if blend is None:
            raise ValueError("Control probe: this conditioning carries no blend; connect `positive` of "
                             "Tweedie Control Blend")
        if not any(any(entry.energies) for entry in blend.record):
            raise ValueError("Control probe: no control has acted; sample with these prompts, and with a "
                             "weight above 0")
        names = [f"control {number}" for number in range(1, len(blend.children) + 1)]
        image = draw_shares(stack([entry.energies for entry in blend.record]),
                            [entry.why for entry in blend.record], names)[None]
        return io.NodeOutput(image, ui=ui.PreviewImage(image, cls=cls))


NODES = [TweedieControlProbe]
