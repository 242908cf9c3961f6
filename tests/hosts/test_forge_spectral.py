"""Spectral guidance in the real sampling functions and model patchers of Forge, reForge and Neo.

FORGE_PATH, REFORGE_PATH and NEO_PATH are checkouts; the network and what these files import are stand-ins.
"""
import copy
import importlib.util
import os
import pathlib
import sys
from types import ModuleType, SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch
from tweedie_pack.extensions_a1111 import host, weigh
from tweedie_pack.samplers.guidance import Memory, guide
from tweedie_pack.samplers.spectral import Window, reweight
from webui_standins import ACCOMPANIED, LOW, ON, TABLE, WEIGHED, estimates, noise, reading

FOUND = {name: pathlib.Path(os.environ[f"{name}_PATH"]) for name in ("FORGE", "REFORGE", "NEO")
         if os.environ.get(f"{name}_PATH")}
if not FOUND:
    pytest.skip("set FORGE_PATH, REFORGE_PATH or NEO_PATH to test on their code", allow_module_level=True)
SCALE, SIGMA = 7.0, 3.0
SINGLE, JOINED = [1.0], [1.0, 0.5]  # strengths of the prompts


def load(monkeypatch, name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    give(monkeypatch, name, module)
    spec.loader.exec_module(module)
    return module


def give(monkeypatch, name, module):
    """Importable under this name, and as its package's attribute."""
    monkeypatch.setitem(sys.modules, name, module)
    package, _, last = name.rpartition(".")
    if package:
        if package not in sys.modules:
            give(monkeypatch, package, ModuleType(package))
        setattr(sys.modules[package], last, module)
    return module


class Network:
    """Says of each row what the mean of its words picks from `shown`, and a bit of x."""

    def __init__(self, shown):
        self.shown = shown
        self.predictor = self.model_sampling = SimpleNamespace(sigmas=TABLE)

    def memory_required(self, *arguments, **options):
        return 1

    def apply_model(self, x, t, c_crossattn=None, **options):
        return self.shown[c_crossattn.mean((1, 2)).round().long()] + 0.1 * x


def words(number, rows):
    return torch.full((rows, 77, 8), float(number))


def forge(monkeypatch, root):
    for name in ("backend.patcher.lora", "backend.operations", "backend.args", "backend.float",
                 "backend.logging", "backend.quant_ops", "backend.loader_gguf", "backend.operations_gguf",
                 "backend.misc.checkpoint_pickle", "gguf", "modules_forge.packages.gguf",
                 "modules_forge.packages.comfy.weight_adapter.base"):
        give(monkeypatch, name, MagicMock())
    give(monkeypatch, "backend.memory_management", MagicMock(
        signal_empty_cache=False, get_free_memory=lambda *arguments: 1e18, module_size=lambda model: 1))
    sys.modules["backend.args"].dynamic_args.context_handler = None
    load(monkeypatch, "backend.utils", root / "backend/utils.py")
    conditions = load(monkeypatch, "backend.sampling.condition", root / "backend/sampling/condition.py")
    sampling = load(monkeypatch, "backend.sampling.sampling_function",
                    root / "backend/sampling/sampling_function.py")
    patcher = load(monkeypatch, "backend.patcher.base", root / "backend/patcher/base.py")

    def sample(unet, x, strengths, scale):
        rows, count = len(x), len(strengths)
        prompts = torch.cat([words(number, 1) for _ in range(rows) for number in range(count)])
        asked = [[(image * count + number, weight) for number, weight in enumerate(strengths)]
                 for image in range(rows)]
        return sampling.sampling_function_inner(
            unet.model, x, torch.full((rows,), SIGMA), conditions.compile_conditions(words(count, rows)),
            conditions.compile_weighted_conditions(prompts, asked), scale, unet.model_options)
    return sample, patcher.ModelPatcher


def reforge(monkeypatch, root):
    folder = root / "ldm_patched/modules"
    for name in ("ldm_patched.k_diffusion.sampling", "ldm_patched.unipc.uni_pc", "modules",
                 "ldm_patched.modules.sampler_helpers", "ldm_patched.hooks",
                 "ldm_patched.modules.lora", "ldm_patched.float", "ldm_patched.modules.types"):
        give(monkeypatch, name, MagicMock())
    give(monkeypatch, "modules.shared", SimpleNamespace(opts=SimpleNamespace()))
    give(monkeypatch, "ldm_patched.modules.model_management", MagicMock(
        get_free_memory=lambda *arguments: 1e18, module_size=lambda model: 1))
    give(monkeypatch, "ldm_patched.modules.utils", MagicMock(
        repeat_to_batch_size=lambda tensor, rows: tensor))
    load(monkeypatch, "ldm_patched.modules.patcher_extension", folder / "patcher_extension.py")
    conds = load(monkeypatch, "ldm_patched.modules.conds", folder / "conds.py")
    patcher = load(monkeypatch, "ldm_patched.modules.model_patcher", folder / "model_patcher.py")
    sampling = load(monkeypatch, "ldm_patched.modules.samplers", folder / "samplers.py")

    def prompt(number, rows, weight=1.0):
        return {"strength": weight, "model_conds": {"c_crossattn": conds.CONDCrossAttn(words(number, rows))}}

    def sample(unet, x, strengths, scale):
        rows = len(x)
        return sampling.sampling_function(
            unet.model, x, torch.full((rows,), SIGMA), [prompt(len(strengths), rows)],
            [prompt(number, rows, weight) for number, weight in enumerate(strengths)], scale,
            unet.model_options)
    return sample, patcher.ModelPatcher


@pytest.fixture(params=FOUND)
def engine(request, monkeypatch):
    """run(x, strengths, scale, names=None) -> the host's guided estimate, with the panel or without."""
    sample, patcher = (reforge if request.param == "REFORGE" else forge)(monkeypatch, FOUND[request.param])

    def run(x, strengths, scale, names=None):
        network = Network(estimates(len(strengths), 1))
        unet = patcher(network, load_device="cpu", offload_device="cpu")
        denoiser = SimpleNamespace(step=3, total_steps=10, nmask=None)
        sd_model = SimpleNamespace(forge_objects=SimpleNamespace(unet=unet), is_sd1=True)
        p = SimpleNamespace(sd_model=sd_model, cfg_scale=scale, hr_cfg=1.0, is_hr_pass=False,
                            sampler=SimpleNamespace(model_wrap_cfg=denoiser))
        if names is None:
            return sample(unet, x, strengths, scale)
        with torch.inference_mode(), host.after_cfg(p, weigh.make_change(reading(names), p, x)):
            another = p.sd_model.forge_objects.unet.clone()  # as an extension after us does
            out = sample(another, x, strengths, scale)
        assert sd_model.forge_objects.unet is unet and not unet.model_options.get("sampler_post_cfg_function")
        return out.clone()
    return run


def expect(x, strengths, scale, names):
    """u + w (g + what the core adds to g), g being the sum of all prompts' differences."""
    shown, sigma, chosen = estimates(len(strengths), 1), torch.full((len(x),), SIGMA), reading(names)
    uncond = shown[-1:] + 0.1 * x
    g = sum(weight * (shown[number] - shown[-1]) for number, weight in enumerate(strengths)).expand_as(x)
    added = reweight(g, chosen.recipe(()), Window.of(TABLE), sigma, uncond + scale * g, uncond, 3)
    weighed = uncond + scale * (g + added)
    if chosen.companions.neutral:
        return weighed, added
    cond = uncond + g + added
    corrected = guide(x, sigma, cond, uncond, scale, chosen.companions, Memory(), False, 0.3)
    return corrected, corrected - uncond - scale * g


@pytest.mark.parametrize("strengths", [SINGLE, JOINED], ids=["single", "AND"])
@pytest.mark.parametrize("names", [*WEIGHED, *ACCOMPANIED], ids=str)
def test_the_hosts_guided_estimate_is_the_cores_formula(engine, names, strengths):
    x = noise(1, 1)
    expected, added = expect(x, strengths, SCALE, names)
    torch.testing.assert_close(engine(x, strengths, SCALE, names), expected, rtol=1e-3, atol=2e-3)
    assert added.abs().max() > 1e-2


@pytest.mark.parametrize("names", [*WEIGHED, *ACCOMPANIED], ids=str)
def test_a_batch_of_two_is_two_single_runs(engine, names):
    x = noise(2, 1)
    both = engine(x, SINGLE, SCALE, names)
    for i in range(2):
        torch.testing.assert_close(both[i:i + 1], engine(x[i:i + 1], SINGLE, SCALE, names),
                                   rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("names", [LOW, LOW | {"structure": "coherence"}, ON | {"apg": True}], ids=str)
def test_without_guidance_the_hosts_bits_are_left_alone(engine, names):
    x = noise(2, 1)
    assert torch.equal(engine(x, JOINED, 1.0, names), engine(x, JOINED, 1.0))


@pytest.mark.parametrize("names", [ON, ON | {"low": 2.0, "high": 2.0}, LOW | {"strength": 0},
                                   LOW | {"start_percent": 0.9}], ids=str)
@pytest.mark.parametrize("strengths", [SINGLE, JOINED], ids=["single", "AND"])
def test_what_adds_nothing_leaves_the_hosts_bits(engine, names, strengths):
    x = noise(2, 1)
    assert torch.equal(engine(x, strengths, SCALE, names), engine(x, strengths, SCALE))


def test_the_hosts_clone_takes_the_callable_as_it_is(engine):
    """Deep copies of a bound model would double it; a plain function is not copied."""
    x, large = noise(1, 1), torch.zeros(3)
    p = SimpleNamespace(sampler=SimpleNamespace(model_wrap_cfg=SimpleNamespace(nmask=large)))
    change = weigh.make_change(reading(LOW), p, x)
    assert copy.deepcopy({"sampler_post_cfg_function": [change]})["sampler_post_cfg_function"][0] is change
