"""Row "zero terminal SNR": is a black background black, and a white one white?"""
from __future__ import annotations

from random import Random
from typing import NamedTuple

import torch
from torch import Tensor
from tweedie_pack.demo.sampling import sample, stable_diffusion_table
from tweedie_pack.demo.tiny import nets
from tweedie_pack.demo.tiny.model import Tiny, guide
from tweedie_pack.demo.world import COLOURS, PLACES, Scene, draw, random_shape
from tweedie_pack.samplers.recommend import recommended
from tweedie_pack.samplers.zero_snr import calibrate_dc

from .result import Result, Table
from .work import DECODED, GUIDANCE, SAMPLER, STEPS, batches, model, noise, share

BORDER = 6  # pixels
TARGETS = {"black": 0.0, "white": 1.0}
CASES = {  # column -> background and guidance
    "black": ("black", GUIDANCE), "white": ("white", GUIDANCE),
    "black, no CFG": ("black", 1.0), "white, no CFG": ("white", 1.0)}
FLOOR = "clean pictures through the VAE"
ABOUT = (
    "Captions ask for one shape on a black or a white background; the error is how far the mean of the "
    f"border (outer {BORDER} pixels) is from 0 or 1. {SAMPLER}, {STEPS} steps, recommended schedule, "
    f"guidance {GUIDANCE:g} unless said, the same captions and noise for every line.")


class Way(NamedTuple):
    prediction: str
    told: bool = True  # of the table that the model was trained on? The ordinary one otherwise
    calibrated: bool = False
    phi: float = 0.0


WAYS = {
    "epsilon, ordinary table": Way("epsilon"),
    "epsilon, DC-calibrated start": Way("epsilon", calibrated=True),
    "v, zero SNR": Way("v"),
    "v, zero SNR, CFG rescale 0.7": Way("v", phi=0.7),
    "v, host unaware of zero SNR": Way("v", told=False),
}
BASELINES = (("epsilon, DC-calibrated start", "epsilon, ordinary table"),
             ("v, zero SNR", "epsilon, ordinary table"),
             ("v, zero SNR", "epsilon, DC-calibrated start"),
             ("v, zero SNR, CFG rescale 0.7", "v, zero SNR"),
             ("v, host unaware of zero SNR", "v, zero SNR"))


def draft(seed: int, background: str) -> Scene:
    """One shape, neither black nor white; the same for both backgrounds."""
    random = Random(seed)
    colour = random.choice([name for name in COLOURS if name not in TARGETS])
    return Scene((random_shape(random, colour, random.choice(list(PLACES)), (25, 33)),), background)


@torch.no_grad()
def border(tiny: Tiny, latents: Tensor, background: str) -> tuple[list[float], list[float]]:
    """Error of each picture's border, and its signed error before the picture is held within 0..1."""
    inner = torch.zeros(128, 128, dtype=torch.bool)
    inner[BORDER:-BORDER, BORDER:-BORDER] = True
    raw = torch.cat([tiny.vae.decode(part.float() / nets.SCALE).sample for part in latents.split(DECODED)])
    band = (raw / 2 + 0.5)[:, :, ~inner].flatten(1)
    aim = TARGETS[background]
    return (band.clamp(0, 1).mean(1) - aim).abs().tolist(), (band.mean(1) - aim).tolist()


def run(name: str, case: str, seeds: range) -> tuple[list[float], list[float]]:
    way, (background, guidance) = WAYS[name], CASES[case]
    tiny = model(way.prediction)
    if not way.told:  # such a host takes alpha, sigma and time from the ordinary table
        tiny = tiny._replace(table=stable_diffusion_table())
    sigmas = recommended(STEPS, tiny.table, "multistep")
    denoise = guide(tiny, [draft(seed, background).caption for seed in seeds], guidance, way.phi)
    top = float(sigmas[0])
    start = top * noise(seeds)
    if way.calibrated:
        start = calibrate_dc(lambda x: denoise(x, top), start, top)
    return border(tiny, sample(SAMPLER, denoise, start, sigmas), background)


@torch.no_grad()
def run_floor(case: str, seeds: range) -> tuple[list[float], list[float]]:
    tiny, (background, _) = model("v"), CASES[case]
    clean = torch.stack([draw(draft(seed, background)).image for seed in seeds])
    latents = torch.cat([tiny.vae.encode(2 * part - 1).latent_dist.mean for part in clean.split(DECODED)])
    return border(tiny, latents * nets.SCALE, background)


def measure(seeds: int) -> Result:
    tasks = [(name, case, part) for name in WAYS for case in CASES for part in batches(seeds)]
    floor = [(case, part) for case in CASES for part in batches(seeds)]
    errors: dict = {}
    signed: dict = {}
    done = zip([*tasks, *((FLOOR, *task) for task in floor)],
               share(run, tasks, "black and white") + share(run_floor, floor, "floor"), strict=True)
    for (name, case, _), (error, sign) in done:
        errors.setdefault((name, case), []).extend(error)
        signed.setdefault((name, case), []).extend(sign)
    compare = [((ours, case), (baseline, case)) for ours, baseline in BASELINES for case in CASES]
    return Result(ABOUT, [
        Table("Brightness error", "distance from 0 or 1", errors, better="lower", compare=compare,
              places=4),
        Table("Signed error", "before values are held within 0..1; above 0 is too bright", signed,
              places=4)])
