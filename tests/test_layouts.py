"""What users write or paint becomes the regions that they meant, or an error that says what to write."""
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tweedie_pack.controls.layouts import LAYOUTS, MOST, NEAR, fill_polygon, palette
from tweedie_pack.controls.masks import box_mask
from tweedie_pack.controls.preview import PAPER, colours_of, draw_layout, overlay, paint, wrap
from tweedie_pack.controls.regions import normalise
from tweedie_pack.samplers.sheet import load_font

SIZE = (64, 96)
WRITTEN = [name for name in LAYOUTS if name not in ("masks", "colours")]


def painted(*places, size=SIZE):
    """A picture [H,W,3] on white paper with regions by number in boxes, as a PNG holds it."""
    picture = torch.ones(*size, 3)
    for number, box in places:
        picture[box_mask(box, size) > 0.5] = torch.tensor(palette(MOST)[number])
    return (picture * 255).round() / 255


GOLDEN = {  # a spec, and each region's share of the picture
    "columns": ("1,2,1", [0.25, 0.5, 0.25]),
    "rows": ("1,3", [0.25, 0.75]),
    "grid": ("3 2", [1 / 6] * 6),
    "boxes": ("0 0 0.5 1\n24, 16, 72, 48\n\n0.9;0.3;0.8;0.1", [0.5, 0.25, 0.02]),
    "polygons": ("0 0 1 0 0 1\n24 16 72 16 72 48 24 48", [0.5, 0.25]),
    "masks": (torch.stack([box_mask((0, 0, 0.25, 1), (8, 8)), torch.full((8, 8), 0.5)]), [0.25, 0.5]),
    "colours": (painted((0, (0, 0, 0.5, 1)), (2, (0.5, 0, 1, 0.25))), [0.5, 0, 0.125]),
}
WRONG = [
    ("grid", "", "Grid: 0 lines; give one line"), ("grid", "3", "Grid: line 1 is '3'; give 2 numbers"),
    ("grid", "2.5 2", "two whole numbers"), ("grid", "0 3", "'0 3'"), ("grid", "9 9", "at most 64 cells"),
    ("boxes", "0 0 1", "Boxes: line 1 is '0 0 1'; give 4 numbers"), ("boxes", "0 0 1 1\na b c d", "line 2"),
    ("boxes", "0 0 nan 1", "line 1 is '0 0 nan 1'"), ("boxes", "0 0 1 1\n" * 65, "65 lines"),
    ("polygons", "0 0 1 1", "line 1 has 4 numbers; give x and y of three or more"),
    ("polygons", "0 0 1 1 1 0 1", "line 1 has 7 numbers"), ("polygons", "0 0 1 inf 1 0", "give numbers"),
    ("masks", torch.zeros(0, 4, 4), "there is none; give at least one"),
    ("masks", torch.full((2, 4, 4), torch.nan), "Mask 1: the mask holds NaN"),
    ("colours", torch.ones(8, 8), r"Colour map: its shape is \[8, 8\]; give a picture"),
    ("colours", torch.ones(8, 8, 3), "none of the palette's colours is in it; paint with"),
    ("colours", torch.full((8, 8, 3), torch.nan), "give a picture"),
]


def test_golden_areas_and_layouts_have_the_same_names():
    assert GOLDEN.keys() == LAYOUTS.keys()


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_has_its_golden_areas(name):
    spec, areas = GOLDEN[name]
    masks = LAYOUTS[name](spec, SIZE)
    assert masks.shape == (len(areas), *SIZE)
    assert float(masks.min()) >= 0 and float(masks.max()) <= 1
    within = 0.01 if name == "polygons" else 1e-5  # drawn by Pillow, a quarter of a pixel too wide
    assert masks.mean((1, 2)).tolist() == pytest.approx(areas, abs=within)


@pytest.mark.parametrize(("name", "spec", "words"), WRONG)
def test_what_is_wrong_is_told(name, spec, words):
    with pytest.raises(ValueError, match=words):
        LAYOUTS[name](spec, SIZE)


@pytest.mark.parametrize("layout", ["columns", "rows", "grid"])
@pytest.mark.parametrize("spec", ["1 1", "2 2", "3x2", "1 7", "8 8"])
def test_what_fills_the_picture_leaves_no_seam(layout, spec):
    if layout != "grid":
        spec = ",".join(spec.replace("x", " ").split())
    masks = LAYOUTS[layout](spec, (61, 97))
    torch.testing.assert_close(masks.sum(0), torch.ones(61, 97))


