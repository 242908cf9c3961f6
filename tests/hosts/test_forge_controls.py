"""Blended controls in the real ControlNets, patchers and sampling functions of Forge, reForge and Neo.

FORGE_PATH, REFORGE_PATH and NEO_PATH are checkouts; weights are random, and these files' imports stand-ins.
"""
from unittest.mock import MagicMock

import pytest
import torch
from hosts.forge_controls import FOUND, SCALE, Controlled, make_engine
from hosts.test_forge_regions import near
from torch import nn
from tweedie_pack.extensions_a1111 import controls_panel
from tweedie_pack.extensions_a1111.controls_chain import Chain, blend_chain

DEEP = {"input": [0.5] * 9, "middle": [0.3], "output": [0.1, 0.4, 0.7, 1.0]}
NONE = {"input": [0.0] * 9, "middle": [0.0], "output": [0.0] * 9}


@pytest.fixture(params=FOUND)
def engine(request, monkeypatch):
    return make_engine(monkeypatch, request.param)


SETTINGS = {
    "one": [(0, {})], "two": [(0, {}), (1, {})], "weights": [(0, {"strength": 0.4}), (1, {"strength": 1.3})],
    "spans": [(0, {"end_percent": 0.4}), (1, {"start_percent": 0.4})],
    "deep": [(0, {"positive_advanced_weighting": DEEP}), (1, {"negative_advanced_weighting": DEEP})],
    "one-sided": [(0, {"negative_advanced_weighting": NONE}), (1, {})],
    "frames": [(0, {"advanced_frame_weighting": [0.3]}), (1, {})],
    "sigma": [(0, {"advanced_sigma_weighting": lambda sigma: sigma / 10}), (1, {})],
    "masked": [(0, {"advanced_mask_weighting": torch.linspace(0, 1, 12).expand(1, 1, 8, 12)}), (1, {})],
}
WEIGHED = ("deep", "one-sided", "frames", "sigma", "masked")


@pytest.mark.parametrize("name", SETTINGS)
def test_sum_is_the_hosts_own_chain_bit_for_bit(engine, name):
    alone = engine.run(engine.pass_of(*SETTINGS[name]))
    assert torch.equal(engine.run(engine.pass_of(*SETTINGS[name]), {}), alone)
    assert not torch.allclose(alone, engine.run(engine.pass_of()))
    if engine.weighs and name in WEIGHED:
        assert not torch.allclose(alone, engine.run(engine.pass_of(*SETTINGS["two"])))


@pytest.mark.parametrize("scale, rows", [(SCALE, 2), (1.0, 1)], ids=["batch", "without negative prompt"])
def test_sum_is_the_hosts_own_in_other_batches(engine, scale, rows):
    for units in (SETTINGS["weights"], SETTINGS["masked"]):
        alone = engine.run(engine.pass_of(*units), scale=scale, rows=rows)
        assert torch.equal(engine.run(engine.pass_of(*units), {}, scale, rows), alone)
    assert engine.calls == [[rows if scale == 1 else 2 * rows] * 4] * 2


def test_prompts_in_calls_of_their_own(engine):
    """As where memory is short: each side has kept residuals of its own."""
    engine.memory.get_free_memory = lambda *arguments: 0
    alone = engine.run(engine.pass_of(*SETTINGS["two"]))
    assert engine.calls == [[1] * 8] * 2 and engine.encoded == [[1] * 8] * 2
    assert torch.equal(engine.run(engine.pass_of(*SETTINGS["two"]), {}), alone)
    assert engine.calls == [[1] * 8] * 2 and engine.encoded == [[1], [1]]
    engine.run(engine.pass_of(*SETTINGS["two"]), {"reuse": "interval"})
    assert engine.calls == [[1] * 6] * 2


def test_each_hint_is_encoded_once_in_a_pass(engine):
    p = engine.pass_of(*SETTINGS["two"])
    for _ in range(2):
        engine.run(p, {})
        assert engine.calls == [[2] * 4] * 2 and engine.encoded == [[1], [1]]
    engine.run(p)
    assert engine.encoded == [[1] * 4] * 2


