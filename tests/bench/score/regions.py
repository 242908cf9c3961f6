"""Row "regional prompting": does each subject come out in its region, and what leaks into the others?"""
from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor
from tweedie_pack.demo.regions import LAYOUTS, UNTAUGHT, Layout, captions, draft, judge, masks
from tweedie_pack.demo.sampling import sample
from tweedie_pack.demo.tiny.model import Denoise, guide
from tweedie_pack.demo.tiny.regional import guide_attention, guide_latents
from tweedie_pack.demo.world import COLOURS, SHAPES, Scene, draw
from tweedie_pack.samplers.recommend import recommended

from .result import Cell, Result, Table
from .work import GUIDANCE, SAMPLER, STEPS, batches, model, pictures, share

EXAMPLE, HARD = "three columns", "two, untaught places"  # what further lines are measured on
KINDS: dict[str, Sequence[Layout]] = {
    **{name: [layout] for name, layout in LAYOUTS.items()}, HARD: UNTAUGHT}
PLAIN, LATENT, ATTENTION = "plain prompt", "latent mode", "attention mode"
CLEAN = "clean pictures"
MIDDLE = ("in the middle",)


class Way(NamedTuple):
    """guide: None for the plain prompt. once: a region's caption asks for its subject once, in the middle."""

    guide: Callable[..., Denoise] | None = None
    base_ratio: float = 0.0
    soft: float = 0.0
    once: bool = False


WAYS = {
    PLAIN: Way(),
    LATENT: Way(guide_latents),
    ATTENTION: Way(guide_attention),
    "attention, feather 0.4": Way(guide_attention, soft=0.4),
    "attention, base ratio 0.2": Way(guide_attention, base_ratio=0.2),
    "attention, asked once": Way(guide_attention, once=True),
}
MAIN = [PLAIN, LATENT, ATTENTION]
ABOUT = (
    "Captions ask for two, three or four shapes. The plain prompt names all with their places; with regions "
    "each is asked for in its own region alone. A picture is right if each region holds its subject, in its "
    "colour and shape, and nothing else; what has its centre there counts. Two columns were taught, and fill "
    "the 128 pixels that the model knows; three and four stand on larger pictures, 192 pixels wide or high. "
    "Untaught places are left or right with top or bottom, on 128 pixels. Latent mode blends an estimate for "
    "each text by the masks; attention mode routes one call's cross attention, which this model has on "
    f"tokens of 16 pixels only. v, zero SNR, {SAMPLER}, {STEPS} steps, recommended schedule, guidance "
    f"{GUIDANCE:g}, the same captions and noise for every line.")
NOTES = (
    "Captions were chosen on seeds 5000 to 5031. The best plain one names the middle last. A region's asks "
    'for its subject twice, "a red circle on the left and a red circle on the right", as the model was '
    "taught rows of shapes so; one of the two falls into the region. Asked for once, in the middle, a shape "
    "is too large for its region, and is cut: regions say what is where, the size comes from the caption.",
    "Leaked colours are another subject's in a region. Change outside is the root mean square difference of "
    "two pictures from the same noise, of which the first region's subject alone was given another colour "
    "and shape, outside this region over inside.")


def draft_all(kind: str, seeds: range) -> list[tuple[Layout, list[Scene], list[int]]]:
    """Scenes for every seed, a layout at a time, as all pictures of a batch share their masks."""
    layouts = KINDS[kind]
    parts = [seeds[number::len(layouts)] for number in range(len(layouts))]
    return [(layout, [draft(Random(seed), layout) for seed in part], list(part))
            for layout, part in zip(layouts, parts, strict=True) if part]


