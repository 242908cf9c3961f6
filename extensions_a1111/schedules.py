"""The A1111 family's "Schedule type" entries, the sampler Tweedie 2M, and the panel "Tweedie Schedules".

The panel works by passes: what a pass needs is set on instances when the pass begins, and is gone when it
ends, however it ends. No class is patched, and none of the host's options is changed.
"""
from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

import gradio as gr
import torch
from modules import script_callbacks, scripts, sd_samplers, sd_samplers_common, sd_schedulers, shared
from modules.sd_samplers_kdiffusion import KDiffusionSampler
from torch import Tensor

from ..plugin import Plugin, Range, read_knobs
from ..samplers import flow, zero_snr
from ..samplers.schedules import SCHEDULES, Last
from ..samplers.solvers import sample_2m, with_safe_start
from ..samplers.table import is_flow
from . import host, widgets
from .scope import enclose_next_pass, patched

TITLE = "Tweedie Schedules"
SAMPLER = "Tweedie 2M"
MARK = "tweedie_"  # every schedule's name begins with it
DEFAULT = MARK + "karras"


def make_scheduler(plugin: Plugin) -> sd_schedulers.Scheduler:
    """A row for the host's table. The host's own "sigma min" option, where it is set, is the last sigma."""
    def sigmas(n, sigma_min, sigma_max, inner_model, device):
        table = inner_model.sigmas
        asked = sigma_min if sigma_min != table[0].item() else 0
        last = getattr(inner_model, "tweedie_last", 0) or asked
        return plugin(n, table, **({"last": last} if last else {})).to(device)
    name, label = f"{MARK}{plugin.id}", f"Tweedie {plugin.label}"
    return sd_schedulers.Scheduler(name, label, sigmas, need_inner_model=True)


def make_sampler(sd_model: Any) -> KDiffusionSampler:
    sampler = KDiffusionSampler(sample_2m, sd_model)
    sampler.func = functools.partial(sample_2m, flow=is_flow(sampler.model_wrap.sigmas))
    return sampler


def register() -> None:
    """Put our rows into the host's tables, in place of earlier ones; the host's unloading takes them out."""
    host.load_strangers()
    unregister()
    rows = [make_scheduler(plugin) for plugin in SCHEDULES.values()]
    hidden = getattr(shared.opts, "hide_schedulers", [])  # Neo's option; there `schedulers` is what is left
    shown = [row for row in rows if row.label not in hidden]
    sd_schedulers.schedulers.extend(shown)
    sd_schedulers.schedulers_map.update({name: row for row in shown for name in (row.name, row.label)})
    if hasattr(sd_schedulers, "all_schedulers"):
        sd_schedulers.all_schedulers.extend(rows)
    data = sd_samplers_common.SamplerData(SAMPLER, make_sampler, ["tweedie_2m"], {"scheduler": DEFAULT})
    sd_samplers.all_samplers.append(data)
    sd_samplers.all_samplers_map[SAMPLER] = data
    sd_samplers.set_samplers()
    sd_samplers.get_sampler_and_scheduler.cache_clear()
    script_callbacks.on_script_unloaded(unregister)


def unregister() -> None:
    for table in (sd_schedulers.schedulers, getattr(sd_schedulers, "all_schedulers", [])):
        table[:] = [row for row in table if not row.name.startswith(MARK)]
    names = sd_schedulers.schedulers_map
    for name in [name for name, row in names.items() if row.name.startswith(MARK)]:
        del names[name]
    sd_samplers.all_samplers[:] = [data for data in sd_samplers.all_samplers if data.name != SAMPLER]
    sd_samplers.all_samplers_map.pop(SAMPLER, None)
    sd_samplers.set_samplers()
    sd_samplers.get_sampler_and_scheduler.cache_clear()


