"""A picture of what guidance did in a run: energy per octave over its steps, and where it was moved to."""
from __future__ import annotations

from dataclasses import dataclass, field

import comfy.patcher_extension
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..samplers.spectrum import draw_energy, draw_map, join, octave_energy
from ..samplers.table import to_edm
from .model import is_flow
from .run import packed
from .spectral import CATEGORY

Probe = io.Custom("TWEEDIE_PROBE")


@dataclass
class Record:
    """The last run of a model, on its device until `finish`; of a batch, the first picture.

    steps: e [1] and the delta's energy per octave [6] before and after all pre-CFG hooks. plain, moved [*S]:
    where that energy lay, as shares of the plain one, added up over the steps. x0: the last guided estimate
    [1,C,*S].
    """

    steps: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)
    plain: Tensor | float = 0.0
    moved: Tensor | float = 0.0
    x0: Tensor | None = None
    picture: Tensor | None = None

    def add(self, args: dict, plain: Tensor) -> None:
        uncond = args["conds_out"][1][:1].float()
        moved = args["conds_out"][0][:1].float() - uncond
        e = to_edm(args["sigma"][:1].float(), is_flow(args["model"].model_sampling))
        self.steps.append((e, octave_energy(plain), octave_energy(moved)))
        total = plain.square().sum().clamp_min(1e-20)  # else the first steps would be all that counts
        self.plain = self.plain + plain[0].square().sum(0) / total
        self.moved = self.moved + moved[0].square().sum(0) / total
        self.x0 = uncond + moved * args["cond_scale"]

    def finish(self, latent_format) -> None:
        """Bring all to the CPU, and the estimate to a picture."""
        if self.x0 is None:
            return
        self.picture = colours(latent_format, self.x0.cpu())
        self.steps = [tuple(part.cpu() for part in step) for step in self.steps]
        self.plain, self.moved, self.x0 = self.plain.cpu(), self.moved.cpu(), None


def middle(latent: Tensor) -> Tensor:
    """[..,H,W] of [..,T,H,W]: the frame in the middle."""
    return latent[..., latent.shape[-3] // 2, :, :]


def colours(latent_format, x0: Tensor) -> Tensor:
    """A rough picture [H,W,3] in 0..1 of x0 [1,C,*S] by the host's own factors, else in grey."""
    latent = middle(x0[0]) if x0.ndim == 5 else x0[0]
    factors = latent_format.latent_rgb_factors
    if factors is None or len(factors) != len(latent):
        grey = latent.mean(0)
        grey = (grey - grey.min()) / (grey.max() - grey.min()).clamp_min(1e-6)
        return grey[..., None].expand(-1, -1, 3)
    bias = latent.new_tensor(latent_format.latent_rgb_factors_bias or [0, 0, 0])
    rgb = torch.einsum("chw,cd->hwd", latent, latent.new_tensor(factors)) + bias
    return (rgb / 2 + 0.5).clamp(0, 1)


def watch(record: Record):
    """OUTER_SAMPLE: one hook before and one behind all that this run has, in its own model options."""
    def wrapper(executor, *args, **kwargs):
        guider, before = executor.class_obj, []

        def first(args):
            before[:] = []
            if args["conds"][1] is not None and not packed(args):
                before.append(args["conds_out"][0][:1].float() - args["conds_out"][1][:1].float())
            return args["conds_out"]

        def last(args):
            if before:
                record.add(args, before.pop())
            return args["conds_out"]

        hooks = guider.model_options.get("sampler_pre_cfg_function", [])
        guider.model_options["sampler_pre_cfg_function"] = [first, *hooks, last]
        record.__init__()  # as new
        try:
            return executor(*args, **kwargs)
        finally:
            record.finish(guider.model_patcher.model.latent_format)
    return wrapper


class TweedieGuidanceProbe(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TweedieGuidanceProbe", display_name="Tweedie Guidance Probe", category=CATEGORY,
            description="Watches guidance in a run, with whatever guidance nodes the model has. For the "
                        "picture, connect the probe and the sampler's latent to Tweedie Guidance Chart.",
            search_aliases=["guidance energy", "spectrum", "plot guidance"],
            inputs=[io.Model.Input("model")],
            outputs=[io.Model.Output(), Probe.Output(display_name="probe")])

    @classmethod
    def execute(cls, model) -> io.NodeOutput:
        patched, record = model.clone(), Record()
        patched.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, "tweedie_probe",
                                     watch(record))
        return io.NodeOutput(patched, record)


class TweedieGuidanceChart(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TweedieGuidanceChart", display_name="Tweedie Guidance Chart", category=CATEGORY,
            description="Draws what a Tweedie Guidance Probe saw: energy per octave over the steps, and over "
                        "the picture where guidance became stronger or weaker.",
            search_aliases=["guidance energy", "spectrum", "plot guidance"],
            inputs=[Probe.Input("probe"),
                    io.Latent.Input("latent", tooltip="The sampler's, so that this is drawn after the run.")],
            outputs=[io.Image.Output()], is_output_node=True)

    @classmethod
    def execute(cls, probe, latent) -> io.NodeOutput:
        if not probe.steps:
            raise ValueError("Guidance chart: the probe saw no guidance; sample with its MODEL, at a cfg "
                             "other than 1, on a latent with rows and columns")
        e, before, after = (torch.stack(parts) for parts in zip(*probe.steps, strict=True))
        plain, moved = ((middle(part) if part.ndim == 3 else part) for part in (probe.plain, probe.moved))
        ratio = (moved + 1e-12) / (plain + 1e-12)
        image = join([draw_energy(e[:, 0].tolist(), before, after),
                      draw_map(probe.picture, ratio.sqrt())])[None]
        return io.NodeOutput(image, ui=ui.PreviewImage(image, cls=cls))


NODES = [TweedieGuidanceProbe, TweedieGuidanceChart]
