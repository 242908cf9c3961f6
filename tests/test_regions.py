"""Who owns how much of each place: shares add up to 1, and plain cases are what they are called."""
import math

import pytest
import torch
from tweedie_pack.controls.masks import box_mask, feather, fit, shrink
from tweedie_pack.controls.regions import MaskSet, Region, check_region, gather, normalise

SIZE = (24, 40)
LEFT, RIGHT = (box_mask(box, SIZE) for box in ((0, 0, 0.5, 1), (0.5, 0, 1, 1)))
WHOLE = torch.ones(SIZE)
CPU = torch.device("cpu")


def shares_of(*masks, weights=None, ratios=None):
    weights = torch.tensor(weights or [1.0] * len(masks))
    return normalise(torch.stack(masks), weights, torch.tensor(ratios or [0.0] * len(masks)))


def random_masks(count, seed=0):
    """Soft, with places that none covers and places that several do."""
    generator = torch.Generator().manual_seed(seed)
    return (1.5 * torch.rand(count, *SIZE, generator=generator) - 0.5).clamp(0, 1)


def test_one_region_everywhere_owns_everything():
    shares = shares_of(WHOLE)
    assert torch.equal(shares, torch.stack([0 * WHOLE, WHOLE]))


def test_regions_that_do_not_meet_own_their_masks_and_the_base_the_rest():
    middle = box_mask((0.25, 0, 0.5, 1), SIZE)
    assert torch.equal(shares_of(middle, RIGHT), torch.stack([1 - middle - RIGHT, middle, RIGHT]))
    assert torch.equal(shares_of(middle, RIGHT, weights=[0.3, 50.0])[1:], torch.stack([middle, RIGHT]))


def test_where_regions_overlap_weights_decide():
    shares = shares_of(WHOLE, WHOLE, LEFT, weights=[1.0, 3.0, 4.0])
    torch.testing.assert_close(shares[:, 0, 0], torch.tensor([0, 0.125, 0.375, 0.5]))
    torch.testing.assert_close(shares[:, 0, -1], torch.tensor([0, 0.25, 0.75, 0]))


