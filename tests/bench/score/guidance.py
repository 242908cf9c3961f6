"""Row "spectral guidance": do weights over frequency, time and place make more pictures right?"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from random import Random

import kornia
import torch
from torch import Tensor
from tweedie_pack.demo.reader import judge
from tweedie_pack.demo.sampling import sample
from tweedie_pack.demo.tiny import nets
from tweedie_pack.demo.tiny.model import Change, Tiny, guide
from tweedie_pack.demo.world import STRANGERS, Scene, draw, one_hand, random_scene, two_shapes
from tweedie_pack.samplers.guidance import Companions, Memory
from tweedie_pack.samplers.guidance import guide as correct
from tweedie_pack.samplers.power import calibrate
from tweedie_pack.samplers.recipe import Settings, bind, compose
from tweedie_pack.samplers.recommend import recommended
from tweedie_pack.samplers.spectral import BANDS, Window, keep, reweight
from tweedie_pack.samplers.structure import MAPS

from .result import Cell, Result, Table, Values
from .work import DECODED, GUIDANCE, SAMPLER, batches, model, noise, share

STEPS = 12  # other rows have 20; so many lines would take 9 minutes then, and take 6 now
KINDS = {
    "large hand": partial(one_hand, small=False),
    "small hand": partial(one_hand, small=True),
    "two shapes": two_shapes,
    "two shapes, untaught places": partial(two_shapes, pairs=STRANGERS),
}
GROUPS = {"large hand": "hands", "small hand": "hands", "two shapes": "two shapes",
          "two shapes, untaught places": "two shapes"}


@torch.no_grad()
def encode(tiny: Tiny, scenes: list[Scene]) -> Tensor:
    """Drawn scenes as scaled latents [N,4,16,16]."""
    clean = torch.stack([draw(scene).image for scene in scenes])
    return nets.SCALE * torch.cat([tiny.vae.encode(2 * part - 1).latent_dist.mean
                                   for part in clean.split(DECODED)])


@cache
def powers() -> tuple[float, ...]:
    """Of the tiny VAE's latents, for `deciding`."""
    random = Random("powers")
    return calibrate(encode(model("v"), [random_scene(random) for _ in range(64)]))


def weigh(bands: str = "off", structure: str = "off", band_knobs: dict | None = None,
          map_knobs: dict | None = None, **settings) -> Change:
    """A recipe as the hosts' doors apply it."""
    recipe = compose(bind(bands, BANDS, band_knobs or {}), bind(structure, MAPS, map_knobs or {}),
                     Settings(**settings), powers())
    window = Window.of(model("v").table)

    def change(x: Tensor, sigma: Tensor, guided: Tensor, cond: Tensor, uncond: Tensor) -> Tensor:
        step = int(1000 * sigma[0])  # another draw of probes for every step
        return guided + GUIDANCE * reweight(cond - uncond, recipe, window, sigma, guided, uncond, step)
    return change


def filtered(filter: Callable[[Tensor], Tensor]) -> Change:
    """A linear filter of cond - uncond, at the energy of the plain one."""
    def change(x: Tensor, sigma: Tensor, guided: Tensor, cond: Tensor, uncond: Tensor) -> Tensor:
        delta = cond - uncond
        return uncond + GUIDANCE * keep(delta, filter(delta), None)
    return change


def fresca(delta: Tensor, low: float, high: float, cutoff: float) -> Tensor:
    """FreSca (Huang et al. 2025) as ComfyUI has it: a box of the FFT; cutoff is a fraction of Nyquist."""
    size = delta.shape[-1]
    k = torch.fft.fftfreq(size, 1 / size)
    inside = (k >= -cutoff * size / 2) & (k < cutoff * size / 2)
    gain = torch.where(inside[:, None] & inside, low, high)
    return torch.fft.ifft2(torch.fft.fft2(delta) * gain).real


def fdg(delta: Tensor, low: float, high: float) -> Tensor:
    """FDG (Sadat et al. 2025) as diffusers has it: two levels of a Laplacian pyramid."""
    smooth = kornia.geometry.pyrup(kornia.geometry.pyrdown(delta))
    return low * smooth + high * (delta - smooth)


def corrected(**companions) -> Change:
    """APG, CFG rescale or the guidance interval; what a run remembers is made here."""
    chosen, memory = Companions(**companions).checked(), Memory()

    def change(x: Tensor, sigma: Tensor, guided: Tensor, cond: Tensor, uncond: Tensor) -> Tensor:
        return correct(x, sigma, cond, uncond, GUIDANCE, chosen, memory, flow=False)
    return change


