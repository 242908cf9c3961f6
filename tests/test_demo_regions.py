"""The tiny model guided by regions: one text for all is plain guidance, each region is its own text's."""
from dataclasses import replace
from random import Random

import pytest
import torch
from tweedie_pack.controls.regions import Region, gather
from tweedie_pack.demo.world import draw

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
from tweedie_pack.demo import regions, show
from tweedie_pack.demo.tiny import regional
from tweedie_pack.demo.tiny.model import embed, guide
from tweedie_pack.demo.tiny.words import tokenize

MODES = (regional.guide_attention, regional.guide_latents)
EVERY = [*regions.LAYOUTS.values(), *regions.UNTAUGHT]
SCALE = 5.0


@pytest.fixture(scope="module")
def model():
    """The tiny model's networks with random weights."""
    from tiny_nets import new_nets
    from tweedie_pack.demo.sampling import standard_tables
    from tweedie_pack.demo.tiny.model import Tiny
    made, tables = new_nets(), list(standard_tables().values())
    return Tiny(made["vae"], made["text"], made["unet_v"], tables[1], True)


def drafts(layout, count=2, seed=0):
    random = Random(seed)
    return [regions.draft(random, layout) for _ in range(count)]


def picture(layout, scene):
    return draw(scene, layout.height, layout.width).image


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("knobs", [{}, {"base_ratio": 0.3, "soft": 0.4}])
def test_one_text_for_all_regions_is_plain_guidance(model, mode, knobs):
    for layout in (regions.LAYOUTS["three columns"], regions.UNTAUGHT[0]):
        masks, x = regions.masks(layout, **knobs), show.pure_noise(2, 0, layout.latent)
        captions = regions.captions(layout, drafts(layout))
        for sigma in (4000.0, 0.7):
            plain = guide(model, captions[0], SCALE)(sigma * x, sigma)
            alike = mode(model, [captions[0]] * len(captions), masks, SCALE)(sigma * x, sigma)
            torch.testing.assert_close(alike, plain, rtol=0, atol=1e-5 * float(plain.abs().max()))
            assert not torch.allclose(mode(model, captions, masks, SCALE)(sigma * x, sigma), plain, atol=1e-2)


def test_each_token_reads_the_text_of_its_region(model):
    layout = regions.LAYOUTS["three columns"]  # eight by twelve tokens, four columns of them a region
    texts = [embed(model, part) for part in regions.captions(layout, drafts(layout))]
    attention = model.unet.down_blocks[1].attentions[0].transformer_blocks[0].attn2
    hidden = torch.randn(2, 96, 64, generator=torch.Generator().manual_seed(1))
    read = regional.reader(regions.masks(layout), (16, 24))
    out = read(attention, hidden, torch.cat(texts, 1)).unflatten(1, (8, 12))
    for number, text in enumerate(texts[1:]):
        alone = attention(hidden, text).unflatten(1, (8, 12))
        columns = (..., slice(4 * number, 4 * number + 4), slice(None))
        torch.testing.assert_close(out[columns], alone[columns], rtol=0, atol=1e-5)
        assert not torch.allclose(out, alone, atol=1e-2)


def test_a_share_for_the_base_blends_what_is_read(model):
    half, whole = Region(torch.ones(8, 8), base_ratio=0.25), Region(torch.ones(8, 8))
    texts = [embed(model, [caption]) for caption in (show.SHAPES[0], show.SHAPES[1])]
    attention = model.unet.mid_block.attentions[0].transformer_blocks[0].attn2
    hidden = torch.randn(1, 64, 64, generator=torch.Generator().manual_seed(1))
    base, own = (attention(hidden, text) for text in texts)
    for region, goal in ((half, 0.25 * base + 0.75 * own), (whole, own)):
        out = regional.reader(gather([region], (8, 8)), (16, 16))(attention, hidden, torch.cat(texts, 1))
        torch.testing.assert_close(out, goal, rtol=0, atol=1e-5)


def test_latents_are_the_blend_of_what_each_text_alone_would_give(model):
    layout = regions.LAYOUTS["four quarters"]
    captions, masks = regions.captions(layout, drafts(layout)), regions.masks(layout, 0.2, 0.3)
    x, sigma = show.pure_noise(2, 0, layout.latent), 0.7
    alone = torch.stack([guide(model, part, SCALE)(sigma * x, sigma) for part in captions], 1)
    shares = regional.shares_on(masks, (24, 16), (24, 16))
    blend = (shares[:, None] * alone).sum(1)
    found = regional.guide_latents(model, captions, masks, SCALE)(sigma * x, sigma)
    torch.testing.assert_close(found, blend, rtol=0, atol=1e-5 * float(blend.abs().max()))


