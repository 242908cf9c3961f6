"""(picture, a redrawn crop, alpha) -> picture: the crop in its colours, and nothing touched where alpha is 0.

The mask covers the hands, old and new, at full strength and fades outward only: no old finger shines through.
Colours are matched on what was not redrawn: a hand may change its brightness, its surroundings may not.
"""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..masks import bounds
from .crop import Job, resample
from .found import Box
from .windows import Size, Window, widen

GROW = 0.07  # of a hand's longer side, how far its mask reaches beyond it
GAIN, SHIFT = 1.25, 0.15  # no decoder is so far off in contrast and brightness; beyond is another picture
ENOUGH, FLAT = 64, 0.5 / 255  # pixels that tell brightness, and their deviation that tells contrast
OUTLIER, EXACT = 3.0, 1 / 255  # a pixel of the ring with so many median errors, above EXACT, was redrawn


def distance(inside: Tensor, most: float) -> Tensor:
    """[H,W]: pixels from each pixel to the nearest one inside, between centres; infinite beyond `most`."""
    from scipy.ndimage import distance_transform_edt
    far = torch.full(inside.shape, torch.inf)
    if box := bounds(inside):
        top, left, bottom, right = box
        x0, y0, x1, y1 = widen((left, top, right, bottom), most, inside.shape)
        outside = ~inside[y0:y1, x0:x1].cpu().numpy()
        far[y0:y1, x0:x1] = torch.from_numpy(distance_transform_edt(outside))
    return far


def cover(shapes: Sequence[Tensor | Box], longs: Sequence[float], size: Size, grow: float = GROW) -> Tensor:
    """All that a repair may redraw, bool [H,W]: each shape grown by `grow` of its hand's longer side.

    Shapes are bool masks [H,W] or boxes: hands as they are, and as they shall be; longs has one side a shape.
    They grow by at least one pixel, unless grow is 0. ValueError for a mask of another size.
    """
    core = torch.zeros(size, dtype=torch.bool)
    for shape, long in zip(shapes, longs, strict=True):
        if isinstance(shape, Tensor):
            if tuple(shape.shape) != tuple(size):
                raise ValueError(f"Hands: a mask is {list(shape.shape)} in a picture of {list(size)}; "
                                 "give masks over the whole picture")
            inside = shape.bool()
        else:
            x0, y0, x1, y1 = widen(shape, 0, size)
            inside = torch.zeros(size, dtype=torch.bool)
            inside[y0:y1, x0:x1] = True
        radius = max(grow * long, 1) if grow else 0
        core |= distance(inside, radius) <= radius
    return core


def smooth(z: Tensor) -> Tensor:
    """0 up to 0, 1 from 1 on, level at both."""
    z = z.clamp(0, 1)
    return z * z * (3 - 2 * z)


def feather_out(core: Tensor, width: float, window: Window | None = None) -> Tensor:
    """alpha [H,W]: 1 on the core, falling outward to exactly 0 at `width` pixels.

    With a window it is 0 outside that, too, and on its outermost pixels, from where it rises over `width`
    pixels; not so where the window ends with the picture.
    """
    alpha = smooth(1 - distance(core, width) / width) if width > 1 else core.float().cpu()
    return alpha if window is None else alpha.minimum(fence(window, core.shape, width))


def fence(window: Window, size: Size, width: float) -> Tensor:
    """What alpha [H,W] is at most in a window."""
    def along(low: int, high: int, room: int) -> Tensor:
        pixel = torch.arange(room, dtype=torch.float32)
        return torch.minimum(pixel - low if low > 0 else torch.full_like(pixel, torch.inf),
                             high - 1 - pixel if high < room else torch.full_like(pixel, torch.inf))
    x0, y0, x1, y1 = window
    inward = along(y0, y1, size[0])[:, None].minimum(along(x0, x1, size[1]))
    return smooth(inward / max(width, 1))


def match_ring(new: Tensor, old: Tensor, core: Tensor, ring: Tensor) -> Tensor:
    """The crop `new` [C,h,w] with the means and deviations that `old` has on the ring outside the core.

    core, ring: bool [h,w]. Pixels of the ring that were redrawn after all don't count. On a ring of one
    colour only the mean is matched; one of fewer than ENOUGH pixels changes nothing. GAIN and SHIFT limit it.
    """
    here = ring & ~core
    if int(here.sum()) < ENOUGH:
        return new
    a, b = new[:, here].float(), old[:, here].float()  # [C,N]
    gain, shift = torch.ones(len(a), 1).to(a), (b - a).median(1, keepdim=True).values
    for _ in range(2):
        error = (gain * a + shift - b).abs().amax(0)
        same = error <= (OUTLIER * error.median()).clamp_min(EXACT)
        gain, shift = match(a[:, same], b[:, same])
    gain, shift = gain[..., None], shift[..., None]
    return (gain * new.float() + shift).clamp(0, 1).to(new)


def match(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """gain and shift [C,1] that give the pixels a [C,N] the mean and deviation of b, within limits."""
    (spread, mean), (wanted, target) = (torch.std_mean(pixels, 1, keepdim=True) for pixels in (a, b))
    told = (spread > FLAT) & (wanted > FLAT)
    gain = torch.where(told, wanted / spread, 1).clamp(1 / GAIN, GAIN)
    return gain, mean + (target - mean).clamp(-SHIFT, SHIFT) - gain * mean


def paste_back(picture: Tensor, job: Job, crop: Tensor, alpha: Tensor) -> Tensor:
    """The picture [C,H,W] with its job's crop [C,h,w] laid in by alpha [H,W].

    Resampled and mixed in float32; where alpha is 0, the picture bit for bit. ValueError for a crop or alpha
    of another size, NaN or infinity.
    """
    if crop.shape != (len(picture), *job.size) or alpha.shape != picture.shape[1:]:
        raise ValueError(f"Hands: the crop is {list(crop.shape)} and alpha {list(alpha.shape)}; give a crop "
                         f"{[len(picture), *job.size]} and alpha {list(picture.shape[1:])}")
    if not bool(torch.isfinite(crop).all()):
        raise ValueError("Hands: the redrawn crop holds NaN or infinity; try a VAE in full precision")
    x0, y0, x1, y1 = job.window
    old = picture[:, y0:y1, x0:x1]
    new = resample(crop, old.shape[1:]).to(old.device)
    weight = alpha[y0:y1, x0:x1].to(new)
    pasted = picture.clone()
    pasted[:, y0:y1, x0:x1] = torch.where(weight > 0, torch.lerp(old.float(), new, weight).to(old), old)
    return pasted
