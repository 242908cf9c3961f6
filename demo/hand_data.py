"""(folder, count) -> labelled pictures of hands, cached: what our hand detector is trained and judged on.

Four sources: crowds on clutter, single hands of every kind, the tiny world's hands, pictures without hands;
and some of each went through the tiny model: encoded, a little noise, one step back, decoded.
"""
from __future__ import annotations

import pathlib
from concurrent.futures import ProcessPoolExecutor
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from .clutter import backdrop, wear
from .digits import KINDS
from .drawn_hands import Drawn, of_world, random_crowd, random_drawn
from .world import SIZE, draw, one_hand, one_shape, two_shapes

CHUNK, REDRAWN = 500, 20  # pictures a chunk, and how many of them the tiny model redraws
NOISE = (0.05, 0.45)  # sigmas


class Labelled(NamedTuple):
    """pictures [N,3,S,S] and ids [N,S,S] uint8, k+1 where the picture's k-th hand is; of M hands: `of` [M]
    its picture, `index` [M] its k, box [M,4], joints [M,21,2], visible [M,21], side [M], fingers [M].
    """

    pictures: Tensor
    ids: Tensor
    of: Tensor
    index: Tensor
    box: Tensor
    joints: Tensor
    visible: Tensor
    side: Tensor
    fingers: Tensor


def one_picture(random: Random) -> tuple[Tensor, list[Drawn]]:
    """A picture [3,S,S] and its hands."""
    kind = random.random()
    if kind < 0.4:
        return random_crowd(random, (1, 3))
    if kind < 0.65:
        angle, view = random.choice(((15, (18, 22)), (180, (40, 40))))
        which = random.choice(("regular", *KINDS))
        one = random_drawn(random, kind=which, size=(26, 112), angle=angle, view=view, stamps=4,
                           worn=random.random() < 0.7)
        return one.picture, [one]
    if kind < 0.85:
        one = of_world(one_hand(random))
        return one.picture, [one]
    if kind < 0.93:
        return draw(random.choice((one_shape, two_shapes))(random)).image, []
    return wear(random, backdrop(random, SIZE, SIZE, 9)), []


@torch.no_grad()
def redraw(pictures: Tensor, seed: int) -> Tensor:
    """Pictures [N,3,S,S] in 0..1 as the tiny model would have drawn them, nearly."""
    from .tiny import model as tiny  # diffusers takes seconds to import
    from .tiny.nets import SCALE
    model, generator = tiny.load("v"), torch.Generator().manual_seed(seed)
    context = tiny.embed(model, [""])
    done = []
    for picture in pictures:
        z = model.vae.encode(picture[None] * 2 - 1).latent_dist.mean * SCALE
        sigma = float(torch.empty(()).uniform_(*NOISE, generator=generator))
        noisy = z + sigma * torch.randn(z.shape, generator=generator)
        done.append(tiny.decode(model, tiny.predict(model, noisy, sigma, context))[0])
    return torch.stack(done)


def label_chunk(seed: int) -> Labelled:
    """CHUNK pictures of one seed, the first REDRAWN of them redrawn."""
    torch.set_num_threads(1)
    random = Random(seed)
    pairs = [one_picture(random) for _ in range(CHUNK)]
    pictures = torch.stack([picture for picture, _ in pairs])
    pictures[:REDRAWN] = redraw(pictures[:REDRAWN], seed)
    ids = torch.zeros(CHUNK, SIZE, SIZE, dtype=torch.uint8)
    for k, (_, hands) in enumerate(pairs):
        for index, hand in enumerate(hands):
            ids[k][hand.mask] = index + 1
    every = [(k, index, hand) for k, (_, hands) in enumerate(pairs) for index, hand in enumerate(hands)]
    return Labelled((255 * pictures).round().byte(), ids, torch.tensor([k for k, _, _ in every]),
                    torch.tensor([index for _, index, _ in every]), torch.tensor([h.box for *_, h in every]),
                    *(torch.stack([getattr(h, name) for *_, h in every]) for name in ("joints", "visible")),
                    *(torch.tensor([getattr(h, name) for *_, h in every]) for name in ("side", "fingers")))


def labelled(folder: pathlib.Path, count: int, workers: int, first: int = 0) -> Labelled:
    """`count` pictures, a multiple of CHUNK; `first` is the first chunk's seed: another one, new pictures."""
    path = folder / f"hands_{first}_{count}.pt"
    if not path.exists():
        seeds = range(first, first + count // CHUNK)
        with ProcessPoolExecutor(workers) as pool:
            parts = list(tqdm(pool.map(label_chunk, seeds), "hands", len(seeds), mininterval=5))
        parts = [part._replace(of=part.of + k * CHUNK) for k, part in enumerate(parts)]
        whole = Labelled(*(torch.cat(column) for column in zip(*parts, strict=True)))
        torch.save(whole._asdict(), path)
    return Labelled(**torch.load(path, weights_only=True))
