"""Blended controls on tiny nets of ComfyUI's own classes, beside the chain that they stand for."""
import os

import pytest

from .need import need, run_checks

PATH, PYTHON = need("COMFYUI_PATH", "COMFYUI_PYTHON")
FAMILIES = ("sd15", "sdxl", "flux_xlabs", "flux", "sd35", "qwen", "t2i", "shuffle", "linear_up", "lora",
            "flux_union", "union", "qwen_fun")
CHAINS = ("sd15", "flux_xlabs", "flux", "sd35", "t2i", "lora", "union", "qwen_fun")
OWN_CALLS = ("t2i", "lora", "qwen_fun")  # controls that share no net
CALLS = ("sd15", "flux_xlabs", "flux")
LIFE, ORDERS, SIZES = ("sd15", "lora", "t2i", "flux"), ("sd15", "flux", "sd35", "t2i"), (
    "sd15", "flux_xlabs", "flux")
ROUNDING = 2e-6  # of a batch of another size


@pytest.fixture(scope="module")
def found():
    kept = {}

    def look(check, *families, script="controls_checks.py"):
        if check not in kept:
            kept[check] = run_checks(PYTHON, script, check, *families)
        return kept[check]
    return look


@pytest.mark.parametrize("family", FAMILIES)
def test_the_sum_is_the_chain_and_what_is_off_is_absent(found, family):
    one = dict(found("exactness", *FAMILIES)[family])
    assert one.pop("moved") > 1e-4
    assert [name for name, right in one.items() if right is not True] == []


@pytest.mark.parametrize("family", CHAINS)
def test_chains_of_every_shape(found, family):
    one = dict(found("chains", *CHAINS)[family])
    for name in ("same net", "same net, with another between", "uncond 0"):
        assert one.pop(name) <= (0 if family in OWN_CALLS and name != "uncond 0" else ROUNDING), name
    assert [name for name, right in one.items() if right is not True] == []


@pytest.mark.parametrize("family", CALLS)
def test_nets_are_called_where_they_matter(found, family):
    """[calls, rows of the first, encodings of the hint] of two nets; two steps, two rows."""
    one, once = found("calls", *CALLS)[family], 0 if family == "flux" else 1  # that one takes latents
    assert one["stock"] == [[2, 2], [2, 2], [2 * once] * 2]
    assert one["sum"] == [[2, 2], [2, 2], [once] * 2]
    assert one["weight 0"] == one["empty mask"] == [[0, 2], [0, 2], [0, once]]
    assert one["uncond 0"] == [[2, 2], [1, 2], [once] * 2]
    assert one["range"][0] == one["range, stock"][0] and max(one["range"][0]) < 5
    assert one["range"][2] == [once] * 2
    assert one["curve"][0][0] < 4 == one["curve"][0][1]
    assert one["same net"] == [[2, 0], [4, 0], [once, 0]]
    assert one["a negative alone"] == [[4, 0], [1, 0], [2 * once, 0]]
    assert one["a negative alone, uncond 0"] == [[2, 0], [1, 0], [once, 0]]
    assert one["areas"][0] == [6, 6] and one["areas"][2] == [3 * once] * 2 and one["areas, as stock"]


@pytest.mark.parametrize("family", CALLS)
def test_residuals_are_used_again_but_at_both_ends(found, family):
    one = found("calls", *CALLS)[family]
    assert one["interval"][0] == [11, 11]
    assert one["threshold 0.0"][0] == [20, 20]
    assert 20 > one["threshold 0.3"][0][0] >= one["threshold 1.0"][0][0] >= 2
    for kind in ("interval", "threshold 0.3", "threshold 1.0"):
        assert one[f"{kind}, ends"] == [0, 19], kind


def test_types_of_one_union_net_can_share_a_call(found):
    one = found("union", "union")["union"]
    assert one["sum"] == one["masked"] == [[4, 0], [2, 0], [2, 0]]
    assert one["joined"] == [[2, 0], [2, 0], [2, 0]]
    assert one["same"] and one["one type"] and one["one of two off"] < ROUNDING and one["moved"] > 1e-4


@pytest.mark.parametrize("family", SIZES)
def test_any_size_and_batch(found, family):
    """Where the host can't (the xlabs net at odd sizes), it says the same as without the blend."""
    one = found("sizes", *SIZES)[family]
    for label in ("16x24x2", "16x24x3", "65x41x1", *["185x135x1"] * (family == "flux")):
        if one[label]:
            assert (family, label) == ("flux_xlabs", "65x41x1") and one[f"{label}, blended"] == one[label]
            continue
        assert one[f"{label}, sum"] and one[f"{label}, moved"] > 1e-4, label
        assert one[f"{label}, halves"] < 1e-5, label
    assert one["mask rows"] < 1e-5 < one["mask rows, moved"]


@pytest.mark.parametrize("family", ORDERS)
def test_however_the_host_packs_prompts(found, family):
    one = found("orders", *ORDERS)[family]
    for label in ("two positives", "two negatives", "a longer negative", "a text for controls"):
        assert one[label] is True and one[f"{label}, uncond 0"] < ROUNDING, label
    assert one["cfg 1"] is True and one["weight as strength"] < ROUNDING


@pytest.mark.parametrize("family", ("sd15", "flux"))
def test_beside_a_regional_prompt(found, family):
    one = found("regions", "sd15", "flux")[family]
    for mode in ("attention", "latent"):
        assert one[f"{mode}, sum"] is True and one[f"{mode}, region"] == 0
        assert one[f"{mode}, moved"] > 1e-4 and one[f"{mode}, after"] > 1e-4
    reasons = {"no such region": "region is 3, the prompt has 2", "mask and region": "take one of them away",
               "no regions": "the prompt has none", "too many rules": "3 rules for 2 controls"}
    for label, reason in reasons.items():
        assert one[label].startswith("ValueError: Control") and reason in one[label], label


@pytest.mark.parametrize("family", LIFE)
def test_nothing_stays_behind_however_a_run_ends(found, family):
    one = dict(found("failing", *LIFE, script="controls_life_checks.py")[family])
    assert one.pop("differs") and one.pop("finished") == [] and one.pop("state")
    assert len(one) == (3 if family == "lora" else 6)
    for label, said in one.items():
        assert said == ["", [], True, True, True], label


def test_a_child_that_cannot_begin_leaves_nothing_behind(found):
    assert found("starting", "sd15", script="controls_life_checks.py")["sd15"] == ["", [], True, True]


@pytest.mark.parametrize("family", ("sd15", "lora", "t2i"))
def test_the_host_gets_what_it_asks_a_control_for(found, family):
    one = dict(found("host", "sd15", "lora", "t2i", script="controls_life_checks.py")[family])
    assert one.pop("memory") == 7
    assert [name for name, right in one.items() if right is not True] == []


@pytest.mark.skipif(not os.environ.get("ACN_PATH"), reason="set ACN_PATH to test beside Advanced-ControlNet")
@pytest.mark.parametrize("family", ("sd15", "flux_xlabs"))
def test_beside_advanced_controlnet(found, family):
    one = found("acn", "sd15", "flux_xlabs", script="controls_life_checks.py")[family]
    for label in ("alone", "after stock", "before stock", "twice"):
        assert one[label] is True and one[f"{label}, again"] is True and one[f"{label}, moved"] > 1e-4, label
    assert one["uncond 0"] < ROUNDING
    assert one["class"] == "ControlNetAdvanced" and one["kept"] == []
