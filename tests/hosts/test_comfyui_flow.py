"""The flow nodes on tiny SD3 and Flux models of ComfyUI's own classes, in ComfyUI's Python."""
import pytest
from hosts.need import need, run_checks

_, PYTHON = need("COMFYUI_PATH", "COMFYUI_PYTHON")


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    return run_checks(PYTHON, "flow_checks.py", TWEEDIE_PROBE=str(tmp_path_factory.mktemp("probe")))


@pytest.mark.parametrize("name", ("sd3", "flux"))
def test_neutral_equals_the_host_and_nothing_is_left(facts, name):
    assert facts[name]["neutral"] and facts[name]["undone"] and facts[name]["untouched"]


@pytest.mark.parametrize("name", ("sd3", "flux"))
def test_the_shift_follows_the_latent(facts, name):
    seen = facts[name]
    assert seen["sigmas_128"] == seen["own"] and seen["half_128"] == seen["own_half"]
    odds = [[s / (1 - s) for s in seen[key][1:-1]] for key in ("own", "sigmas_16", "sigmas_8")]
    for own, at_16, at_8 in zip(*odds, strict=True):
        assert at_16 / own == pytest.approx(1 / 8, rel=1e-4) and at_8 / own == pytest.approx(1 / 16, rel=1e-4)
    assert seen["half_16"] < seen["own_half"] and seen["sigmas_16"][0] == 1


@pytest.mark.parametrize("name", ("sd3", "flux"))
def test_every_schedule_runs_with_2m(facts, name):
    assert len(facts[name]["finite"]) == 10 and all(facts[name]["finite"].values())


@pytest.mark.parametrize("name", ("sd3", "flux"))
def test_the_safe_first_step_is_eulers_on_flow(facts, name):
    assert facts[name]["safe_euler"] < 1e-5


@pytest.mark.parametrize("name", ("sd3", "flux"))
def test_zero_snr_is_refused_on_flow_models(facts, name):
    assert "flow models reach zero SNR as they are" in facts[name]["refused"]


def test_a_measured_schedule_is_kept_and_travels(facts):
    seen = facts["measured"]
    assert seen["sigmas"] == seen["again"] == seen["imported"]
    assert seen["sigmas"][0] == 1 and len(seen["sigmas"]) == 4
    assert "kept from before" in seen["report"] and seen["files"] == 1
