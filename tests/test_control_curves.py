"""A control's weight over a run and over a net's layers: presets, points, and text that is neither."""
import pytest
from tweedie_pack.controls.curves import ALWAYS, CURVES, LAYERS, ONE_SIDED, Curve, read_curve, read_layers

GOLDEN = {  # at 0, 0.25, 0.3, 0.31, 0.6, 0.61, 0.8, 0.81, 1
    "always": [1, 1, 1, 1, 1, 1, 1, 1, 1],
    "structure early": [1, 1, 1, 1, 1, 0, 0, 0, 0],
    "lines": [1, 1, 1, 1, 1, 1, 1, 0, 0],
    "detail late": [0, 0, 1, 1, 1, 1, 1, 1, 1],
    "fade out": [1, 0.75, 0.7, 0.69, 0.4, 0.39, 0.2, 0.19, 0],
}
AT = (0, 0.25, 0.3, 0.31, 0.6, 0.61, 0.8, 0.81, 1)
LAYER_GOLDEN = {"even": [1.0] * 13, "soft": [0.825 ** (12 - layer) for layer in range(13)]}
LAYER_GOLDEN |= dict.fromkeys(("prompt more important", "control more important"), LAYER_GOLDEN["soft"])
HOSTILE = ["", "   ", ",;,", "a:b", "1:2:3", ":", "0:", ":1", "0:1 x", "nan", "0:nan", "nan:1", "inf",
           "0:inf", "0:-inf", "-1", "0:-1", "-0.1:1", "1.1:1", "1e99", "0:1e99", "1e999", "0:10.01",
           "0.6:1, 0.2:1", "0 0.9:1 1 1", "1 " * 65, "1," * 5000, "x" * 10_000, "0:1\0", "always, lines",
           "{}", "%s"]


@pytest.mark.parametrize("name", CURVES)
def test_every_preset_has_its_golden_weights(name):
    assert CURVES.keys() == GOLDEN.keys()
    curve = read_curve(f" {name.title()}\n", "Depth")
    assert [curve(x) for x in AT] == pytest.approx(GOLDEN[name]) and curve == Curve(CURVES[name])


@pytest.mark.parametrize("name", LAYERS)
def test_every_preset_has_its_golden_layers(name):
    assert LAYERS.keys() == LAYER_GOLDEN.keys() and ONE_SIDED in LAYERS
    layers = read_layers(name.upper(), "Depth")
    assert [layers(layer, 13) for layer in range(13)] == pytest.approx(LAYER_GOLDEN[name])


def test_soft_keeps_the_deepest_of_any_number_of_layers():
    for layers in (1, 10, 13):
        given = [LAYERS["soft"](layer, layers) for layer in range(layers)]
        assert given == pytest.approx([0.825 ** (layers - 1 - layer) for layer in range(layers)])
        assert given[-1] == 1


@pytest.mark.parametrize(("text", "points"), [
    ("0:1, 0.6:1, 0.6:0", ((0, 1), (0.6, 1), (0.6, 0))), ("0:1;1:0;", ((0, 1), (1, 0))),
    (" 0:1\n\t.5:2 , 1:10 ", ((0, 1), (0.5, 2), (1, 10))), ("0.5", ((0, 0.5),)), ("0.4:2", ((0.4, 2),)),
    ("1 0", ((0, 1), (1, 0))), ("1, 0.5, 0", ((0, 1), (0.5, 0.5), (1, 0))),
    ("1 0.5:3 0", ((0, 1), (0.5, 3), (1, 0))), ("1 " * 64, tuple((k / 63, 1) for k in range(64)))])
def test_points_are_read_and_numbers_alone_spread_evenly(text, points):
    assert read_curve(text, "Depth").points == points
    assert read_layers(text, "Depth").curve.points == points


def test_a_curve_is_linear_between_points_and_level_beyond_them():
    curve = Curve(((0.2, 1), (0.4, 3), (0.8, 0)))
    assert [curve(x) for x in (-1, 0, 0.2, 0.25, 0.4, 0.5, 0.6, 0.8, 1, 2)] == pytest.approx(
        [1, 1, 1, 1.5, 3, 2.25, 1.5, 0, 0, 0])
    assert {Curve(((0.5, 0.7),))(x) for x in (0, 0.5, 1)} == {0.7} and ALWAYS(0.3) == 1


def test_at_a_jump_the_higher_holds():
    for points in (((0, 1), (0.5, 1), (0.5, 0)), ((0, 0), (0.5, 0), (0.5, 1)),
                   ((0.5, 0), (0.5, 1), (0.5, 0))):
        assert Curve(points)(0.5) == 1
    drop = Curve(((0, 1), (0.5, 1), (0.5, 0.9), (0.5, 0)))
    assert drop(0.4999) == 1 and drop(0.5001) == 0


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:12]))
@pytest.mark.parametrize("read", [read_curve, read_layers])
def test_text_that_is_no_curve_gives_one_error_that_says_what_got_do(read, text):
    with pytest.raises(ValueError, match=r"(?s)^Depth: .+; (give|choose) ") as error:
        read(text, "Depth")
    assert len(str(error.value)) < 300
    assert error.value.__context__ is None or error.value.__suppress_context__


def test_depth_runs_from_the_layer_nearest_to_the_picture():
    layers = read_layers("0:0, 1:1", "Depth")
    assert [layers(layer, 5) for layer in range(5)] == [0, 0.25, 0.5, 0.75, 1] and layers(0, 1) == 0
