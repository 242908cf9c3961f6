"""State dicts of the tiny model: libraries' names <-> Stable Diffusion 1.x's, and widths that hosts ask for.

"library" is how `diffusers` and `transformers` 5 name what nets.py makes, "host" how Stable Diffusion 1.x was
released. Kinds: unet, vae, text, control. Widening copies and adds zeros, so every output stays what it was.
"""
from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

State = dict[str, Tensor]

TOKENS, WIDTH = 49408, 128  # of the text encoder: CLIP's vocabulary, and nets.py's width
TOKEN_SEED, TOKEN_STD = 0, 0.5  # the token embedding is drawn, not trained and not shipped
CLIP_WIDTH, CLIP_LAYERS = 768, 12  # what hosts of Stable Diffusion 1.x build
COPIES = CLIP_WIDTH // WIDTH
HINT_WIDTHS = (16, 16, 32, 32, 96, 96, 256)  # outputs of the hint encoder's convolutions, but for the last

RESIDUAL = {"in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj",
            "out_layers.0": "norm2", "out_layers.3": "conv2"}
JOINING = RESIDUAL | {"skip_connection": "conv_shortcut"}
TRANSFORMER = {name: name for name in (
    "norm", "proj_in", "proj_out", *(f"transformer_blocks.0.{part}" for part in (
        "norm1", "norm2", "norm3", "ff.net.0.proj", "ff.net.2", *(
            f"attn{i}.to_{part}" for i in (1, 2) for part in ("q", "k", "v", "out.0")))))}
VAE_RESIDUAL = {name: name for name in ("norm1", "conv1", "norm2", "conv2")}
VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
TEXT_LAYER = ("layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2",
              *(f"self_attn.{part}_proj" for part in ("q", "k", "v", "out")))
NO_BIAS = re.compile(r"attn[12]\.to_[qkv]$|position_embedding$")
READS_TEXT = re.compile(r"attn2\.to_[kv]\.weight$")
POINTWISE = re.compile(r"mid\.attn_1\.(q|k|v|proj_out)\.weight$")  # a 1x1 convolution there, linear here


def under(host: str, library: str, parts: Mapping[str, str]) -> dict[str, str]:
    return {f"{host}.{theirs}": f"{library}.{ours}" for theirs, ours in parts.items()}


def downwards() -> dict[str, str]:
    """The half that the UNet and its ControlNets share."""
    return {
        "time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2",
        "input_blocks.0.0": "conv_in",
        **under("input_blocks.1.0", "down_blocks.0.resnets.0", RESIDUAL),
        "input_blocks.2.0.op": "down_blocks.0.downsamplers.0.conv",
        **under("input_blocks.3.0", "down_blocks.1.resnets.0", RESIDUAL),
        **under("input_blocks.3.1", "down_blocks.1.attentions.0", TRANSFORMER),
        **under("middle_block.0", "mid_block.resnets.0", RESIDUAL),
        **under("middle_block.1", "mid_block.attentions.0", TRANSFORMER),
        **under("middle_block.2", "mid_block.resnets.1", RESIDUAL)}


def upwards() -> dict[str, str]:
    names = {"output_blocks.1.2.conv": "up_blocks.0.upsamplers.0.conv",
             "out.0": "conv_norm_out", "out.2": "conv_out"}
    for i in range(4):
        names |= under(f"output_blocks.{i}.0", f"up_blocks.{i // 2}.resnets.{i % 2}", JOINING)
    for i in range(2):
        names |= under(f"output_blocks.{i}.1", f"up_blocks.0.attentions.{i}", TRANSFORMER)
    return names


def control() -> dict[str, str]:
    parts = ("conv_in", *(f"blocks.{i}" for i in range(6)), "conv_out")
    hint = {str(2 * i): part for i, part in enumerate(parts)}
    return {**downwards(), "middle_block_out.0": "controlnet_mid_block",
            **{f"zero_convs.{i}.0": f"controlnet_down_blocks.{i}" for i in range(4)},
            **under("input_hint_block", "controlnet_cond_embedding", hint)}


def vae() -> dict[str, str]:
    """No residual blocks on the way down; on the way up the host counts levels from the finest."""
    names = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
    for side in ("encoder", "decoder"):
        names |= {f"{side}.conv_in": f"{side}.conv_in", f"{side}.conv_out": f"{side}.conv_out",
                  f"{side}.norm_out": f"{side}.conv_norm_out"}
        names |= under(f"{side}.mid.attn_1", f"{side}.mid_block.attentions.0", VAE_ATTENTION)
        for i in range(2):
            names |= under(f"{side}.mid.block_{i + 1}", f"{side}.mid_block.resnets.{i}", VAE_RESIDUAL)
    for i in range(4):
        names |= under(f"decoder.up.{3 - i}.block.0", f"decoder.up_blocks.{i}.resnets.0", VAE_RESIDUAL)
    for i in range(3):
        names[f"encoder.down.{i}.downsample.conv"] = f"encoder.down_blocks.{i}.downsamplers.0.conv"
        names[f"decoder.up.{3 - i}.upsample.conv"] = f"decoder.up_blocks.{i}.upsamplers.0.conv"
    return names


