"""draw_curves and describe: golden properties over every family, and lists that no schedule would make."""
import itertools
import math

import families
import pytest
import torch
from tweedie_pack.samplers.curve import COLORS, density, describe, draw_curves, nice_ticks, read_curve
from tweedie_pack.samplers.schedules import SCHEDULES
from tweedie_pack.samplers.sheet import cut_dashes
from tweedie_pack.samplers.table import is_flow

LINE = torch.tensor([14.6, 3.0, 1.0, 0.1, 0.0])


def has_color(picture: torch.Tensor, color: str) -> bool:
    wanted = torch.tensor([int(color[i:i + 2], 16) for i in (1, 3, 5)]) / 255
    return bool(((picture - wanted).abs().amax(-1) < 0.01).any())


@pytest.mark.parametrize("name", families.TABLES)
def test_every_schedule_of_every_family_is_drawn(name):
    table = families.TABLES[name]
    picture = draw_curves({plugin.label: plugin(20, table) for plugin in SCHEDULES.values()}, is_flow(table))
    assert picture.shape == (720, 960, 3) and picture.dtype == torch.float32
    assert picture.min() >= 0 and picture.max() == 1 and bool((picture[0] == 1).all())
    assert has_color(picture, COLORS[0])


def test_a_picture_is_made_by_its_curves_alone():
    first, again = draw_curves({"a": LINE}, False), draw_curves({"a": LINE}, False)
    assert bool((first == again).all())
    assert bool((first != draw_curves({"a": LINE * torch.tensor([1, 1.5, 1, 1, 1])}, False)).any())
    assert bool((first != draw_curves({"a": LINE / 14.6}, True)).any())


@pytest.mark.parametrize(("curves", "flow"), [
    ({"one": [1.0, 0.0]}, True),
    ({"one": [14.6, 0.0]}, False),
    ({"never 0": [3.0, 2.0, 1.0]}, False),
    ({"up and down": [0.9, 0.95, 0.3, 0.5, 0.1]}, True),
    ({"above a flow's 1": [9.0, 1.0, 0.5, 0.0]}, True),
    ({"infinite": [math.inf, 1.0, 0.0]}, False),
    ({"all the same": [1.0, 1.0, 1.0]}, False),
    ({"long": torch.linspace(1, 0, 1001)}, True),
    ({"\u00fcber \u65e5\u672c, far too long a name for the room it has": LINE, "": LINE}, False),
    ({str(i): LINE * (1 + i / 40) for i in range(30)}, False),
])
def test_foreign_lists_are_drawn(curves, flow):
    for size in ((960, 720), (480, 360)):
        picture = draw_curves({name: torch.as_tensor(values) for name, values in curves.items()}, flow, *size)
        assert picture.shape == (size[1], size[0], 3) and bool(torch.isfinite(picture).all())
        assert has_color(picture, COLORS[0])


@pytest.mark.parametrize(("sigmas", "says"), [
    (torch.tensor([1.0, math.nan, 0.0]), "curve 'bad' is NaN at 1 of 2; check"),
    (torch.ones(2, 2), r"curve 'bad' has shape \[2, 2\]; give"),
    (torch.ones(1), r"curve 'bad' has shape \[1\]; give"),
    (torch.zeros(3), "curve 'bad' has no sigma above 0; give"),
])
def test_what_cannot_be_drawn_says_why(sigmas, says):
    with pytest.raises(ValueError, match=says):
        draw_curves({"bad": sigmas}, False)


def test_empty_and_tiny_pictures_say_why():
    with pytest.raises(ValueError, match="no curve to draw; give"):
        draw_curves({}, False)
    with pytest.raises(ValueError, match="picture is 100x720; make"):
        draw_curves({"a": LINE}, False, width=100)


@pytest.mark.parametrize(("sigmas", "flow", "line"), [
    ([14.61, 3, 0.9, 0.5, 0.06, 0], False, "5 steps, 14.61 .. 0.06, 60 % of them above log-SNR 0"),
    ([1, 0.75, 0.25, 0], True, "3 steps, 1 .. 0.25, 33 % of them above log-SNR 0"),
    ([4518.76, 0], False, "1 step, 4519 .. 4519, 0 % of them above log-SNR 0"),
])
def test_describe(sigmas, flow, line):
    assert describe(torch.tensor(sigmas), flow) == line


def test_density_holds_every_finite_step():
    axis = torch.linspace(-40, 40, 4001, dtype=torch.float64)
    for sigmas, flow, share in ((LINE, False, 1.0), ([1.0, 0.5, 0.2, 0.1, 0.0], True, 0.75)):
        height = density(read_curve("a", sigmas, flow), axis)
        assert float(torch.trapezoid(height, axis)) == pytest.approx(share, abs=1e-6)


def test_ticks_are_round_and_few():
    assert nice_ticks(-6.2, 5.9, 8) == [-6, -4, -2, 0, 2, 4]
    assert nice_ticks(0, 1, 8) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert nice_ticks(0, 1000, 8) == [0, 200, 400, 600, 800, 1000]


def test_dashes_keep_their_lengths():
    strokes = list(cut_dashes([(0, 0), (10, 0), (10, 10)], (4, 2)))
    lengths = [sum(math.dist(a, b) for a, b in itertools.pairwise(stroke)) for stroke in strokes]
    assert lengths == pytest.approx([4, 4, 4, 2])
    assert strokes[1][0] == (6, 0) and strokes[1][-1] == (10, 0) and strokes[-1][-1] == (10, 10)
