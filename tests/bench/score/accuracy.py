"""Row "model": does the tiny model draw what the caption says? The reader of pictures decides."""
from __future__ import annotations

from functools import partial
from random import Random

from tweedie_pack.demo.reader import judge
from tweedie_pack.demo.sampling import sample
from tweedie_pack.demo.tiny.model import guide
from tweedie_pack.demo.world import STRANGERS, draw, one_hand, one_shape, two_shapes
from tweedie_pack.samplers.recommend import recommended

from .result import Result, Table
from .work import GUIDANCE, SAMPLER, STEPS, batches, model, noise, pictures, share

KINDS = {  # name -> how to draft a scene, scenes for each seed of the scoreboard
    "one shape": (one_shape, 4),
    "two shapes": (two_shapes, 2),
    "two shapes, untaught places": (partial(two_shapes, pairs=STRANGERS), 2),
    "large hand": (partial(one_hand, small=False), 2),
    "small hand": (partial(one_hand, small=True), 2),
}
DRAWN, CLEAN = "the model", "clean pictures"
ABOUT = (
    "Share of pictures that `demo/reader.py` reads as the caption says. Of two shapes both must be right; "
    "`place` fails if anything else is there. Untaught places are pairs that no caption in training held, "
    "such as left and top: the room for regional prompts. `colour` of a hand is its glove's. Beside it the "
    "same reader on clean pictures of the same scenes: what they lack of 100 % is the reader's own error. "
    f"v, zero SNR, {SAMPLER}, {STEPS} steps, recommended schedule, guidance {GUIDANCE:g}.")


def verdicts(scene, image) -> dict[str, bool]:
    right = judge(scene, image)
    return right | ({"colour and shape": right["colour"] and right["shape"]} if "shape" in right else {})


def run(kind: str, seeds: range) -> dict[tuple[str, str], list[bool]]:
    tiny, (draft, _) = model("v"), KINDS[kind]
    scenes = [draft(Random(seed)) for seed in seeds]
    sigmas = recommended(STEPS, tiny.table, "multistep")
    denoise = guide(tiny, [scene.caption for scene in scenes], GUIDANCE)
    drawn = pictures(tiny, sample(SAMPLER, denoise, sigmas[0] * noise(seeds), sigmas))
    cells: dict = {}
    for scene, image in zip(scenes, drawn, strict=True):
        for column, seen in ((DRAWN, image), (CLEAN, draw(scene).image)):
            for key, right in verdicts(scene, seen).items():
                cells.setdefault((f"{kind}: {key}", column), []).append(right)
    return cells


def measure(seeds: int) -> Result:
    tasks = [(kind, part) for kind, (_, times) in KINDS.items() for part in batches(times * seeds)]
    cells: dict = {}
    for found in share(run, tasks, "read pictures"):
        for cell, values in found.items():
            cells.setdefault(cell, []).extend(values)
    compare = [((line, DRAWN), (line, CLEAN)) for line in dict.fromkeys(line for line, _ in cells)]
    counts = ", ".join(f"{times * seeds} of {kind}" for kind, (_, times) in KINDS.items())
    table = Table("Prompt accuracy", "% of pictures", cells, "rate", "higher", compare, places=1)
    return Result(ABOUT, [table], [f"Pictures: {counts}."])