def text() -> dict[str, str]:
    names = ["embeddings.position_embedding", "final_layer_norm",
             *(f"encoder.layers.{i}.{part}" for i in range(2) for part in TEXT_LAYER)]
    return {f"text_model.{name}": name for name in names}


def parameters(modules: Mapping[str, str]) -> dict[str, str]:
    """Names of modules to names of their weights and biases."""
    return {f"{theirs}.{part}": f"{ours}.{part}" for theirs, ours in modules.items()
            for part in (("weight",) if NO_BIAS.search(theirs) else ("weight", "bias"))}


NAMES = {"unet": parameters({**downwards(), **upwards()}), "vae": parameters(vae()),
         "text": parameters(text()), "control": parameters(control())}  # kind -> {host's: library's}


def check(kind: str, found, wanted) -> None:
    """ValueError that names the first key in which the two differ."""
    if odd := sorted(set(found) ^ set(wanted)):
        what = "unknown" if odd[0] in found else "missing"
        raise ValueError(f"Tiny model, {kind}: {odd[0]} is {what}, {len(odd)} names differ in all; these "
                         "weights belong to other networks, take those that came with this version")


def to_host(kind: str, state: Mapping[str, Tensor]) -> State:
    """A library's state dict in Stable Diffusion's layout; text without its token embedding."""
    names = NAMES[kind]
    check(kind, state, names.values())
    return {theirs: state[ours][..., None, None] if POINTWISE.search(theirs) else state[ours]
            for theirs, ours in names.items()}


def to_library(kind: str, state: Mapping[str, Tensor]) -> State:
    """The inverse of `to_host`."""
    names = NAMES[kind]
    check(kind, state, names)
    return {ours: state[theirs][..., 0, 0] if POINTWISE.search(theirs) else state[theirs]
            for theirs, ours in names.items()}


def token_embedding() -> Tensor:
    """[49408,128] float16 from a frozen stream: numpy's policy keeps RandomState's numbers for good."""
    numbers = np.random.RandomState(TOKEN_SEED).standard_normal((TOKENS, WIDTH))
    return torch.from_numpy(numbers * TOKEN_STD).half()


def pad_hint(state: Mapping[str, Tensor]) -> State:
    """A ControlNet whose hint encoder has the width that hosts hard-code; host's layout.

    The added channels carry SiLU(0) = 0 into added columns of zeros, so nothing changes.
    """
    padded = dict(state)
    for i, wide in enumerate((*HINT_WIDTHS, None)):
        name = f"input_hint_block.{2 * i}"
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]  # [out,in,3,3], [out]
        rows = (wide or len(bias)) - len(bias)
        columns = (HINT_WIDTHS[i - 1] if i else weight.shape[1]) - weight.shape[1]
        if min(rows, columns) < 0:
            raise ValueError(f"Tiny model, control: {name} is {list(weight.shape)}, wider than hosts can "
                             f"take; train with at most {HINT_WIDTHS} channels")
        padded[f"{name}.weight"] = pad(weight, (0, 0, 0, 0, 0, columns, 0, rows))
        padded[f"{name}.bias"] = pad(bias, (0, rows))
    return padded


def widen(name: str, value: Tensor) -> Tensor:
    """Outputs COPIES times, inputs read from the first copy; embeddings [N,128] have outputs only."""
    if value.ndim == 1:
        return value.repeat(COPIES)
    if "embedding" in name:
        return value.repeat(1, COPIES)
    return pad(value.repeat(COPIES, 1), (0, (COPIES - 1) * value.shape[1]))


def widen_text(state: Mapping[str, Tensor]) -> State:
    """The text encoder as six copies of itself in CLIP-L's size, host's layout with the token embedding.

    A norm over six copies is the norm over one; 12 heads are six times 2; layers of zeros add nothing.
    """
    wide = {name: widen(name, value) for name, value in state.items()}
    first = "text_model.encoder.layers.0."
    for i in range(CLIP_LAYERS):
        for name in [name for name in wide if name.startswith(first)]:
            wide.setdefault(name.replace("layers.0.", f"layers.{i}."), torch.zeros_like(wide[name]))
    return wide


def widen_context(state: Mapping[str, Tensor]) -> State:
    """A UNet or ControlNet that takes CLIP-L's 768 channels and reads the first 128; host's layout."""
    return {name: pad(value, (0, CLIP_WIDTH - value.shape[1])) if READS_TEXT.search(name) else value
            for name, value in state.items()}
