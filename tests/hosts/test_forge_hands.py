"""Hand repair in the real processing and script runners of Forge, reForge and Neo; the rest is stand-ins.

FORGE_PATH, REFORGE_PATH and NEO_PATH are checkouts; no web UI is started and nothing of them is installed.
"""
import contextlib
import importlib.abc
import importlib.machinery
import os
import pathlib
import sys
import traceback
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from hosts.test_forge_code import load
from webui_hands import ON, Look, picture
from webui_standins import forget

FOUND = {name: pathlib.Path(os.environ[f"{name}_PATH"]) for name in ("FORGE", "REFORGE", "NEO")
         if os.environ.get(f"{name}_PATH")}
if not FOUND:
    pytest.skip("set FORGE_PATH, REFORGE_PATH or NEO_PATH to test on their code", allow_module_level=True)
TOPS = {"modules", "modules_forge", "backend", "ldm_patched", "ldm", "launch", "gradio", "fastapi", "cv2",
        "skimage", "einops", "blendmodes"}
REAL = ("script_callbacks", "scripts", "processing")


class StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Any module of the host that isn't loaded: a mock."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in TOPS:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return MagicMock(__path__=[], __name__=spec.name, __spec__=spec)

    def exec_module(self, module):
        pass


class Options:
    """Unset options are off."""

    def __init__(self):
        self.data = {"img2img_background_color": "#ffffff", "samples_format": "png", "randn_source": "GPU",
                     "sd_vae_encode_method": "Full", "sd_vae_decode_method": "Full",
                     "initial_noise_multiplier": 1.0, "persistent_cond_cache": True}

    def __getattr__(self, name):
        return [] if name.startswith("prioritized") else vars(self)["data"].get(name, 0)

    def get_default(self, key):
        return 0


class Sampler:
    """One step that draws what is bright, and blends it as the host's denoiser does."""

    def __init__(self, web):
        self.web, self.eta, self.conditioning_key = web, None, web.conditioning_key
        self.model_wrap = SimpleNamespace(inner_model=SimpleNamespace(is_sdxl_inpaint=False))

    def sample_img2img(self, p, latent, noise, cond, uncond, image_conditioning=None, **options):
        self.web.at_step()
        assert noise.shape == latent.shape
        guide = SimpleNamespace(step=0, total_steps=1, nmask=p.nmask, mask=p.mask)
        self.web.passes.append((p, p.nmask))
        drawn = torch.full_like(latent, 0.9)
        blend = self.web.scripts.MaskBlendArgs(drawn, p.nmask, latent, p.mask, drawn, denoiser=guide)
        p.scripts.on_mask_blend(p, blend)
        return blend.blended_latent


