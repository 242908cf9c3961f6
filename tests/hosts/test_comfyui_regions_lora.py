"""LoRAs of regions on tiny models of ComfyUI's own classes, beside the host's own LoRA loader."""
import pytest

from .need import need, run_checks

PATH, PYTHON = need("COMFYUI_PATH", "COMFYUI_PYTHON")
FAMILIES = ("sd15", "sdxl", "sd35", "flux", "flux2", "chroma", "qwen", "lumina", "z_image", "anima")


@pytest.fixture(scope="module")
def found():
    kept = {}

    def look(check, *families):
        if check not in kept:
            kept[check] = run_checks(PYTHON, "regions_lora_checks.py", check, *families)
        return kept[check]
    return look


@pytest.mark.parametrize("family", FAMILIES)
def test_all_over_it_is_the_hosts_loader_but_for_vectors(found, family):
    one = found("whole", *FAMILIES)[family]
    assert one["moved"] > 0.005
    for kind in ("one", "two", "soft", "latent", "beside"):
        assert one[kind] < 1e-4 * one["moved"], kind
    assert one["vectors"] > 10 * one["one"]  # what vectors would add is left out


@pytest.mark.parametrize("family", FAMILIES)
def test_off_is_nothing_and_nothing_is_left_behind(found, family):
    one = found("whole", *FAMILIES)[family]
    assert one["off"] and one["late"] and one["after"]
    assert one["hooks"] == one["kept"] == 0


@pytest.mark.parametrize(("family", "kind"), [
    *((family, kind) for family in ("sd15", "flux") for kind in ("tucker", "loha", "lokr")),
    ("flux", "split")])
def test_other_kinds_that_add_to_a_layer(found, family, kind):
    one, moved = found("kinds", "sd15", "flux")[family][kind]
    assert one < 1e-4 * moved and moved > 0.005


@pytest.mark.parametrize("family", ("sd15", "sdxl", "sd35", "flux"))
def test_each_half_has_its_own_and_leaves_the_other_as_it_was(found, family):
    one = found("rows", "sd15", "sdxl", "sd35", "flux")[family]
    for kind in range(1 if family in ("sd15", "sdxl") else 2):  # picture, text
        assert one[f"{kind} 1.safetensors"] < 1e-5 and one[f"{kind} 2.safetensors"] < 1e-5
        assert one[f"{kind} untouched"] and one[f"{kind} moved"] > 0.1
    assert one.get("base text", True)


@pytest.mark.parametrize("family", ("sd15", "flux", "anima"))
def test_an_interrupt_inside_the_model_leaves_nothing_behind(found, family):
    one = found("undone", "sd15", "flux", "anima")[family]
    assert len(one["inside"]) == 2 and min(one["inside"]) > 1
    assert one["hooks"] == 0 and one["plain"] and one["options"]


@pytest.mark.parametrize("family", ("sd15", "flux"))
def test_four_regions_cost_about_what_one_does(found, family):
    assert 0.9 < found("cost", "sd15", "flux")[family] < 1.3  # borders of convolutions, and a text each


def test_files_that_can_not_act_say_so(found):
    said = found("files", "sd15")["sd15"]
    assert "'missing.safetensors' not found" in said["missing.safetensors"]
    assert said["../../etc/passwd"].startswith("FileNotFoundError")
    assert said["unsafe.pt"].startswith("UnpicklingError")
    assert said["foreign.safetensors"].startswith("ValueError: Region: the model is BaseModel, and the LoRA")
    assert "has nothing for it; choose another" in said["foreign.safetensors"]
    assert "only what can't act in a part" in said["diff.safetensors"]
    for mode in ("report", "latent"):
        assert "region 1: LoRA parts.safetensors at 0.7, 7 layers; 21 are left out" in said[mode]


def test_beside_nodes_that_change_sizes_or_compile(found):
    one = found("patches", "sd15")["sd15"]
    assert one["shrunk"] < 1e-5 and one["tiled"] and one["compiled"][0] < 1e-5
    assert len(one["heard"]) == 1 and "changes sizes inside the model" in one["heard"][0]
    assert len(one["compiled"][1]) == 1 and "take the compile node out" in one["compiled"][1][0]


def test_batches_and_part_of_the_run(found):
    one = found("patches", "sd15")["sd15"]
    assert one["batch"] < 1e-5 and min(one["early"]) > 1e-3


def test_reference_pictures_keep_as_they_are(found):
    one = found("references", "flux")["flux"]
    for layer in ("img_in", "single_blocks.0.linear1"):
        assert one[layer] < 1e-5 and one[f"{layer} behind"] and one[f"{layer} tokens"] == 120
