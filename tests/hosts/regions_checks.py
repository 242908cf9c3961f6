"""Runs in ComfyUI's Python: the regions' nodes on tiny models of the host's classes, as a line of JSON."""
import contextlib
import json
import pathlib
import random
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import in_comfyui  # noqa: F401, I001
import comfy.ldm.modules.attention as attention
import comfy.patcher_extension
import comfy.sample
import torch
from hosts import tiny_families
from torch.nn.functional import adaptive_avg_pool2d
from tweedie_pack.nodes import regions, spectral

WIDTHS = {"sd15": 16, "sdxl": 16, "sd3": 12, "sd35": 12, "flux": 12, "flux2": 12, "chroma": 12, "qwen": 12,
          "lumina": 12, "z_image": 12, "anima": 1024, "wan": 12, "sd15_two": 16}
VIDEO = ("qwen", "anima", "wan")  # latents with an axis of time
LENGTH = {"flux2": 512}  # so that the model pads nothing
SIZE = (16, 24)


def says(width, seed, length=10, pooled=8):
    def noise(*shape):
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return [[noise(1, length, width), {"pooled_output": noise(1, pooled)}]]


class Bench:
    """A tiny model, texts for it, and masks: A on the left, B in the middle; the rest is the base's."""

    def __init__(self, name, size=SIZE, batch=1):
        self.name, self.model, self.size = name, getattr(tiny_families, name)(), size
        time = (1,) if name in VIDEO else ()
        self.shape = batch, self.model.model.latent_format.latent_channels, *time, *size

    def text(self, seed, length=None):
        return says(WIDTHS[self.name], seed, length or LENGTH.get(self.name, 10),
                    1280 if self.name == "sdxl" else 8)

    def run(self, positive, negative, model=None, cfg=4.0, steps=2, batch=1):
        noise = torch.randn(1, *self.shape[1:], generator=torch.Generator().manual_seed(3))
        noise = noise.repeat(self.shape[0] * batch, *[1] * (noise.ndim - 1))
        return comfy.sample.sample(model or self.model, noise, steps, cfg, "euler", "simple", positive,
                                   negative, torch.zeros_like(noise), disable_pbar=True, seed=5)

    def masks(self, hard=False):
        height, width = (8 * side for side in self.size)
        x = torch.arange(width) / width
        if hard:
            left, right = (x < 0.5).float(), (x >= 0.5).float()
        else:
            left, right = (1.5 - 4 * x).clamp(0, 1), (1 - 4 * (x - 0.5).abs()).clamp(0, 1)
        return [mask.expand(height, width) for mask in (left, right)]

    def put(self, texts, negatives=(None, None), model=None, mode="attention", masks=None, isolation=0.0,
            cfg=0.0, span=(0.0, 1.0)):
        """model, positive, negative, layout, report."""
        places = {}
        for number, mask in enumerate(masks or self.masks()):
            places[f"region{number}"] = regions.TweedieRegion.execute(
                texts[number], 1.0, 0.0, cfg, *span, negative=negatives[number], mask=mask[None])[0]
        return regions.TweedieRegions.execute(model or self.model, self.text(1), self.text(2), places, mode,
                                              isolation=isolation)


def apart(a, b):
    """The largest difference, as a share of the largest value."""
    return float((a - b).abs().max() / b.abs().max())


def same(a, b):
    return bool(torch.equal(a, b))


def blend_copies(shares, length):
    """An override for a batch of copies, one a text: what the picture reads is blended over them.

    That is the output blend by definition: every copy reads its own text alone, at its own positions.
    """
    def override(function, q, k, v, heads, *arguments, **options):
        out = function(q, k, v, heads, *arguments, **options)
        tokens = 2 if options.get("skip_reshape") else 1
        queries, keys = q.shape[tokens], k.shape[tokens]
        grids = {grid[0] * grid[1]: grid for grid in ((16, 24), (8, 12))}
        text = next((padded for padded in (length, 32) if queries == keys and queries - padded in grids), 0)
        if queries == keys and not text:
            return out
        if text:
            out = out.clone()
        weights = adaptive_avg_pool2d(shares, grids[queries - text]).flatten(1)[..., None]
        for chunk in out.split(len(shares)):
            chunk[:, text:] = (chunk[:, text:] * weights).sum(0)
        return out
    return override


def shares_of(masks):
    covered = torch.stack(masks).sum(0)
    parts = torch.stack(masks) / covered.clamp_min(1e-9) * covered.clamp(max=1)
    return torch.cat([1 - parts.sum(0, keepdim=True), parts])


