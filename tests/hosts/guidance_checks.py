"""Runs in ComfyUI's Python: the guidance nodes on tiny models of the host's classes, as a line of JSON."""
import json
import logging
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import in_comfyui  # noqa: F401, I001
import comfy.sample
import comfy_extras.nodes_fresca as fresca
import comfy_extras.nodes_model_advanced as advanced
import torch
from hosts.tiny_families import conditioning, flux, sd3, sd15, wan
from tweedie_pack.nodes import probe, spectral
from tweedie_pack.nodes.run import KEY, Run
from tweedie_pack.samplers.recipe import Settings, bind, compose
from tweedie_pack.samplers.spectral import BANDS, Window, reweight
from tweedie_pack.samplers.structure import MAPS
from tweedie_pack.samplers.table import sigma_at

OFF = {"apg": {"apg": "off"}, "cfg_zero_star": {"cfg_zero_star": "off"}, "rescale": 0.0,
       "interval": {"interval": "off"}}
NEUTRAL = {"bands": "two_band", "low": 1.0, "high": 1.0, "cutoff": 0.25}
STRONG = NEUTRAL | {"low": 3.0}
GUIDANCE, SKIP = {"distilled": "guidance", "low": 1.0}, {"distilled": "skip_layer", "layers": "1"}
APG = {"apg": "on", "eta": 0.0, "norm_threshold": 5.0, "momentum": -0.5}


MODELS = {"sd15": (sd15, 16, (16, 24)), "sd3": (sd3, 12, (16, 16)), "flux": (flux, 12, (16, 16)),
          "wan": (wan, 12, (3, 16, 12))}  # name -> maker, width of its text, space


class Bench:
    """A model with its conditioning; `run` samples it, `push` puts our node on it."""

    def __init__(self, name):
        build, self.width, self.space = MODELS[name]
        self.model = build()
        self.channels = self.model.model.latent_format.latent_channels

    def run(self, model=None, cfg=4.0, sampler="euler", batch=1, positive=None, mask=None, callback=None):
        latent = torch.zeros(batch, self.channels, *self.space)
        noise = torch.randn(1, *latent.shape[1:], generator=torch.Generator().manual_seed(3))
        return comfy.sample.sample(model or self.model, noise.expand_as(latent).contiguous(), 3, cfg, sampler,
                                   "simple", positive or conditioning(self.width),
                                   conditioning(self.width, seed=2), latent, noise_mask=mask,
                                   disable_pbar=True, seed=5, callback=callback)

    def push(self, model=None, bands=NEUTRAL, structure="off", time="constant", distilled=None, power="",
             percents=(0.0, 1.0), strength=1.0, keep=True, **knobs):
        return spectral.TweedieSpectralGuidance.execute(
            model or self.model, bands, time, {"structure": structure, **knobs}, strength, keep, *percents,
            distilled, power)[0]


def correct(model, **changes):
    return spectral.TweedieGuidance.execute(model, **OFF | changes)[0]


def same(a, b):
    return torch.equal(a, b)


def apart(a, b):
    return float((a - b).abs().max())


def spied(bench, pushed):
    """(outputs before, after, expected after our hook) of every step of a run."""
    steps = []
    hook, = [one for one in pushed.model_options["sampler_pre_cfg_function"]]

    def spy(args):
        given, result = args["conds_out"], hook(args)
        steps.append((args["sigma"].clone(), given[0].clone(), given[1].clone(), result[0].clone()))
        return result
    watched = pushed.clone()
    watched.model_options["sampler_pre_cfg_function"] = [spy]
    bench.run(watched)
    return steps


def matches_core(bench):
    """The largest difference between what the node adds and what the core says, relative to the delta."""
    pushed = bench.push(bands=STRONG, structure="coherence", amount=8.0, reach=3, percents=(0.0, 0.5))
    band, structure = bind("two_band", BANDS, {"low": 3.0}), bind("coherence", MAPS, {})
    recipe = compose(band, structure, Settings(), (1.0,) * 6)
    window = Window.of(bench.model.get_model_object("model_sampling").sigmas, 0.0, 0.5)
    worst, acted = 0.0, 0
    for sigma, cond, uncond, pushed_cond in spied(bench, pushed):
        delta = cond - uncond
        expected = reweight(delta, recipe, window, sigma, uncond + 4 * delta, uncond)
        worst = max(worst, apart(pushed_cond, cond + expected) / float(delta.abs().max()))
        acted += not same(pushed_cond, cond)
    return worst, acted


