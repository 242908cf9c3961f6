"""Masks keep their area on every grid of tokens, at every size, and never vanish."""
import math
import random

import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d
from tweedie_pack.controls import masks
from tweedie_pack.controls.masks import SIDE, bounds, box_mask, check_mask, feather, fit, shrink

SIDES = range(256, 1537, 8)  # of pictures, in pixels; a latent has an eighth of each
DRAW = random.Random(0)
SIZES = [(256, 256), (1536, 1536), (264, 1528), (1000, 264),
         *((DRAW.choice(SIDES), DRAW.choice(SIDES)) for _ in range(196))]


def halve(size, times):
    """What a UNet makes of a side, level after level; a DiT's patch of 2 is one halving."""
    for _ in range(times):
        size = (size + 1) // 2
    return size


def random_box(draw, height, width):
    """Fractions of a box of 24 to 256 pixels a side."""
    across, down = (min(draw.uniform(24, 256), side) for side in (width, height))
    left, top = draw.uniform(0, width - across), draw.uniform(0, height - down)
    return left / width, top / height, (left + across) / width, (top + down) / height


def test_a_box_has_exactly_its_area():
    draw = random.Random(1)
    for height, width in SIZES[:40]:
        box = random_box(draw, height, width)
        area = (box[2] - box[0]) * (box[3] - box[1])
        for size in ((height // 8, width // 8), (33, 47)):
            assert float(box_mask(box, size).double().mean()) == pytest.approx(area, rel=1e-6)


def test_a_box_by_hand():
    expected = torch.tensor([[0, 0, 0, 0], [0, 1, 1, 0.5], [0, 0.5, 0.5, 0.25], [0, 0, 0, 0]])
    torch.testing.assert_close(box_mask((0.25, 0.25, 0.875, 0.625), (4, 4)), expected)
    assert torch.equal(box_mask((0, 0, 1, 1), (7, 9)), torch.ones(7, 9))
    assert torch.equal(box_mask((-3, -1, 9, 2), (7, 9)), torch.ones(7, 9))
    assert not box_mask((1.5, 0, 2, 1), (7, 9)).any()
    assert not box_mask((0.8, 0, 0.2, 1), (7, 9)).any()  # from right to left


def test_bounds_are_of_what_lies_above_half_of_the_highest():
    mask = torch.tensor([[0, 0, 0, 0], [0, 0.2, 0.4, 0], [0, 0, 0.3, 0.1]])
    assert bounds(mask) == (1, 2, 3, 3)
    assert bounds(torch.zeros(3, 3)) is None


@pytest.mark.parametrize("height", [1.0, 0.4])
@pytest.mark.parametrize("box", [(0.25, 0.25, 0.5, 0.75), (0, 0, 0.5, 1), (0.5, 0, 1, 1), (0, 0.5, 1, 1)])
def test_feather_keeps_area_and_what_meets_the_edge_and_has_no_side(box, height):
    mask = height * box_mask(box, (64, 96))
    for fraction in (0.05, 0.1, 0.25, 0.5):
        soft = feather(mask, fraction)
        assert float(soft.sum()) == pytest.approx(float(mask.sum()), rel=1e-5)
        assert (soft != mask).any() and soft.min() >= 0 and soft.max() <= 1
        assert float((soft - feather(mask.flip(0, 1), fraction).flip(0, 1)).abs().max()) < 1e-6
        for edge in ((0, slice(None)), (-1, slice(None)), (slice(None), 0), (slice(None), -1)):
            if bool((mask[edge] == height).all()):
                middle = soft[edge][len(soft[edge]) // 4:3 * len(soft[edge]) // 4]
                torch.testing.assert_close(middle, torch.full_like(middle, height))


def test_feather_ramps_over_this_fraction_of_the_box():
    mask = box_mask((0.25, 0, 0.75, 1), (32, 160))  # 80 pixels wide, from 40 on
    for fraction, width in ((0.1, 9), (0.25, 21), (0.5, 41)):
        row = feather(mask, fraction)[16]
        ramp = (1 + torch.arange(width - 1)) / width  # between 0 and 1, half of it inside
        half = len(ramp) // 2
        torch.testing.assert_close(row[40 - half:40 + half], ramp)
        assert float(row[40 - half - 1]) == 0 and float(row[40 + half]) == 1


def test_no_feather_is_the_mask_bit_for_bit():
    for mask in (torch.rand(9, 14), torch.zeros(9, 14), torch.ones(9, 14)):
        assert torch.equal(feather(mask, 0.0), mask)
    assert torch.equal(feather(torch.zeros(9, 14), 0.5), torch.zeros(9, 14))
    torch.testing.assert_close(feather(torch.ones(9, 14), 1.0), torch.ones(9, 14))


def test_neighbours_that_are_feathered_alike_still_add_up_to_1():
    left, right = (feather(box_mask(box, (24, 64)), 0.3) for box in ((0, 0, 0.5, 1), (0.5, 0, 1, 1)))
    torch.testing.assert_close(left + right, torch.ones(24, 64))


def test_every_cell_is_covered_once():
    draw = random.Random(2)
    for _ in range(200):
        size, cells = draw.randint(1, 200), draw.randint(1, 60)
        for reach in (1.0, draw.uniform(1, 2)):
            share = masks.cover(size, cells, reach)
            assert share.shape == (cells, size) and float(share.min()) >= 0
            torch.testing.assert_close(share.sum(1), torch.ones(cells, dtype=torch.float64))


def test_extent_says_how_far_the_last_token_hangs_over():
    for full in range(1, 400):
        for times in range(5):
            cells = halve(full, times)
            if cells > 1:
                assert masks.extent(full, cells) == cells * 2**times / full
    assert masks.extent(100, 37) == 1.0  # no level of this latent


@pytest.mark.parametrize("times", range(4), ids=lambda times: f"level {2**times}")
def test_at_every_size_shares_fit_the_grid_add_up_to_1_and_keep_their_area(times):
    draw = random.Random(times)
    for height, width in SIZES:
        full = height // 8, width // 8
        grid = halve(full[0], times), halve(full[1], times)
        box = box_mask(random_box(draw, height, width), full)
        found = shrink(torch.stack([box, 1 - box]), grid, full)
        assert found.shape == (2, *grid)
        assert float((found.sum(0) - 1).abs().max()) < 1e-6
        assert float(found[0].max()) > 0
        expected = avg_pool2d(box[None], 2**times, ceil_mode=True)[0]  # the hanging edge counts what is there
        assert float((found[0] - expected).abs().max()) < 1e-6
        inside = [(side - 2**times * torch.arange(cells)).clamp(max=2**times) / side
                  for side, cells in zip(full, grid, strict=True)]
        kept = float((found[0].double() * torch.outer(*inside)).sum())
        assert kept == pytest.approx(float(box.double().mean()), rel=1e-5)


def test_shrinking_in_one_go_from_pixels_is_shrinking_from_latents():
    for height, width in ((512, 768), (264, 1000), (520, 328)):
        full = height // 8, width // 8
        grid = halve(full[0], 3), halve(full[1], 3)
        mask = torch.rand(1, height, width, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(shrink(mask, grid, full), avg_pool2d(mask, 64, ceil_mode=True), atol=3e-6,
                                   rtol=0)


def test_where_sizes_divide_it_is_torchs_area_filter():
    mask = torch.rand(3, 96, 120, generator=torch.Generator().manual_seed(0))
    for grid in ((12, 15), (24, 30), (96, 120), (1, 1), (48, 60)):
        torch.testing.assert_close(shrink(mask, grid, (96, 120)), adaptive_avg_pool2d(mask, grid), atol=1e-6,
                                   rtol=0)


def test_fit_loses_no_line_along_a_side_that_shrinks():
    line = torch.zeros(8, 512)
    line[:, 77] = 1  # one column of 512
    found = fit(line, (64, 32))
    assert found.shape == (64, 32)
    assert float(found.mean()) == pytest.approx(1 / 512, rel=1e-5)
    assert fit(line, (8, 512)) is line
    torch.testing.assert_close(fit(torch.ones(1, 1), (5, 7)), torch.ones(5, 7))


def test_masks_of_any_type_are_read_and_held_within_0_and_1():
    given = torch.tensor([[0, 1], [2, -1]])
    for mask in (given, given[None], given[None, None], given.double().numpy(), given.half()):
        assert torch.equal(check_mask(mask, "A"), torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    assert torch.equal(check_mask(given > 0, "A"), torch.tensor([[0.0, 1.0], [1.0, 0.0]]))


@pytest.mark.parametrize(("mask", "words"), [
    (torch.ones(4), r"Sky: the mask has shape \[4\]; give one mask"),
    (torch.ones(2, 4, 4), r"Sky: the mask has shape \[2, 4, 4\]; give one mask"),
    (torch.ones(0, 4), r"\[0, 4\]; give"),
    (torch.ones(()), r"\[\]; give"),
    (torch.ones(1, 1).expand(SIDE + 1, 1), f"at most {SIDE} a side"),
    (torch.full((2, 2), math.nan), "Sky: the mask holds NaN or infinity; give values from 0 to 1"),
    (torch.tensor([[1.0, -math.inf]]), "NaN or infinity"),
])
def test_what_is_no_mask_is_refused(mask, words):
    with pytest.raises(ValueError, match=words):
        check_mask(mask, "Sky")
