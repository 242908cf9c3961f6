"""demo/tiny/repaired.py: the tiny model mends a drawn hand, whole batches as single hands."""
import math
import pathlib
import sys
from functools import partial
from random import Random

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
sys.path.append(str(pathlib.Path(__file__).with_name("bench")))

from score import hands as row
from tweedie_pack.controls.hands.detectors import detect, open_detector
from tweedie_pack.controls.hands.prepare import Crop, Settings
from tweedie_pack.controls.hands.repair import repair
from tweedie_pack.demo.drawn_hands import random_drawn
from tweedie_pack.demo.tiny.model import load, load_control
from tweedie_pack.demo.tiny.repaired import LIMITS, SIDE, encode, painter
from tweedie_pack.demo.world import draw

ALWAYS = Settings(candidates=2, gate=math.inf, margin=-math.inf, least=-math.inf)
SAMPLER = "DPM-Solver++ 2M"


@pytest.fixture(scope="module")
def tiny():
    return load()


@pytest.fixture(scope="module")
def depth(tiny):
    return load_control(tiny, "depth")


@pytest.fixture(scope="module")
def find():
    return partial(detect, open_detector("own"), confidence=0.3)


@pytest.fixture(scope="module")
def drawn(find):
    """Two pictures, each of a hand of four fingers, and what the detector finds there."""
    pictures = torch.stack([random_drawn(Random(seed), 4, "open", size=(56, 70)).picture
                            for seed in range(2)])
    return pictures, [find(picture)[:1] for picture in pictures]


def few(tiny, control=None, **knobs):
    return painter(tiny, lambda crop: "an open hand, blue background", SAMPLER, 3, control=control, **knobs)


@pytest.mark.parametrize("with_depth", [False, True])
def test_drawn_hands_are_drawn_again_within_their_masks_alone(tiny, depth, find, drawn, with_depth):
    pictures, hands = drawn
    assert all(hands)
    mend = partial(repair, pictures, hands, few(tiny, depth if with_depth else None), find, ALWAYS, LIMITS,
                   seed=5, depth=with_depth)
    done = mend()
    assert not with_depth or torch.equal(done.pictures, mend().pictures)
    assert all(len(record.tries) == 2 for record in done.records)
    assert any(record.kept is not None for record in done.records)
    assert [record.job.size for record in done.records] == [(SIDE, SIDE)] * 2
    for before, after, alpha in zip(pictures, done.pictures, done.changed, strict=True):
        assert torch.equal(before[:, alpha == 0], after[:, alpha == 0])
        if bool(alpha.any()):
            assert float((before - after)[:, alpha == 1].abs().mean()) > 0.01
            assert 0.05 < float((alpha > 0).float().mean()) < 0.8


def test_hands_of_a_batch_come_out_as_alone(tiny, depth, find, drawn):
    pictures, hands = drawn
    draw = few(tiny, depth)
    once = ALWAYS._replace(candidates=1)
    both = repair(pictures, hands, draw, find, once, LIMITS, depth=True).pictures
    for index, one in enumerate(hands):
        alone = repair(pictures[index:index + 1], [one], draw, find, once, LIMITS, depth=True).pictures[0]
        torch.testing.assert_close(both[index], alone, rtol=0, atol=1e-5)


def test_denoising_starts_from_the_crop_and_follows_its_seed(tiny):
    """Hardly any denoising gives the crop back; another seed gives another picture; order changes nothing."""
    picture = draw(row.draft("large hand", 1)).image
    crops = [Crop(picture, torch.ones(SIDE, SIDE), None, seed, 0, 0, 0) for seed in (1, 2)]
    faint, strong = (few(tiny, strength=strength) for strength in (0.05, 0.7))
    kept, one, other = faint(crops)[0], *strong(crops)
    assert float((kept - picture).abs().mean()) < 0.05 < float((one - other).abs().mean())
    assert torch.equal(strong(crops[::-1])[1], one)


def test_a_mask_keeps_the_rest_of_the_latent(tiny):
    picture = draw(row.draft("large hand", 1)).image
    mask = torch.zeros(SIDE, SIDE)
    mask[:64] = 1
    [done] = few(tiny)([Crop(picture, mask, None, 3, 0, 0, 0)])
    latent, before = encode(tiny, torch.stack([done, picture]))
    assert float((latent - before)[:, 12:].abs().mean()) < 0.3 < float((latent - before)[:, :8].abs().mean())


def test_a_crop_is_asked_for_a_hand_that_is_not_small():
    for kind in row.KINDS:
        for scene in (row.draft(kind, seed) for seed in range(20)):
            small, plain = (one.replace("small open", "open").replace("a open", "an open")
                            for one in (scene.caption, row.ask(scene)))
            assert small == plain == row.ask(scene) and scene.subjects[0].pose == "open"


def test_a_row_tells_mended_from_damaged(monkeypatch):
    """A stand-in whose every even hand is wrong: lines mend all, and the plain ones damage all."""
    def run(kind, seeds):
        before = [row.Found(seed % 2 == 1, True) for seed in seeds]
        plain = [row.Found(not one.right, False) for one in before]
        ours = [row.Found(True, one.right) for one in before]
        return {row.PAINTED: before} | {line: plain if way.settings is None else ours
                                        for line, way in row.WAYS.items()}
    monkeypatch.setattr(row, "run", run)
    monkeypatch.setattr(row, "share", lambda job, tasks, what: [run(*task) for task in tasks])
    right, mended, damaged, alone = row.measure(8).tables
    assert {column for _, column in right.cells} == {*row.KINDS, row.BOTH}
    assert sum(right.cells[row.PAINTED, row.BOTH]) == 8 and len(right.cells[row.PAINTED, row.BOTH]) == 16
    assert mended.cells[row.WHOLE, "small hand"] == mended.cells[row.PLAIN, "small hand"] == [True] * 4
    assert damaged.cells[row.WHOLE, row.BOTH] == [False] * 8 and all(damaged.cells[row.PLAIN, row.BOTH])
    assert sum(alone.cells[row.BEST, row.BOTH]) == 8 and not any(alone.cells[row.STRONG, row.BOTH])
    assert ((row.WHOLE, row.BOTH), (row.PAINTED, row.BOTH)) in right.compare
    assert all(cell in table.cells for table in (right, mended, damaged)
               for pair in table.compare for cell in pair)


def test_plain_detailing_pastes_whatever_it_draws(drawn):
    pictures, hands = drawn
    done = row.detail(pictures, hands, lambda crops: [torch.zeros_like(one.picture) for one in crops], True)
    for before, after, [hand] in zip(pictures, done, hands, strict=True):
        x, y = (round((hand.box[at] + hand.box[at + 2]) / 2) for at in (0, 1))
        assert not torch.equal(before[:, y, x], after[:, y, x])
    assert torch.equal(row.detail(pictures, [()] * 2, lambda crops: [], True), pictures)
