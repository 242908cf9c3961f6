"""Row "ControlNet blending": two controls at once, joined by each policy: what is obeyed, and what burns?"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor
from tweedie_pack.controls.blends import BLENDS, REDUNDANT, RELATED, dot, total
from tweedie_pack.controls.multi import Policy, Reuse
from tweedie_pack.demo.sampling import relative_error, sample
from tweedie_pack.demo.tiny import nets
from tweedie_pack.demo.tiny.controlled import OFF, Control, guide_controls
from tweedie_pack.demo.tiny.model import Tiny
from tweedie_pack.demo.world import Picture, Scene, draw, one_hand, one_shape
from tweedie_pack.samplers.recommend import recommended

from .controls import again, control, overlap, silhouette, subject
from .guidance import encode
from .result import Cell, Result, Table, Values
from .work import DECODED, GUIDANCE, SAMPLER, STEPS, batches, model, noise, share

KINDS = (one_shape, one_hand)  # seeds take turns
FEW = 12  # steps of the policies' tables: with 20 they take half as long again
HINTS = ("edges", "depth")
SUM = BLENDS["sum"].label
ALONE = {f"{hint} alone": (hint,) for hint in HINTS}
POLICIES = {plugin.label: plugin.run for plugin in BLENDS.values()}
LINES = (*ALONE, *POLICIES)
AGREE, DIFFER, STRANGE = "agreeing", "contradicting", "unrelated"  # the depth is the scene's, or of another
CASES = {AGREE: (0.5, 1.0, 1.5, 2.0), DIFFER: (1.0, 2.0)}  # strengths
FULL = "every step"
REUSES = {FULL: OFF, **{f"every {n}": Reuse("interval", interval=n) for n in (2, 3, 4, 5)},
          **{f"threshold {share:g}": Reuse("threshold", threshold=share) for share in (0.1, 0.2)}}
ONE = "agreeing, sum, 1"  # what reuse is measured on
LAYERS = ("layer 1", "layer 2", "layer 3", "layer 4", "middle")  # of the tiny ControlNets
ABOUT = (
    "Edges and depth at once, each at the strength of its column. Of one scene they agree; of two scenes "
    "of one caption, the edges' and the depth's, they contradict each other. Half of the scenes hold one "
    "shape, half a hand. Overlap is the IoU of the subject with the silhouette of a control's scene. Burn is "
    "what a picture has beyond the clean picture of the edges' scene, which is drawn and passed through the "
    "VAE and so is 0: in mean chroma, the largest channel minus the smallest, and in the share of values "
    "that the decoder puts more than 1/255 outside 0..1. Policies have their defaults; edges come first in "
    f"Project. v, zero SNR, {SAMPLER}, {FEW} steps, for reuse and cosines {STEPS}, recommended schedule, "
    f"guidance {GUIDANCE:g}, the same captions and noise for every line.")
NOTES = (
    "**Which policy.** Sum and Project, which is Sum where nothing contradicts, have the most overlap at 0.5 "
    "and, beside Root mean square, at 1; no policy has more at any strength than Sum at 1, but for 0.001. So "
    "Sum is the default, at strengths up to 1. At 2 it has less overlap than one control, and clips 70 to "
    "123 % more; all policies but Project have more overlap than Sum from 1.5 on, and clip 25 to 46 % less "
    "at 2. At 1 Cap clips 14 % less than Sum, with no difference found in overlap. Average at 2 is Sum at 1.",
    "Where controls contradict each other, no policy obeys both better than Sum; Project gives the first "
    "what it takes from the second. One control alone: the other scene's column is what chance gives. "
    "Saturation does not tell: all are within 0.005 of clean, so that per cent of it mean nothing.",
    "Reuse never stands in at the first and the last step; a threshold is decided for 32 pictures at once. "
    "The error is the root mean square difference of the latents at the end, over the full run's own.",
    "Cosines are of the residuals at strength 1, for the caption's rows. Unrelated is the depth of the next "
    f"seed's scene. Cap takes places above {REDUNDANT:g} for redundant, below {RELATED:g} for unrelated: it "
    "hardly tells contradicting controls from agreeing ones here, as these nets, both of which began as "
    "copies of the UNet, say much alike about any two scenes. Larger nets were not measured.")


class Draft(NamedTuple):
    """What a batch of seeds asks for: hints are those of the drawn edges and depths."""

    scenes: Sequence[Scene]
    edges: Sequence[Picture]
    depths: Sequence[Picture]

    @property
    def captions(self) -> list[str]:
        return [scene.caption for scene in self.scenes]

    def controls(self, hints: Sequence[str], strength: float) -> list[Control]:
        return [Control(control(hint), torch.stack([getattr(one, hint) for one in getattr(self, source)]),
                        strength) for hint, source in zip(HINTS, ("edges", "depths"), strict=True)
                if hint in hints]


@cache
def draft(case: str, seeds: range) -> Draft:
    scenes = [KINDS[seed % len(KINDS)](Random(seed)) for seed in seeds]
    drawn = [draw(scene) for scene in scenes]
    others = {AGREE: lambda: drawn, STRANGE: lambda: drawn[1:] + drawn[:1], DIFFER: lambda: [
        draw(again(scene, Random(f"again {seed}"))) for scene, seed in zip(scenes, seeds, strict=True)]}
    return Draft(scenes, drawn, others[case]())


def paint(asked: Draft, controls: Sequence[Control], policy: Policy, seeds: range, steps: int = STEPS,
          reuse: Reuse = OFF) -> Tensor:
    """[N,4,16,16]"""
    tiny = model("v")
    sigmas = recommended(steps, tiny.table, "multistep")
    denoise = guide_controls(tiny, asked.captions, GUIDANCE, controls, policy, reuse, sigmas)
    return sample(SAMPLER, denoise, sigmas[0] * noise(seeds), sigmas)


@torch.no_grad()
def look(tiny: Tiny, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures [N,3,128,128], their mean chroma [N], the share of their values that is clipped [N]."""
    raw = torch.cat([tiny.vae.decode(part.float() / nets.SCALE).sample for part in latents.split(DECODED)])
    raw = raw / 2 + 0.5
    image = raw.clamp(0, 1)
    return (image, (image.amax(1) - image.amin(1)).mean((1, 2)),
            ((raw - image).abs() > 1 / 255).double().mean((1, 2, 3)))


