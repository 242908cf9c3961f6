"""Does weighted guidance keep a rare bridge? PYTHON tests/bench/bridge.py [SEEDS] > table.md

Pictures of two blobs: a one-pixel bridge joins them in 15 % without and in 30 % with the condition, texture
fills them in 50 % and 80 %. The denoiser is exact, so all that differs between rows is guidance, and the
posterior says of every end what it shows. One seed is one noise for 192 pictures, the same in every row.
"""
import math
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from score.stats import difference, estimate
from tqdm import tqdm
from tweedie_pack.demo.exact import Mixture
from tweedie_pack.samplers.recipe import Settings, bind, compose
from tweedie_pack.samplers.resistance import at_nodes, square_steps
from tweedie_pack.samplers.spectral import BANDS, Map, Recipe, Window, reweight
from tweedie_pack.samplers.structure import MAPS

SIZE, LAYOUTS, INNER_STD = 24, 12, 0.3
PICTURES, STEPS, SCALE, AMOUNT, FIRST_SEED = 192, 24, 3.0, 8.0, 1000
TOGETHER = 6  # pictures in one call of the core, so that its fields stay in the processor's cache
SIGMAS = (*torch.linspace(math.log(20.0), math.log(0.05), STEPS).exp().tolist(), 0.0)
ORACLE = "oracle: the bridge's own cells"
SOME = ["CFG, w 3", "`coherence`", "`structure`", "`two_band`, low 4", "`two_band`, low 4, cutoff 0.4",
        "`two_band`, high 4", "`coherence`, shuffled", ORACLE]


class Toy(NamedTuple):
    """K components: which have a bridge and texture [K], where its bridge would be [K,1,SIZE,SIZE]."""

    mixture: Mixture
    bridge: torch.Tensor
    texture: torch.Tensor
    cells: torch.Tensor
    cond: torch.Tensor  # log weights [K]
    uncond: torch.Tensor


