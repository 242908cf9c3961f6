"""Runs in ComfyUI's Python: (weights, inputs, outputs), what the loader's networks make of given tensors."""
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # before hosts, which has a conftest too
import in_comfyui  # noqa: F401, I001
import comfy.model_management
import comfy.sample
import torch
from safetensors.torch import load_file, save_file
from tweedie_pack.demo.tiny.checkpoint import read
from tweedie_pack.demo.tiny.words import IDS
from tweedie_pack.nodes import tiny
from tweedie_pack.nodes.model import prediction as predicts

weights, given, answers = sys.argv[1:]
tiny.read = lambda name: read(name, pathlib.Path(weights))
given, out, facts = load_file(given), {}, {}


def run(model, steps, positive, negative):
    """A whole run of the host's on the given noise."""
    return comfy.sample.sample(model, given["noise"], steps, 3.0, "euler", "simple", [[positive, {}]],
                               [[negative, {}]], torch.zeros_like(given["noise"]), disable_pbar=True, seed=0)


with torch.inference_mode():
    for name, prediction in tiny.PREDICTIONS.items():
        model, clip, vae, edges, depth = tiny.TweedieTinyLoader.execute(name).args
        comfy.model_management.load_models_gpu([model, *edges.get_models(), *depth.get_models()])
        unet, x, t = model.model.diffusion_model, given["x"], given["t"]
        out[f"unet_{prediction}"] = unet(x, t, context=given["context"])
        out[f"sigmas_{prediction}"] = model.get_model_object("model_sampling").sigmas
        good, bad = (clip.encode_from_tokens(clip.tokenize(text)) for text in ("a red ball", ""))
        out[f"latent_{prediction}"] = run(model, 6, good, bad)
        out[f"picture_{prediction}"] = vae.decode(out[f"latent_{prediction}"])
        facts[prediction] = predicts(model.get_model_object("model_sampling"))
    for name, control in (("edges", edges), ("depth", depth)):
        parts = control.control_model(x=x, hint=given["hint"], timesteps=t, context=given["context"])
        for side in ("middle", "output"):
            out |= {f"{name}_{side}_{i}": part.clone() for i, part in enumerate(parts[side])}
        out[f"unet_{name}"] = tiny.load_model("v").model.diffusion_model(
            x, t, context=given["context"], control=parts)
    out["text"] = good
    facts["words"] = {word: int(clip.tokenize(word)["l"][0][1][0]) for word in IDS}
    out["tokens"] = torch.tensor([token for token, _ in clip.tokenize("a red ball")["l"][0]])
    out["encoded"], out["decoded"] = vae.encode(given["hint"].movedim(1, -1)), vae.decode(given["noise"])
save_file({name: value.contiguous().clone() for name, value in out.items()}, answers)
print(json.dumps(facts))