@cache
def clean(seeds: range) -> tuple[Tensor, Tensor]:
    """Mean chroma and clipped share of clean pictures through the VAE."""
    tiny = model("v")
    _, *burn = look(tiny, encode(tiny, list(draft(AGREE, seeds).scenes)))
    return tuple(burn)


def run(line: str, case: str, strength: float, seeds: range) -> list[tuple[float, ...]]:
    """Of each picture: overlap with the edges' and the depth's scene, chroma and clipping beyond clean."""
    asked = draft(case, seeds)
    controls = asked.controls(ALONE.get(line, HINTS), strength)
    images, *burn = look(model("v"), paint(asked, controls, POLICIES.get(line, total), seeds, FEW))
    seen = [subject(image) for image in images]
    overlaps = [[overlap(mask, silhouette(picture)) for mask, picture in zip(seen, drawn, strict=True)]
                for drawn in (asked.edges, asked.depths)]
    beyond = [(found - own).tolist() for found, own in zip(burn, clean(seeds), strict=True)]
    return list(zip(*overlaps, *beyond, strict=True))


def run_reuse(seeds: range) -> dict[str, list[tuple[float, ...]]]:
    """Of each line's pictures: overlap, per cent of steps that called the nets, error of the latent."""
    asked, calls, found = draft(AGREE, seeds), [], {}
    controls, full = asked.controls(HINTS, 1.0), None
    for line, reuse in REUSES.items():
        calls.clear()
        with controls[0].net.conv_in.register_forward_hook(lambda *_: calls.append(1)):
            latents = paint(asked, controls, total, seeds, reuse=reuse)
        full = latents if full is None else full
        images, *_ = look(model("v"), latents)
        found[line] = [(overlap(subject(image), silhouette(picture)), 100 * len(calls) / STEPS, error)
                       for image, picture, error in zip(
                           images, asked.edges, relative_error(latents, full).tolist(), strict=True)]
    return found


