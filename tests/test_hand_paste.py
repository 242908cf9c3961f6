"""What is pasted shows no seam and no old finger, and leaves every bit outside its mask alone."""
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tweedie_pack.controls.hands.crop import LIMITS, cut, cut_mask, plan
from tweedie_pack.controls.hands.found import Hand
from tweedie_pack.controls.hands.paste import ENOUGH, cover, distance, feather_out, match_ring, paste_back

SIZE = (320, 480)
BOX = (200.0, 110.0, 280.0, 210.0)  # 100 pixels long
GAINS = torch.tensor([1.06, 0.94, 1.06]).view(3, 1, 1)
OFFSETS = torch.tensor([-0.03, 0.03, 0.03]).view(3, 1, 1)


def photograph(size=SIZE, seed=0):
    """[3,H,W] in 0.1..0.9, like a photograph: smooth at pixels, channels go together."""
    noise = torch.randn(4, *size, generator=torch.Generator().manual_seed(seed))
    square = torch.fft.fftfreq(size[0])[:, None].square() + torch.fft.fftfreq(size[1])[None].square()
    noise = torch.fft.ifft2(torch.fft.fft2(noise) / square.clamp_min(max(size) ** -2) ** 0.9).real
    noise = noise[0] + 0.4 * noise[1:]
    return (0.5 + 0.15 * noise / noise.std()).clamp(0.1, 0.9)


def job_of(box=BOX, size=SIZE, family="sdxl", **changes):
    job, = plan([Hand(box)], size, limits=LIMITS[family])
    return job._replace(**changes)


def native(job):
    """The same job with a crop of its window's size."""
    x0, y0, x1, y1 = job.window
    return job._replace(size=(y1 - y0, x1 - x0))


def step(picture, core):
    """Mean difference in 255ths between neighbours, one of them in the core and one outside."""
    total, count = 0.0, 0
    for axis in (1, 2):
        length = picture.shape[axis] - 1
        a, b = picture.narrow(axis, 0, length), picture.narrow(axis, 1, length)
        edge = core.narrow(axis - 1, 0, length) != core.narrow(axis - 1, 1, length)
        total, count = total + float((a - b).abs()[:, edge].sum()), count + 3 * int(edge.sum())
    return 255 * total / count


def redrawn(picture, job, core, noise=0.004):
    """What a sampler and its decoder return: another, brighter hand, noise, and colours 6 % and 0.03 off."""
    crop, inner = cut(picture, job), cut_mask(core, job) > 0.5
    hand = distance(~inner, 1e4)[None] > 0.03 * max(job.size)  # well within the mask
    crop = torch.where(hand, 0.3 + 0.8 * cut(photograph(picture.shape[1:], 7), job), crop)
    crop = crop + noise * torch.randn(crop.shape, generator=torch.Generator().manual_seed(1))
    return (GAINS * crop + OFFSETS).clamp(0, 1)


@pytest.mark.parametrize("width", [0, 6], ids=["hard edge", "feathered"])
@pytest.mark.parametrize("family", ["sd1", "dit"])
def test_a_colour_error_of_6_percent_leaves_no_seam(family, width):
    for seed in range(2):
        picture = photograph(seed=seed)
        job = job_of(family=family)
        core = cover([BOX], [100], SIZE)
        alpha = feather_out(core, width, job.window)
        crop = redrawn(picture, job, core)
        ring = cut_mask(alpha, job) == 0
        matched = match_ring(crop, cut(picture, job), cut_mask(core, job) > 0.5, ring)
        natural = step(picture, core)
        assert step(paste_back(picture, job, matched, alpha), core) <= 1.5 * natural
        if width == 0:  # what the match is worth
            assert step(paste_back(picture, job, crop, alpha), core) > 2 * natural


@settings(max_examples=60, deadline=None)
@given(st.tuples(st.integers(8, 200), st.integers(8, 200)), st.randoms(use_true_random=False),
       st.sampled_from([torch.float32, torch.float16, torch.float64]))
