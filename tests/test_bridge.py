"""The bridge toy of tests/bench/bridge.py: its rates, its controls, and its two forms of guidance."""
import pathlib
import sys

import pytest
import torch

sys.path.append(str(pathlib.Path(__file__).with_name("bench")))

import bridge


@pytest.fixture(scope="module")
def toy():
    return bridge.build()


def test_the_condition_doubles_bridges(toy):
    for weights, bridges, textured in ((toy.uncond, 0.15, 0.5), (toy.cond, 0.3, 0.8)):
        chances = weights.exp()
        assert float(chances.sum()) == pytest.approx(1)
        assert float(chances[toy.bridge].sum()) == pytest.approx(bridges)
        assert float(chances[toy.texture].sum()) == pytest.approx(textured)


def test_without_guidance_ends_show_what_the_condition_asks_for(toy):
    found = [bridge.sample(toy, bridge.Row(scale=1.0), seed, hosts=False) for seed in range(4)]
    for what, rate in (("bridge", 0.3), ("texture", 0.8)):  # of 768 pictures: 3 standard errors
        assert sum(ends[what] for ends in found) / 4 == pytest.approx(rate, abs=0.05)


def test_a_shuffled_map_has_the_same_weights_elsewhere():
    weights = torch.rand(2, 1, bridge.SIZE, bridge.SIZE)
    moved = bridge.shuffled(lambda *contract: weights, seed=3)
    found = moved(None, None, None, 0)
    assert torch.equal(found, moved(None, None, None, 1)) and not torch.equal(found, weights)
    assert torch.equal(found.flatten(1).sort().values, weights.flatten(1).sort().values)


def test_hosts_push_a_weighted_delta_further(toy, monkeypatch):
    monkeypatch.setattr(bridge, "PICTURES", 48)
    row = bridge.rows()["`coherence`"]
    research, hosts = (bridge.sample(toy, row, 0, hosts) for hosts in (False, True))
    plain = [bridge.sample(toy, bridge.Row(), 0, hosts) for hosts in (False, True)]
    assert plain[0] == plain[1] and plain[0]["length"] == 1
    assert hosts["bridge"] > research["bridge"] > plain[0]["bridge"] and hosts["length"] > 1
