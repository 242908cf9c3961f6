"""The guidance nodes in a real ComfyUI server: stock workflows at odd sizes, other nodes, interrupts."""
import time

import pytest
from hosts.comfyhost import node, server, txt2img

SIZES = [(64, 64), (512, 320), (520, 328)]
OFF = {"apg": "off", "cfg_zero_star": "off", "rescale": 0.0, "interval": "off"}


@pytest.fixture(scope="module")
def host():
    with server() as running:
        yield running


def spectral(model="load", **changes):
    return node("TweedieSpectralGuidance", **{
        "model": [model, 0], "bands": "two_band", "bands.low": 1.0, "bands.high": 1.0, "bands.cutoff": 0.25,
        "time": "constant", "structure": "off", "strength": 1.0, "keep_energy": True, "start_percent": 0.0,
        "end_percent": 1.0, **changes})


STRONG = {"bands.low": 4.0, "structure": "coherence", "structure.amount": 8.0, "structure.reach": 3}


def graph(model="load", size=(64, 64), steps=2, **extra):
    stock = txt2img(model=model, steps=steps, **extra)
    stock["latent"]["inputs"] |= {"width": size[0], "height": size[1]}
    return stock


def test_the_nodes_have_their_frozen_names(host):
    nodes = host.get("/object_info")
    inputs = nodes["TweedieSpectralGuidance"]["input"]
    assert list(inputs["required"]) == ["model", "bands", "time", "structure", "strength", "keep_energy",
                                        "start_percent", "end_percent"]
    options = {name: [option["key"] for option in inputs["required"][name][1]["options"]]
               for name in ("bands", "structure")}
    assert options == {"bands": ["two_band", "three_band", "equalizer", "tilt", "notch"],
                       "structure": ["off", "coherence", "structure", "leverage"]}
    two_band = inputs["required"]["bands"][1]["options"][0]["inputs"]["required"]
    assert list(two_band) == ["low", "high", "cutoff"]
    assert inputs["required"]["time"][1]["options"] == ["constant", "ramp", "window", "deciding"]
    assert list(nodes["TweedieGuidance"]["input"]["required"]) == ["model", "apg", "cfg_zero_star", "rescale",
                                                                   "interval"]
    assert nodes["TweedieGuidanceProbe"]["output"][0] == "MODEL"
    assert nodes["TweedieGuidanceChart"]["output"] == ["IMAGE"]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
def test_stock_workflows_at_every_size(host, size):
    """Neutral is untouched bit for bit; else it acts, with RescaleCFG behind and FreSca beside it too."""
    fresca = node("FreSca", model=["load", 0], scale_low=1.0, scale_high=1.25, freq_cutoff=2)
    rescale = node("RescaleCFG", model=["ours", 0], multiplier=0.7)
    one_step = {"size": size, "steps": 1}
    plain = host.picture(graph(**one_step))
    assert host.picture(graph("ours", **one_step, ours=spectral())) == plain
    ways = [graph("ours", **one_step, ours=spectral(**STRONG)),
            graph("rescale", **one_step, ours=spectral(**STRONG), rescale=rescale),
            graph("ours", **one_step, fresca=fresca, ours=spectral("fresca", **STRONG))]
    assert len({plain, *(host.picture(way) for way in ways)}) == 4


def test_corrections_act_and_off_is_untouched(host):
    plain = host.picture(graph())
    found = {plain}
    for change in ({"apg": "on", "apg.eta": 0.0, "apg.norm_threshold": 5.0, "apg.momentum": -0.5},
                   {"cfg_zero_star": "on", "cfg_zero_star.zero_init": 0.04}, {"rescale": 0.7},
                   {"interval": "on", "interval.low": -4.0, "interval.high": 3.0}):
        ours = node("TweedieGuidance", model=["load", 0], **OFF | change)
        found.add(host.picture(graph("ours", ours=ours)))
    assert len(found) == 5
    assert host.picture(graph("ours", ours=node("TweedieGuidance", model=["load", 0], **OFF))) == plain


def test_an_interrupt_leaves_the_next_picture_untouched(host):
    plain = host.picture(graph())
    ticket = host.queue(graph("ours", steps=40, ours=spectral(**STRONG)))
    time.sleep(4)
    host.post("/interrupt", {})
    with pytest.raises(RuntimeError, match="interrupted"):
        host.finish(ticket)
    assert host.picture(graph()) == plain


def test_the_chart_of_a_probe_is_drawn_after_the_run(host):
    plain = host.picture(graph())
    chart = {"probe": node("TweedieGuidanceProbe", model=["ours", 0]), "ours": spectral(**STRONG),
             "chart": node("TweedieGuidanceChart", probe=["probe", 1], latent=["sample", 0])}
    assert len(set(host.picture(graph("probe", **chart), "chart"))) > 50
    watched = {"probe": node("TweedieGuidanceProbe", model=["load", 0])}
    assert host.picture(graph("probe", **watched)) == plain


def test_deciding_moments_take_a_measured_power(host):
    measured = {"encode": node("VAEEncode", pixels=["blank", 0], vae=["load", 2]),
                "blank": node("EmptyImage", width=128, height=96, batch_size=2, color=8421504),
                "power": node("TweedieLatentPower", model=["load", 0], latent=["encode", 0])}
    deciding = spectral(**STRONG, time="deciding")
    by_table = host.picture(graph("ours", ours=deciding))
    measured["ours"] = deciding | {"inputs": deciding["inputs"] | {"power": ["power", 0]}}
    assert host.picture(graph("ours", **measured)) != by_table


@pytest.mark.parametrize(("change", "reason"), [
    ({"bands.low": 9.0}, "bands.low"),
    ({"start_percent": 0.8, "end_percent": 0.2}, "start must lie below end"),
    ({"bands": "three_band", "bands.low": 2.0, "bands.mid": 1.0, "bands.high": 1.0, "bands.low_cutoff": 0.9,
      "bands.high_cutoff": 0.1}, "swap them"),
    ({"time": "deciding", "bands.low": 2.0, "power": "'); DROP TABLE latents"}, "power"),
    ({"distilled": "skip_layer", "distilled.layers": "none"}, "give block numbers"),
])
def test_bad_input_is_refused_with_the_reason(host, change, reason):
    with pytest.raises(RuntimeError, match=reason):
        host.run(graph("ours", ours=spectral(**change)))
