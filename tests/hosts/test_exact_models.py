"""Exact models under ComfyUI's own samplers and schedules (research T1 to T6), run in the host's Python."""
import pytest
from hosts.need import need, run_checks

_, PYTHON = need("COMFYUI_PATH", "COMFYUI_PYTHON")


@pytest.fixture(scope="module")
def facts():
    return run_checks(PYTHON, "exact_checks.py")


def test_orders_of_the_hosts_samplers(facts):
    assert facts["order"]["euler"] == pytest.approx(1, abs=0.05)
    assert facts["order"]["dpmpp_2m"] == pytest.approx(2, abs=0.1)


def test_2m_in_half_log_snr_on_flow(facts):
    assert max(facts["flow"].values()) < 0.06 and facts["flow_host"] > 0.5


def test_zero_terminal_snr(facts):
    assert facts["zero"] <= 0.04 < facts["zero_host"]
    assert facts["heun_safe"] < 0.25 and facts["heun_host"] > 50


@pytest.mark.parametrize("steps", ("5", "8"))
def test_a_measured_schedule_beats_every_host_schedule_where_it_was_not_measured(facts, steps):
    rows = dict(facts["measured"][steps])
    median, mean = rows.pop("measured")
    assert median <= 0.8 * min(row[0] for row in rows.values())
    assert mean <= min(row[1] for row in rows.values())


def test_the_recommended_schedule_is_ahead(facts):
    """Some columns of docs/benchmarks.md, on seeds of their own."""
    assert len(facts["recommended"]) == 5 and max(facts["recommended"].values()) < 1.05
    assert sorted(facts["recommended"].values())[2] < 0.95


def test_tables_equal_the_hosts(facts):
    assert facts["karras"] < 1e-6 and facts["rescaled"] < 1e-4  # the host rescales in 32 bits
