"""python -m tweedie_pack.demo.judge_hands [COUNT]: what our hand detector makes of hands new to it.

Figures are those of controls/hands/shipped/README.md. Seeds lie apart from the training's.
"""
from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from random import Random

import torch
from torch import Tensor

from ..controls.hands.found import Box, Hand
from ..controls.hands.merge import overlaps
from ..controls.hands.own import OwnDetector
from .drawn_hands import Drawn, of_world, random_crowd, random_drawn
from .hand_data import redraw
from .world import draw, one_hand, one_shape, two_shapes

SIZES = ((24, 40), (40, 80), (80, 1000))  # pixels of a hand's longer side
Look = Callable[[Tensor], list[Hand]]


def long(box: Box) -> float:
    return max(box[2] - box[0], box[3] - box[1])


def matches(found: list[Hand], true: list[Drawn]) -> list[tuple[int, int]]:
    """(number found, number true) of boxes that overlap by half, the surest first, each once."""
    if not found or not true:
        return []
    shared = overlaps(torch.tensor([h.box for h in found]), torch.tensor([t.box for t in true]))[0]
    pairs = []
    for k in sorted(range(len(found)), key=lambda k: -found[k].confidence):
        best = int(shared[k].argmax())
        if shared[k, best] >= 0.5:
            pairs.append((k, best))
            shared[:, best] = 0
    return pairs


def detection(look: Look, pictures: Iterable[tuple[Tensor, list[Drawn]]]) -> dict[str, float]:
    """Share found by size, and share of what was found that is a hand."""
    hit: dict[str, list[bool]] = {f"recall {low}-{high} px": [] for low, high in SIZES} | {"precision": []}
    for picture, true in pictures:
        found = look(picture)
        pairs = matches(found, true)
        hit["precision"] += [k in {a for a, _ in pairs} for k in range(len(found))]
        for number, one in enumerate(true):
            for low, high in SIZES:
                if low <= long(one.box) < high:
                    hit[f"recall {low}-{high} px"].append(number in {b for _, b in pairs})
    return {key: sum(values) / max(1, len(values)) for key, values in hit.items()}


def reading(look: Look, drawn: Iterable[Drawn]) -> dict[str, float]:
    """Means over the hands found: joints' error by the longer side, overlap of masks, sides, and `sure`."""
    off, overlap, sides, seen, unseen = [], [], [], [], []
    for one in drawn:
        found = look(one.picture)
        for k, _ in matches(found, [one]):
            hand, there = found[k], one.visible > 0
            off.append(float((hand.joints - one.joints).norm(dim=-1)[there].mean()) / long(one.box))
            overlap.append(float((hand.mask & one.mask).sum() / (hand.mask | one.mask).sum()))
            sides.append(hand.side == one.side)
            seen += hand.sure[there].tolist()
            unseen += hand.sure[~there].tolist()
    mean = {"joint error": off, "mask overlap": overlap, "side right": sides, "sure of visible": seen,
            "sure of missing": unseen, "visible above 0.5": [x > 0.5 for x in seen],
            "missing below 0.5": [x < 0.5 for x in unseen]}
    return {key: sum(values) / len(values) for key, values in mean.items() if values} | {"hands": len(off)}


def redrawn(drawn: list[Drawn]) -> list[Drawn]:
    """The same hands as the tiny model would have drawn them."""
    pictures = redraw(torch.stack([one.picture for one in drawn]), 1)
    return [one._replace(picture=picture) for one, picture in zip(drawn, pictures, strict=True)]


def rows(look: Look, count: int) -> dict[str, dict[str, float]]:
    """Every figure, by what it was measured on; `count` pictures each."""
    def many(seed: int, make: Callable[[Random], Drawn]) -> list[Drawn]:
        random = Random(f"judge {seed}")
        return [make(random) for _ in range(count)]

    def crowds(frame: tuple[int, int], size: tuple[float, float]) -> list[tuple[Tensor, list[Drawn]]]:
        random = Random(f"crowds {frame}")
        return [random_crowd(random, (1, 3), frame, size) for _ in range(count)]

    random = Random("shapes")
    shapes = [draw(make(random)).image for make in (one_shape, two_shapes) for _ in range(count)]
    world = many(0, lambda random: of_world(one_hand(random)))
    found = {"crowds, 128 px": detection(look, crowds((128, 128), (22, 110))),
             "crowds, 512 px": detection(look, crowds((512, 512), (22, 440))),
             "the world": detection(look, [(one.picture, [one]) for one in world]),
             "the world's shapes": {"false hands a picture": sum(len(look(p)) for p in shapes) / len(shapes)}}
    read = {"the world": world}
    for fingers in (5, 4, 6):
        read[f"{fingers} fingers, upright"] = many(
            fingers, lambda random, n=fingers: random_drawn(random, n, size=(40, 106)))
        read[f"{fingers} fingers, open, upright"] = many(
            fingers + 30, lambda random, n=fingers: random_drawn(random, n, "open", size=(40, 106)))
    read["5 fingers, any angle"] = many(9, lambda random: random_drawn(
        random, size=(40, 106), angle=180, view=(40, 40), stamps=4, worn=True))
    read["the world, redrawn"] = redrawn(world[:count // 4])
    read["4 fingers, open, redrawn"] = redrawn(read["4 fingers, open, upright"][:count // 4])
    return found | {f"read: {name}": reading(look, drawn) for name, drawn in read.items()}


def main() -> None:
    torch.set_num_threads(1)
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    for name, row in rows(OwnDetector(), count).items():
        sys.stdout.write(f"{name}: " + ", ".join(f"{key} {value:.3f}" for key, value in row.items()) + "\n")


if __name__ == "__main__":
    main()