def run_cosines(case: str, seeds: range) -> list[tuple[float, ...]]:
    """Of each picture's residuals for its caption: mean cosine over places in each layer, over all steps; in
    all of them over the first and the last quarter of steps; per cent of places that are alike, and apart."""
    asked, found = draft(case, seeds), []

    def watch(residuals: Sequence[Tensor], weights: Sequence[Tensor | float]) -> Tensor:
        first, second = (one[:len(seeds)] for one in residuals)
        cosine = dot(first, second) / (dot(first, first) * dot(second, second)).sqrt().clamp_min(1e-12)
        found.append(torch.stack([part.double().mean((1, 2, 3)) for part in (
            cosine, 100 * (cosine > REDUNDANT), 100 * (cosine < RELATED))]))
        return total(residuals, weights)

    paint(asked, asked.controls(HINTS, 1.0), watch, seeds)
    means = torch.stack(found).unflatten(0, (STEPS, len(LAYERS)))  # [steps,layers,3,N]
    quarter = STEPS // 4
    return torch.stack([*means[:, :, 0].mean(0), means[:quarter, :, 0].mean((0, 1)),
                        means[-quarter:, :, 0].mean((0, 1)), *means[:, :, 1:].mean((0, 1))]).T.tolist()


def against(cells: Mapping[Cell, Values], alone: bool = True) -> list[tuple[Cell, Cell]]:
    """Each policy with the sum, and the sum with one control."""
    columns = dict.fromkeys(column for _, column in cells)
    pairs = [*((SUM, line) for line in ALONE if alone), *((line, SUM) for line in POLICIES if line != SUM)]
    return [((ours, column), (baseline, column)) for ours, baseline in pairs for column in columns]


def measure_burn(seeds: int) -> list[Table]:
    tasks = [(line, case, strength, part) for line in LINES for case, strengths in CASES.items()
             for strength in strengths for part in batches(seeds)]
    agree, differ, chroma, clipped = {}, {}, {}, {}
    for (line, case, strength, _), found in zip(tasks, share(run, tasks, "blends"), strict=True):
        edges, depth, *burn = zip(*found, strict=True)
        if case == AGREE:
            agree.setdefault((line, f"strength {strength:g}"), []).extend(edges)
        else:
            differ.setdefault((line, f"edges' scene, strength {strength:g}"), []).extend(edges)
            differ.setdefault((line, f"depth's scene, strength {strength:g}"), []).extend(depth)
        for cells, values in zip((chroma, clipped), burn, strict=True):
            cells.setdefault((line, f"{case}, {strength:g}"), []).extend(values)
    return [
        Table("Overlap, agreeing", "IoU", agree, better="higher", compare=against(agree)),
        Table("Overlap, contradicting", "IoU", differ, better="higher", compare=against(differ, False)),
        Table("Saturation", "chroma beyond clean", chroma, compare=against(chroma), places=4),
        Table("Clipping", "share of values beyond clean", clipped, better="lower", compare=against(clipped),
              places=4)]


def measure_reuse(seeds: int) -> list[Table]:
    overlaps, calls, errors = {}, {}, {}
    for found in share(run_reuse, [(part,) for part in batches(seeds)], "reuse"):
        for line, values in found.items():
            for cells, column in zip((overlaps, calls, errors), zip(*values, strict=True), strict=True):
                cells.setdefault((line, ONE), []).extend(column)
    compare = [((line, ONE), (FULL, ONE)) for line in REUSES if line != FULL]
    return [Table("Reuse: overlap", "IoU", overlaps, better="higher", compare=compare),
            Table("Reuse: calls of the ControlNets", "%", calls, places=1),
            Table("Reuse: error of the latent", "RMS, of the full run's", errors)]


def measure_cosines(seeds: int) -> list[Table]:
    tasks = [(case, part) for case in (AGREE, DIFFER, STRANGE) for part in batches(seeds)]
    columns = (*LAYERS, "first quarter of steps", "last quarter")
    places = (f"above {REDUNDANT:g}", f"below {RELATED:g}")
    cosines, shares = {}, {}
    for (case, _), found in zip(tasks, share(run_cosines, tasks, "cosines"), strict=True):
        for number, values in enumerate(zip(*found, strict=True)):
            cells, name = (cosines, columns) if number < len(columns) else (shares, places)
            cells.setdefault((case, name[number % len(columns)]), []).extend(values)
    return [Table("Cosine of the two controls' residuals", "mean over places", cosines),
            Table("Places by that cosine", "% of places", shares, places=1)]


def measure(seeds: int) -> Result:
    return Result(ABOUT, [*measure_burn(seeds), *measure_reuse(seeds), *measure_cosines(seeds)], NOTES)
