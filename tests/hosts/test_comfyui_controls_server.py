"""Blended ControlNets in a real ComfyUI server: full-size nets behind stock nodes, interrupts, errors."""
import os
import pathlib
import subprocess
import time

import pytest
from hosts.comfyhost import PYTHON, ROOT, node, server, txt2img

NETS = ("random_a", "random_b")


@pytest.fixture(scope="module")
def host():
    """TWEEDIE_CONTROLNETS may name a folder that has the nets, as making them takes a minute."""
    with server() as running:
        folder, ready = running.base / "models" / "controlnet", os.environ.get("TWEEDIE_CONTROLNETS")
        folder.mkdir(exist_ok=True)
        for seed, name in enumerate(NETS, 1):
            path = folder / f"{name}.safetensors"
            if ready:
                path.symlink_to(pathlib.Path(ready) / path.name)
            else:
                subprocess.run([PYTHON, ROOT / "tests" / "hosts" / "random_controlnet.py", path, str(seed)],
                               check=True, capture_output=True, timeout=300)
        yield running


def stock(steps=2, sampled="second", **extra):
    """Two stock loaders and apply nodes; `sampled` names the node whose prompts are sampled."""
    graph = txt2img(steps=steps, **{
        "net_a": node("ControlNetLoader", control_net_name="random_a.safetensors"),
        "net_b": node("ControlNetLoader", control_net_name="random_b.safetensors"),
        "grey": node("EmptyImage", width=64, height=64, batch_size=1, color=0x808080),
        "red": node("EmptyImage", width=64, height=64, batch_size=1, color=0xFF2000),
        "first": applied("good", 0, "bad", 0, "net_a", "grey", 1.0),
        "second": applied("first", 0, "first", 1, "net_b", "red", 0.8), **extra})
    if sampled:
        graph["sample"]["inputs"] |= {"positive": [sampled, 0], "negative": [sampled, 1]}
    return graph


def applied(good, good_slot, bad, bad_slot, net, image, strength):
    return node("ControlNetApplyAdvanced", positive=[good, good_slot], negative=[bad, bad_slot],
                control_net=[net, 0], image=[image, 0], strength=strength, start_percent=0.0, end_percent=1.0,
                vae=["load", 2])


def rule(curve="always", **changes):
    return node("TweedieControlRule", **{"strength_curve": curve, "layers": "even", "uncond": 1.0,
                                         "priority": 0.0, **changes})


def blended(policy="sum", steps=2, rules=None, **changes):
    """Rules by name; they are nodes of the graph."""
    rules = rules or {}
    places = {f"rules.rule{number}": [name, 0] for number, name in enumerate(rules)}
    ours = node("TweedieControlBlend", positive=["second", 0], negative=["second", 1], policy=policy,
                **{"reuse": "off", **places, **changes})
    return stock(steps, "ours", ours=ours, **rules)


def test_the_nodes_have_their_frozen_names(host):
    nodes = host.get("/object_info")
    inputs = nodes["TweedieControlBlend"]["input"]
    assert list(inputs["required"]) == ["positive", "negative", "policy", "reuse", "rules"]
    assert list(inputs["optional"]) == ["union"]
    assert [option["key"] for option in inputs["required"]["policy"][1]["options"]] == [
        "sum", "cap", "rms", "gate", "project", "average", "strongest"]
    assert nodes["TweedieControlBlend"]["output"] == ["CONDITIONING", "CONDITIONING"]
    inputs = nodes["TweedieControlRule"]["input"]
    assert list(inputs["required"]) == ["strength_curve", "layers", "uncond", "priority"]
    assert list(inputs["optional"]) == ["mask", "region"]
    assert nodes["TweedieControlRule"]["output"] == ["TWEEDIE_CONTROL_RULE"]


def test_the_sum_is_the_stock_picture_and_policies_paint_others(host):
    plain, tied = host.picture(stock(sampled=None)), host.picture(stock())
    assert plain != tied == host.picture(blended())
    cap = host.picture(blended("cap", **{"policy.tau": 1.0}, rules={"one": rule("fade out"),
                                                                    "two": rule("0:1, 0.6:1, 0.6:0")}))
    assert len({plain, tied, cap}) == 3
    assert host.picture(blended(rules={"one": rule("0"), "two": rule("0")})) == plain


def test_a_mask_and_reuse_from_stock_nodes(host):
    """A rule with a stock mask; and every other step's residuals again."""
    tied = host.picture(stock(3))
    half = {"mask": node("SolidMask", value=0.5, width=64, height=64), "one": rule(mask=["mask", 0])}
    masked = stock(3, "ours", **half, ours=node(
        "TweedieControlBlend", positive=["second", 0], negative=["second", 1], policy="sum", reuse="off",
        **{"rules.rule0": ["one", 0]}))
    assert host.picture(masked) != tied
    assert host.picture(blended(steps=3, reuse="interval", **{"reuse.interval": 2})) != tied


@pytest.mark.parametrize(("graph", "reason"), [
    (lambda: blended(rules={"one": rule("sometimes")}), "neither a preset nor points"),
    (lambda: blended(rules={"one": rule("0:1, 2:1")}), "out of range"),
    (lambda: blended(rules={"one": rule(layers="deep")}), "neither a preset nor points"),
    (lambda: blended(rules={"one": rule(region=1)}), "connect `positive` of a regional prompt"),
    (lambda: blended(rules={"one": rule(), "two": rule(), "three": rule()}), "3 rules for 2 controls"),
    (lambda: blended("louder"), "policy"),
], ids=["curve", "range", "layers", "region", "rules", "policy"])
def test_bad_input_is_refused_with_the_reason(host, graph, reason):
    with pytest.raises(RuntimeError, match=reason):
        host.run(graph())


def test_an_interrupt_leaves_the_next_pictures_untouched(host):
    """Both of them: the host keeps nodes' outputs, and so the same blend runs again."""
    plain, tied = host.picture(stock(sampled=None)), host.picture(stock())
    graph = blended(steps=60)
    ticket = host.queue(graph)
    time.sleep(12)
    host.post("/interrupt", {})
    with pytest.raises(RuntimeError, match="interrupted"):
        host.finish(ticket)
    graph["sample"]["inputs"]["steps"] = 2
    assert host.picture(graph) == tied
    assert host.picture(stock(sampled=None)) == plain
