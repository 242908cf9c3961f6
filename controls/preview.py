"""(shares [1+R,H,W]) -> pictures [H,W,3] in 0..1 of who owns what, alone or laid over a result."""
from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

TURN = 0.618034  # of the colour wheel from one region to the next: neighbours never look alike
PAPER = 0.16  # grey of what is the base's
LINES, LETTERS = 3, 200  # of a region's text


def colours_of(count: int) -> Tensor:
    """[count,3], the first `count` regions' colours in previews."""
    hues = [(0.58 + number * TURN) % 1 for number in range(count)]
    return torch.tensor([colorsys.hsv_to_rgb(hue, 0.62, 0.86) for hue in hues])


def paint(shares: Tensor) -> Tensor:
    """[H,W,3]: each region's colour by its share."""
    colours = torch.cat([torch.full((1, 3), PAPER), colours_of(len(shares) - 1)])
    return torch.einsum("rhw,rc->hwc", shares.float().cpu(), colours)


def overlay(picture: Tensor, shares: Tensor, strength: float = 0.45) -> Tensor:
    """A picture [H,W,3] with the regions' colours over it; what is the base's stays as it is."""
    picture = picture.float().cpu()
    shares = torch.nn.functional.interpolate(shares.float().cpu()[None], picture.shape[:2], mode="area")[0]
    cover = strength * (1 - shares[0])[..., None]
    regions = torch.einsum("rhw,rc->hwc", shares[1:], colours_of(len(shares) - 1))
    regions = regions / (1 - shares[0]).clamp_min(1e-6)[..., None]
    return (picture * (1 - cover) + regions * cover).clamp(0, 1)


def draw_layout(shares: Tensor, names: Sequence[str], load_font: Callable, side: int = 512) -> Tensor:
    """The regions' colours, each with its number and text at its middle; the longer side is `side` pixels.

    load_font: (size) -> a Pillow font.
    """
    from PIL import Image, ImageDraw
    scale = side / max(shares.shape[1:])
    height, width = (max(1, round(scale * length)) for length in shares.shape[1:])
    shares = torch.nn.functional.interpolate(shares.float().cpu()[None], (height, width), mode="area")[0]
    image = Image.fromarray((paint(shares) * 255).round().byte().numpy())
    letters = max(11, side // 28)
    draw, large, small = ImageDraw.Draw(image), load_font(side // 12), load_font(letters)
    for number, (share, name) in enumerate(zip(shares[1:], names, strict=True), 1):
        total = share.sum()
        if total > 0:
            x = float((share.sum(0) * torch.arange(width)).sum() / total)
            y = float((share.sum(1) * torch.arange(height)).sum() / total)
            room = int((share.amax(0) > 0.5).sum())
            draw.text((x, y), f"{number}", fill="white", font=large, anchor="mb", stroke_width=2,
                      stroke_fill="black")
            for row, line in enumerate(wrap(name, room - 8, small)):
                draw.text((x, y + 6 + 1.3 * row * letters), line, fill="white", font=small, anchor="mt",
                          stroke_width=1, stroke_fill="black")
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(height, width, 3) / 255


def wrap(text: str, room: int, font) -> list[str]:
    """The text's first words on up to LINES lines of `room` pixels, in letters that Pillow's font has."""
    lines = [""]
    for word in text[:LETTERS].encode("ascii", "replace").decode("ascii").split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= room:
            lines[-1] = longer
        elif len(lines) < LINES and lines[-1]:
            lines.append(word)
        else:
            lines[-1] += ".."
            break
    return [line for line in lines if font.getlength(line) <= room + 4 * font.getlength(".")]
