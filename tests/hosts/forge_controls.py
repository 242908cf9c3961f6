"""Engine: Forge, reForge or Neo with tiny control nets, as far as their own files hold what controls meet."""
import contextlib
import sys
from types import SimpleNamespace
from unittest.mock import MagicMock

import torch
from hosts.test_forge_regions import SCALE, SHAPE, Model, forge_unet, reforge_unet
from hosts.test_forge_spectral import FOUND, forge, give, load, reforge
from torch import nn
from tweedie_pack.extensions_a1111 import controls_panel
from tweedie_pack.extensions_a1111.controls_chain import blend_chain
from webui_standins import TABLE, noise

SIZE, SIGMAS = (8, 12), (8.0, 4.0, 2.0, 1.0)


class Sampling:
    """The hosts' discrete predictions, as far as controls ask them."""

    sigmas = TABLE

    def timestep(self, sigma):
        return (sigma[:, None] - TABLE).abs().argmin(1)

    def calculate_input(self, sigma, x):
        return x / (sigma.reshape(-1, 1, 1, 1) ** 2 + 1).sqrt()

    def percent_to_sigma(self, percent):
        ends = {0.0: 999999999.9, 1.0: 0.0}
        return ends[percent] if percent in ends else float(TABLE[round((1 - percent) * 999)])


class Controlled(Model):
    def __init__(self, unet, keeper):
        super().__init__(unet, keeper)
        setattr(self, keeper, Sampling())
        self.computation_dtype = torch.float32

    def apply_model(self, x, t, c_crossattn=None, control=None, transformer_options=None, **options):
        sampling = getattr(self, "predictor", None) or self.model_sampling
        said = self.diffusion_model(
            sampling.calculate_input(t, x), sampling.timestep(t).float(), context=c_crossattn,
            control=control, transformer_options=transformer_options or {})
        return x - 0.1 * t[:, None, None, None] * said


def forge_controls(monkeypatch, root):
    """Their ControlNet's module and apply function, and their control nets' class."""
    operations = sys.modules["backend.operations"]
    operations.ForgeOperations, operations.ForgeWeights = object, type("ForgeWeights", (), {})
    for name in ("backend.state_dict", "backend.logging", "backend.patcher.controlnet",
                 "backend.nn.cnets.t2i_adapter"):
        give(monkeypatch, name, MagicMock())
    load(monkeypatch, "backend.misc.image_resize", root / "backend/misc/image_resize.py")
    nets = load(monkeypatch, "backend.nn.cnets.cldm", root / "backend/nn/cnets/cldm.py")
    controls = load(monkeypatch, "backend.patcher.controlnet", root / "backend/patcher/controlnet.py")
    return controls, controls.apply_controlnet_advanced, nets.ControlNet


def reforge_controls(monkeypatch, root):
    folder = root / "ldm_patched"
    sys.modules["ldm_patched.modules.ops"].CastWeightBiasOp = type("CastWeightBiasOp", (), {})
    sys.modules["ldm_patched.modules.ops"].cleanup_cache = lambda: None
    sys.modules["ldm_patched.modules.utils"].common_upscale = (
        lambda samples, width, height, method, crop: nn.functional.interpolate(samples, (height, width)))
    for name in ("modules.model_detection", "modules.latent_formats", "t2ia.adapter", "controlnet.mmdit",
                 "ldm.cascade.controlnet", "ldm.hydit.controlnet", "ldm.flux.controlnet",
                 "controlnet.dit_embedder"):
        give(monkeypatch, f"ldm_patched.{name}", MagicMock())
    for name in ("controlnet.control_types", "controlnet.cldm", "modules.controlnet"):
        load(monkeypatch, f"ldm_patched.{name}", folder / f"{name.replace('.', '/')}.py")
    apply = load(monkeypatch, "modules_forge.controlnet", root / "modules_forge/controlnet.py")
    return (sys.modules["ldm_patched.modules.controlnet"], apply.apply_controlnet_advanced,
            sys.modules["ldm_patched.controlnet.cldm"].ControlNet)