def layout(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two blobs on one row, and the bridge between them, as masks [SIZE,SIZE]."""
    generator = torch.Generator().manual_seed(seed)
    row, left, right = (int(torch.randint(*span, (1,), generator=generator))
                        for span in ((8, 16), (4, 7), (17, 20)))
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    blobs = ((y - row).abs() <= 4) & (((x - left).abs() <= 3) | ((x - right).abs() <= 3))
    return blobs.float(), ((y == row) & (x > left + 3) & (x < right - 3)).float()


def build(first_layout: int = 100, texture_seed: int = 1) -> Toy:
    """The toy of the research with its seeds; with others another one of the same kind."""
    noise = torch.rand(SIZE, SIZE, generator=torch.Generator().manual_seed(texture_seed))
    grain = (noise > 0.5).float() * 2 - 1
    kinds = [(*layout(first_layout + number), texture, bridge)
             for number in range(LAYOUTS) for texture in (0, 1) for bridge in (0, 1)]
    means = [1.2 * blobs + 0.35 * texture * grain * blobs + 1.2 * bridge * cells - 0.4
             for blobs, cells, texture, bridge in kinds]
    texture, bridge = (torch.tensor([kind[place] for kind in kinds]).bool() for place in (2, 3))

    def weights(textured, bridged):
        chance = torch.where(texture, textured, 1 - textured) * torch.where(bridge, bridged, 1 - bridged)
        return (chance.double() / LAYOUTS).log()
    return Toy(Mixture(torch.stack(means).unsqueeze(1), INNER_STD**2), bridge, texture,
               torch.stack([kind[1] for kind in kinds]).unsqueeze(1), weights(0.8, 0.3), weights(0.5, 0.15))


class Row(NamedTuple):
    """recipe: (cells where a picture's bridge would be [B,1,..], seed) -> Recipe; None: plain guidance."""

    recipe: Callable[[torch.Tensor, int], Recipe] | None = None
    scale: float = SCALE


def structured(structure: Map) -> Recipe:
    return compose(None, structure, Settings(), ())


def shuffled(structure: Map, seed: int) -> Map:
    """The same weights at other cells, which stay the same through a run."""
    order = torch.randperm(SIZE * SIZE, generator=torch.Generator().manual_seed(seed))

    def moved(*contract):
        return structure(*contract).flatten(1)[:, order].unflatten(1, (1, SIZE, SIZE))
    return moved


def relative(weights: torch.Tensor) -> torch.Tensor:
    """0..2 times AMOUNT, as the maps of the core have it, of weights [B,1,SIZE,SIZE]."""
    return 2 * AMOUNT * weights / weights.amax((1, 2, 3), keepdim=True).clamp_min(1e-9)


def edges(delta, guided, uncond, seed) -> torch.Tensor:
    """More where the guided picture changes from cell to cell."""
    steps = square_steps(guided)
    return relative(at_nodes(steps, [torch.ones_like(step) for step in steps]).sqrt().unsqueeze(1))


def rows() -> dict[str, Row]:
    """All settings were fixed before any of these seeds was run."""
    coherence = bind("coherence", MAPS, {"amount": AMOUNT, "reach": 3})
    joints = bind("structure", MAPS, {"amount": AMOUNT, "contrast": 0.3, "probes": 32})
    leverage = bind("leverage", MAPS, {"amount": AMOUNT, "contrast": 0.3, "probes": 32})

    def band(**knobs):
        recipe = compose(bind("two_band", BANDS, knobs), None, Settings(), ())
        return Row(lambda cells, seed: recipe)

    def fixed(structure):
        return Row(lambda cells, seed: structured(structure))
    return {
        "CFG, w 3": Row(), "CFG, w 2": Row(scale=2.0), "CFG, w 4": Row(scale=4.0), "CFG, w 5": Row(scale=5.0),
        "`coherence`": fixed(coherence), "`structure`": fixed(joints), "`leverage`": fixed(leverage),
        "`two_band`, low 4": band(low=4.0, cutoff=0.25),
        "`two_band`, low 4, cutoff 0.4": band(low=4.0, cutoff=0.4),
        "`two_band`, high 4": band(high=4.0, cutoff=0.25),
        "`coherence`, shuffled": Row(lambda cells, seed: structured(shuffled(coherence, seed))),
        "edges of the picture": fixed(edges),
        ORACLE: Row(lambda cells, seed: structured(lambda *contract: relative(cells))),
    }


def weigh(toy: Toy, row: Row, x: torch.Tensor, sigma: float, draw: int, seed: int) -> list[torch.Tensor]:
    """uncond, delta = cond - uncond, and what the row adds to it, for pictures x [B,1,SIZE,SIZE]."""
    z, total = toy.mixture.observe(x, sigma)
    fit = toy.mixture.fit(z, total)
    uncond, cond = (toy.mixture.shrink(z, total, toy.mixture.mix(fit, log_weights)).float()
                    for log_weights in (toy.uncond, toy.cond))
    delta = cond - uncond
    if row.recipe is None or not bool(delta.any()):  # all is decided: nothing is left to weigh
        return [uncond, delta, torch.zeros_like(delta)]
    cells = (torch.softmax(fit + toy.cond, 1).float() @ toy.cells.flatten(1)).view_as(x)
    return [uncond, delta, reweight(delta, row.recipe(cells, seed), Window(), torch.full([len(x)], sigma),
                                    uncond + row.scale * delta, uncond, draw)]


def sample(toy: Toy, row: Row, seed: int, hosts: bool) -> dict[str, float]:
    """Euler's method from one noise -> shares of the ends with a bridge and with texture, and the length.

    length: of the weighted delta over the plain one's, through the whole run. hosts: the estimate is
    uncond + w (delta + change) in place of cond + (w - 1) (delta + change).
    """
    noise = torch.randn(PICTURES, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    ends, plain, weighted = [], 0.0, 0.0
    for x in (noise * SIGMAS[0]).split(TOGETHER):
        for number, (sigma, then) in enumerate(pairwise(SIGMAS)):
            uncond, delta, change = weigh(toy, row, x, sigma, seed * STEPS + number, seed)
            x0 = uncond + row.scale * delta + (row.scale if hosts else row.scale - 1) * change
            x = x0 + then / sigma * (x - x0)
            plain, weighted = plain + delta.square().sum(), weighted + (delta + change).square().sum()
        ends.append(x)
    z, total = toy.mixture.observe(torch.cat(ends), 0.0)
    posterior = torch.softmax(toy.mixture.fit(z, total), 1)
    return {"bridge": float(posterior[:, toy.bridge].sum(1).mean()),
            "texture": float(posterior[:, toy.texture].sum(1).mean()),
            "length": float((weighted / plain).sqrt())}


def lengthened(toy: Toy, row: Row, ends: dict[str, float], seed: int, hosts: bool) -> float:
    """P(bridge) of plain guidance that pushes as far as the row did with this seed."""
    scale = row.scale * ends["length"] if hosts else 1 + (row.scale - 1) * ends["length"]
    return sample(toy, Row(scale=scale), seed, hosts)["bridge"]


def show(values: list[float], baseline: list[float] | None = None) -> str:
    """The mean, or the mean of the differences seed by seed, with its 95 % interval."""
    if values is baseline:
        return ""
    found = estimate(values, "mean") if baseline is None else difference(values, baseline, "mean")
    return "{:{s}.3f} ({:{s}.3f} to {:{s}.3f})".format(*found, s="" if baseline is None else "+")


def report(title: str, toy: Toy, names: list[str], seeds: range, hosts: bool = False) -> None:
    columns = ("guidance", "P(bridge)", "over CFG, w 3", "over CFG of that length", "P(texture)",
               "over CFG, w 3", "length")
    print(f"\n### {title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    table, baseline = rows(), None
    for name in names:
        row = table[name]
        ends = [sample(toy, row, seed, hosts) for seed in tqdm(seeds, name)]
        bridge, texture, length = ([end[what] for end in ends] for what in ends[0])
        baseline = baseline or (bridge, texture)
        cells = [show(bridge), show(bridge, baseline[0]), "", show(texture), show(texture, baseline[1]),
                 f"{sum(length) / len(length):.2f}"]
        if row.recipe:
            cells[2] = show(bridge, [lengthened(toy, row, end, seed, hosts)
                                     for end, seed in zip(ends, seeds, strict=True)])
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


@torch.inference_mode()
def main() -> None:
    torch.set_num_threads(1)
    seeds = range(FIRST_SEED, FIRST_SEED + (int(sys.argv[1]) if len(sys.argv) > 1 else 16))
    report("cond + (w - 1) (delta + change)", build(), list(rows()), seeds)
    report("uncond + w (delta + change), as hosts apply it", build(), SOME, seeds, hosts=True)
    report("Another toy of the same kind, cond + (w - 1) (delta + change)", build(500, 2),
           [name for name in SOME if name != "`structure`"], seeds)


if __name__ == "__main__":
    main()