def test_outside_alpha_every_bit_stays(size, draw, kind):
    picture = torch.randint(0, 256, (3, *size), generator=torch.Generator().manual_seed(0)) / 255
    picture[0, ::3], picture[1, 0, :4] = -0.0, torch.tensor([math.nan, math.inf, 1e-7, 3.5])
    picture = picture.to(kind)
    (top, bottom), (left, right) = (sorted((draw.uniform(0, side), draw.uniform(0, side))) for side in size)
    box = (left, top, right, bottom)
    job = job_of(box, size)
    alpha = feather_out(cover([box], [40], size), draw.uniform(0, 9), job.window)
    pasted = paste_back(picture, job, torch.rand(3, *job.size), alpha)
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[picture.element_size()]
    outside = (alpha == 0).expand(3, -1, -1)
    assert pasted.dtype == kind
    assert torch.equal(pasted.view(bits)[outside], picture.view(bits)[outside])
    x0, y0, x1, y1 = job.window
    beyond = torch.ones(size, dtype=torch.bool)
    beyond[y0:y1, x0:x1] = False
    assert not alpha[beyond].any()


@pytest.mark.parametrize("kind", [torch.float32, torch.float16])
def test_a_crop_pasted_where_it_was_cut_changes_no_bit(kind):
    picture = photograph().to(kind)
    job = native(job_of())
    for alpha in (torch.rand(SIZE), torch.ones(SIZE), torch.zeros(SIZE)):
        assert torch.equal(paste_back(picture, job, cut(picture, job), alpha), picture)


def test_at_alpha_1_the_crop_replaces_the_picture_and_the_picture_given_stays():
    picture, job = photograph(), native(job_of())
    crop, before = torch.rand(3, *job.size), picture.clone()
    pasted = paste_back(picture, job, crop, torch.ones(SIZE))
    assert torch.equal(cut(pasted, job), crop)
    assert torch.equal(picture, before)
    half = paste_back(picture, job, crop, torch.full(SIZE, 0.5))
    torch.testing.assert_close(cut(half, job), (cut(picture, job) + crop) / 2)


def test_enlarged_and_pasted_back_a_photograph_keeps_its_detail():
    picture = photograph()
    for family in LIMITS:
        job = job_of(family=family)
        error = paste_back(picture, job, cut(picture, job), torch.ones(SIZE)) - picture
        assert float(error.square().mean().sqrt()) < 1 / 255


@pytest.mark.parametrize(("change", "words"), [
    (lambda crop, alpha: (crop * math.nan, alpha), "NaN or infinity; try a VAE in full precision"),
    (lambda crop, alpha: (crop / 0, alpha), "NaN or infinity"),
    (lambda crop, alpha: (crop[:, 1:], alpha), r"crop is \[3, 831, 832\] .* give a crop \[3, 832, 832\]"),
    (lambda crop, alpha: (crop, alpha[1:]), r"alpha \[319, 480\]; .* alpha \[320, 480\]"),
])
def test_what_can_not_be_pasted_is_refused(change, words):
    job = job_of()
    with pytest.raises(ValueError, match=words):
        paste_back(photograph(), job, *change(torch.rand(3, *job.size) + 1, torch.ones(SIZE)))


def test_the_mask_covers_every_shape_and_grows_by_its_hands_size():
    new = torch.zeros(SIZE, dtype=torch.bool)
    new[100, 300] = True
    core = cover([(200, 110, 280, 210), new], [100, 150], SIZE)
    assert core[110:210, 200:280].all()
    assert core[160, 193] and not core[160, 192] and core[160, 286] and not core[160, 287]  # 7 pixels
    assert not core[103, 193]  # round corners
    assert core[100, 310] and not core[100, 311]  # 10.5 pixels
    assert torch.equal(cover([new], [1], SIZE).nonzero().amin(0), torch.tensor([99, 299]))  # at least one
    assert torch.equal(cover([new], [100], SIZE, grow=0), new)
    assert not cover([torch.zeros(SIZE, dtype=torch.bool)], [100], SIZE).any()
    assert not cover([], [], SIZE).any()
    with pytest.raises(ValueError, match=r"a mask is \[3, 4\] in a picture of \[320, 480\]; give"):
        cover([new[:3, :4]], [100], SIZE)


def test_a_box_covers_the_pixels_that_it_cuts_and_ends_with_the_picture():
    assert cover([(2.5, 3.0, 4.5, 5.0)], [9], (8, 8), grow=0).nonzero().tolist() == [
        [y, x] for y in (3, 4) for x in (2, 3, 4)]
    assert cover([(-5, -5, 99, 99)], [100], (8, 8)).all()