def test_two_levels_are_read_as_regional_prompter_reads_them():
    two = 1 / 3 * torch.tensor([2 / 3, 1 / 3, 0.8, 1.2])  # of parts 1:2
    columns = LAYOUTS["columns"]("1,2,1;2,4,6", SIZE)
    assert columns.mean((1, 2)).tolist() == pytest.approx(two.tolist(), abs=1e-5)
    assert columns[0, 0, 0] == columns[1, 0, -1] == columns[2, -1, 0] == columns[3, -1, -1] == 1
    rows = LAYOUTS["rows"]("1;2;1,2;4;6", SIZE)
    assert rows.mean((1, 2)).tolist() == pytest.approx(two.tolist(), abs=1e-5)
    assert rows[0, 0, 0] == rows[1, -1, 0] == rows[2, 0, -1] == rows[3, -1, -1] == 1


def test_numbers_above_1_are_pixels():
    for name in ("boxes", "polygons"):
        corners = {"boxes": (0.25, 0.25, 0.75, 0.5), "polygons": (0.25, 0.25, 0.75, 0.25, 0.5, 0.5)}[name]
        pixels = [value * (96, 64)[place % 2] for place, value in enumerate(corners)]
        fractions, same = (LAYOUTS[name](" ".join(map(str, spec)), SIZE) for spec in (corners, pixels))
        torch.testing.assert_close(fractions, same)


def test_a_polygon_covers_what_lies_inside():
    corners = [0.1, 0.2, 0.9, 0.4, 0.3, 0.95]
    mask = fill_polygon(corners, (256, 256))
    y, x = (torch.arange(256)[:, None] + 0.5) / 256, (torch.arange(256) + 0.5) / 256
    inside = torch.ones(256, 256)
    for ax, ay, bx, by in ((*corners[i:i + 2], *(corners * 2)[i + 2:i + 4]) for i in (0, 2, 4)):
        inside *= ((bx - ax) * (y - ay) - (by - ay) * (x - ax) > 0).float()
    assert float((mask - inside).abs().mean()) < 0.005
    assert torch.equal(fill_polygon([-9, -9, 9, -9, 9, 9, -9, 9], (8, 8)), torch.ones(8, 8))


NUMBERISH = st.text(st.sampled_from("0123456789.,;: -+exn\n"), max_size=40)


@settings(max_examples=300, derandomize=True, database=None, deadline=None)
@given(st.one_of(NUMBERISH, NUMBERISH, st.text(max_size=40)), st.sampled_from(WRITTEN))
@example("1e308 -1e308 1 1", "boxes")
@example("1e308 -1e308 1 1 0 0", "polygons")
@example("1e308 1e308", "grid")
@example("," * 500, "columns")
@example("9" * 5000, "rows")
@example("٣ ½ ² 1_0", "boxes")
def test_hostile_text_is_masks_or_an_error_of_ours(text, name):
    try:
        masks = LAYOUTS[name](text, (6, 9))
    except ValueError as error:
        assert "; give" in str(error)
        return
    assert 0 < len(masks) <= MOST and masks.shape[1:] == (6, 9)
    assert float(masks.min()) >= 0 and float(masks.max()) <= 1


def test_the_palette_is_regional_prompters():
    bright, dark = 0.5, 0.25
    assert palette(4) == [(bright, dark, dark), (dark, bright, bright), (0.375, bright, dark),
                          (0.375, dark, bright)]
    assert palette(8)[4:] == [(0.5, 0.4375, 0.25), (0.25, 0.5, 0.3125), (0.25, 0.3125, 0.5),
                              (0.5, 0.25, 0.4375)]
    colours = torch.tensor(palette(MOST))
    apart = (colours[:, None] - colours).abs().amax(-1) + torch.eye(MOST)
    assert float(apart.min()) > 2 / 255  # what a PNG and a browser may round away
    assert palette(MOST)[:11] == palette(11)


