"""Units of sd-webui-controlnet under the panel, against what the extension's own hook adds up."""
import pytest
import torch
from tweedie_pack.controls.blends import BLENDS
from webui_controls import (
    Kind,
    PlugableAdapter,
    PlugableControlModel,
    alone,
    controls_script,
    differ,
    make_run,
    make_unit,
    through,
)

ON = {"enabled": True}
MASK = torch.linspace(0, 1, 12).expand(1, 1, 8, 12)
SETTINGS = {
    "plain": ({}, {}), "weights": ({"weight": 0.5}, {"weight": 1.5}), "one": ({},), "three": ({}, {}, {}),
    "soft": ({"soft_injection": True}, {}), "spans": ({"end": 0.4}, {"start": 0.4}),
    "more important": ({"cfg_injection": True, "soft_injection": True}, {}), "none": (),
    "layers": ({"advanced_weighting": [0.1, 0.5, 0.9] + [1.0] * 10, "soft_injection": True}, {"weight": 0.5}),
    "masked": ({"effective_region_mask": MASK}, {"effective_region_mask": 1 - MASK}),
    "pooled": ({"global_average_pooling": True, "effective_region_mask": MASK}, {}),
    "stopped": ({"start": 1.0}, {}), "all stopped": ({"start": 1.0}, {"start": 1.0}),
    "sharp": ({"name": "canny"}, {"name": "mlsd"}), "edits": ({"name": "inpaint_only"}, {"name": "colorfix"}),
    "other pass": ({"hires": True}, {"hires": False}),
}


@pytest.fixture
def controls(monkeypatch):
    with controls_script(monkeypatch) as module:
        yield module


def nets_of(*seeds):
    return [PlugableControlModel(seed) for seed in seeds]


def rows(net):
    return net.control_model.rows


def encoded(net):
    return net.control_model.input_hint_block.rows


def near(got, expected):
    assert len(got) == len(expected)
    for step, other in zip(got, expected, strict=True):
        for place, one in zip(step, other, strict=True):
            assert [isinstance(a, float) for a in place] == [isinstance(a, float) for a in one]
            torch.testing.assert_close([a for a in place if not isinstance(a, float)],
                                       [a for a in one if not isinstance(a, float)])


def units_of(name, kind=Kind.ControlNet):
    make = PlugableAdapter if kind is Kind.T2I_Adapter else PlugableControlModel
    return [make_unit(make(number), number, kind, **changes) for number, changes in enumerate(SETTINGS[name])]


@pytest.mark.parametrize("hires", [False, True], ids=["first pass", "hires"])
@pytest.mark.parametrize("kind", [Kind.ControlNet, Kind.T2I_Adapter])
@pytest.mark.parametrize("name", SETTINGS)
def test_sum_is_the_extensions_own_sum(controls, name, kind, hires):
    own, blended = (make_run(*units_of(name, kind), hires=hires) for _ in range(2))
    near(through(controls, blended, ON), alone(own))


@pytest.mark.parametrize("name", SETTINGS)
def test_a_net_of_sdxl_has_ten_places(controls, name):
    own, blended = (make_run(*units_of(name), places=10) for _ in range(2))
    near(through(controls, blended, ON), alone(own))


def test_the_settings_are_told_apart():
    plain = alone(make_run(*units_of("plain")))
    for name in ("weights", "soft", "spans", "more important", "layers", "masked", "stopped", "other pass"):
        assert differ(alone(make_run(*units_of(name))), plain), name
    assert differ(alone(make_run(*units_of("sharp"), hires=True)), plain)


@pytest.mark.parametrize("policy", [id for id in BLENDS if id not in ("sum", "cap")])
def test_a_policy_changes_two_units_and_leaves_one(controls, policy):
    names = ON | {"policy": policy}
    near(through(controls, make_run(*units_of("one")), names), alone(make_run(*units_of("one"))))
    both = alone(make_run(*units_of("plain")))
    assert differ(through(controls, make_run(*units_of("plain")), names), both)


def test_cap_counts_what_is_said_twice_once(controls):
    net, = nets_of(0)
    twice = make_run(make_unit(net), make_unit(net))
    near(through(controls, twice, ON | {"policy": "cap"}), alone(make_run(make_unit(net))))


def test_nets_and_adapters_do_not_mix(controls):
    nets, adapters = units_of("plain"), units_of("plain", Kind.T2I_Adapter)
    mixed = [unit for pair in zip(nets, adapters, strict=True) for unit in pair]
    near(through(controls, make_run(*mixed), ON), alone(make_run(*mixed)))
    got = through(controls, make_run(*mixed), ON | {"policy": "average"})
    of_nets, of_adapters = (through(controls, make_run(*units), ON | {"policy": "average"})
                            for units in (nets, adapters))
    near(got, [(one[0], other[1]) for one, other in zip(of_nets, of_adapters, strict=True)])


def test_adapters_of_one_net_keep_its_answer_as_the_extension_does(controls):
    net = PlugableAdapter(0)
    units = [make_unit(net, number, Kind.T2I_Adapter, start=0.5 * number) for number in range(2)]
    own = alone(make_run(*units))
    net.control = None
    near(through(controls, make_run(*units), ON), own)


@pytest.mark.parametrize("changes, curve", [
    ({"weight": 0.0}, ""), ({}, "0"), ({"start": 1.0}, ""), ({"hires": True}, "")], ids=str)