def test_units_of_one_net_share_its_calls(engine):
    units = [(0, {}), (0, {"strength": 0.5, "negative_advanced_weighting": DEEP}), (1, {})]
    alone = engine.run(engine.pass_of(*units))
    assert engine.calls == [[2] * 8, [2] * 4]
    near(engine.run(engine.pass_of(*units), {}), alone)  # a batch of 4 rounds otherwise than 2 of 2
    assert engine.calls == [[4] * 4, [2] * 4] and engine.encoded[1] == [1]


def test_a_unit_that_does_not_count_is_not_called(engine):
    one = engine.run(engine.pass_of((0, {})))
    assert torch.equal(engine.run(engine.pass_of((0, {}), (1, {"strength": 0.0})), {}), one)
    assert engine.calls[1] == []
    assert torch.equal(engine.run(engine.pass_of((0, {}), (1, {})), {"curves": "always\n0"}), one)
    assert engine.calls[1] == []
    none = engine.run(engine.pass_of())
    assert torch.equal(engine.run(engine.pass_of((0, {})), {"curves": "0"}), none) and engine.calls[0] == []
    engine.run(engine.pass_of((0, {}), (1, {"start_percent": 1.0})), {})
    assert engine.calls[1] == []


def test_curves_are_weights_over_progress_in_the_units_order(engine):
    half = engine.run(engine.pass_of((0, {"strength": 0.5}), (1, {})))
    near(engine.run(engine.pass_of((0, {}), (1, {})), {"curves": "0.5"}), half)
    spans = engine.run(engine.pass_of(*SETTINGS["spans"]))
    curves = "0:1, 0.4:1, 0.4:0\n0:0, 0.4:0, 0.4:1"
    assert torch.equal(engine.run(engine.pass_of(*SETTINGS["two"]), {"curves": curves}), spans)


@pytest.mark.parametrize("policy", [id for id in controls_panel.BLENDS if id != "sum"])
def test_a_policy_changes_two_units_and_leaves_one(engine, policy):
    names = {"policy": policy}
    assert torch.equal(engine.run(engine.pass_of((0, {})), names), engine.run(engine.pass_of((0, {}))))
    alone = engine.run(engine.pass_of(*SETTINGS["two"]))
    both = engine.run(engine.pass_of(*SETTINGS["two"]), names)
    assert both.isfinite().all() and (not torch.allclose(both, alone) or policy == "cap")


def test_what_is_said_twice_counts_once_under_cap_and_average(engine):
    once, twice = engine.pass_of((0, {})), engine.pass_of((0, {}), (0, {}))
    hints = [control.cond_hint_original for control in twice.sd_model.forge_objects.unet.list_controlnets()]
    for control in twice.sd_model.forge_objects.unet.list_controlnets():
        control.cond_hint_original = hints[-1]
    for policy in ("cap", "average"):
        near(engine.run(twice, {"policy": policy}), engine.run(once))


def test_priorities_decide_the_order_of_project(engine):
    def run(priorities):
        return engine.run(engine.pass_of(*SETTINGS["two"]), {"policy": "project", "priorities": priorities})

    assert torch.equal(run(""), run("2, 1")) and not torch.allclose(run("1, 2"), run("2, 1"))


def test_reuse_spares_every_second_call_but_the_last(engine):
    full = engine.run(engine.pass_of(*SETTINGS["two"]))
    reused = engine.run(engine.pass_of(*SETTINGS["two"]), {"reuse": "interval"})
    assert engine.calls == [[2] * 3] * 2 and torch.equal(reused[[0, 2, 3]], full[[0, 2, 3]])
    assert not torch.allclose(reused[1], full[1])
    for threshold, calls in ((1.0, 3), (0.5, 4)):  # what the model sees grows: 1, 2.0, 3.6, 5.7 times
        engine.run(engine.pass_of(*SETTINGS["two"]), {"reuse": "threshold", "threshold": threshold})
        assert engine.calls == [[2] * calls] * 2


def test_nothing_is_reused_beyond_a_units_range(engine):
    full = engine.run(engine.pass_of(*SETTINGS["spans"]))
    got = engine.run(engine.pass_of(*SETTINGS["spans"]), {"reuse": "interval", "interval": 10})
    assert engine.calls == [[2], [2, 2]] and torch.equal(got[[0, 2, 3]], full[[0, 2, 3]])