def paint(way: Way, layout: Layout, scenes: Sequence[Scene], seeds: Sequence[int]) -> Tensor:
    """[N,3,H,W]"""
    tiny = model("v")
    sigmas = recommended(STEPS, tiny.table, "multistep")
    if way.once:
        layout = layout._replace(spots=tuple(spot._replace(asked=MIDDLE) for spot in layout.spots))
    texts = captions(layout, scenes)
    denoise = guide(tiny, texts[0], GUIDANCE) if way.guide is None else way.guide(
        tiny, texts, masks(layout, way.base_ratio, way.soft), GUIDANCE)
    noise = torch.stack([torch.randn(layout.latent, generator=torch.Generator().manual_seed(seed))
                         for seed in seeds])
    return pictures(tiny, sample(SAMPLER, denoise, sigmas[0] * noise, sigmas))


def run(line: str, kind: str, seeds: range) -> list[tuple[bool, float, float]]:
    """Of each picture: are all subjects right, per cent of them that are, per cent of regions with a leak."""
    found = []
    for layout, scenes, part in draft_all(kind, seeds):
        if line == CLEAN:
            drawn = torch.stack([draw(scene, layout.height, layout.width).image for scene in scenes])
        else:
            drawn = paint(WAYS[line], layout, scenes, part)
        for scene, picture in zip(scenes, drawn, strict=True):
            right, leaks, _ = zip(*judge(layout, scene, picture), strict=True)
            found.append((all(right), 100 * sum(right) / len(right), 100 * sum(leaks) / len(leaks)))
    return found


def alter(scene: Scene, random: Random) -> Scene:
    """The scene with its first subject in another shape, and in a colour that nothing has."""
    first, *rest = scene.subjects
    used = {scene.background, *(subject.colour for subject in scene.subjects)}
    other = replace(first, colour=random.choice([name for name in COLOURS if name not in used]),
                    shape=random.choice([name for name in SHAPES if name != first.shape]))
    return replace(scene, subjects=(other, *rest))


def run_change(line: str, seeds: range) -> list[float]:
    """Of each seed: the change outside the first region over that inside, when its caption alone changes."""
    [(layout, scenes, part)] = draft_all(EXAMPLE, seeds)
    others = [alter(scene, Random(f"other {seed}")) for seed, scene in zip(part, scenes, strict=True)]
    before, after = (paint(WAYS[line], layout, drafts, part) for drafts in (scenes, others))
    change = (after - before).square().mean(1)
    inside = masks(layout).regions[0].mask > 0
    return (change[:, ~inside].mean(1) / change[:, inside].mean(1)).sqrt().tolist()


def against(cells: Collection[Cell]) -> list[tuple[Cell, Cell]]:
    """Each way of regions with the plain prompt; attention with latents; attention's variants with itself."""
    pairs = [(LATENT, PLAIN), (ATTENTION, PLAIN), (ATTENTION, LATENT),
             *((line, ATTENTION) for line in WAYS if line not in MAIN)]
    columns = dict.fromkeys(column for _, column in cells)
    return [((ours, column), (baseline, column)) for ours, baseline in pairs for column in columns
            if (ours, column) in cells]


def measure(seeds: int) -> Result:
    tasks = [(line, kind, part) for line in (*WAYS, CLEAN) for kind in KINDS
             if line in (*MAIN, CLEAN) or kind in (EXAMPLE, HARD) for part in batches(seeds)]
    whole: dict = {}
    single: dict = {}
    leaked: dict = {}
    for (line, kind, _), found in zip(tasks, share(run, tasks, "regions"), strict=True):
        for cells, values in zip((whole, single, leaked), zip(*found, strict=True), strict=True):
            cells.setdefault((line, kind), []).extend(values)
    tasks = [(line, part) for line in MAIN for part in batches(seeds)]
    changes: dict = {}
    for (line, _), found in zip(tasks, share(run_change, tasks, "changes"), strict=True):
        changes.setdefault((line, EXAMPLE), []).extend(found)
    return Result(ABOUT, [
        Table("Right pictures", "% of pictures", whole, "rate", "higher", against(whole), places=1),
        Table("Right subjects", "% of subjects", single, "mean", "higher", against(single), places=1),
        Table("Leaked colours", "% of regions", leaked, "mean", "lower", against(leaked), places=1),
        Table("Change outside", "of that inside", changes, "median", "lower", against(changes))], NOTES)
