"""The demo's spectral guidance is the core's: neutral is plain, presets keep strength, records are true."""
import pytest
import torch
from tweedie_pack.demo.world import draw
from tweedie_pack.samplers.power import RADII
from tweedie_pack.samplers.recipe import PRESETS, Settings, compose, preset
from tweedie_pack.samplers.spectral import Window

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
from tweedie_pack.demo import show, spectral

SCALE, SIGMA = 5.0, 1.0


@pytest.fixture(scope="module")
def model():
    """The tiny model's networks with random weights."""
    from tiny_nets import new_nets
    from tweedie_pack.demo.sampling import standard_tables
    from tweedie_pack.demo.tiny.model import Tiny
    made, tables = new_nets(), list(standard_tables().values())
    return Tiny(made["vae"], made["text"], made["unet_v"], tables[1], True)


@pytest.fixture(scope="module")
def powers(model):
    return spectral.measure_power(model, 0)


def guide(model, change=None):
    captions = [show.SHAPES[0], show.HANDS[0]]
    return show.guide(model, captions, SCALE, change=change)(SIGMA * show.pure_noise(2, 0), SIGMA)


def test_power_is_one_number_an_octave_and_its_own_at_each_seed(model, powers):
    assert len(powers) == len(RADII) and min(powers) > 0
    assert powers == spectral.measure_power(model, 0) != spectral.measure_power(model, 1)


def test_hands_that_were_drawn_are_read_right():
    scenes = spectral.open_hands(0, 8)
    assert all("open hand" in scene.caption for scene in scenes) and len(set(map(str, scenes))) == 8
    pictures = torch.stack([draw(scene).image for scene in scenes])
    assert spectral.judge_fingers(scenes, pictures) == (["5, asked 5"] * 8, "8 of 8 right")
    pictures[3] = 1
    notes, right = spectral.judge_fingers(scenes, pictures)
    assert notes[3] == "no hand, asked 5" and right == "7 of 8 right"


def test_a_neutral_recipe_is_plain_guidance_bit_for_bit(model, powers):
    neutral = compose(None, None, Settings(), powers)
    change = spectral.weigh(neutral, Window.of(model.table), SCALE, 0)
    assert torch.equal(guide(model, change), guide(model))


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_changes_guidance_at_its_strength_and_is_recorded(model, powers, name):
    record, seen = spectral.Record([], [], []), []
    change = spectral.weigh(preset(name, powers), Window.of(model.table), SCALE, 0, record)

    def watch(x, sigma, guided, cond, uncond):
        changed = change(x, sigma, guided, cond, uncond)
        seen.append((cond - uncond, (changed - uncond) / SCALE))
        return changed
    assert not torch.allclose(guide(model, watch), guide(model))
    [(plain, led)] = seen
    assert torch.allclose((plain * led).sum((1, 2, 3)), plain.square().sum((1, 2, 3)), rtol=1e-3)
    assert record.e == [SIGMA]
    for kept, delta in zip((record.before, record.after), (plain, led), strict=True):
        assert torch.allclose(kept[0].sum(), delta.square().sum() / len(delta), rtol=1e-3)


def test_presets_with_bands_and_with_maps_are_shown_in_turn(monkeypatch):
    made = {name: {"bands": "tilt"} for name in "abc"} | {"d": {"structure": "coherence"}}
    monkeypatch.setattr(spectral, "PRESETS", made)
    assert spectral.choose() == ["a", "d", "b"] and list(spectral.gains()) == ["a", "b", "c"]
    monkeypatch.setattr(spectral, "PRESETS", {"d": made["d"]})
    record = spectral.Record([1.0], [torch.ones(6)], [torch.ones(6)])
    assert spectral.choose() == ["d"] and len(spectral.illustrate("d", record)) == 1