HIGH = partial(weigh, "two_band", band_knobs={"high": 3.0})
PLAIN, FLOOR = "plain guidance", "clean pictures through the VAE"
LINES: dict[str, Callable[[], Change | None]] = {  # a change for each run: APG has a memory
    PLAIN: lambda: None,
    "low frequencies x 3": partial(weigh, "two_band", band_knobs={"low": 3.0, "cutoff": 0.12}),
    "middle frequencies x 3": partial(weigh, "three_band", band_knobs={"mid": 3.0}),
    "high frequencies x 3": HIGH,
    "coherence map": partial(weigh, structure="coherence"),
    "structure map": partial(weigh, structure="structure"),
    "leverage map": partial(weigh, structure="leverage"),
    "FreSca-like, high x 1.25": partial(filtered, partial(fresca, low=1.0, high=1.25, cutoff=20 / 32)),
    "FDG-like, high x 2": partial(filtered, partial(fdg, low=1.0, high=2.0)),
    "APG": partial(corrected, apg=True),
    "CFG rescale 0.7": partial(corrected, rescale=0.7),
    "interval, log-SNR -1 to 3.3": partial(corrected, interval=True),
    "high x 3, ramp": partial(HIGH, time="ramp"),
    "high x 3, window": partial(HIGH, time="window"),
    "high x 3, deciding": partial(HIGH, time="deciding"),
    "FreSca-like, high x 3": partial(filtered, partial(fresca, low=1.0, high=3.0, cutoff=20 / 32)),
    "FDG-like, high x 4": partial(filtered, partial(fdg, low=1.0, high=4.0)),
    "APG, eta 0.5 alone": partial(corrected, apg=True, eta=0.5, norm_threshold=0.0, momentum=0.0),
}
HANDS_ONLY = list(LINES)[-6:]
ABOUT = (
    "Share of pictures that `demo/reader.py` reads as the caption says: of hands the count of fingers, of "
    "two shapes both colours and both shapes. Untaught places are pairs that no caption in training held. "
    "Weights over frequency and place, and what is like FreSca (Huang et al. 2025, a box of the FFT) and "
    "FDG (Sadat et al. 2025, a pyramid of two levels), keep the energy of plain guidance, <g', g> = <g, g>, "
    "at every step; the other lines are as their papers have them. Saturation is chroma, the largest "
    "channel minus the smallest; clipping counts values that the decoder puts more than 1/255 outside 0..1. "
    f"CFG-Zero* is left out: it is stated for flow models. v, zero SNR, {SAMPLER}, {STEPS} steps, "
    f"recommended schedule, guidance {GUIDANCE:g}, the same captions and noise for every line.")
NOTES = (
    "Gains and cutoffs were chosen on seeds 5000 to 5095; maps and what is by others have their defaults.",
    "Clean pictures through the VAE show what can be had: the model draws no fingers that its VAE loses.")


def is_right(verdict: Mapping[str, bool]) -> bool:
    return verdict["fingers"] if "fingers" in verdict else verdict["colour"] and verdict["shape"]


@torch.no_grad()
def look(tiny: Tiny, scenes: list[Scene], latents: Tensor) -> list[tuple[bool, float, float]]:
    """Of each picture: is it right, its mean chroma, the share of its values that are clipped."""
    raw = torch.cat([tiny.vae.decode(part.float() / nets.SCALE).sample for part in latents.split(DECODED)])
    raw = raw / 2 + 0.5
    image = raw.clamp(0, 1)
    right = [is_right(judge(*pair)) for pair in zip(scenes, image, strict=True)]
    chroma = (image.amax(1) - image.amin(1)).mean((1, 2))
    clipped = ((raw - image).abs() > 1 / 255).float().mean((1, 2, 3))
    return list(zip(right, chroma.tolist(), clipped.tolist(), strict=True))


def run(line: str, kind: str, seeds: range) -> list[tuple[bool, float, float]]:
    tiny, scenes = model("v"), [KINDS[kind](Random(seed)) for seed in seeds]
    if line == FLOOR:
        return look(tiny, scenes, encode(tiny, scenes))
    sigmas = recommended(STEPS, tiny.table, "multistep")
    denoise = guide(tiny, [scene.caption for scene in scenes], GUIDANCE, change=LINES[line]())
    return look(tiny, scenes, sample(SAMPLER, denoise, sigmas[0] * noise(seeds), sigmas))


def against_plain(cells: Mapping[Cell, Values]) -> list[tuple[Cell, Cell]]:
    return [(cell, (PLAIN, cell[1])) for cell in cells if cell[0] not in (PLAIN, FLOOR)]


def measure(seeds: int) -> Result:
    tasks = [(line, kind, part) for line in (*LINES, FLOOR) for kind in KINDS
             if "hand" in kind or line not in HANDS_ONLY for part in batches(seeds)]
    right: dict = {}
    chroma: dict = {}
    clipped: dict = {}
    for (line, kind, _), found in zip(tasks, share(run, tasks, "guidance"), strict=True):
        for cells, column, values in zip((right, chroma, clipped), (kind, GROUPS[kind], GROUPS[kind]),
                                         zip(*found, strict=True), strict=True):
            cells.setdefault((line, column), []).extend(values)
    tables = [
        Table("Right pictures", "% of pictures", right, "rate", "higher", against_plain(right), places=1),
        Table("Colour saturation", "mean chroma", chroma, compare=against_plain(chroma), places=4),
        Table("Clipping", "share of values", clipped, "mean", "lower", against_plain(clipped), places=4)]
    return Result(ABOUT, tables, NOTES)
