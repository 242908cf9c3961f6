"""The pack in a real ComfyUI server: menus, nodes, errors, and nothing left behind."""
import re
import time
import urllib.request

import pytest
from hosts.comfyhost import node, probed, server, txt2img

NAMES = ["karras", "logsnr", "beta", "logit_normal", "laplace", "cosine", "sigmoid", "trailing", "zero_snr",
         "flow_shift"]
NODES = {"TweedieSchedule", "TweedieZeroTerminalSNR", "TweedieFlowShift", "TweedieSafeFirstStep",
         "TweedieMeasureSchedule", "TweedieScheduleCurve", "TweedieTinyLoader", "TweedieSpectralGuidance",
         "TweedieGuidance", "TweedieGuidanceProbe", "TweedieGuidanceChart", "TweedieLatentPower"}
SCHEDULE = {"model": ["load", 0], "steps": 4, "denoise": 1.0, "denoise_mode": "steps", "schedule": "karras",
            "schedule.rho": 7.0, "schedule.last": 0.0, "schedule.shift": 1.0}


@pytest.fixture(scope="module")
def host():
    with server() as running:
        yield running


@pytest.fixture(scope="module")
def untouched(host):
    return host.picture(txt2img(steps=2))


def v_prediction(**inputs):
    return {"v": node("ModelSamplingDiscrete", model=["load", 0], sampling="v_prediction", zsnr=False),
            "zero": node("TweedieZeroTerminalSNR", model=["v", 0],
                         **{"rescale_cfg": 0.7, "safe_first_step": True, **inputs})}


def custom(sampler, sigmas, model="load", **extra):
    """A graph that samples with a SAMPLER and SIGMAS from other nodes."""
    graph = txt2img(**extra)
    graph["select"] = node("KSamplerSelect", sampler_name="euler")
    graph["sample"] = node("SamplerCustom", model=[model, 0], add_noise=True, noise_seed=1, cfg=7.0,
                           positive=["good", 0], negative=["bad", 0], sampler=[sampler, 0],
                           sigmas=[sigmas, 0], latent_image=["latent", 0])
    return graph


def test_menus_and_nodes_are_as_named(host):
    nodes = host.get("/object_info")
    for kind in ("KSampler", "KSamplerAdvanced", "BasicScheduler"):
        entry = nodes[kind]["input"]["required"]["scheduler"]
        names = entry[0] if isinstance(entry[0], list) else entry[1]["options"]
        assert [name for name in names if name.startswith("tweedie")] == [f"tweedie_{name}" for name in NAMES]
    samplers = nodes["KSampler"]["input"]["required"]["sampler_name"][0]
    assert [name for name in samplers if name.startswith("tweedie")] == ["tweedie_2m"]
    assert {name for name in nodes if name.startswith("Tweedie")} == NODES
    schedule = nodes["TweedieSchedule"]["input"]
    assert list(schedule["required"]) == ["model", "steps", "denoise", "denoise_mode", "schedule"]
    assert list(schedule["optional"]) == ["latent"]
    zero = nodes["TweedieZeroTerminalSNR"]["input"]
    assert list(zero["required"]) == ["model", "rescale_cfg", "safe_first_step"]
    assert list(nodes["TweedieFlowShift"]["input"]["required"]) == ["model", "rule", "shift"]


def test_the_pack_loads_fast(host):
    """What the host itself writes down for this folder, over all that it has imported by then."""
    seconds = re.search(r"([\d.]+) seconds: .*custom_nodes/tweedie", host.log.read_text())
    assert float(seconds[1]) < 0.3


def test_help_pages_are_served(host):
    for name in NODES:
        with urllib.request.urlopen(f"{host.url}/extensions/tweedie/docs/{name}.md", timeout=30) as answer:
            assert len(answer.read()) > 200


@pytest.mark.parametrize("name", NAMES)
def test_a_stock_ksampler_runs_with_each(host, name):
    picture = host.picture(txt2img(scheduler=f"tweedie_{name}", sampler="tweedie_2m", model="probe",
                                   **probed(name)))
    seen = host.probe(name)
    sigmas = seen["sigmas"]
    assert len(picture) == 64 * 64 * 3 and len(set(picture)) > 8
    assert sigmas[0] == pytest.approx(seen["maximum"], rel=1e-6) and sigmas[-1] == 0 and len(sigmas) == 3


def test_zero_snr_on_an_epsilon_model_is_refused_and_paints_nothing(host, untouched):
    zero = node("TweedieZeroTerminalSNR", model=["load", 0], rescale_cfg=0.7, safe_first_step=True)
    with pytest.raises(RuntimeError, match="this model predicts epsilon"):
        host.run(txt2img(model="zero", zero=zero))
    assert host.picture(txt2img(steps=2, seed=1)) == untouched


@pytest.mark.parametrize("sampler", ("heun", "tweedie_2m", "euler_ancestral"))
def test_zero_snr_on_a_v_model_starts_at_the_rescaled_maximum(host, sampler):
    graph = txt2img(scheduler="tweedie_zero_snr", sampler=sampler, steps=3, model="probe", **v_prediction(),
                    **probed(sampler, "zero"))
    assert len(set(host.picture(graph))) > 8
    seen = host.probe(sampler)
    assert seen["sigmas"][0] == pytest.approx(4518.76, abs=0.01) and seen["sampler"] == "SafeStart"


