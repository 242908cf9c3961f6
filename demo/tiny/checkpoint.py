"""The tiny model's weights, and files of them that hosts of Stable Diffusion 1.x can read: fp16 safetensors.

A1111 finds sizes and prediction in the YAML beside a checkpoint, and its noise table in `alphas_cumprod`.
"""
from __future__ import annotations

import os
import pathlib

import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from ...samplers.zero_snr import rescale_table
from ..sampling import stable_diffusion_table
from . import layout
from .layout import State

WEIGHTS = pathlib.Path(__file__).with_name("weights")
KINDS = {"vae": "vae", "text": "text", "unet_v": "unet", "unet_epsilon": "unet", "control_edges": "control",
         "control_depth": "control"}
PARAMETERIZATION = {"v": "v", "epsilon": "eps"}  # our name to A1111's
TOKEN_NAME = "text_model.embeddings.token_embedding.weight"
VAE_SIZES = {"double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 64,
             "ch_mult": [1, 1, 1, 1], "num_res_blocks": 0, "attn_resolutions": [], "dropout": 0.0}
UNET_HEADS = 4
CONFIG = """\
# Written by Tweedie for its tiny model: Stable Diffusion 1.x in small. Keep it beside the checkpoint.
model:
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
    parameterization: "{parameterization}"
    linear_start: 0.00085
    linear_end: 0.0120
    num_timesteps_cond: 1
    timesteps: 1000
    first_stage_key: "jpg"
    cond_stage_key: "txt"
    image_size: 16
    channels: 4
    cond_stage_trainable: false
    conditioning_key: crossattn
    scale_factor: 0.18215
    use_ema: false
    unet_config:
      target: ldm.modules.diffusionmodules.openaimodel.UNetModel
      params:
        image_size: 16
        in_channels: 4
        out_channels: 4
        model_channels: 64
        attention_resolutions: [2]
        num_res_blocks: 1
        channel_mult: [1, 1]
        num_heads: {heads}
        use_spatial_transformer: true
        transformer_depth: 1
        context_dim: {context}
        use_checkpoint: false
        legacy: false
    first_stage_config:
      target: ldm.models.autoencoder.AutoencoderKL
      params:
        embed_dim: 4
        ddconfig:
{vae}
        lossconfig:
          target: torch.nn.Identity
    cond_stage_config:
      target: ldm.modules.encoders.modules.FrozenCLIPEmbedder
"""


def read(name: str, folder: pathlib.Path = WEIGHTS) -> State:
    """One part's weights in the host's layout; text comes with its token embedding."""
    if name not in KINDS:
        raise ValueError(f"Tiny model: there is no {name!r}; take one of {', '.join(KINDS)}")
    path = pathlib.Path(folder) / f"{name}.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"Tiny model: {path} is missing; install the pack again, as a whole")
    state = load_file(path)
    layout.check(KINDS[name], state, layout.NAMES[KINDS[name]])
    return state | {TOKEN_NAME: layout.token_embedding()} if name == "text" else state


def alpha_bar(prediction: str) -> Tensor:
    """The noise table that the model was trained on, [1000] float32: zero terminal SNR for v."""
    sigmas = stable_diffusion_table()
    return (1 / (1 + (rescale_table(sigmas) if prediction == "v" else sigmas)**2)).float()


def state(prediction: str, folder: pathlib.Path = WEIGHTS) -> State:
    """A whole Stable Diffusion 1.x checkpoint, its text encoder widened to the CLIP-L that A1111 builds."""
    if prediction not in PARAMETERIZATION:
        raise ValueError(f"Tiny model: prediction is {prediction!r}; take v or epsilon")
    parts = {"model.diffusion_model.": layout.widen_context(read(f"unet_{prediction}", folder)),
             "first_stage_model.": read("vae", folder),
             "cond_stage_model.transformer.": layout.widen_text(read("text", folder))}
    whole = {prefix + name: value for prefix, part in parts.items() for name, value in part.items()}
    marks = {name: torch.zeros(0) for name in ("v_pred", "ztsnr") if prediction == "v"}
    return whole | marks | {"alphas_cumprod": alpha_bar(prediction)}


def config(prediction: str) -> str:
    """The YAML from which A1111 learns the sizes."""
    vae = "\n".join(f"          {name}: {str(value).lower()}" for name, value in VAE_SIZES.items())
    return CONFIG.format(parameterization=PARAMETERIZATION[prediction], heads=UNET_HEADS, vae=vae,
                         context=layout.CLIP_WIDTH)


def replace(path: pathlib.Path, content: bytes) -> pathlib.Path:
    """Write beside the file first, so that a reader finds the old file or the new one, never a part."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"Tiny model: {path.parent} is no folder; give one that exists")
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def write(folder: pathlib.Path, prediction: str, weights: pathlib.Path = WEIGHTS) -> pathlib.Path:
    """Write tweedie_tiny_v or _epsilon, .yaml and .safetensors, into a host's folder of checkpoints."""
    path = pathlib.Path(folder) / f"tweedie_tiny_{prediction}.safetensors"
    whole = {name: value.contiguous() for name, value in state(prediction, weights).items()}
    replace(path.with_suffix(".yaml"), config(prediction).encode())
    return replace(path, to_bytes(whole, {"format": "pt"}))