def test_distances_near_a_mask_are_scipys():
    from scipy.ndimage import distance_transform_edt
    inside = torch.rand(40, 60, generator=torch.Generator().manual_seed(0)) > 0.995
    expected = torch.from_numpy(distance_transform_edt(~inside.numpy())).float()
    found = distance(inside, 5)
    assert torch.equal(found[expected <= 5], expected[expected <= 5])
    assert bool((found[expected > 5] > 5).all())
    assert bool(torch.isinf(distance(torch.zeros(4, 4, dtype=torch.bool), 5)).all())


def test_the_feather_is_all_outside_and_ends_at_its_width():
    core = torch.zeros(41, 41, dtype=torch.bool)
    core[10:30, 10:30] = True
    for width in (0.5, 1, 3, 7.5):
        alpha, far = feather_out(core, width), distance(core, 100)
        assert bool((alpha[core] == 1).all()) and not alpha[far >= width].any()
        assert bool((alpha[far < width] > 0).all()) and bool((alpha[10, :11].diff() >= 0).all())
    torch.testing.assert_close(feather_out(core, 4)[20, 6:11], torch.tensor([0, 0.15625, 0.5, 0.84375, 1]))
    for width in (0, 1e-320):
        assert torch.equal(feather_out(core, width), core.float())
    assert not feather_out(~core & core, 5).any()


def test_alpha_ends_with_its_window_but_not_with_the_picture():
    core = torch.ones(40, 60, dtype=torch.bool)
    alpha = feather_out(core, 4, (0, 10, 30, 40))  # meets the picture's left and lower edge
    assert not alpha[:11].any() and not alpha[:, 29:].any()
    torch.testing.assert_close(alpha[30, 24:30], torch.tensor([1, 1, 0.84375, 0.5, 0.15625, 0]))
    assert bool((alpha[14:, :26] == 1).all())
    assert torch.equal(feather_out(core, 4, (0, 0, 60, 40)), torch.ones(40, 60))
    core[:, 20:], core[:20] = False, False  # too far inside to notice
    assert torch.equal(feather_out(core, 4, (0, 10, 30, 40)), feather_out(core, 4))


def middle(size=(64, 64)):
    core = torch.zeros(size, dtype=torch.bool)
    core[16:48, 16:48] = True
    return core


def test_colours_are_matched_on_the_ring_alone():
    old, core = 0.2 + 0.6 * photograph((64, 64)), middle()
    changed = torch.where(core, 0.9 - 0.5 * old, old)  # the hand is another one, and brighter
    found = match_ring(GAINS * changed + OFFSETS, old, core, ~core)
    torch.testing.assert_close(found, changed, atol=1e-4, rtol=0)
    assert torch.equal(match_ring(changed, old, core, ~core), changed)


def test_what_was_redrawn_in_the_ring_does_not_count():
    old, core = photograph((64, 64)), middle()
    new = GAINS * old + OFFSETS
    new[:, :10, :40] = 0.95  # a sixth of the ring became something else
    found = match_ring(new, old, core, ~core)
    torch.testing.assert_close(found[:, 50:], old[:, 50:], atol=2e-3, rtol=0)


def test_a_flat_ring_tells_brightness_only_and_a_small_one_nothing():
    core, flat = middle(), torch.full((3, 64, 64), 0.8)
    hand = torch.where(core, photograph((64, 64)), flat)
    torch.testing.assert_close(match_ring(hand - 0.05, flat, core, ~core), hand, atol=1e-5, rtol=0)
    few = torch.zeros(64, 64, dtype=torch.bool)
    few.view(-1)[:ENOUGH - 1] = True
    for ring in (few, ~core & core, core):
        assert match_ring(hand, flat, core, ring) is hand


def test_corrections_are_limited():
    old, core = photograph((64, 64)), middle()
    pale = 0.5 + 0.3 * (old - 0.5)
    spread = [crop[0, ~core].std() for crop in (match_ring(pale, old, core, ~core), pale)]
    assert float(spread[0] / spread[1]) == pytest.approx(1.25, rel=1e-3)
    dark = match_ring(0.2 * old, old, core, ~core) - 0.2 * old
    assert float(dark[:, ~core].mean()) == pytest.approx(0.15, abs=1e-3)
    assert match_ring(old.half(), old, core, ~core).dtype == torch.float16
