"""The door on the real scheduler code of Forge, reForge and Neo; the rest of the host is stand-ins.

FORGE_PATH, REFORGE_PATH and NEO_PATH are checkouts; no web UI is started and nothing of them is installed.
"""
import contextlib
import importlib.util
import os
import pathlib
import sys
from collections import namedtuple
from types import ModuleType, SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch
from torch import nn
from tweedie_pack.samplers import flow
from tweedie_pack.samplers.schedules import SCHEDULES

FOUND = {name: pathlib.Path(os.environ[f"{name}_PATH"]) for name in ("FORGE", "REFORGE", "NEO")
         if os.environ.get(f"{name}_PATH")}
if not FOUND:
    pytest.skip("set FORGE_PATH, REFORGE_PATH or NEO_PATH to test on their code", allow_module_level=True)
STANDINS = [
    "gradio", "k_diffusion", "k_diffusion.sampling", "k_diffusion.external", "k_diff", "k_diff.k_diffusion",
    "k_diff.k_diffusion.sampling", "k_diff.k_diffusion.external", "ldm_patched",
    "ldm_patched.k_diffusion", "ldm_patched.k_diffusion.external", "ldm_patched.ldm",
    "ldm_patched.ldm.modules", "ldm_patched.ldm.modules.diffusionmodules",
    "ldm_patched.ldm.modules.diffusionmodules.util", "ldm_patched.modules",
    "ldm_patched.modules.model_sampling", "modules_forge", "modules_forge.forge_sampler", "backend",
    "backend.sampling", "backend.args", "backend.sampling.sampling_function", "diffusers",
    "diffusers.pipelines", "diffusers.pipelines.flux", "diffusers.pipelines.flux.pipeline_flux",
]


class Sampler:
    def __init__(self, funcname):
        self.funcname, self.config = funcname, SimpleNamespace(name="test", options={})


class CFGDenoiser(nn.Module):
    def __init__(self, sampler):
        super().__init__()
        self.model_wrap = None


