"""An extension that looks at what hand repair could leave behind, and stops it at a pass's second step."""
import pathlib

from modules import paths, processing, script_callbacks, shared

inner = {"steps": 0, "after": 0, "stop": "", "texts": []}  # in passes over crops; after: since a stop


def note(params):
    p, state = params.denoiser.p, shared.state
    if not getattr(p, "tweedie_hands_inner", False):
        return
    inner["after"] += bool(state.interrupted or state.skipped)
    inner["steps"] += 1
    inner["texts"].append(state.textinfo)
    if inner["stop"] and params.denoiser.step == 1:
        getattr(state, inner["stop"])()


def stop(body: dict):
    """Count anew; `at` is interrupt or skip, or "" for neither."""
    inner.update(steps=0, after=0, stop=body["at"], texts=[])


def look():
    history, own = pathlib.Path(paths.data_path) / "params.txt", processing.StableDiffusionProcessing
    return {"steps": inner["steps"], "after": inner["after"], "texts": inner["texts"],
            "kept": {"prompts": [repr(cache[0]) for cache in (own.cached_c, own.cached_uc)],
                     "history": history.read_text("utf-8") if history.exists() else "",
                     "textinfo": shared.state.textinfo, "options": dict(shared.opts.data),
                     "flag": shared.cmd_opts.no_prompt_history, "tqdm": sorted(vars(shared.total_tqdm))}}


def routes(demo, app):
    app.add_api_route("/hands/look", look, methods=["GET"])
    app.add_api_route("/hands/stop", stop, methods=["POST"])


script_callbacks.on_cfg_denoiser(note)
script_callbacks.on_app_started(routes)