def test_every_colour_comes_back_through_a_png():
    boxes = [(number, (number / MOST, 0, (number + 1) / MOST, 0.5)) for number in range(MOST)]
    picture = painted(*boxes, size=(32, 4 * MOST))
    alpha = torch.ones(*picture.shape[:2], 1)
    for given_picture in (picture, torch.cat([picture, alpha], -1), picture + 1 / 255):
        masks = LAYOUTS["colours"](given_picture, (32, 4 * MOST))
        torch.testing.assert_close(masks, torch.stack([box_mask(box, (32, 4 * MOST)) for _, box in boxes]))
    with pytest.raises(ValueError, match="none of the palette's colours"):
        LAYOUTS["colours"](torch.full((4, 4, 3), 0.5 + 2 * NEAR), (4, 4))


def test_a_smoothed_border_between_two_colours_is_no_region():
    left, right = (torch.tensor(colour) for colour in palette(6)[4:])  # between their hues lies the third's
    mix = ((torch.arange(96) - 45) / 6).clamp(0, 1)[:, None]
    masks = LAYOUTS["colours"]((left + mix * (right - left)).expand(*SIZE, 3), SIZE)
    assert len(masks) == 6 and not masks[:4].any()
    assert masks[4:].mean((1, 2)).tolist() == pytest.approx([46 / 96, 45 / 96], abs=2 / 96)


def share(*boxes, size=SIZE):
    return normalise(torch.stack([box_mask(box, size) for box in boxes]), torch.ones(len(boxes)),
                     torch.zeros(len(boxes)))


@pytest.mark.parametrize("names", [
    ["", ""], ["a red ball", "\U0001f600 日本 é"], ["x" * 10_000, "i" * 10_000],
    ["a\nb\r\n\tc", "\x00\x07\x1b[31m \ud800"]])
def test_a_layout_is_drawn_whatever_the_regions_are_called(names):
    shares = share((0, 0, 0.5, 1), (0.5, 0, 1, 0.5))
    picture = draw_layout(shares, names, load_font, side=192)
    assert picture.shape == (128, 192, 3) and float(picture.min()) >= 0 and float(picture.max()) <= 1
    for colour, place in zip([*colours_of(2), torch.full((3,), PAPER)], [(2, 2), (2, -2), (-2, -2)],
                             strict=True):
        torch.testing.assert_close(picture[place], colour, atol=1 / 255, rtol=0)
    away = (picture - paint(share((0, 0, 0.5, 1), (0.5, 0, 1, 0.5), size=(128, 192)))).abs().amax(-1) > 0.1
    assert away[:, :96].any() and away[:64, 96:].any()  # their numbers
    assert not away[66:, 98:].any()  # nothing is written where no region is


def test_a_name_is_wrapped_to_its_room_in_letters_that_the_font_has():
    font = load_font(14)
    assert wrap("a  red\nball", 500, font) == ["a red ball"]
    lines = wrap("a red ball and a blue cup and whatever else there is to say of it", 100, font)
    assert len(lines) == 3 and lines[0] == "a red ball and a" and lines[2].endswith("..")
    assert all(font.getlength(line) <= 120 for line in lines)
    assert wrap("日本", 100, font) == ["??"]
    assert wrap("abc" * 5000, 0, font) == [".."] and wrap("", 100, font) == [""]


def test_a_layout_of_any_shape_and_a_region_of_no_area_are_drawn():
    assert draw_layout(share((0, 0, 1, 1), size=(1, 700)), ["a"], load_font).shape == (1, 512, 3)
    assert draw_layout(share((0, 0, 1, 1), (0, 0, 0, 0)), ["a", "b"], load_font).shape == (341, 512, 3)


def test_an_overlay_colours_regions_and_leaves_the_rest_as_it_is():
    picture = torch.rand(96, 144, 3, generator=torch.Generator().manual_seed(0))
    shares = share((0, 0, 0.5, 1), (0.5, 0, 1, 0.5))
    laid = overlay(picture, shares)
    assert laid.shape == picture.shape and float(laid.min()) >= 0 and float(laid.max()) <= 1
    assert torch.equal(laid[48:, 72:], picture[48:, 72:])
    assert torch.equal(overlay(picture, shares, 0.0), picture)
    torch.testing.assert_close(overlay(picture, shares, 1.0)[:48, 72:], colours_of(2)[1].expand(48, 72, 3))
    torch.testing.assert_close(laid[:, :72], 0.55 * picture[:, :72] + 0.45 * colours_of(1)[0])
