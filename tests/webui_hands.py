"""A stand-in for what of a web UI hand repair meets: img2img passes in the host's order, and its state."""
import contextlib
import sys
from types import SimpleNamespace
from unittest.mock import MagicMock

import torch
from PIL import Image
from tweedie_pack.controls.hands.found import Hand
from webui_regional import regional_script
from webui_standins import forget

SIZE = (200, 120)  # wide, tall
BOXES = ((20.0, 30.0, 60.0, 66.0), (130.0, 40.0, 172.0, 80.0))
ON = {"enabled": True, "confidence": 0.0, "candidates": 2, "margin": 0.01, "cells_per_finger": 1.0}


class Look:
    """Two hands in a picture of SIZE; in a crop one in its middle, as sure as it is bright."""

    size, names = 0, ()

    def __call__(self, picture, confidence):
        _, h, w = picture.shape
        if (w, h) == SIZE:
            return [Hand(box, 0.5) for box in BOXES]
        middle = picture[:, h // 3: 2 * h // 3, w // 3: 2 * w // 3]
        return [Hand((0.2 * w, 0.2 * h, 0.8 * w, 0.8 * h), float(middle.mean()))]


class ScriptRunner:
    """Calls each script's hook with its own share of the arguments, and swallows what it raises."""

    def __init__(self):
        self.alwayson_scripts = []

    def call(self, hook, p, *values, **options):
        for script in self.alwayson_scripts:
            try:
                given = p.script_args[script.args_from:script.args_to]
                getattr(script, hook, lambda *values, **options: None)(p, *values, *given, **options)
            except Exception as error:  # noqa: BLE001 as the host does
                p.host.swallowed.append(error)


class Img2Img(SimpleNamespace):
    cached_c, cached_uc = [None, None], [None, None]

    def __init__(self, **given):
        super().__init__(**given)
        self.cached_c, self.cached_uc = Img2Img.cached_c, Img2Img.cached_uc
        self.extra_generation_params, self.is_using_inpainting_conditioning = {}, Img2Img.host.inpaints
        self.mask = self.nmask = None
        self.host, self.sd_model = Img2Img.host, Img2Img.host.sd_model

    def img2img_image_conditioning(self, pictures, latent, mask):
        self.host.conditioned.append((pictures, mask))


class WebUI:
    """The host: `quality` of a seed is how bright a redrawn crop is; `at_step` is called at every step."""

    def __init__(self):
        self.quality, self.at_step, self.inpaints = (lambda seed: 0.9), (lambda step: None), False
        self.passes, self.swallowed, self.conditioned, self.activated, self.saved = [], [], [], [], []
        self.merged, self.history, self.ticks, self.steps = [], [], [], 4
        self.state = SimpleNamespace(interrupted=False, skipped=False, stopping_generation=False, job_count=1,
                                     job_no=1, textinfo="the user's")
        self.opts = SimpleNamespace(data={"samples_format": "png"}, samples_format="png",
                                    img2img_background_color="#ffffff")
        self.cmd_opts = SimpleNamespace(no_prompt_history=False)
        self.total_tqdm = SimpleNamespace(update=lambda: self.ticks.append(1), updateTotal=self.ticks.append)
        self.notes = SimpleNamespace(comments=["outer"], extra_generation_params={"TI": "outer"})
        self.sd_model = SimpleNamespace(
            is_sd1=True, parameterization="eps", alphas_cumprod=torch.linspace(0.99, 0.01, 10),
            model=SimpleNamespace(diffusion_model=SimpleNamespace(input_blocks=[])))

    def process_images(self, p):
        """As the host does it, as far as anything of it could be seen from outside."""
        p.scripts.call("process", p)
        self.passes.append(p)
        self.notes.comments, self.notes.extra_generation_params = [], {"TI": "inner"}
        self.state.skipped = False
        if self.state.interrupted or self.state.stopping_generation:
            return
        assert len(p.init_images) == p.batch_size == len(p.prompt)
        p.init_latent = torch.zeros(p.batch_size, 4, p.height // 8, p.width // 8)
        self.activated.append([word for word in p.prompt[0].split() if word.startswith("<")])
        p.scripts.call("process_batch", p, batch_number=0)
        p.cached_c[:] = [p.prompt, "encoded"]
        if not self.cmd_opts.no_prompt_history:
            self.history.append(p.prompt)
        assert "save_init_img" in self.opts.data
        guide = SimpleNamespace(step=0, total_steps=self.steps, nmask=p.nmask, mask=p.mask)
        opened = []
        for guide.step in range(self.steps):
            self.at_step(guide.step)
            if self.state.interrupted or self.state.skipped:
                break
            opened.append(guide.nmask)
            self.total_tqdm.update()
            p.scripts.call("on_mask_blend", p, SimpleNamespace(is_final_blend=False, denoiser=guide))
        p.opened = opened
        final = SimpleNamespace(is_final_blend=True, denoiser=None, current_latent=1, blended_latent=0)
        p.scripts.call("on_mask_blend", p, final)
        p.final = final.blended_latent
        pictures = torch.stack([torch.full((3, p.height, p.width), self.quality(seed))
                                for seed in p.all_seeds])
        self.state.job_no += 1
        p.scripts.call("postprocess_batch", p, images=pictures, batch_number=0)
        p.scripts.call("postprocess", p, SimpleNamespace(images=[], extra_generation_params={}))
        self.merged.append(0)

    def modules(self):
        processing = SimpleNamespace(
            StableDiffusionProcessingImg2Img=Img2Img, process_images=self.process_images,
            create_infotext=lambda *given, **named: "infotext", DecodedSamples=list)
        shared = SimpleNamespace(state=self.state, opts=self.opts, cmd_opts=self.cmd_opts, device="cpu",
                                 total_tqdm=self.total_tqdm)
        devices = SimpleNamespace(
            device="cpu", dtype=torch.float32, dtype_vae=torch.float32, autocast=contextlib.nullcontext,
            NansException=type("Nans", (Exception,), {}))
        images = SimpleNamespace(
            flatten=lambda picture, colour: picture.convert("RGB"),
            save_image=lambda picture, *given, suffix, **named: self.saved.append(suffix))
        return {"processing": processing, "shared": shared, "devices": devices, "images": images,
                "extra_networks": SimpleNamespace(activate=lambda p, data: self.activated.append(data)),
                "sd_models": SimpleNamespace(
                    apply_token_merging=lambda model, ratio: self.merged.append(ratio)),
                "paths": SimpleNamespace(models_path="/nowhere"),
                "sd_hijack": SimpleNamespace(model_hijack=self.notes)}


@contextlib.contextmanager
def hands_script(monkeypatch):
    """The panel's module and the host, with stand-ins for gradio, the host's modules and the detector."""
    with regional_script(monkeypatch):
        web, modules = WebUI(), sys.modules["modules"]
        modules.scripts.ScriptRunner = ScriptRunner
        for name, part in web.modules().items():
            monkeypatch.setitem(sys.modules, f"modules.{name}", part)
            setattr(modules, name, part)
        monkeypatch.setattr(Img2Img, "host", web, raising=False)
        from tweedie_pack.extensions_a1111 import hands, hands_files
        monkeypatch.setattr(hands_files, "opened", lambda path, changed, device: Look())
        yield hands, web
        forget("hands", "hands_inner", "hands_files")


def picture(seed=0, mode="RGB"):
    """Dark noise."""
    noise = torch.rand(SIZE[1], SIZE[0], 3, generator=torch.Generator().manual_seed(seed)) * 70
    return Image.fromarray(noise.byte().numpy()).convert(mode)


def make_run(web, *scripts, **changes):
    """p of the outer run, as its pictures are done."""
    runner = ScriptRunner()
    runner.alwayson_scripts = list(scripts)
    given = dict(sd_model=web.sd_model, scripts=runner, script_args=[], iteration=0, batch_size=2,
                 batch_index=1, all_prompts=["a", "hands <lora:x:1>"], all_negative_prompts=["", "bad"],
                 all_seeds=[5, 7],
                 prompts=["a", "hands"], negative_prompts=["", "bad"], seeds=[5, 7], subseeds=[0, 0],
                 sampler_name="Euler", scheduler="Karras", steps=9, cfg_scale=6.5, tiling=False,
                 outpath_samples="out", outpath_grids="out", cached_c=["outer", 1], cached_uc=["outer", 2],
                 disable_extra_networks=False, extra_network_data={"lora": ["x"]}, extra_generation_params={},
                 get_token_merging_ratio=lambda: 0.3, save_samples=lambda: True, comments=[])
    p = SimpleNamespace(**given | changes)
    p.comment = p.comments.append
    return p


def through(hands, p, names, image=None):
    """The picture after the panel's hooks."""
    script = hands.TweedieHandRepair()
    script.process(p, names)
    done = SimpleNamespace(image=image if image is not None else picture())
    script.postprocess_image(p, done, names)
    return done.image


class ControlNet:
    """sd-webui-controlnet's script: hangs its units into the model for a run."""

    filename, args_from, args_to, made = "controlnet.py", 0, 1, []

    def __init__(self):
        self.latest_network, self.units = None, []
        self.made.append(self)

    def title(self):
        return "ControlNet"

    def process(self, p, *units):
        self.units.append(units)
        self.latest_network = SimpleNamespace(control_params=[1])

    def postprocess(self, p, processed, *units):
        self.latest_network = None


def install_controlnet(monkeypatch, names=("depth_a", "edges")):
    script = ControlNet()
    monkeypatch.setattr(ControlNet, "made", [script])
    state = SimpleNamespace(cn_models=dict.fromkeys(("None", *names)))
    data = SimpleNamespace(path="x/controlnet.py", module=SimpleNamespace(global_state=state))
    monkeypatch.setattr(sys.modules["modules"].scripts, "scripts_data", [data])
    return script


def components():
    """gradio's, as far as a panel is drawn: each keeps what it was given."""
    gradio = MagicMock()
    for kind in ("Dropdown", "Checkbox", "Textbox", "Slider"):
        setattr(gradio, kind, lambda kind=kind, **given: SimpleNamespace(kind=kind, **given))
    return gradio
