"""A stand-in for sd-webui-controlnet: units, their nets, and what its hook adds up for the model."""
import contextlib
import enum
from types import SimpleNamespace

import control_nets
import torch
from torch import nn
from webui_regional import regional_script
from webui_standins import forget, noise


class Kind(enum.Enum):
    ControlNet, T2I_Adapter, AttentionInjection = range(3)

    @property
    def is_controlnet(self):
        return self is Kind.ControlNet


class Net(control_nets.ControlNet):
    """[3] residuals of a UNet's two sizes, the last for its middle."""

    def forward(self, x, hint, timesteps, context, y=None, control_type=None):
        said = super().forward(x, hint, timesteps, context)
        return [one for one in (*said["output"], *said["middle"]) if one is not None]


class PlugableControlModel(nn.Module):
    is_control_lora = False

    def __init__(self, seed):
        super().__init__()
        self.control_model = control_nets.new_net(Net, seed)

    def forward(self, *arguments, **options):
        return self.control_model(*arguments, **options)


class PlugableAdapter(nn.Module):
    """Four features of its hint, which it keeps until the next picture."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.control_model, self.control = nn.Conv2d(3, 8, 2, 2), None

    def forward(self, hint=None, x=None, **options):
        if self.control is None:
            features = self.control_model(hint)
            self.control = [features * factor for factor in (1, 2, 3, 4)]
        return [one.clone() for one in self.control]


class Param(SimpleNamespace):
    """A unit as the extension keeps it for a run. hires: the passes it is for, if not all."""

    def disabled_by_hr_option(self, is_in_high_res_fix):
        return self.hires is not None and self.hires != is_in_high_res_fix


def make_unit(net, hint=0, kind=Kind.ControlNet, name="none", **changes):
    given = dict(weight=1.0, start=0.0, end=1.0, guidance_stopped=False, soft_injection=False, hires=None,
                 cfg_injection=False, global_average_pooling=False, advanced_weighting=None,
                 effective_region_mask=None)
    return Param(control_model=net, control_model_type=kind, preprocessor={"name": name},
                 used_hint_cond=noise(1, 20 + hint, (16, 24))[:, :3], **given | changes)


def scales_of(param, hires, places):
    """Of each residual: the extension's own list, by depth where the prompt is to be more important."""
    if param.advanced_weighting is not None:
        return param.advanced_weighting
    sharp = hires and any(word in param.preprocessor["name"] for word in ("canny", "mlsd"))
    if not (param.soft_injection or sharp):
        return [param.weight] * places
    soft = (0.25, 0.62, 0.825, 1.0) if param.control_model_type is Kind.T2I_Adapter else [
        0.825 ** float(12 - place) for place in range(13)]
    return [param.weight * factor for factor in soft]


def hook(network, x, timesteps, context, places=13):
    """Sums for the places of nets and for the 4 of adapters; 0.0 where nothing is added."""
    nets, adapters, mark = [0.0] * places, [0.0] * 4, network.model.cond_mark
    for param in network.control_params:
        is_adapter = param.control_model_type is Kind.T2I_Adapter
        if param.guidance_stopped or param.disabled_by_hr_option(network.is_in_high_res_fix) or not (
                is_adapter or param.control_model_type.is_controlnet):
            continue
        said = param.control_model(x=x, hint=param.used_hint_cond, timesteps=timesteps, context=context,
                                   y=None, control_type=None)
        if param.cfg_injection or param.global_average_pooling:
            said = [one * mark for one in said]
        scales = scales_of(param, network.is_in_high_res_fix, places)
        said = [one * scale for one, scale in zip(said, scales, strict=False)]
        if param.effective_region_mask is not None:
            said = [one * nn.functional.interpolate(
                param.effective_region_mask, one.shape[-2:], mode="bilinear") for one in said]
        if param.global_average_pooling:
            said = [one.mean((2, 3), keepdim=True) for one in said]
        target = adapters if is_adapter else nets
        for place, one in enumerate(said):
            target[place] = one + target[place]
    return nets, adapters


class Sampler:
    """Asks for the controls of two pictures and their negative prompts at every step; fails at `fails`."""

    def __init__(self, network, steps, places):
        self.network, self.places, self.fails = network, places, None
        self.model_wrap_cfg = SimpleNamespace(step=0, total_steps=steps)

    def sample(self, p, x, steps=None):
        guide, sums, network = self.model_wrap_cfg, [], self.network
        network.model.cond_mark = torch.tensor([1.0, 1.0, 0.0, 0.0]).reshape(-1, 1, 1, 1)
        context = torch.cat([noise(2, 3), noise(2, 4)]).mean(2)[:, :, :4]
        for step in range(guide.total_steps):
            guide.step = step
            for param in network.control_params:
                param.guidance_stopped = not param.start <= step / guide.total_steps <= param.end
            with torch.no_grad():
                rows = x.repeat(2, 1, 1, 1) * (1 - step / 10)
                sums.append(hook(network, rows, torch.full((4,), float(step)), context, self.places))
            if step == self.fails:
                raise RuntimeError("interrupted")
        return sums

    sample_img2img = sample


def make_run(*units, steps=4, hires=False, places=13, batch="All ControlNet units for all images in a batch"):
    """p with these units, as the extension has set them up before its pass."""
    network = SimpleNamespace(control_params=list(units), is_in_high_res_fix=hires, model=SimpleNamespace())
    script = SimpleNamespace(title=lambda: "ControlNet", latest_network=network,
                             ui_batch_option_state=[batch, False])
    other = SimpleNamespace(title=lambda: "Another")
    return SimpleNamespace(scripts=SimpleNamespace(alwayson_scripts=[other, script]),
                           sampler=Sampler(network, steps, places), sd_model=SimpleNamespace(),
                           extra_generation_params={})


@contextlib.contextmanager
def controls_script(monkeypatch):
    """The panel's module, with stand-ins for gradio and the host."""
    with regional_script(monkeypatch):
        from tweedie_pack.extensions_a1111 import controls
        yield controls
        forget("controls")


def through(controls, p, names):
    """A run as the host makes it: hooks, which may not raise, then the pass."""
    script = controls.TweedieControlBlend()
    script.process(p, names)
    script.process_before_every_sampling(p, names)
    return p.sampler.sample(p, noise(2, 1))


def alone(p):
    return p.sampler.sample(p, noise(2, 1))


def differ(got, expected):
    return any(not torch.allclose(a, b) for step, other in zip(got, expected, strict=True)
               for place, one in zip(step, other, strict=True)
               for a, b in zip(place, one, strict=True) if not isinstance(a, float))
