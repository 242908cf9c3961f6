"""The guidance nodes on tiny SD1.5, SD3, Flux and Wan models of ComfyUI's own classes, in its Python."""
import pytest
from hosts.need import need, run_checks

_, PYTHON = need("COMFYUI_PATH", "COMFYUI_PYTHON")
FAMILIES = ("sd15", "sd3", "flux", "wan")  # wan: latents of five axes


@pytest.fixture(scope="module")
def facts():
    return run_checks(PYTHON, "guidance_checks.py")


@pytest.mark.parametrize("name", FAMILIES)
def test_neutral_settings_equal_the_host_bit_for_bit(facts, name):
    assert facts[name]["neutral"] == [] and facts[name]["untouched"]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_band_map_and_time_acts_and_stays_finite(facts, name):
    assert facts[name]["acts"] == []


@pytest.mark.parametrize("name", FAMILIES)
def test_the_node_adds_what_the_core_says_and_nothing_outside_its_percents(facts, name):
    worst, acted = facts[name]["core"]
    assert worst < 1e-6 and acted == 2  # of three steps


@pytest.mark.parametrize("name", FAMILIES)
def test_percents_are_the_hosts(facts, name):
    assert facts[name]["percents"] < 1e-3


@pytest.mark.parametrize("name", FAMILIES)
def test_a_picture_of_a_batch_is_what_it_is_alone(facts, name):
    assert facts[name]["batch"] < 1e-5


@pytest.mark.parametrize("name", FAMILIES)
def test_an_interrupt_leaves_nothing_behind(facts, name):
    assert facts[name]["undone"]


@pytest.mark.parametrize("name", FAMILIES)
def test_without_a_negative_pass_nothing_is_changed_and_one_line_says_so(facts, name):
    assert facts[name]["alone"]


def test_a_model_without_what_a_second_pass_needs_says_so(facts):
    assert facts["sd15"]["no_pass"] == [True, True]


@pytest.mark.parametrize("name", FAMILIES)
def test_it_composes_with_the_hosts_nodes_and_runs_in_one_order(facts, name):
    seen = facts[name]["compose"]
    assert min(seen["rescale"], seen["apg"], seen["fresca"]) > 1e-4 and seen["order"] and seen["again"]


@pytest.mark.parametrize("name", ("sd3", "flux", "wan"))
def test_cfg_zero_star_stands_still_first_and_then_follows_its_formula(facts, name):
    (still, _), *rest = facts[name]["zero_star"]
    assert still < 1e-4 and len(rest) == 2
    assert all(from_x > 1e-2 and from_formula < 1e-4 for from_x, from_formula in rest)


@pytest.mark.parametrize("name", ("sd15", "sd3"))
def test_every_region_and_an_inpainting_mask_keep_their_energy(facts, name):
    seen = facts[name]["regions"]
    assert len(seen["regions"]) == 6 and len(seen["inpaint"]) == 3
    assert seen["regions"] + seen["inpaint"] == pytest.approx([1.0] * 9, abs=2e-3)


@pytest.mark.parametrize("name", ("sd15", "sd3"))
def test_packed_latents_are_left_as_they_are(facts, name):
    assert facts[name]["packed"]


@pytest.mark.parametrize(("name", "way"), [
    ("flux", "guidance"), ("flux", "skip_layer"), ("sd3", "skip_layer")])
def test_a_second_pass_stands_in_for_the_negative_one(facts, name, way):
    neutral, change = facts[name][way]
    assert neutral and change > 1e-3


@pytest.mark.parametrize("name", FAMILIES)
def test_the_probe_sees_low_frequencies_raised_and_changes_nothing(facts, name):
    seen = facts[name]["drawn"]
    assert seen["clean"] and len(seen["low"]) == 3 and min(seen["low"]) > 1
    assert seen["chart"][0] == 1 and seen["chart"][3] == 3 and seen["spread"] > 0.02