def test_the_network_is_as_it_was_behind_a_call_and_behind_an_error(model):
    layout = regions.LAYOUTS["two columns"]
    before = model.unet.attn_processors
    captions, masks = regions.captions(layout, drafts(layout)), regions.masks(layout)
    denoise = regional.guide_attention(model, captions, masks, SCALE)
    denoise(show.pure_noise(2, 0), 1.0)
    assert model.unet.attn_processors == before
    with pytest.raises(RuntimeError):
        denoise(show.pure_noise(3, 0), 1.0)  # captions are for two
    assert model.unet.attn_processors == before


@pytest.mark.parametrize("mode", MODES)
def test_captions_of_another_number_of_regions_are_refused(model, mode):
    three, two = regions.LAYOUTS["three columns"], regions.LAYOUTS["two columns"]
    with pytest.raises(ValueError, match="captions are for 4 texts, masks for 2 regions; give"):
        mode(model, regions.captions(three, drafts(three)), regions.masks(two), SCALE)


@pytest.mark.parametrize("layout", EVERY)
def test_scenes_stand_in_their_regions_and_are_read_right(layout):
    masks = torch.stack([region.mask for region in regions.masks(layout).regions])
    assert torch.equal(masks.sum(0), torch.ones(layout.height, layout.width))
    for scene in drafts(layout, 4, seed=1):
        assert len({scene.background, *(one.colour for one in scene.subjects)}) == len(layout.spots) + 1
        assert all(mask[int(one.y), int(one.x)] == 1 for mask, one in zip(masks, scene.subjects, strict=True))
        assert regions.judge(layout, scene, picture(layout, scene)) == [
            (True, False, f"{one.colour} {one.shape}") for one in scene.subjects]


def test_what_is_wrong_is_seen():
    layout = regions.LAYOUTS["three columns"]
    [scene] = drafts(layout, 1)
    left, middle, right = scene.subjects
    copied = replace(scene, subjects=(left, replace(left, x=middle.x, y=middle.y), right))
    small = [replace(left, y=height, radius=15.0) for height in (30.0, 95.0)]
    twice = replace(scene, subjects=(*small, middle))
    colour = next(name for name in regions.COLOURS if name not in str(scene))
    stranger = replace(scene, subjects=(left, middle, replace(right, colour=colour)))

    def see(shown):
        return regions.judge(layout, scene, picture(layout, shown))
    assert [verdict[:2] for verdict in see(copied)] == [(True, False), (False, True), (True, False)]
    first, _, third = see(twice)
    assert first == (False, False, f"{left.colour} {left.shape} and {left.colour} {left.shape}")
    assert third == (False, False, "nothing")
    assert see(stranger)[2][:2] == (False, False) and see(scene)[2].right


def test_captions_are_of_the_world_and_a_region_asks_for_its_subject_alone():
    layout = regions.LAYOUTS["three rows"]
    [scene] = drafts(layout, 1)
    (whole,), *each = regions.captions(layout, [scene])
    tokenize([whole, *(text for [text] in each)])
    top, middle, bottom = (f"{regions.article(one.colour)} {one.shape}" for one in scene.subjects)
    end = f", {scene.background} background"
    assert whole == f"{top} at the top and {bottom} at the bottom and {middle} in the middle{end}"
    assert each == [[f"{one} at the top and {one} at the bottom{end}"] for one in (top, middle, bottom)]


def test_the_demo_counts_what_is_right_and_draws_the_regions():
    layout, scenes = regions.LAYOUTS[regions.SHOWN], regions.draft_row(0, 8)
    assert len(scenes) == regions.WIDE and scenes == regions.draft_row(0, 9) != regions.draft_row(1, 9)
    shown = [picture(layout, scene) for scene in scenes]
    shown[1] = torch.ones_like(shown[1])
    notes, right = regions.judge_all(layout, scenes, torch.stack(shown))
    assert right == "12 of 15 right" and notes[1] == "nothing, nothing, nothing"
    assert notes[0] == ", ".join(f"{one.colour} {one.shape}" for one in scenes[0].subjects)
    [drawing] = regions.illustrate(layout, scenes[0]).values()
    assert drawing.shape[1] * layout.height == pytest.approx(drawing.shape[0] * layout.width, rel=0.01)
