"""(path, seed) -> a ControlNet for Stable Diffusion 1.5 with random weights, in lllyasviel's file format.

    python random_controlnet.py random_a.safetensors 1

Half precision, 720 MB. Only ComfyUI's Python is needed: COMFYUI_PATH. Hidden states keep about unit size; the
zero convolutions pass SHARE of theirs on, enough to change a picture and too little to break it.
"""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import in_comfyui  # noqa: F401, I001
import comfy.cldm.cldm
import comfy.ops
import torch
from safetensors.torch import save_file

SHARE = 0.07
GAINS = {"zero_convs": SHARE, "middle_block_out": SHARE, "input_hint_block": 2.0}
SD15 = dict(image_size=32, in_channels=4, model_channels=320, hint_channels=3, num_res_blocks=[2, 2, 2, 2],
            channel_mult=[1, 2, 4, 4], num_heads=8, use_spatial_transformer=True, context_dim=768,
            transformer_depth=[1, 1, 1, 1, 1, 1, 0, 0], transformer_depth_middle=1, legacy=False)


def draw(name, shape, generator):
    """A weight of unit gain, a norm's 1, a bias's 0; the hint's biases are drawn, so that black counts."""
    part = name.split(".")[0]
    if name.endswith("weight") and len(shape) > 1:
        return torch.randn(shape, generator=generator) * GAINS.get(part, 1.0) * shape[1:].numel() ** -0.5
    if part == "input_hint_block":
        return torch.randn(shape, generator=generator) * 0.5
    return torch.full(shape, float(name.endswith("weight")))


def make(seed):
    """Names and values, half precision."""
    net = comfy.cldm.cldm.ControlNet(**SD15, device="meta", dtype=torch.float16,
                                     operations=comfy.ops.disable_weight_init)
    generator = torch.Generator().manual_seed(seed)
    return {f"control_model.{name}": draw(name, value.shape, generator).half()
            for name, value in net.state_dict().items()}


if __name__ == "__main__":
    save_file(make(int(sys.argv[2])), sys.argv[1])