@dataclass(frozen=True)
class Settings:
    """The panel: its fields are its widgets, in the order of the API's `args`; defaults change nothing."""

    zero_snr: bool = False
    cfg_rescale: Annotated[float, Range(0, 1, 0.05, "Acts together with zero terminal SNR.")] = 0.7
    dc_start: bool = False
    shift_rule: Literal["off", "sqrt", "mu", "mu_raw", "fixed"] = "off"
    shift: Annotated[float, Range(0, 100, 0.05, "At the model's own size of picture; 0 is its own.")] = 0.0
    last_sigma: Last = 0.0
    denoise_mode: flow.DenoiseMode = "steps"

    @property
    def neutral(self) -> bool:
        return not self.infotext()

    def checked(self) -> Settings:
        """The same in the right types; ValueError names what is out of range."""
        return Settings(**{knob.name: knob.check(getattr(self, knob.name), TITLE) for knob in KNOBS})

    def infotext(self) -> dict[str, Any]:
        """What differs from the untouched host."""
        owners = {"cfg_rescale": self.zero_snr, "shift": self.shift_rule != "off" and self.shift}
        return {KEYS[field.name]: getattr(self, field.name) for field in fields(self)
                if owners.get(field.name, getattr(self, field.name) != field.default)}


KNOBS = tuple(read_knobs(Settings))
KEYS = {"zero_snr": "Tweedie zero SNR", "cfg_rescale": "Tweedie CFG rescale", "dc_start": "Tweedie DC start",
        "shift_rule": "Tweedie shift rule", "shift": "Tweedie shift", "last_sigma": "Tweedie last sigma",
        "denoise_mode": "Tweedie denoise mode"}
LABELS = {"zero_snr": "Zero terminal SNR (v-prediction models)", "cfg_rescale": "CFG rescale",
          "dc_start": "DC-calibrated start (models without zero SNR, txt2img)",
          "shift_rule": "Shift by picture size", "shift": "Shift",
          "last_sigma": "Last sigma (Tweedie schedules)", "denoise_mode": "Denoise mode (img2img, hires)"}


def check_pass(p: Any, settings: Settings) -> None:
    """Raise ValueError where the settings can't do what they say in this pass."""
    if "sigmas" not in inspect.signature(p.sampler.func).parameters:
        raise ValueError(f"{TITLE}: sampler {p.sampler.config.name} makes its own steps; pick one that "
                         f"follows the schedule type, such as {SAMPLER} or Euler, or reset the panel")
    if settings.zero_snr:
        zero_snr.refuse(host.prediction(p.sd_model))
    if settings.dc_start and (settings.zero_snr or host.prediction(p.sd_model) == "flow"):
        raise ValueError(f"{TITLE}: DC start corrects a start that still holds signal; at zero SNR there is "
                         "none, so leave it off here")
    if settings.last_sigma and not chosen_schedule(p).startswith(MARK):
        raise ValueError(f"{TITLE}: last sigma is {settings.last_sigma:g}, the schedule type is the host's "
                         f"{chosen_schedule(p)}; pick a Tweedie schedule, or set last sigma to 0")


def chosen_schedule(p: Any) -> str:
    """The name of the schedule that this pass will run on."""
    label = (p.hr_scheduler if p.is_hr_pass else p.scheduler) or "Automatic"
    if label == "Automatic":
        label = p.sampler.config.options.get("scheduler")
    row = sd_schedulers.schedulers_map.get(label)
    return row.name if row else "automatic"


def size_shift(settings: Settings, shape: tuple[int, ...], table: Tensor, reference: int) -> float:
    """What to multiply e by for a latent of this shape; 1 where the panel leaves the shift alone."""
    if settings.shift_rule == "off":
        return 1.0
    return flow.relative_shift(shape, settings.shift_rule, settings.shift, table, reference)


def cut_for_host(schedule: Callable[[int, Tensor], Tensor], p: Any, steps: int | None, table: Tensor,
                 mode: flow.DenoiseMode) -> Tensor:
    """The sigmas of a partial denoise, led by copies of the first, which the host's slicing takes off."""
    total, last_step = sd_samplers_common.setup_img2img_steps(p, steps)
    sigmas = flow.cut(schedule, last_step + 1, table, p.denoising_strength, mode)
    return torch.cat([sigmas[:1].expand(total - last_step - 1), sigmas])


@contextmanager
def steer_sigmas(p: Any, x: Tensor, steps: int | None, partial: bool, settings: Settings) -> Iterator[None]:
    """Shift by size, last sigma and denoise mode, on whatever schedule the host makes."""
    original, table = p.sampler.get_sigmas, p.sampler.model_wrap.sigmas
    shift = size_shift(settings, tuple(x.shape), table, host.reference_size(p.sd_model))
    last = torch.tensor([settings.last_sigma], dtype=torch.float64)
    before_shift = float(flow.shift_sigmas(last, table, 1 / shift))

    def get_sigmas(p, count):
        def schedule(count, table):
            return flow.shift_sigmas(original(p, count), table, shift)
        if not partial or settings.denoise_mode == "steps" or not p.denoising_strength:
            return schedule(count, table)
        return cut_for_host(schedule, p, steps, table, settings.denoise_mode)

    with patched(p.sampler.model_wrap, tweedie_last=before_shift), patched(p.sampler, get_sigmas=get_sigmas):
        yield