def neutral(bench, plain):
    """Names of settings that must change nothing, and do."""
    ways = {"gains 1": {}, "equal gains": {"bands": STRONG | {"high": 3.0}}, "deciding": {"time": "deciding"},
            "strength 0": {"bands": STRONG, "strength": 0.0, "structure": "structure", "amount": 8.0},
            "amount 0": {"structure": "coherence", "amount": 0.0, "reach": 3}}
    bad = [name for name, options in ways.items() if not same(bench.run(bench.push(**options)), plain)]
    wide = {"interval": {"interval": "on", "low": -20.0, "high": 20.0}}
    bad += [] if same(bench.run(correct(bench.model, **wide)), plain) else ["interval"]
    cfg_pp = bench.run(sampler="euler_cfg_pp", cfg=1.5)
    bad += [] if same(bench.run(bench.push(), sampler="euler_cfg_pp", cfg=1.5), cfg_pp) else ["cfg++"]
    return bad


def acts(bench, plain):
    """Names of settings that must change the picture, stay finite, and don't."""
    ways = {band.id: {"bands": {"bands": band.id} | LIVELY[band.id]} for band in BANDS.values()}
    ways |= {f"map {name}": {"structure": name, "amount": 8.0} for name in MAPS if name != "off"}
    ways |= {f"time {time}": {"bands": STRONG, "time": time} for time in ("ramp", "window", "deciding")}
    bad = []
    for name, options in ways.items():
        found = bench.run(bench.push(**options))
        if same(found, plain) or not bool(torch.isfinite(found).all()):
            bad.append(name)
    strong = bench.push(bands=STRONG)
    if same(bench.run(strong, sampler="euler_cfg_pp", cfg=1.5), bench.run(sampler="euler_cfg_pp", cfg=1.5)):
        bad.append("cfg++")
    return bad


LIVELY = {"two_band": {"low": 3.0}, "three_band": {"mid": 2.5}, "tilt": {"slope": -0.7},
          "equalizer": {"at_1_8": 2.0, "at_1_2": 0.0}, "notch": {"gain": 4.0}}


def compose_checks(bench):
    """Ours with the host's nodes, and both of ours in either order."""
    strong = bench.push(bands=STRONG, structure="structure", amount=8.0)
    rescaled = advanced.RescaleCFG().patch(strong, 0.7)[0]
    with_fresca = bench.push(fresca.FreSca.execute(bench.model, 1.0, 1.25, 2)[0], bands=STRONG)
    one, other = (correct(bench.push(bands=STRONG), apg=APG),
                  bench.push(correct(bench.model, apg=APG), bands=STRONG))
    return {"rescale": apart(bench.run(rescaled), bench.run(strong)),
            "fresca": apart(bench.run(with_fresca), bench.run(bench.push(bands=STRONG))),
            "order": same(bench.run(one), bench.run(other)),
            "again": same(bench.run(one), bench.run(one)),
            "apg": apart(bench.run(one), bench.run(bench.push(bands=STRONG)))}


def zero_star(bench):
    """Of every step: how far CFG-Zero*'s guided estimate is from x, and from its formula on velocities."""
    corrected = correct(bench.model, cfg_zero_star={"cfg_zero_star": "on", "zero_init": 0.2})
    hook, = corrected.model_options["sampler_pre_cfg_function"]
    steps = []

    def spy(args):
        result, x = hook(args), args["input"]
        cond, uncond = args["conds_out"][:2]
        guided = uncond + 4 * (result[0] - uncond)
        v_cond, v_uncond = x - cond, x - uncond
        s = (v_cond * v_uncond).sum() / v_uncond.square().sum()
        steps.append((apart(guided, x), apart(guided, x - s * v_uncond - 4 * (v_cond - s * v_uncond))))
        return result
    corrected.model_options["sampler_pre_cfg_function"] = [spy]
    bench.run(corrected)
    return steps


def percents(bench):
    """The largest relative difference of our sigma at a percentage to the host's."""
    sampling = bench.model.get_model_object("model_sampling")
    pairs = [(sigma_at(sampling.sigmas, percent), float(sampling.percent_to_sigma(percent)))
             for percent in (0.02, 0.1, 0.25, 0.5, 0.77, 0.98)]
    return max(abs(ours / theirs - 1) for ours, theirs in pairs)


def batch_is_single(bench):
    strong = bench.push(bands=STRONG, structure="structure", amount=8.0)
    return apart(bench.run(strong, batch=3)[1:2], bench.run(strong)) / float(bench.run(strong).abs().max())


def undone(bench, plain):
    """After an interrupt inside a run: the model's options and its picture are as they were."""
    pushed = correct(bench.push(bands=STRONG, structure="coherence", amount=8.0), apg=APG)
    options = repr(pushed.model_options)

    def stop(step, *rest):
        raise KeyboardInterrupt
    try:
        bench.run(pushed, callback=stop)
        return False
    except KeyboardInterrupt:
        clean = repr(pushed.model_options) == options and KEY not in pushed.model_options
        return clean and same(bench.run(), plain)