class Web:
    """The host with its real processing: a VAE that makes flat pictures, and a sampler of one step."""

    def __init__(self, name, monkeypatch):
        root, self.name = FOUND[name], name
        for loaded in [loaded for loaded in sys.modules if loaded.partition(".")[0] in TOPS]:
            monkeypatch.delitem(sys.modules, loaded)
        monkeypatch.setattr(sys, "meta_path", [StandIns(), *sys.meta_path])
        self.passes, self.at_step, self.conditioning_key = [], lambda: None, "crossattn"
        self.modules = importlib.import_module("modules")
        self.install_model()
        self.install_state()
        self.install_parts()
        self.reports = []
        self.part("errors", report=lambda text, exc_info: self.reports.append(traceback.format_exc()))
        for part in REAL:
            monkeypatch.setitem(sys.modules, f"modules.{part}", None)
            module = load(root / "modules" / f"{part}.py", f"modules.{part}")
            setattr(self.modules, part, module)
            setattr(self, part, module)

    def part(self, name, **values):
        module = importlib.import_module(f"modules.{name}")
        setattr(self.modules, name, module)
        for key, value in values.items():
            setattr(module, key, value)
        return module

    def install_model(self):
        channels = SimpleNamespace(latent_channels=4)
        table = SimpleNamespace(sigmas=torch.arange(1.0, 9))
        unet = SimpleNamespace(model=SimpleNamespace(
            diffusion_model=SimpleNamespace(input_blocks=[]), predictor=table, model_sampling=table))
        objects = SimpleNamespace(unet=unet, vae=channels)
        objects.shallow_copy = lambda: objects
        self.sd_model = SimpleNamespace(
            forge_objects=objects, forge_objects_original=objects, forge_objects_after_applying_lora=objects,
            is_sd1=True, is_inpaint=False, is_wan=False, use_distilled_cfg_scale=False, model_config=object(),
            sd_checkpoint_info=SimpleNamespace(name_for_extra="m"), sd_model_hash="0", latent_channels=4,
            model=SimpleNamespace(conditioning_key="crossattn"), cond_stage_key="txt", dtype=torch.float32,
            ema_scope=contextlib.nullcontext, set_shift=lambda shift: None, set_clip_skip=lambda skip: None,
            get_learned_conditioning=lambda texts: [len(text) for text in texts])
        if self.name != "REFORGE":
            self.sd_model.comments, self.sd_model.extra_generation_params = ["outer"], {"TI": "outer"}

    def install_state(self):
        self.state = SimpleNamespace(interrupted=False, skipped=False, stopping_generation=False, job_count=1,
                                     job_no=0, textinfo=None, job="", job_timestamp="0")

        def nextjob():
            self.state.job_no += 1
        self.state.nextjob = nextjob
        self.part("shared", opts=Options(), state=self.state, sd_model=self.sd_model, device="cpu",
                  cmd_opts=SimpleNamespace(no_prompt_history=False, embeddings_dir="/nowhere"),
                  total_tqdm=SimpleNamespace(update=MagicMock(), updateTotal=MagicMock()),
                  prompt_styles=SimpleNamespace(apply_styles_to_prompt=lambda text, styles: text,
                                                apply_negative_styles_to_prompt=lambda text, styles: text))

    def install_parts(self):
        ddpm = importlib.import_module("ldm.models.diffusion.ddpm")
        ddpm.LatentDepth2ImageDiffusion = type("Depth", (), {})
        importlib.import_module("backend").args.dynamic_args = SimpleNamespace(
            pid=False, wan=False, edit=False, kontext=False, last_extra_generation_params={})
        self.part("paths", models_path="/nowhere", data_path="/nowhere")
        self.part("devices", device="cpu", dtype=torch.float32, dtype_vae=torch.float32, cpu="cpu",
                  autocast=contextlib.nullcontext, without_autocast=contextlib.nullcontext,
                  cond_cast_float=lambda x: x, NansException=type("NansException", (Exception,), {}))
        self.part("sd_models", forge_model_reload=lambda: (self.sd_model, False))
        self.part("extra_networks", parse_prompts=lambda texts: (texts, {"lora": texts[0]}))
        self.part("rng", ImageRNG=lambda shape, seeds, **options: SimpleNamespace(
            next=lambda: torch.zeros(len(seeds), *shape)))
        self.part("images", flatten=lambda image, colour: image.convert("RGB"),
                  resize_image=lambda mode, image, *size: image.resize(size))
        self.part("profiling", Profiler=contextlib.nullcontext)
        self.part("prompt_parser", SdConditioning=lambda texts, *given, **named: texts,
                  get_learned_conditioning=lambda model, texts, *given: texts,
                  get_multicond_learned_conditioning=lambda model, texts, *given: texts)
        self.part("sd_samplers", create_sampler=lambda name, model: Sampler(self),
                  find_sampler_config=lambda name: None)
        self.part("sd_samplers_common", approximation_indexes={"Full": 0},
                  images_tensor_to_samples=self.encode,
                  decode_first_stage=lambda model, x: x[:, :3].repeat(1, 1, 8, 8))

    def encode(self, image, approximation=None, model=None):
        return torch.zeros(len(image), 4, image.shape[2] // 8, image.shape[3] // 8)


@pytest.fixture(params=FOUND)
def web(request, monkeypatch):
    forget(*HOSTED)
    yield Web(request.param, monkeypatch)
    forget(*HOSTED)
    for name in [name for name in sys.modules if name.partition(".")[0] in TOPS]:
        del sys.modules[name]


HOSTED = ("hands", "hands_inner", "hands_files", "regions", "regions_prompts", "axes", "widgets")


def only_repair(web, monkeypatch):
    """The outer run, and its picture after the panel's hooks, called by the host's runner."""
    from tweedie_pack.extensions_a1111 import hands, hands_files
    monkeypatch.setattr(hands_files, "opened", lambda path, changed, device: Look())
    monkeypatch.setattr(web.processing, "create_infotext", lambda *given, **named: "infotext")
    monkeypatch.setattr(sys.modules["modules.shared"].cmd_opts, "no_prompt_history", True)
    script = hands.TweedieHandRepair()
    script.filename, script.args_from, script.args_to = "hands.py", 0, 1
    outer = web.processing.StableDiffusionProcessingImg2Img(
        prompt="hands", sampler_name="Euler", scheduler="Karras", steps=4, seed=7, subseed=1, batch_size=1,
        n_iter=1, width=64, height=64, do_not_save_samples=True, do_not_save_grid=True,
        init_images=[picture()], outpath_samples="")
    outer.scripts = web.scripts.ScriptRunner()
    outer.scripts.alwayson_scripts = [script]
    outer.script_args = [ON | {"only_repair": True}]
    [done] = web.processing.process_images(outer).images
    assert not web.reports, web.reports[0]
    return outer, np.array(done)


def test_the_given_picture_is_repaired_and_the_host_left_alone(web, monkeypatch):
    outer, done = only_repair(web, monkeypatch)
    touched = (done != np.array(picture())).any(-1)
    assert touched[48, 40] and touched[60, 150] and not touched[:10].any() and not outer.comments
    [(inner, mask)] = web.passes
    assert inner.all_seeds[:2] == [7, 8] and inner.prompts == ["hands"] * 4 and mask.shape == (4, 1, 64, 64)
    assert web.state.job_count == 2 and web.state.textinfo is None
    assert inner.cached_c is not outer.cached_c and outer.all_seeds == [7]
    assert "save_init_img" not in sys.modules["modules.shared"].opts.data


def test_inpainting_models_see_the_mask(web, monkeypatch):
    web.sd_model.is_inpaint, web.conditioning_key = True, "hybrid"
    web.sd_model.encode_first_stage, web.sd_model.get_first_stage_encoding = web.encode, lambda latent: latent
    only_repair(web, monkeypatch)
    [(inner, _)] = web.passes
    assert inner.image_conditioning.shape == (4, 5, 64, 64)
    assert 0 < inner.image_conditioning[:, 0].mean() < 1


def test_who_stops_gets_the_picture_as_it_was(web, monkeypatch):
    web.at_step = lambda: setattr(web.state, "skipped", True)
    outer, done = only_repair(web, monkeypatch)
    assert np.array_equal(done, np.array(picture()))
    assert "Tweedie Hand Repair: stopped; the picture is as it was" in outer.comments


def test_the_controlnet_that_is_built_in_takes_our_unit(web):
    """Its keys are the unit's own, and the script keeps what it holds in each instance."""
    root = next(path for name, path in FOUND.items() if web.processing.__file__.startswith(str(path)))
    folder = root / "extensions-builtin" / "sd_forge_controlnet"
    from tweedie_pack.extensions_a1111 import hands_inner, hands_panel
    p = SimpleNamespace(sd_model=web.sd_model, cached_c=[None] * 3)
    panel = hands_panel.read([ON | {"depth_model": "depth"}])
    unit = hands_inner.Painter(p, panel, []).unit(torch.rand(64, 64))
    source = (folder / "lib_controlnet" / "external_code.py").read_text("utf-8")
    fields = source.partition("class ControlNetUnit")[2]
    assert all(f"    {name}:" in fields for name in unit) and unit["module"] == "None"
    assert unit["resize_mode"] in source and unit["control_mode"] in source
    script = (folder / "scripts" / "controlnet.py").read_text("utf-8")
    assert 'return "ControlNet"' in script and "self.current_params = {}" in script
    assert "from lib_controlnet import" in script and "global_state" in script
    state = (folder / "lib_controlnet" / "global_state.py").read_text("utf-8")
    assert "def get_all_controlnet_names" in state