def from_first_step(sampler: Callable) -> Callable:
    """Set the guide's step counter back after the DC probes: prompt schedules count sampling steps only."""
    @functools.wraps(sampler)
    def wrapped(model, *arguments, **options):
        model.step = 0
        return sampler(model, *arguments, **options)
    return wrapped


@contextmanager
def one_pass(settings: Settings, p: Any, x: Tensor, steps: int | None, partial: bool) -> Iterator[None]:
    """All that the panel does to one pass, undone when it ends; raises ValueError before sampling."""
    settings = settings.checked()
    check_pass(p, settings)
    with ExitStack() as stack:
        if settings.zero_snr:
            for owner, values in host.zero_snr_changes(p.sd_model):
                stack.enter_context(patched(owner, **values))
            stack.enter_context(host.fresh_denoiser(p.sampler))
            stack.enter_context(patched(p.sampler, func=with_safe_start(p.sampler.func)))
            stack.enter_context(host.after_cfg(p, lambda step: zero_snr.rescale_cfg(
                step.x, step.sigma, step.guided, step.cond, settings.cfg_rescale)))
        if settings.dc_start and not partial:
            start = with_safe_start(from_first_step(p.sampler.func), safe_first_step=False, calibrate=True)
            stack.enter_context(patched(p.sampler, func=start))
        stack.enter_context(steer_sigmas(p, x, steps, partial, settings))
        yield


def preview(labels: list[str], steps: int, side: int, *values: Any):
    """Curves [H,W,3], uint8, of the named schedules for a square picture, as the panel would have them."""
    from ..samplers.curve import draw_curves

    try:
        settings, table = Settings(*values).checked(), host.model_table(shared.sd_model)
        table = zero_snr.rescale_table(table) if settings.zero_snr else table
        shape = (1, 4, int(side) // 8, int(side) // 8)
        shift = size_shift(settings, shape, table, host.reference_size(shared.sd_model))
        last = {"last": settings.last_sigma} if settings.last_sigma else {}
        curves = {plugin.label: flow.shift_sigmas(plugin(int(steps), table, **last), table, shift)
                  for plugin in SCHEDULES.values() if plugin.label in labels}
        return (draw_curves(curves, is_flow(table)) * 255).round().byte().cpu().numpy()
    except ValueError as error:
        raise gr.Error(str(error)) from error


class TweedieSchedules(scripts.Script):
    def title(self) -> str:
        return TITLE

    def show(self, is_img2img: bool):
        return scripts.AlwaysVisible

    def ui(self, is_img2img: bool) -> list:
        with gr.Accordion(TITLE, open=False, elem_id=self.elem_id("panel")):
            controls = [widgets.draw(knob, LABELS[knob.name], elem_id=self.elem_id(knob.name))
                        for knob in KNOBS]
            self.draw_preview(controls)
        self.infotext_fields = [(control, widgets.from_infotext(knob, KEYS[knob.name]))
                                for control, knob in zip(controls, KNOBS, strict=True)]
        self.paste_field_names = list(KEYS.values())
        return controls

    def draw_preview(self, controls: list) -> None:
        labels = [plugin.label for plugin in SCHEDULES.values()]
        with gr.Row():
            chosen = gr.Dropdown(choices=labels, value=labels[:3], multiselect=True, label="Curves")
            steps = gr.Slider(minimum=1, maximum=150, step=1, value=20, label="Steps of the curves")
            side = gr.Slider(minimum=64, maximum=4096, step=64, value=1024, label="Pixels along a side")
        button = gr.Button("Draw curves")
        picture = gr.Image(label="Sigmas", show_label=False, interactive=False)
        button.click(fn=preview, inputs=[chosen, steps, side, *controls], outputs=[picture])

    def process(self, p, *values) -> None:
        p.extra_generation_params.update(Settings(*values).infotext())

    def process_before_every_sampling(self, p, *values, **tensors) -> None:
        settings = Settings(*values)
        if not settings.neutral:
            enclose_next_pass(p.sampler, functools.partial(one_pass, settings), TITLE)
