"""Regions on tiny models of ComfyUI's own classes, beside the output blend by definition."""
import pytest

from .need import need, run_checks

PATH, PYTHON = need("COMFYUI_PATH", "COMFYUI_PYTHON")
FAMILIES = ("sd15", "sdxl", "sd3", "sd35", "flux", "flux2", "chroma", "qwen", "lumina", "z_image", "anima")


@pytest.fixture(scope="module")
def found():
    kept = {}

    def look(check, *families):
        if check not in kept:
            kept[check] = run_checks(PYTHON, "regions_checks.py", check, *families)
        return kept[check]
    return look


@pytest.mark.parametrize("family", FAMILIES)
def test_is_the_output_blend_and_an_identity_where_nothing_differs(found, family):
    one = found("exactness")[family]
    for kind in ("disjoint", "overlapping", "same text", "latent, same text"):
        assert one[kind] < 1e-5, kind
    assert one["moved"] > 1e-4 and one["off"] and one["after"]
    assert one["report"].startswith("mode attention")


@pytest.mark.parametrize("family", FAMILIES[2:])
def test_a_regions_text_stays_in_its_region(found, family):
    one = found("leak", *FAMILIES[2:])[family]
    assert one["free"] < 0.1 and one["isolated"] == 0 and one["moves"] > 1e-5


@pytest.mark.parametrize("family", ("sd15", "sdxl", "sd35", "flux", "z_image", "qwen"))
def test_any_size_and_batch(found, family):
    one = found("sizes", "sd15", "sdxl", "sd35", "flux", "z_image", "qwen")[family]
    assert one["apart"] < 1e-5 and one["wrong rows"] == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_any_order_of_the_batch_and_any_backend(found, family):
    one = found("orders")[family]
    for kind in ("turned", "two prompts", "cfg 1", "batch", "attention_split", "attention_sub_quad",
                 "attention_basic"):
        assert one[kind] < 1e-5, kind
    assert one["finite"] and all(one[f"{backend} used"] for backend in (
        "attention_split", "attention_sub_quad", "attention_basic"))


@pytest.mark.parametrize("family", FAMILIES)
def test_guidance_of_a_region_costs_no_call(found, family):
    one = found("scales")[family]
    assert one["own"] < 1e-5 and one["whole"] < 1e-5
    assert one["calls"][0] == one["calls"][1]


@pytest.mark.parametrize("family", FAMILIES)
def test_an_exception_leaves_nothing_behind(found, family):
    assert found("failing")[family] == {"plain": True, "options": True}


def test_a_family_without_attention_mode_says_so(found):
    one = found("fallback", "wan")["wan"]
    assert "mode attention is not there" in one["report"] and "WAN21" in one["report"]
    assert one["same text"] < 1e-5 < one["moved"]


@pytest.mark.parametrize("family", ("sd15", "flux"))
def test_spectral_guidance_keeps_its_energy_in_every_region(found, family):
    one = found("energy", "sd15", "flux")[family]
    assert one["kept"] < 1e-4 < one["moved"]
