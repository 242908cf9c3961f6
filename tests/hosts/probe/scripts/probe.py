"""An extension that looks at the host: what was sampled, what was left behind, what a paste would do."""
import hashlib
import sys

import gradio as gr
from modules import infotext_utils, script_callbacks, scripts, sd_samplers, shared

seen = {"sigmas": [], "left": [], "steps": []}
recording = set()  # holds "record" while a run's steps are to be noted
HOOKS = ("sample", "sample_img2img", "get_sigmas", "tweedie_waits")
GUIDED = ("forward", "combine_denoised", "update_inner_model")


def note(params):
    seen["sigmas"].append(float(params.sigma[0]))
    if recording:
        seen["steps"].append({"x": params.x.tolist(), "sigma": params.sigma.tolist()})


def note_estimates(params):
    if recording:
        seen["steps"][-1]["out"] = params.x.tolist()


def note_guided(params):
    if recording:
        seen["steps"][-1]["guided"] = params.x.tolist()


class Probe(scripts.Script):
    """`end` is "fail" or "interrupt": what happens at the second step; or "record": steps are noted."""

    def title(self):
        return "Probe"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        return [gr.Textbox(value="", label="Probe end")]

    def process_before_every_sampling(self, p, end, **tensors):
        recording.clear()
        recording.update({"record"} & {end})
        if end not in ("fail", "interrupt"):
            return
        original = p.sampler.callback_state

        def callback_state(state):
            if state["i"] == 1 and end == "fail":
                raise RuntimeError("the probe failed this run")
            if state["i"] == 1:
                shared.state.interrupt()
            return original(state)
        p.sampler.callback_state = callback_state

    def postprocess(self, p, processed, *args):
        own = vars(p.sampler) if p.sampler else {}
        guide = vars(p.sampler.model_wrap_cfg) if p.sampler else {}
        seen["left"] += [name for name in HOOKS if name in own]
        seen["left"] += [name for name in GUIDED if name in guide]
        if not hasattr(shared.sd_model, "forge_objects"):
            modules = dict(shared.sd_model.model.diffusion_model.named_modules())
            seen["left"] += [name for name, module in modules.items()
                             if module._forward_pre_hooks or "forward" in vars(module)]


def table():
    model = shared.sd_model
    if hasattr(model, "forge_objects"):
        return model.forge_objects.unet.model.predictor.sigmas.double()
    return ((1 - model.alphas_cumprod) / model.alphas_cumprod).sqrt().double()


def read_seen():
    copy = {key: list(value) for key, value in seen.items()}
    for value in seen.values():
        value.clear()
    return copy


def state():
    digest = hashlib.sha256(table().cpu().numpy().tobytes()).hexdigest()
    return {"table": digest, "options": dict(shared.opts.data)}


def read_table():
    return table().tolist()


def names(sampler: str, scheduler: str):
    return sd_samplers.get_sampler_and_scheduler(sampler, scheduler)


def package():
    return id(sys.modules["tweedie_pack"])


def reload(body: dict):
    shared.state.request_restart()
    return package()


def axis(label: str):
    """The grid script's axis of this label in txt2img: its place and its choices."""
    grid = next(data.module for data in scripts.scripts_data if data.path.endswith("xyz_grid.py"))
    plain = [option for option in grid.axis_options if not getattr(option, "is_img2img", False)]
    index, option = next((i, option) for i, option in enumerate(plain) if option.label == label)
    return {"index": index, "choices": option.choices and option.choices()}


def axes():
    """The labels of all of the grid script's axes."""
    grid = next(data.module for data in scripts.scripts_data if data.path.endswith("xyz_grid.py"))
    return [option.label for option in grid.axis_options]


def paste(body: dict):
    parameters = infotext_utils.parse_generation_parameters(body["text"])
    values = {}
    for output, key, *_ in infotext_utils.paste_fields[body["tab"]]["fields"]:
        value = key(parameters) if callable(key) else parameters.get(key)
        if isinstance(value, (str, int, float, bool)):
            values[str(output.label)] = value
    return values


def routes(demo, app):
    for path, answer in (("seen", read_seen), ("state", state), ("table", read_table), ("names", names),
                         ("package", package), ("axis", axis), ("axes", axes)):
        app.add_api_route(f"/probe/{path}", answer, methods=["GET"])
    for path, answer in (("reload", reload), ("paste", paste)):
        app.add_api_route(f"/probe/{path}", answer, methods=["POST"])


script_callbacks.on_cfg_denoiser(note)
script_callbacks.on_cfg_denoised(note_estimates)
script_callbacks.on_cfg_after_cfg(note_guided)
script_callbacks.on_app_started(routes)