def check_exactness(name):
    """Ours against the blended copies, disjoint and overlapping, with negatives of their own."""
    bench = Bench(name)
    texts, negatives = [bench.text(11), bench.text(12)], [bench.text(13), bench.text(14)]
    found, plain = {}, bench.run(bench.text(1), bench.text(2))
    for kind, masks in (("disjoint", bench.masks(hard=True)), ("overlapping", bench.masks())):
        model, positive, negative, *_ = bench.put(texts, negatives, masks=masks)
        ours = bench.run(positive, negative, model)
        copies = bench.model.clone()
        length = texts[0][0][0].shape[1]
        copies.model_options["transformer_options"]["optimized_attention_override"] = blend_copies(
            shares_of(masks), length)
        stacks = [[[torch.cat([entry[0][0] for entry in group]), group[0][0][1]]]
                  for group in ((bench.text(1), *texts), (bench.text(2), *negatives))]
        found[kind] = apart(ours, bench.run(*stacks, copies, batch=3)[:1])
    alike = bench.put([bench.text(1)] * 2, [bench.text(2), None])
    found["same text"] = apart(bench.run(*alike[1:3], alike[0]), plain)
    found["moved"] = apart(ours, plain)
    latent = bench.put([bench.text(1)] * 2, mode="latent")
    found["latent, same text"] = apart(bench.run(*latent[1:3], latent[0]), plain)
    off = bench.put(texts, span=(0.0, 0.0))
    found["off"] = same(bench.run(*off[1:3], off[0]), plain)
    found["after"] = same(bench.run(bench.text(1), bench.text(2)), plain)
    found["report"] = alike[4]
    return found


def check_leak(name):
    """What changing A's text changes in B's half, as a share of what it changes in A's."""
    bench, found = Bench(name), {}
    middle = SIZE[1] // 2
    for kind, isolation in (("free", 0.0), ("isolated", 1.0)):
        outs = []
        for seed in (11, 31):
            model, positive, negative, *_ = bench.put([bench.text(seed), bench.text(12)],
                                                      masks=bench.masks(hard=True), isolation=isolation)
            outs.append(bench.run(positive, negative, model, cfg=1.0, steps=1))
        change = (outs[0] - outs[1]).square()
        found[kind] = float((change[..., middle:].sum() / change[..., :middle].sum()).sqrt())
    plain = [bench.run(bench.text(seed), bench.text(2), cfg=1.0, steps=1) for seed in (1, 31)]
    found["moves"] = apart(*plain)
    return found


def first_rows(bench, seed, masks, **options):
    """The first cross attention's output of a run: rows of the positive pass [N,C]."""
    rows = []

    def listen(out, extra):
        where = extra["cond_or_uncond"].index(0) * len(out) // len(extra["cond_or_uncond"])
        rows.append(out[where].clone())
        return out

    model = bench.model.clone()
    model.set_model_attn2_output_patch(listen)
    model, positive, negative, *_ = bench.put([bench.text(seed), bench.text(12)], masks=masks, model=model,
                                              **options)
    bench.run(positive, negative, model, steps=1)
    return rows[0]