class CompVisDenoiser(nn.Module):
    """reForge's denoiser copies its table from `alphas_cumprod`, as A1111's does."""

    def __init__(self, model, quantize=False):
        super().__init__()
        self.register_buffer("sigmas", ((1 - model.alphas_cumprod) / model.alphas_cumprod).sqrt())

    def get_sigmas(self, steps):
        falling = self.sigmas.flip(0)[:: len(self.sigmas) // steps][:steps]
        return torch.cat([falling, falling.new_zeros(1)])


def img2img_steps(p, steps=None):
    return p.steps, int(min(p.denoising_strength, 0.999) * p.steps)


def load(path, name):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def standin_modules(sd_model):
    """The host's `modules` package without its files."""
    options = SimpleNamespace(hide_schedulers=[], hide_samplers=[], sd_sampling="A1111", sigma_min=0,
                              sigma_max=0, rho=0, always_discard_next_to_last_sigma=False,
                              use_old_karras_scheduler_sigmas=False, enable_quantization=False,
                              forbidden_knowledge=False)
    data = namedtuple("SamplerData", ["name", "constructor", "aliases", "options"])
    common = MagicMock(SamplerData=data, Sampler=Sampler, setup_img2img_steps=img2img_steps)
    return {"shared": SimpleNamespace(opts=options, sd_model=sd_model, device="cpu"),
            "sd_samplers_common": common,
            "sd_samplers_cfg_denoiser": SimpleNamespace(CFGDenoiser=CFGDenoiser),
            "scripts": SimpleNamespace(Script=object, AlwaysVisible=object()),
            "devices": SimpleNamespace(cpu="cpu"),
            "script_callbacks": MagicMock(), "sd_samplers_extra": MagicMock(), "sd_samplers_lcm": MagicMock(),
            "sd_samplers_timesteps": SimpleNamespace(samplers_data_timesteps=[]),
            "sd_samplers_kdiffusion_smea": MagicMock()}


class Fixture(SimpleNamespace):
    """name, sd_model, and the door's module as that host would have it."""


@pytest.fixture(params=FOUND)
def door(request, monkeypatch):
    root = FOUND[request.param]
    sd_model = SimpleNamespace(is_sd1=True, is_sdxl=False, is_webui_legacy_model=lambda: True)
    for name in STANDINS:
        monkeypatch.setitem(sys.modules, name, MagicMock())
    package = ModuleType("modules")
    monkeypatch.setitem(sys.modules, "modules", package)
    for name, value in standin_modules(sd_model).items():
        setattr(package, name, value)
        monkeypatch.setitem(sys.modules, f"modules.{name}", value)
    give_model(root, request.param, sd_model)
    for name in ("sd_schedulers", "sd_samplers_kdiffusion", "sd_samplers"):
        monkeypatch.setitem(sys.modules, f"modules.{name}", None)
        setattr(package, name, load(root / "modules" / f"{name}.py", f"modules.{name}"))
    name = "tweedie_pack.extensions_a1111.schedules"
    monkeypatch.delitem(sys.modules, name, raising=False)
    schedules = load(pathlib.Path(__file__).resolve().parents[2] / "extensions_a1111" / "schedules.py", name)
    schedules.register()
    yield Fixture(name=request.param, sd_model=sd_model, schedules=schedules, modules=package)
    schedules.unregister()
    monkeypatch.delitem(sys.modules, name, raising=False)


def give_model(root, name, sd_model):
    """A v model's table, in the host's real class."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    if name == "REFORGE":
        util = sys.modules["ldm_patched.ldm.modules.diffusionmodules.util"]
        util.make_beta_schedule = lambda *arguments, **options: betas
        file = root / "ldm_patched" / "modules" / "model_sampling.py"
        sampling = load(file, "ldm_patched.modules.model_sampling")
        kind = type("ModelSampling", (sampling.ModelSamplingDiscrete, sampling.V_PREDICTION), {})
        model = SimpleNamespace(model_sampling=kind())
        sd_model.alphas_cumprod, sd_model.parameterization = (1 - betas).cumprod(0).float(), "v"
        for package in ("k_diff.k_diffusion.external", "ldm_patched.k_diffusion.external"):
            sys.modules[package].CompVisVDenoiser = sys.modules[package].CompVisDenoiser = CompVisDenoiser
    else:
        predictions = load(root / "backend" / "modules" / "k_prediction.py", "backend.modules.k_prediction")
        model = SimpleNamespace(predictor=predictions.Prediction(
            sigma_data=1.0, prediction_type="v_prediction", beta_schedule="linear", linear_start=0.00085,
            linear_end=0.012, timesteps=1000))
        folder = root / ("modules_forge/packages/k_diffusion" if name == "NEO" else "k_diffusion")
        sys.modules["k_diffusion"].external = load(folder / "external.py", "k_diffusion.external")
        sys.modules["backend.args"].dynamic_args.klein = False
    sd_model.forge_objects = SimpleNamespace(unet=MagicMock(model=model))


def new_pass(door, scheduler):
    sampler = door.schedules.make_sampler(door.sd_model)
    return SimpleNamespace(sampler=sampler, sd_model=door.sd_model, scheduler=scheduler, hr_scheduler=None,
                           is_hr_pass=False, sampler_noise_scheduler_override=None, steps=8,
                           extra_generation_params={}, denoising_strength=0.5)


def test_every_schedule_runs_in_the_hosts_get_sigmas(door):
    for plugin in SCHEDULES.values():
        p = new_pass(door, f"Tweedie {plugin.label}")
        sigmas = p.sampler.get_sigmas(p, 8)
        torch.testing.assert_close(sigmas, plugin(8, p.sampler.model_wrap.sigmas))
        assert p.extra_generation_params["Schedule type"] == f"Tweedie {plugin.label}"


def test_the_hosts_tables_hold_ours_once_and_lose_them_again(door):
    door.schedules.register()
    names = [row.name for row in door.modules.sd_schedulers.schedulers]
    assert [name for name in names if name.startswith("tweedie_")] == [f"tweedie_{id}" for id in SCHEDULES]
    samplers, pair = door.modules.sd_samplers, ("Tweedie 2M", "Tweedie Log-SNR")
    assert samplers.get_sampler_and_scheduler(*pair) == pair
    assert [data.name for data in samplers.all_samplers].count("Tweedie 2M") == 1
    if door.name == "NEO":
        rows = door.modules.sd_schedulers.all_schedulers
        assert [row.name for row in rows if row.name.startswith("tweedie_")] == names[-len(SCHEDULES):]
    door.schedules.unregister()
    assert not any("weedie" in str(name) for name in door.modules.sd_schedulers.schedulers_map)
    assert "Tweedie 2M" not in samplers.all_samplers_map and "tweedie 2m" not in samplers.samplers_map


def test_a_pass_at_zero_snr_changes_the_hosts_table_and_puts_it_back_bit_for_bit(door):
    p, host = new_pass(door, "Tweedie Trailing"), door.schedules.host
    keeper = host.sigma_keeper(door.sd_model)
    before, x = (keeper.sigmas, keeper.log_sigmas), torch.zeros(1, 4, 64, 64)
    unet, func = door.sd_model.forge_objects.unet, p.sampler.func
    settings = door.schedules.Settings(zero_snr=True)
    with pytest.raises(RuntimeError), door.schedules.one_pass(settings, p, x, None, False):
        assert abs(float(p.sampler.get_sigmas(p, 8)[0]) - 4518.76) < 0.1
        assert abs(float(keeper.sigmas[-1]) - 4518.76) < 0.1
        assert torch.equal(keeper.log_sigmas, keeper.sigmas.log())
        assert p.sampler.func is not func
        unet.clone.return_value.set_model_sampler_post_cfg_function.assert_called_once()
        assert door.sd_model.forge_objects.unet is unet.clone.return_value
        raise RuntimeError("in the middle of the run")
    assert keeper.sigmas is before[0] and keeper.log_sigmas is before[1]
    assert door.sd_model.forge_objects.unet is unet
    assert p.sampler.func is func and "get_sigmas" not in vars(p.sampler)


@pytest.mark.parametrize("mode", ["sigma", "log_snr"])
def test_denoise_mode_survives_the_hosts_slicing(door, mode):
    p = new_pass(door, "Tweedie Karras")
    settings, x = door.schedules.Settings(denoise_mode=mode, shift_rule="sqrt"), torch.zeros(1, 4, 128, 128)
    with door.schedules.one_pass(settings, p, x, None, True):
        total, last_step = img2img_steps(p)
        sigmas = p.sampler.get_sigmas(p, total)[total - last_step - 1:]
    table = p.sampler.model_wrap.sigmas
    expected = flow.cut(lambda steps, table: flow.shift_sigmas(SCHEDULES["karras"](steps, table), table, 2.0),
                        last_step + 1, table, 0.5, mode)
    torch.testing.assert_close(sigmas, expected)


def test_an_error_names_what_to_do(door):
    p = new_pass(door, "Karras")
    with pytest.raises(ValueError, match="pick a Tweedie schedule"), contextlib.ExitStack() as stack:
        stack.enter_context(door.schedules.one_pass(
            door.schedules.Settings(last_sigma=0.1), p, torch.zeros(1, 4, 64, 64), None, False))