class Adapter(nn.Module):
    """A T2I adapter's net: features for the input blocks from its hint alone."""

    unshuffle_amount, xl, listed = 8, False, True

    def __init__(self):
        super().__init__()
        self.wide, self.deep, self.rows = nn.Conv2d(3, 32, 8, 8), nn.Conv2d(3, 64, 16, 16), []

    def forward(self, hint):
        self.rows.append(len(hint))
        features = [None, self.wide(hint), None, self.deep(hint)]
        return features if self.listed else {"input": features[::-1]}


def test_adapters_join_the_nets_and_read_their_hint_once(engine):
    torch.manual_seed(5)
    adapter = Adapter()
    adapter.listed = engine.weighs
    more = () if engine.weighs else (8, "nearest-exact")

    def pass_of():
        p = engine.pass_of((0, {}))
        control = engine.controls.T2IAdapter(adapter, 3, *more)
        objects = p.sd_model.forge_objects
        objects.unet = engine.apply(objects.unet, control, torch.ones(1, 3, 64, 96), 0.7, 0.0, 1.0)
        return p

    alone = engine.run(pass_of())
    assert not torch.allclose(alone, engine.run(engine.pass_of((0, {}))))
    adapter.rows.clear()
    assert torch.equal(engine.run(pass_of(), {}), alone) and adapter.rows == [1]


def state(p):
    """All that the host holds: its unet, and what is in every control and net."""
    unet = p.sd_model.forge_objects.unet
    controls = unet.list_controlnets()
    return ([(unet, dict(vars(unet)))] + [(control, dict(vars(control))) for control in controls]
            + [(control.control_model, dict(vars(control.control_model))) for control in controls])


def same(before, after):
    return all(one is other and values.keys() == then.keys() and all(then[name] is values[name] or (
        then[name] == values[name]) for name in values)
        for (one, values), (other, then) in zip(before, after, strict=True))


def test_a_pass_leaves_the_host_as_it_was(engine, monkeypatch):
    p = engine.pass_of(*SETTINGS["masked"])
    before, loaded = state(p), engine.memory.load_models_gpu
    engine.run(p, {"policy": "cap", "reuse": "interval"})
    assert same(before, state(p))
    patchers = loaded.call_args.kwargs["models"][1:]
    assert [patcher.model for patcher in patchers] == engine.nets
    monkeypatch.setattr(Controlled, "apply_model", MagicMock(side_effect=RuntimeError("out of memory")))
    with pytest.raises(RuntimeError, match="out of memory"):
        engine.run(p, {"policy": "cap"})
    assert same(before, state(p)) and engine.calls == [[2], [2]]


def test_an_error_before_the_pass_begins_reaches_the_user(engine):
    """A ControlLora, which has no net before its pre_run, then has none to clean up."""
    p = engine.pass_of((0, {}))
    lora = engine.controls.ControlLora({})
    p.sd_model.forge_objects.unet.add_patched_controlnet(lora)
    engine.controls.ControlLora.inference_memory_requirements = lambda self, dtype: 0
    engine.memory.load_models_gpu = MagicMock(side_effect=RuntimeError("out of memory"))
    with pytest.raises(RuntimeError, match="out of memory"):
        engine.run(p, {})


def test_without_controls_the_host_keeps_its_unet(engine):
    p = engine.pass_of()
    own = p.sd_model.forge_objects.unet
    with blend_chain(controls_panel.read([True]), p):
        assert p.sd_model.forge_objects.unet is own


def test_another_extensions_clone_keeps_the_blend(engine):
    p = engine.pass_of(*SETTINGS["two"])
    with blend_chain(controls_panel.read([True]), p):
        cloned = p.sd_model.forge_objects.unet.clone()
        assert isinstance(cloned.controlnet_linked_list, Chain)
        assert cloned.list_controlnets() == [cloned.controlnet_linked_list]


def test_tiles_of_multidiffusion_stay_the_hosts_own(engine, caplog):
    class Tiler:
        def process_controlnet(self):
            pass
    p = engine.pass_of(*SETTINGS["two"])
    own = p.sd_model.forge_objects.unet
    own.model_options["model_function_wrapper"] = Tiler()
    with blend_chain(controls_panel.read([True]), p):
        assert p.sd_model.forge_objects.unet is own and "into tiles" in caplog.text