def test_half_a_mask_leaves_half_to_the_base():
    torch.testing.assert_close(shares_of(0.5 * WHOLE)[:, 0, 0], torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(shares_of(0.25 * WHOLE, 0.5 * WHOLE)[:, 0, 0],
                               torch.tensor([0.25, 0.25, 0.5]))


def test_base_ratio_is_the_bases_share_inside_a_region():
    shares = shares_of(LEFT, RIGHT, ratios=[0.2, 1.0])
    torch.testing.assert_close(shares[:, 0, 0], torch.tensor([0.2, 0.8, 0.0]))
    torch.testing.assert_close(shares[:, 0, -1], torch.tensor([1.0, 0.0, 0.0]))


def test_a_region_of_weight_0_is_not_there():
    one, two, three = random_masks(3)
    shares = shares_of(one, two, three, weights=[1.0, 0.0, 2.0])
    alone = shares_of(one, three, weights=[1.0, 2.0])
    assert torch.equal(shares[[0, 1, 3]], alone)
    assert not shares[2].any()


@pytest.mark.parametrize("count", [1, 2, 7])
def test_shares_add_up_to_1_and_only_ratios_of_weights_matter(count):
    masks = random_masks(count, count)
    weights, ratios = torch.linspace(0.1, 9, count), torch.linspace(0, 0.7, count)
    shares = normalise(masks, weights, ratios)
    assert shares.shape == (1 + count, *SIZE) and float(shares.min()) >= 0
    torch.testing.assert_close(shares.sum(0), WHOLE, atol=1e-6, rtol=0)
    torch.testing.assert_close(normalise(masks, 100 * weights, ratios), shares)
    assert bool((shares[0] == 1)[masks.sum(0) == 0].all())


def test_a_set_without_regions_or_with_an_empty_one_is_refused():
    with pytest.raises(ValueError, match="there is no region; give at least one"):
        MaskSet(())
    with pytest.raises(ValueError, match="Region 2: its mask is empty; paint something, or take it away"):
        MaskSet((Region(LEFT), Region(0 * WHOLE)))


def test_without_a_base_what_lies_open_is_told():
    corner = Region(box_mask((0, 0, 0.5, 0.5), SIZE))
    assert float(MaskSet((corner,)).shares((0,))[0].mean()) == 0.75
    with pytest.raises(ValueError, match="masks leave 75% of the picture uncovered; add a base prompt, or"):
        MaskSet((corner,), base=False)
    with pytest.raises(ValueError, match="masks leave 50% of"):
        MaskSet((Region(LEFT), Region(RIGHT, weight=0.0)), base=False)
    MaskSet((Region(LEFT), Region(RIGHT)), base=False)
    speck = WHOLE.clone()
    speck[0, 0] = 0.5  # within what may lie open
    MaskSet((Region(speck),), base=False)


def test_only_regions_that_act_own_anything():
    masks = MaskSet((Region(LEFT), Region(RIGHT), Region(WHOLE)))
    torch.testing.assert_close(masks.shares((0, 2))[:, 0, 0], torch.tensor([0, 0.5, 0, 0.5]))
    torch.testing.assert_close(masks.shares((1,))[:, 0, 0], torch.tensor([1.0, 0, 0, 0]))
    assert torch.equal(masks.shares(())[0], WHOLE)


def test_a_region_acts_from_its_start_until_before_its_end():
    masks = MaskSet((Region(LEFT), Region(RIGHT), Region(WHOLE), Region(WHOLE, weight=0.0)))
    spans = [(math.inf, 5.0), (5.0, 0.0), (8.0, 2.0), (math.inf, 0.0)]  # the first two one after the other
    acting = {14.6: (0,), 8.0: (0, 2), 5.1: (0, 2), 5.0: (1, 2), 2.0: (1,), 0.03: (1,)}
    assert {sigma: masks.active(sigma, spans) for sigma in acting} == acting


def test_each_place_has_its_regions_guidance_scale():
    corner = box_mask((0.5, 0, 1, 0.5), SIZE)
    masks = MaskSet((Region(LEFT, base_ratio=0.5, cfg=3.0), Region(corner, cfg=0.0)))
    shares = masks.on((12, 20), SIZE, (0, 1), CPU)
    scales = masks.scales(shares, 7.0)
    assert scales.shape == (12, 20)
    torch.testing.assert_close(scales[[0, 0, -1], [0, -1, -1]], torch.tensor([5.0, 0.0, 7.0]))
    plain = MaskSet((Region(LEFT), Region(RIGHT))).scales(masks.on((12, 20), SIZE, (0, 1), CPU), 7.0)
    torch.testing.assert_close(plain, torch.full((12, 20), 7.0))


def test_shares_of_a_grid_are_made_once_and_kept_off_the_device():
    masks = MaskSet((Region(LEFT), Region(feather(box_mask((0.4, 0.3, 1, 1), SIZE), 0.3), weight=2.0)))
    both = masks.on((6, 10), SIZE, (0, 1), CPU)
    assert masks.on((6, 10), SIZE, (0, 1), CPU) is both
    torch.testing.assert_close(both, shrink(masks.shares((0, 1)), (6, 10), SIZE))
    torch.testing.assert_close(both.sum(0), torch.ones(6, 10))
    other = masks.on((6, 10), SIZE, (0, 1), torch.device("meta"))
    assert other.device.type == "meta" and masks.on((6, 10), SIZE, (0, 1), CPU) is both
    assert {kept.device for kept in masks.cache.values()} == {CPU}
    assert masks.on((3, 5), SIZE, (0, 1), CPU).shape == (3, 3, 5)
    assert not masks.on((6, 10), SIZE, (1,), CPU)[1].any()
    taller = masks.on((6, 10), (23, 40), (0, 1), CPU)  # of another latent: its last row hangs over
    assert taller.shape == both.shape and float((taller - both).abs().max()) > 0.01


def test_masks_of_all_sizes_come_onto_one_canvas():
    regions = [Region(torch.ones(1, 1)), Region(box_mask((0, 0, 0.5, 1), (480, 800))[None]),
               Region(box_mask((0.5, 0, 1, 1), (12, 10)) > 0)]
    masks = gather(regions, SIZE)
    assert [region.mask.shape for region in masks.regions] == [SIZE] * 3
    torch.testing.assert_close(masks.regions[0].mask, WHOLE)
    torch.testing.assert_close(masks.regions[1].mask, LEFT)
    assert abs(float(masks.regions[2].mask.mean()) - 0.5) < 0.01


def test_each_region_is_feathered_by_its_own_fraction():
    masks = gather([Region(LEFT), Region(RIGHT)], SIZE, [0.0, 0.5])
    assert torch.equal(masks.regions[0].mask, LEFT)
    torch.testing.assert_close(masks.regions[1].mask, feather(RIGHT, 0.5))
    coarse = torch.tensor([[0.0, 1.0]])  # feathered on the canvas, not before
    assert torch.equal(gather([Region(coarse)], SIZE, [0.5]).regions[0].mask, feather(fit(coarse, SIZE), 0.5))
    with pytest.raises(ValueError):
        gather([Region(LEFT), Region(RIGHT)], SIZE, [0.5])
    with pytest.raises(ValueError, match="uncovered"):
        gather([Region(LEFT)], SIZE, base=False)


@pytest.mark.parametrize(("wrong", "words"), [
    ({"weight": -1.0}, "weight is -1.0; give a number from 0 to 1e\\+06"),
    ({"weight": math.nan}, "weight is nan"),
    ({"base_ratio": 1.2}, "base_ratio is 1.2; give a number from 0 to 1"),
    ({"start": -0.1}, "start_percent is -0.1"),
    ({"end": math.inf}, "end_percent is inf"),
    ({"start": 0.7, "end": 0.2}, "start_percent 0.7 lies after end_percent 0.2; swap them"),
    ({"mask": torch.full(SIZE, math.nan)}, "the mask holds NaN"),
])
def test_what_is_wrong_with_a_region_is_told_with_its_name(wrong, words):
    region = Region(LEFT)._replace(**wrong)
    with pytest.raises(ValueError, match=f"Sky: {words}"):
        check_region(region, "Sky")
    with pytest.raises(ValueError, match=f"Region 2: {words}"):
        gather([Region(RIGHT), region], SIZE)