class Engine(SimpleNamespace):
    """One of the hosts. calls, encoded: rows of each call of each control net, and of its hint's encoder.

    weighs: whether its controls have advanced weightings, which reForge keeps and does not use.
    """

    def new_net(self, seed):
        net = self.net_class(image_size=32, hint_channels=3, hint_width=16, legacy=False, dtype=torch.float32,
                             **SHAPE).eval().requires_grad_(False)
        torch.manual_seed(seed)
        for parameter in net.parameters():
            nn.init.normal_(parameter, std=0.15)
        for part, rows in ((net.time_embed, self.calls[seed]), (net.input_hint_block, self.encoded[seed])):
            part.register_forward_pre_hook(lambda module, inputs, rows=rows: rows.append(len(inputs[0])))
        return net

    def pass_of(self, *units):
        """p with these units, each (net's number, options of apply_controlnet_advanced)."""
        unet = self.patcher(Controlled(self.unet, self.keeper), load_device="cpu", offload_device="cpu")
        for number, (net, options) in enumerate(units):
            hint = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(10 + number))
            given = dict(strength=1.0, start_percent=0.0, end_percent=1.0) | options
            control = self.controls.ControlNet(self.nets[net], load_device="cpu")
            unet = self.apply(unet, control, hint, **given)
        guide = SimpleNamespace(step=0, total_steps=len(SIGMAS), skip_uncond=False)
        sd_model = SimpleNamespace(forge_objects=SimpleNamespace(unet=unet), is_inpaint=False)
        return SimpleNamespace(sampler=SimpleNamespace(model_wrap_cfg=guide), seeds=[0], sd_model=sd_model)

    def run(self, p, names=None, scale=SCALE, rows=1):
        """Guided estimates of all steps, as the host's sampler asks for them; names: the panel's, or none."""
        x, guide, got = noise(rows, 1, SIZE), p.sampler.model_wrap_cfg, []
        for counted in (*self.calls, *self.encoded):
            counted.clear()
        settings = controls_panel.read([{"enabled": True, **(names or {})}])
        with torch.inference_mode(), contextlib.ExitStack() as stack:
            if names is not None:
                stack.enter_context(blend_chain(settings, p))
            unet = p.sd_model.forge_objects.unet
            self.sampling.sampling_prepare(unet, x)
            for guide.step, sigma in enumerate(SIGMAS):
                out = self.sample(*asked(p, x, sigma, scale))
                got.append((out if isinstance(out, torch.Tensor) else out[0]).clone())
            self.sampling.sampling_cleanup(unet)
        return torch.stack(got)


def asked(p, x, sigma, scale):
    """What the host's denoiser hands its sampling function: a text for each picture, and a negative one."""
    texts = [torch.randn(len(x), 7, 6, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    params = SimpleNamespace(x=x, sigma=torch.full((len(x),), sigma), text_cond=texts[0],
                             text_uncond=texts[1], image_cond=None)
    denoiser = SimpleNamespace(inner_model=SimpleNamespace(inner_model=p.sd_model), p=p)
    return denoiser, params, scale, [[(number, 1.0)] for number in range(len(x))]


def make_engine(monkeypatch, host):
    root, is_reforge = FOUND[host], host == "REFORGE"
    (reforge if is_reforge else forge)(monkeypatch, root)
    unet = (reforge_unet if is_reforge else forge_unet)(monkeypatch, root).eval().requires_grad_(False)
    torch.manual_seed(0)
    for parameter in unet.parameters():
        nn.init.normal_(parameter, std=0.15)
    controls, apply, net_class = (reforge_controls if is_reforge else forge_controls)(monkeypatch, root)
    if is_reforge:
        sampling, patcher = (load(monkeypatch, f"modules_forge.{name}", root / f"modules_forge/{name}.py")
                             for name in ("forge_sampler", "unet_patcher"))
        keeper, sample = "model_sampling", sampling.forge_sample
    else:
        give(monkeypatch, "backend.modules.k_model", MagicMock())
        patcher = load(monkeypatch, "backend.patcher.unet", root / "backend/patcher/unet.py")
        sampling = sys.modules["backend.sampling.sampling_function"]
        keeper, sample = "predictor", sampling.sampling_function
    memory = sys.modules[
        "ldm_patched.modules.model_management" if is_reforge else "backend.memory_management"]
    memory.get_torch_device = memory.unet_offload_device = lambda: torch.device("cpu")
    engine = Engine(memory=memory, controls=controls, apply=apply, net_class=net_class, sampling=sampling,
                    unet=unet, patcher=patcher.UnetPatcher, keeper=keeper, sample=sample, calls=[[], []],
                    encoded=[[], []], weighs=not is_reforge)
    engine.nets = [engine.new_net(seed) for seed in range(2)]
    return engine