def check_sizes(name):
    """Odd sizes and batches: regions of the same text change nothing; on UNets the right rows change."""
    rng, found = random.Random(7), {"apart": 0.0, "wrong rows": 0}
    for number in range(4):
        size = rng.randrange(256, 1537, 8) // 8, rng.randrange(256, 321, 8) // 8
        bench = Bench(name, size[::-1] if number % 2 else size, batch=1 + number % 4)
        alike = bench.put([bench.text(1)] * 2)
        plain = bench.run(bench.text(1), bench.text(2), steps=1)
        ours = bench.run(*alike[1:3], alike[0], steps=1)
        assert ours.shape == plain.shape
        found["apart"] = max(found["apart"], apart(ours, plain))
        if name in ("sd15", "sdxl"):
            masks = bench.masks(hard=True)
            change = (first_rows(bench, 11, masks) != first_rows(bench, 31, masks)).any(-1)
            level = (1, 2)[name == "sdxl"]
            grid = [-(-side // level) for side in bench.size]
            reach = torch.arange(grid[1]) * level * 8 < masks[0][0].sum()
            found["wrong rows"] += int((change.view(grid) != reach.expand(grid[0], -1)).sum())
    return found


def check_orders(name):
    """Other orders of the batch, several prompts, no negative pass, other backends and their patches."""
    bench, found = Bench(name), {}
    texts, negatives = [bench.text(11, 7), bench.text(12)], [bench.text(13), None]
    model, positive, negative, *_ = bench.put(texts, negatives)
    ours = bench.run(positive, negative, model)
    turned = model.clone()
    kinds = comfy.patcher_extension.WrappersMP
    turned.add_wrapper_with_key(kinds.CALC_COND_BATCH, "turn", lambda executor, model, conds, *rest: executor(
        model, conds[::-1], *rest)[::-1])
    found["turned"] = apart(bench.run(positive, negative, turned), ours)
    other = bench.text(21)
    both = bench.run(positive + other, negative, model)
    halves = bench.run(positive, negative, model, steps=1), bench.run(other, negative, model, steps=1)
    found["two prompts"] = apart(bench.run(positive + other, negative, model, steps=1), sum(halves) / 2)
    found["finite"] = bool(torch.isfinite(both).all())
    alone = bench.put(texts)
    puts = alone, [model, positive, negative]
    found["cfg 1"] = apart(*(bench.run(*put[1:3], put[0], cfg=1.0) for put in puts))
    for backend in ("attention_split", "attention_sub_quad", "attention_basic"):
        calls = []

        def override(function, *arguments, _backend=backend, _calls=calls, **options):
            _calls.append(1)
            return getattr(attention, _backend)(*arguments, **options)

        chained = bench.model.clone()
        chained.model_options["transformer_options"]["optimized_attention_override"] = override
        put = bench.put(texts, negatives, model=chained)
        found[backend] = apart(bench.run(*put[1:3], put[0]), ours)
        found[f"{backend} used"] = bool(calls)
    found["batch"] = apart(bench.run(positive, negative, model, batch=3)[2:], ours)
    return found


def check_scales(name):
    """Guidance per region: as the run's own it changes nothing; elsewhere the picture keeps to its own."""
    bench, found = Bench(name), {}
    texts = [bench.text(1)] * 2
    for kind, cfg, masks in (("own", 4.0, None), ("whole", 7.0, [torch.ones(128, 192)] * 2)):
        put = bench.put(texts, cfg=cfg, masks=masks)
        found[kind] = apart(bench.run(*put[1:3], put[0], cfg=4.0),
                            bench.run(bench.text(1), bench.text(2), cfg=cfg))
    calls = []
    model = put[0].clone()
    model.set_model_unet_function_wrapper(lambda apply, args: calls.append(1) or apply(
        args["input"], args["timestep"], **args["c"]))
    negative = bench.put(texts, [bench.text(5), bench.text(6)], model=model, cfg=7.0)
    bench.run(*negative[1:3], negative[0], steps=2)
    plain = len(calls)
    calls.clear()
    stock = bench.model.clone()
    stock.set_model_unet_function_wrapper(lambda apply, args: calls.append(1) or apply(
        args["input"], args["timestep"], **args["c"]))
    bench.run(bench.text(1), bench.text(2), stock, steps=2)
    found["calls"] = [plain, len(calls)]
    return found


def check_failing(name):
    """An exception in mid-run leaves nothing behind."""
    bench = Bench(name)
    plain = bench.run(bench.text(1), bench.text(2))
    model, positive, negative, *_ = bench.put([bench.text(11), bench.text(12)])
    options = repr(bench.model.model_options)

    def fail(args):
        raise KeyboardInterrupt

    model.set_model_sampler_post_cfg_function(fail)
    with contextlib.suppress(KeyboardInterrupt):
        bench.run(positive, negative, model)
    return {"plain": same(bench.run(bench.text(1), bench.text(2)), plain),
            "options": repr(bench.model.model_options) == options}


def check_fallback(name):
    """A family without attention mode: latent mode, and the report says so."""
    bench = Bench(name)
    plain = bench.run(bench.text(1), bench.text(2))
    alike, others = bench.put([bench.text(1)] * 2), bench.put([bench.text(11), bench.text(12)])
    return {"report": alike[4], "same text": apart(bench.run(*alike[1:3], alike[0]), plain),
            "moved": apart(bench.run(*others[1:3], others[0]), plain)}


def check_energy(name):
    """Spectral guidance keeps its energy in every region of a prompt in mode attention, too."""
    bench, seen, bands = Bench(name), [], {"bands": "two_band", "low": 3.0, "high": 1.0, "cutoff": 0.25}
    masks = bench.masks(hard=True)
    model, positive, negative, *_ = bench.put([bench.text(11), bench.text(12)], masks=masks)
    pushed = spectral.TweedieSpectralGuidance.execute(model, bands, "constant", {"structure": "off"}, 1.0,
                                                      True, 0.0, 1.0)[0]

    def listen(args):
        seen.append((args["conds_out"][0] - args["conds_out"][1]).double())
        return args["conds_out"]

    ours = pushed.model_options["sampler_pre_cfg_function"]
    pushed.model_options["sampler_pre_cfg_function"] = [listen, *ours, listen]
    bench.run(positive, negative, pushed, steps=1)
    weights = adaptive_avg_pool2d(torch.stack(masks), SIZE)[:, None].double()
    plain, moved = (torch.stack([(one * seen[0] * weight).sum() for weight in weights]) for one in seen)
    return {"kept": float((moved / plain - 1).abs().max()), "moved": apart(seen[1], seen[0])}


CHECKS = {function.__name__.removeprefix("check_"): function for function in (
    check_exactness, check_leak, check_sizes, check_orders, check_scales, check_failing, check_fallback,
    check_energy)}

if __name__ == "__main__":
    with torch.inference_mode():
        json.dump({name: CHECKS[sys.argv[1]](name) for name in sys.argv[2:] or list(WIDTHS)[:-2]}, sys.stdout)
        print()