def test_nothing_is_left_after_a_run(host, untouched):
    host.run(txt2img(scheduler="tweedie_zero_snr", sampler="heun", steps=2, model="zero", **v_prediction()))
    host.run(txt2img(scheduler="karras", steps=2, model="shift", size=128,
                     shift=node("TweedieFlowShift", model=["load", 0], rule="sqrt", shift=0.0)))
    assert host.picture(txt2img(steps=2)) == untouched


def test_nothing_is_left_after_an_interrupt(host, untouched):
    ticket = host.queue(txt2img(
        scheduler="tweedie_zero_snr", sampler="heun", steps=30, model="shift", **v_prediction(),
        shift=node("TweedieFlowShift", model=["zero", 0], rule="fixed", shift=2.0)))
    time.sleep(5)
    host.post("/interrupt", {})
    with pytest.raises(RuntimeError, match="interrupted"):
        host.finish(ticket)
    assert host.picture(txt2img(steps=2)) == untouched


def test_neutral_nodes_equal_the_untouched_host(host, untouched):
    shift = node("TweedieFlowShift", model=["load", 0], rule="fixed", shift=1.0)
    assert host.picture(txt2img(steps=2, model="shift", shift=shift)) == untouched
    normal = node("BasicScheduler", model=["load", 0], scheduler="normal", steps=2, denoise=1.0)
    safe = node("TweedieSafeFirstStep", sampler=["select", 0])
    assert host.picture(custom("safe", "normal", safe=safe, normal=normal)) == untouched


def test_the_dc_calibrated_start_acts_on_pure_noise_only(host, untouched):
    def picture(denoise, calibrate):
        normal = node("BasicScheduler", model=["load", 0], scheduler="normal", steps=2, denoise=denoise)
        safe = node("TweedieSafeFirstStep", sampler=["select", 0], calibrate_dc=calibrate)
        return host.picture(custom("safe", "normal", normal=normal, safe=safe))
    assert picture(1.0, True) != untouched
    assert picture(0.5, True) == picture(0.5, False)
    assert picture(1.0, False) == untouched


def test_flow_shift_follows_the_size_of_the_latent(host):
    shift = node("TweedieFlowShift", model=["load", 0], rule="sqrt", shift=0.0)
    for name, size in (("small", 64), ("large", 128)):
        host.run(txt2img(scheduler="karras", steps=2, size=size, model="probe", shift=shift,
                         **probed(name, "shift")))
    small, large = host.probe("small")["sigmas"], host.probe("large")["sigmas"]
    assert small[0] == large[0] and 0 < small[1] < large[1]


def test_a_schedule_node_with_a_latent_and_its_curve(host):
    graph = txt2img(schedule=node("TweedieSchedule", **SCHEDULE),
                    large=node("TweedieSchedule", **SCHEDULE, latent=["latent", 0]),
                    curve=node("TweedieScheduleCurve", model=["load", 0],
                               **{"sigmas.sigmas_0": ["schedule", 0], "sigmas.sigmas_1": ["large", 0]}))
    for name in ("sample", "decode", "save"):
        del graph[name]
    assert len(set(host.picture(graph))) > 20


@pytest.mark.parametrize("mode", ("steps", "sigma", "log_snr"))
def test_denoise_modes(host, mode):
    graph = custom("select", "schedule", model="probe", **probed(mode),
                   schedule=node("TweedieSchedule", **{**SCHEDULE, "denoise": 0.5, "denoise_mode": mode}))
    host.run(graph)
    sigmas = host.probe(mode)["sigmas"]
    assert len(sigmas) == 5 and sigmas[0] < 14 and (mode != "sigma" or sigmas[0] == pytest.approx(1))


def test_a_measured_schedule_travels_as_text(host):
    inputs = dict(model=["load", 0], positive=["good", 0], negative=["bad", 0], sampler=["select", 0],
                  latent=["latent", 0], steps=2, cfg=1.0, trajectories=16, batch=16, seed=0)
    line = "tweedie-schedule 1 | by hand | 0.1 0.2 | 14.614642 1.5 0"
    graph = custom("select", "measured", model="probe", **probed("text"),
                   measured=node("TweedieMeasureSchedule", **inputs, text=line))
    host.run(graph)
    assert host.probe("text")["sigmas"][1] == 1.5
    graph["measured"]["inputs"]["text"] = "hello"
    with pytest.raises(RuntimeError, match="cannot read 'hello'; paste the whole line"):
        host.run(graph)


@pytest.mark.parametrize("change, reason", [
    ({"schedule.last": 9.99, "schedule": "karras", "denoise": 0.0}, None),
    ({"schedule.rho": 1000.0}, "schedule.rho"),
    ({"steps": 0}, "steps"),
])
def test_bad_input(host, change, reason):
    graph = custom("select", "schedule", schedule=node("TweedieSchedule", **{**SCHEDULE, **change}))
    if reason is None:
        host.run(graph)
        return
    with pytest.raises(RuntimeError, match=reason):
        host.run(graph)
