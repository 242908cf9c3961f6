"""Runs in ComfyUI's Python: crops drawn by tiny models of every family, as a line of JSON."""
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import in_comfyui  # noqa: F401
import torch
from hosts import tiny_families
from hosts.regions_checks import VIDEO, WIDTHS, says
from torch.nn.functional import avg_pool2d, interpolate
from tweedie_pack.controls.hands.prepare import Crop
from tweedie_pack.nodes.hand_painter import Painter, Sampling, limits_of

FAMILIES = ("sd15", "inpaint", "sdxl", "sd3", "sd35", "flux", "flux2", "chroma", "qwen", "z_image")


class Vae:
    """Means of blocks, in as many channels as the model takes."""

    def __init__(self, format, video):
        self.format, self.video, self.cell = format, video, getattr(format, "spacial_downscale_ratio", 8)

    def spacial_compression_encode(self):
        return self.cell

    def encode(self, pixels):
        means = avg_pool2d(pixels.movedim(-1, 1), self.cell).mean(1, keepdim=True)
        latent = (means - 0.5).repeat(1, self.format.latent_channels, 1, 1)
        return latent.unsqueeze(2) if self.video else latent

    def decode(self, latents):
        flat = latents.float().flatten(2, -3) if latents.ndim == 5 else latents.float()
        flat = flat.mean(1, keepdim=True).flatten(1, -3).reshape(-1, 1, *latents.shape[-2:])
        pixels = interpolate(flat, scale_factor=self.cell).expand(-1, 3, -1, -1).sigmoid()
        return pixels.movedim(1, -1)[:, None] if self.video else pixels.movedim(1, -1)


def crops():
    noise = torch.Generator().manual_seed(0)
    pictures, mask = torch.rand(2, 3, 128, 192, generator=noise), torch.zeros(128, 192)
    mask[32:96, 48:144] = 1
    return [Crop(pictures[hand], mask, None, 64 * hand + seed, 0, hand, seed)
            for hand in range(2) for seed in range(2)]


def inpaint():
    """SD1.5 with the mask and the masked picture as further channels."""
    model = tiny_families.sd15(9)
    model.model.set_inpaint()
    return model


def check(name):
    model = inpaint() if name == "inpaint" else getattr(tiny_families, name)()
    vae = Vae(model.model.latent_format, name in VIDEO)
    text = says(WIDTHS.get(name, 16), 1, 512 if name == "flux2" else 10, 1280 if name == "sdxl" else 8)
    painter = Painter(model, vae, text, text, Sampling(2, 2.0, "euler", "simple", 0.7), None)
    asked = crops()
    together, alone = painter(asked), [painter([one])[0] for one in asked]
    return {"limits": list(limits_of(model, vae)), "shapes": [list(one.shape) for one in together],
            "apart": max(float((a - b).abs().max()) for a, b in zip(together, alone, strict=True)),
            "tries": float((together[0] - together[1]).abs().max()),
            "finite": all(bool(torch.isfinite(one).all()) for one in together)}


if __name__ == "__main__":
    with torch.inference_mode():
        print(json.dumps({name: check(name) for name in FAMILIES}))
