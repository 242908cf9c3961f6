"""Our own hand detector: the shipped nets find and read drawn hands of any size, and refuse the unfit."""
from itertools import pairwise
from random import Random

import pytest
import torch
from safetensors.torch import load_file, save_file
from tweedie_pack.controls.hands import own
from tweedie_pack.controls.hands.nets import Finder, Reader, fold
from tweedie_pack.demo.drawn_hands import of_world, random_crowd, random_drawn
from tweedie_pack.demo.judge_hands import detection, long, matches, reading
from tweedie_pack.demo.world import draw, one_hand, one_shape


@pytest.fixture(scope="module")
def look():
    return own.OwnDetector()


@pytest.mark.parametrize("build", (Finder, Reader))
def test_folding_the_norms_changes_nothing(build):
    torch.manual_seed(0)
    net = build(norm=True)
    net(torch.rand(8, 3, 128, 128))  # statistics
    x = torch.rand(2, 3, 128, 128)
    with torch.no_grad():
        before = net.eval()(x)
        plain = build()
        plain.load_state_dict(fold(net).state_dict())
        after = plain.eval()(x)
    for one, two in zip([before] if build is Finder else before, [after] if build is Finder else after,
                        strict=True):
        assert torch.allclose(one, two, atol=1e-4)


def test_the_nets_are_small_and_half_precision():
    paths = list(own.SHIPPED.glob("*.safetensors"))
    assert {path.stem for path in paths} == {"finder", "reader"}
    assert sum(path.stat().st_size for path in paths) < 1.5e6
    assert all(value.dtype == torch.float16 and value.isfinite().all()
               for path in paths for value in load_file(path).values())


def test_it_finds_and_reads_the_worlds_hands(look):
    random = Random("own")
    drawn = [of_world(one_hand(random)) for _ in range(16)]
    found = detection(look, [(one.picture, [one]) for one in drawn])
    read = reading(look, drawn)
    assert found["recall 40-80 px"] >= 0.9 and found["recall 80-1000 px"] >= 0.9 and found["precision"] >= 0.9
    assert read["joint error"] < 0.06 and read["mask overlap"] > 0.85 and read["side right"] > 0.85


def test_it_is_less_sure_of_a_finger_that_is_missing(look):
    random = Random("missing")
    read = reading(look, [random_drawn(random, 4, "open", size=(70, 106)) for _ in range(16)])
    assert read["sure of missing"] < 0.5 < 0.8 < read["sure of visible"]


def test_shapes_are_no_hands(look):
    random = Random("shapes")
    assert sum(len(look(draw(one_shape(random)).image)) for _ in range(20)) <= 1


def test_hands_of_any_size_in_a_larger_picture(look):
    for size in (40, 120, 400):
        random = Random(size)
        drawn = [random_drawn(random, size=(size, size), frame=(512, 448)) for _ in range(4)]
        assert sum(bool(matches(look(one.picture), [one])) for one in drawn) >= 3, size


def test_what_it_returns_lies_in_the_picture(look):
    picture, _ = random_crowd(Random(8), (3, 3), (200, 333))
    for hand in look(picture, 0.05):
        x0, y0, x1, y1 = hand.box
        assert 0 <= x0 < x1 <= 333 and 0 <= y0 < y1 <= 200 and 0.05 <= hand.confidence <= 1
        assert hand.mask.shape == (200, 333) and hand.mask.dtype == torch.bool
        assert hand.joints.shape == (21, 2) and hand.side in (1, -1)
        assert hand.sure.min() >= 0 and hand.sure.max() <= 1


def test_reading_within_given_boxes(look):
    drawn = of_world(one_hand(Random(3), small=False))
    near = (drawn.box[0] - 3, drawn.box[1] - 2, drawn.box[2] + 2, drawn.box[3] + 4)
    hand, void = look.inside(drawn.picture, [near, (2.0, 2.0, 14.0, 14.0)])
    assert hand.side == drawn.side and void.confidence < hand.confidence
    assert (hand.joints - drawn.joints).norm(dim=-1).mean() < 0.06 * long(drawn.box)
    assert look.inside(drawn.picture, []) == []
    beside = look.inside(drawn.picture, [(-40.0, -40.0, 10.0, 10.0)])[0]
    assert beside.mask.shape == (128, 128)


def test_many_boxes_are_read_like_each_alone(look, monkeypatch):
    drawn = of_world(one_hand(Random(4)))
    boxes = [(x, x, x + 60.0, x + 50.0) for x in (10.0, 20.0, 30.0)]
    together = look.inside(drawn.picture, boxes)
    monkeypatch.setattr(own, "READ_AT_ONCE", 1)
    for one, other in zip(together, look.inside(drawn.picture, boxes), strict=True):
        assert torch.allclose(one.joints, other.joints, atol=1e-3) and one.side == other.side


@pytest.mark.parametrize("height,width,first", ((128, 128, (256, 256)), (24, 30, (48, 60)),
                                                (512, 300, (512, 300)), (4000, 2000, (1024, 512))))
def test_looks_halve_down_to_the_coarsest(height, width, first):
    sizes = own.sizes(height, width)
    assert sizes[0] == first and (len(sizes) == 1 or 127 <= max(sizes[-1]) < 256)
    assert all(abs(max(a) / max(b) - 2) < 0.05 for a, b in pairwise(sizes))


def test_it_refuses_what_is_no_picture(look):
    for picture in (torch.zeros(1, 3, 8, 8), torch.zeros(4, 8, 8), torch.zeros(3, 8, 8, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="give one picture"):
            look(picture)


def test_it_refuses_weights_that_are_missing_or_others(tmp_path):
    with pytest.raises(FileNotFoundError, match="finder.safetensors is missing"):
        own.load(Finder(), "finder", tmp_path)
    state = load_file(own.SHIPPED / "finder.safetensors")
    save_file({**state, "more": torch.zeros(1)}, tmp_path / "finder.safetensors")
    with pytest.raises(ValueError, match="other weights"):
        own.load(Finder(), "finder", tmp_path)
