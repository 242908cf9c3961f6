"""The probe's picture shows shares as colours, rests as grey and dots."""
import pytest
import torch
from tweedie_pack.samplers.shares import COLOURS, RESTED, draw_shares, rests, shares_of, stack

NAMES = ["control 1", "control 2"]


def colour(text):
    return torch.tensor([int(text[place:place + 2], 16) for place in (1, 3, 5)]) / 255


def amount(picture, text):
    """How many pixels have this colour."""
    return int(((picture - colour(text)).abs().amax(-1) < 0.01).sum())


def draw(first, second, why=None):
    energies = torch.stack([torch.full((4, 13), float(first)), torch.full((4, 13), float(second))], 1)
    return draw_shares(energies, why or [["", ""]] * 4, NAMES)


def test_bars_are_as_high_as_the_shares():
    parts = [amount(draw(3, 1), one) for one in COLOURS[:2]]
    assert parts[0] / parts[1] == pytest.approx(3, rel=0.1)


def test_full_colour_where_one_control_says_all_and_grey_where_it_says_nothing():
    picture = draw(1, 0, [["", "weight 0"]] * 4)
    assert amount(picture, RESTED) > 50_000 < amount(picture, COLOURS[0])
    assert amount(draw(1, 1), RESTED) < 100  # of letters


def test_every_rest_is_counted_and_marked():
    assert rests(["", "reused", "", "weight 0"]) == "called at 2 of 4 steps, reused: 1, weight 0: 1"
    assert not torch.equal(draw(1, 1), draw(1, 1, [["", "reused"]] * 4))


@pytest.mark.parametrize("steps, layers", [(1, 1), (60, 57), (2, 13)])
def test_any_count_of_steps_and_layers(steps, layers):
    picture = draw_shares(torch.rand(steps, 3, layers), [[""] * 3] * steps, [*NAMES, "control 3"])
    assert picture.shape[1:] == (900, 3) and bool(torch.isfinite(picture).all())


def test_energies_are_stacked_by_place_shallow_first():
    def value(number):
        return torch.tensor(float(number))
    first = {("output", 0): value(1), ("output", 1): value(2), ("middle", 0): value(3)}
    adapter = {("input", 2): value(4)}
    found = stack([[first, {}], [first, adapter]])
    assert found.tolist() == [[[0, 1, 2, 3], [0, 0, 0, 0]], [[0, 1, 2, 3], [4, 0, 0, 0]]]


def test_shares_add_up_to_1_and_are_nan_where_nothing_is_said():
    energies = torch.rand(5, 3, 7)
    energies[2] = 0
    shares = shares_of(energies)
    assert bool(shares[2].isnan().all())
    torch.testing.assert_close(shares[[0, 1, 3, 4]].sum(1), torch.ones(4, 7))
