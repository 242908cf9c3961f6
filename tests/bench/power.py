"""The table of samplers/power.py from photographs: PYTHON tests/bench/power.py PHOTOGRAPHS WEIGHTS [SIZE ...]

WEIGHTS holds the encoders of TAESD and TAEHV (Ollin Boer Bohan, github madebyollin): taesd_encoder,
taesdxl_encoder, taesd3_encoder, taef1_encoder and taew2_1, each .safetensors or .pth; a format without its
file is left out. These nets give latents as the diffusion model sees them. Photographs are cropped to their
middle square and shrunk to SIZE (512 and 1024); smaller ones are passed over, never enlarged. Wan gets clips:
slow pans with a zoom. A row of the table is the geometric mean over sizes.
"""
import math
import pathlib
import sys

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from tweedie_pack.samplers.power import RADII, calibrate

ENCODERS = {"SD15": "taesd_encoder", "SDXL": "taesdxl_encoder", "SD3": "taesd3_encoder",
            "Flux": "taef1_encoder", "Wan21": "taew2_1"}
FRAMES, ROOM = 17, 1.15  # of a clip: frames, and how much larger than a frame the photograph is


def conv(inside: int, outside: int = 64, **knobs) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, 3, padding=1, **knobs)


class Residual(nn.Module):
    """x [T,64,H,W] -> the same; with memory each frame also sees the one before it."""

    def __init__(self, memory: bool):
        super().__init__()
        self.memory = memory
        self.conv = nn.Sequential(conv(128 if memory else 64), nn.ReLU(), conv(64), nn.ReLU(), conv(64))

    def forward(self, x: Tensor) -> Tensor:
        before = [torch.cat([torch.zeros_like(x[:1]), x[:-1]])] if self.memory else []
        return (self.conv(torch.cat([x, *before], 1)) + x).relu()


class Pool(nn.Module):
    """x [T,64,H,W] -> [T/every,64,H,W]: `every` frames mixed into one."""

    def __init__(self, every: int):
        super().__init__()
        self.every, self.conv = every, nn.Conv2d(64 * every, 64, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.reshape(-1, self.every * 64, *x.shape[2:]))


def build(channels: int, video: bool) -> nn.Sequential:
    """Encoder: pictures [T,3,H,W] in 0..1 -> latents [T',channels,H/8,W/8], T' = T/4 for video."""
    layers = [conv(3), nn.ReLU() if video else Residual(False)]
    for every in (2, 2, 1):
        layers += [Pool(every)] if video else []
        layers += [conv(64, stride=2, bias=False)] + [Residual(video) for _ in range(3)]
    return nn.Sequential(*layers, conv(64, channels))


def load(folder: pathlib.Path, name: str) -> nn.Sequential | None:
    paths = [path for path in (folder / f"{name}.safetensors", folder / f"{name}.pth") if path.exists()]
    if not paths:
        return None
    states = (load_file(paths[0]) if paths[0].suffix == ".safetensors"
              else torch.load(paths[0], map_location="cpu", weights_only=True))
    video = any(key.startswith("encoder.") for key in states)
    states = {key.removeprefix("encoder."): value.float() for key, value in states.items()
              if not key.startswith("decoder.")}
    last = max((key for key in states if key.endswith(".weight")), key=lambda key: int(key.split(".")[0]))
    net = build(len(states[last]), video)
    net.load_state_dict(states)
    return net.to(memory_format=torch.channels_last)


def as_tensor(picture: Image.Image) -> Tensor:
    """[1,3,H,W] in 0..1, channels last in memory: twice as fast on a CPU."""
    x = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255
    return x.to(memory_format=torch.channels_last)


def frame(picture: Image.Image, size: int) -> Tensor:
    """The middle square of a photograph [1,3,size,size]."""
    side = min(picture.size)
    left, top = (picture.width - side) / 2, (picture.height - side) / 2
    return as_tensor(picture.resize((size, size), Image.LANCZOS, (left, top, left + side, top + side)))


def clip(picture: Image.Image, size: int, index: int) -> Tensor:
    """A slow pan with a zoom of 5 % over a photograph [20,3,size,size], in one of four directions.

    The last of the 17 frames is repeated to make a multiple of four, as TAEHV does.
    """
    side, frames = min(picture.size) / ROOM, []
    for step in range(FRAMES):
        u = step / (FRAMES - 1)
        wide = side * (1 - 0.05 * u)
        x, y = ((picture.width - side) / 2 + (u - 0.5) * (ROOM - 1) * side * (1, -1, 0, 0)[index % 4],
                (min(picture.size) - side) / 2 + (u - 0.5) * (ROOM - 1) * side * (0, 0, 1, -1)[index % 4])
        y += (picture.height - min(picture.size)) / 2
        frames.append(as_tensor(picture.resize((size, size), Image.LANCZOS, (x, y, x + wide, y + wide))))
    return torch.cat(frames + frames[-1:] * (-FRAMES % 4))


def encode(net: nn.Sequential, paths: list[pathlib.Path], size: int) -> Tensor:
    """[N,C,H,W] or, for a video encoder, [N,C,T,H,W]: all photographs that are large enough."""
    video, latents = isinstance(net[1], nn.ReLU), []
    for index, path in enumerate(paths):
        picture = Image.open(path).convert("RGB")
        if min(picture.size) < size * (ROOM if video else 1):
            continue
        latents.append(net(clip(picture, size, index)).transpose(0, 1)[None] if video
                       else net(frame(picture, size)))
    return torch.cat(latents).contiguous() if latents else torch.empty(0)


def row(values) -> str:
    return ", ".join(f"{value:.3g}" for value in values)


def report(name: str, net: nn.Sequential, paths: list[pathlib.Path], sizes: list[int]) -> None:
    found = {}
    for size in sizes:
        latents = encode(net, paths, size)
        if not len(latents):
            continue
        found[size] = calibrate(latents)
        each = torch.tensor([calibrate(latent[None]) for latent in latents])
        low, high = torch.quantile(each, torch.tensor([0.1, 0.9]), dim=0)
        print(f"{name} at {size}, {len(latents)} photographs: {row(found[size])}")
        print(f"    10 % to 90 % of photographs: {row(low)} to {row(high)}")
        print(f"    std of each channel: {row(latents.transpose(0, 1).flatten(1).std(1))}; "
              f"of all: {float(latents.std()):.3g}")
    means = [math.prod(found[size][k] for size in found) ** (1 / len(found)) for k in range(len(RADII))]
    print(f'    "{name}": ({row(means)}),', flush=True)


@torch.no_grad()
def main() -> None:
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    photographs, weights = map(pathlib.Path, sys.argv[1:3])
    paths = sorted(path for path in photographs.iterdir()
                   if path.suffix.lower() in {".jpg", ".jpeg", ".png", ".webp"})
    for name, encoder in ENCODERS.items():
        net = load(weights, encoder)
        if net is None:
            print(f"{name}: left out, {weights} holds no {encoder}")
        else:
            report(name, net, paths, [int(size) for size in sys.argv[3:]] or [512, 1024])


if __name__ == "__main__":
    main()