class Lines(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


def says_why(bench, reason, distilled=None):
    """At cfg 1: nothing is changed, and one line says so."""
    heard = Lines()
    logging.getLogger("tweedie").addHandler(heard)
    strong = bench.push(bands=STRONG, distilled=distilled)
    unchanged = same(bench.run(strong, cfg=1.0), bench.run(cfg=1.0))
    logging.getLogger("tweedie").removeHandler(heard)
    return unchanged and len(heard.lines) == 1 and reason in heard.lines[0]


def region_checks(bench):
    """Energy of the delta in each region of masked and area prompts and of an inpainting mask, all plain."""
    left = torch.zeros(1, *bench.space)
    left[..., : bench.space[-1] // 2] = 1
    masked = []
    for seed, mask in ((1, left), (7, 1 - left)):
        (words, options), = conditioning(bench.width, seed)
        masked.append([words, options | {"mask": mask, "mask_strength": 1.0}])
    pushed = bench.push(bands=STRONG | {"low": 5.0})
    hook, = pushed.model_options["sampler_pre_cfg_function"]
    ratios = []

    def spy(args):
        given, result = args["conds_out"], hook(args)
        delta, new = given[0] - given[1], result[0] - given[1]
        for part in (left, 1 - left):
            ratios.append(float((delta * new * part).sum() / (delta * delta * part).sum()))
        return result
    watched = pushed.clone()
    watched.model_options["sampler_pre_cfg_function"] = [spy]
    bench.run(watched, positive=masked)
    prompts = len(ratios)
    two = torch.cat([left, 1 - left])  # the host repeats masks of two for a batch of four
    bench.run(pushed, batch=4, positive=[[words, options | {"mask": two}] for words, options in masked])
    bench.run(watched, mask=left[:, None])
    inside = ratios[prompts::2]
    return {"regions": ratios[:prompts], "inpaint": inside}


def distilled(bench, choice):
    """At cfg 1 with a second pass: neutral is the host, a recipe is not."""
    plain = bench.run(cfg=1.0)
    return (same(bench.run(bench.push(distilled=choice), cfg=1.0), plain),
            apart(bench.run(bench.push(bands=STRONG, distilled=choice), cfg=1.0), plain))


def packed(bench):
    """Audio beside video in one flat latent passes both hooks as it came, and one line says so."""
    heard = Lines()
    logging.getLogger("tweedie").addHandler(heard)
    outputs = [torch.randn(1, 1, 50), torch.randn(1, 1, 50)]
    args = {"conds_out": outputs, "conds": [[{}], [{}]], "cond_scale": 4.0, "input": torch.randn(1, 1, 50),
            "sigma": torch.ones(1), "model": bench.model.model, "model_options": {KEY: Run(seed=1)}}
    pushed = correct(bench.push(bands=STRONG), apg=APG)
    results = [hook(args) for hook in pushed.model_options["sampler_pre_cfg_function"]]
    logging.getLogger("tweedie").removeHandler(heard)
    untouched = all(one is other for result in results for one, other in zip(result, outputs, strict=True))
    return untouched and len(heard.lines) == 1 and "several streams" in heard.lines[0]


def drawn(bench):
    model, record = probe.TweedieGuidanceProbe.execute(bench.model).result
    pushed = bench.push(model, bands=STRONG, structure="coherence", amount=8.0)
    latent = {"samples": bench.run(pushed)}
    low = [float(after[0] / before[0]) for _, before, after in record.steps]
    chart = probe.TweedieGuidanceChart.execute(record, latent).result[0]
    clean = same(bench.run(model), bench.run())
    return {"low": low, "clean": clean, "chart": list(chart.shape), "spread": float(chart.std())}


def check(name):
    bench = Bench(name)
    plain = bench.run()
    facts = {"neutral": neutral(bench, plain), "acts": acts(bench, plain), "core": matches_core(bench),
             "percents": percents(bench), "batch": batch_is_single(bench), "undone": undone(bench, plain),
             "alone": says_why(bench, "no negative pass"), "drawn": drawn(bench),
             "compose": compose_checks(bench)}
    if name in ("sd15", "sd3"):
        facts["regions"], facts["packed"] = region_checks(bench), packed(bench)
    if name == "sd15":
        facts["no_pass"] = [says_why(bench, "no numbered blocks", choice) for choice in (GUIDANCE, SKIP)]
    if name != "sd15":
        facts["zero_star"] = zero_star(bench)
    if name == "flux":
        facts["guidance"] = distilled(bench, GUIDANCE)
    if name in ("flux", "sd3"):
        facts["skip_layer"] = distilled(bench, SKIP)
    facts["untouched"] = same(bench.run(), plain)
    return facts


with torch.inference_mode():
    print(json.dumps({name: check(name) for name in MODELS}))