def test_a_unit_that_does_not_count_is_not_called(controls, changes, curve):
    for order in (1, -1):
        silent, other = nets_of(0, 1)
        units = [make_unit(silent, 0, **changes), make_unit(other, 1)][::order]
        curves = "\n".join([curve, "always"][::order])
        got = through(controls, make_run(*units), ON | {"curves": curves})
        assert rows(silent) == [] == encoded(silent) and rows(other) == [4] * 4
        near(got, alone(make_run(make_unit(nets_of(0, 1)[1], 1))))


def test_curves_are_weights_over_the_runs_progress(controls):
    curves = "0:1, 0.4:1, 0.4:0\n0:0, 0.4:0, 0.4:1"
    near(through(controls, make_run(*units_of("plain")), ON | {"curves": curves}),
         alone(make_run(*units_of("spans"))))
    near(through(controls, make_run(*units_of("plain")), ON | {"curves": "0.5\n1.5"}),
         alone(make_run(*units_of("weights"))))


def test_a_unit_that_is_more_important_than_the_prompt_runs_for_the_prompts_alone(controls):
    one, other = nets_of(0, 1)
    through(controls, make_run(make_unit(one, cfg_injection=True), make_unit(other)), ON)
    assert rows(one) == [2] * 4 and rows(other) == [4] * 4


def test_units_of_one_net_make_one_call(controls):
    net, other = nets_of(0, 1)
    units = [make_unit(net, 0), make_unit(other, 1), make_unit(net, 2, weight=0.5)]
    own = alone(make_run(*units))
    rows(net).clear()
    near(through(controls, make_run(*units), ON), own)
    assert rows(net) == [8] * 4


def test_each_hint_is_encoded_once_in_a_pass(controls):
    net, = nets_of(0)
    p = make_run(make_unit(net))
    for passes in (1, 2):
        through(controls, p, ON)
        assert encoded(net) == [1] * passes and rows(net) == [4] * 4 * passes


def test_reuse_spares_calls(controls):
    full = alone(make_run(*units_of("plain"), steps=8))
    units = units_of("plain")
    got = through(controls, make_run(*units, steps=8), ON | {"reuse": "interval"})
    assert rows(units[0].control_model) == [4] * 5  # steps 0, 2, 4, 6 and the last
    near(got[::2], full[::2])
    assert differ(got[1:2], full[1:2])
    units = units_of("plain")
    through(controls, make_run(*units, steps=8), ON | {"reuse": "threshold", "threshold": 1.0})
    assert rows(units[0].control_model) == [4] * 2


def test_nothing_is_reused_beyond_a_units_range(controls):
    units, full = units_of("spans"), alone(make_run(*units_of("spans")))
    got = through(controls, make_run(*units), ON | {"reuse": "interval", "interval": 10})
    near([got[0], *got[2:]], [full[0], *full[2:]])
    assert [rows(unit.control_model) for unit in units] == [[4], [4, 4]]


def test_the_units_are_the_extensions_own_again(controls):
    units = [*units_of("soft"), *units_of("masked"), *units_of("edits"), *units_of("sharp")]
    before = [dict(vars(unit)) for unit in units]
    stopped = {"guidance_stopped"}

    def same():
        return all(unit.__dict__.keys() == then.keys() and all(
            vars(unit)[name] is then[name] for name in then.keys() - stopped)
            for unit, then in zip(units, before, strict=True))

    p = make_run(*units)
    through(controls, p, ON | {"policy": "cap"})
    assert same() and not any("forward" in vars(unit.control_model.control_model) for unit in units)
    p.sampler.fails = 1
    with pytest.raises(RuntimeError, match="interrupted"):
        through(controls, p, ON | {"policy": "cap"})
    with pytest.raises(ValueError, match="9 curves for 8 enabled units"):
        through(controls, p, ON | {"curves": "1\n" * 9})
    assert same() and vars(p.sampler).keys() == {"network", "places", "fails", "model_wrap_cfg"}


def test_units_that_edit_the_models_answer_keep_their_weight(controls):
    units = [make_unit(net, name=name, weight=0.4) for net, name in
             zip(nets_of(0, 1, 2), ("tile_colorfix", "inpaint_only+lama", "none"), strict=True)]
    p = make_run(*units)
    with controls.one_pass((ON,), p, None, None, False):
        assert [unit.weight for unit in units] == [0.4, 0.4, 1.0]


@pytest.mark.parametrize("names, changes, batch", [
    ({}, {}, "All"), ({"policy": "cap"}, {}, "All"), (ON, {"_ad_inner": True}, "All"),
    (ON | {"policy": "average"}, {}, "Each ControlNet unit for each image in a batch")], ids=str)
def test_off_inner_passes_and_units_for_separate_images_are_left(controls, caplog, names, changes, batch):
    units, own = units_of("plain"), alone(make_run(*units_of("plain")))
    p = make_run(*units, batch=batch)
    vars(p).update(changes)
    got = through(controls, p, names)
    assert all(torch.equal(a, b) for step, other in zip(got, own, strict=True)
               for a, b in zip(step[0][:3], other[0][:3], strict=True))
    assert len(encoded(units[0].control_model)) == 4
    assert ("batch option" in caplog.text) == batch.startswith("Each")


def test_without_units_or_without_the_extension_nothing_happens(controls):
    assert through(controls, make_run(), ON) == alone(make_run())
    p = make_run(*units_of("plain"))
    p.scripts.alwayson_scripts.pop()
    near(through(controls, p, ON | {"policy": "average"}), alone(make_run(*units_of("plain"))))


def test_what_is_neither_a_net_nor_an_adapter_is_no_unit_of_ours(controls):
    reference = make_unit(None, kind=Kind.AttentionInjection)
    p = make_run(reference, *units_of("plain"))
    near(through(controls, p, ON | {"curves": "1\n1"}), alone(make_run(*units_of("plain"))))
    assert reference.control_model is None
