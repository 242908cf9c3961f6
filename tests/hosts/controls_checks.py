"""Runs in ComfyUI's Python: blended controls on tiny nets of the host's classes, as a line of JSON."""
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import in_comfyui  # noqa: F401, I001
import comfy.sample
import torch
from comfy_extras.nodes_controlnet import SetUnionControlNetType
from hosts import tiny_controls
from hosts.regions_checks import Bench, apart, same
from nodes import ConditioningSetArea, ControlNetApply, ControlNetApplyAdvanced
from tweedie_pack.nodes import controls

FAMILIES = {"sd15": "sd15", "sdxl": "sdxl", "flux_xlabs": "flux", "flux": "flux", "sd35": "sd35",
            "qwen": "qwen", "t2i": "sd15_two", "shuffle": "sd15", "linear_up": "sd15", "lora": "sd15",
            "flux_union": "flux", "union": "sd15", "qwen_fun": "qwen"}  # control -> model
TYPES = {"union": ("openpose", "depth", "canny/lineart/anime_lineart/mlsd", "normal"),
         "flux_union": ("openpose", "depth", "openpose", "depth")}
OFF = {"reuse": "off"}
SIZE = (16, 24)


class Desk:
    """A tiny model, four nets for it with hints of their own, and the stock chain of some of them.

    calls and encoded hold (step, rows) of each call of a net and of its encoder of hints, net by net.
    """

    def __init__(self, name, size=SIZE, batch=1):
        self.name, self.bench = name, Bench(FAMILIES[name], size, batch)
        if name == "union":
            self.bench.model = tiny_controls.wide()
        self.nets = [getattr(tiny_controls, name)(seed) for seed in range(4)]
        self.step, self.calls, self.encoded = 0, [[] for _ in self.nets], [[] for _ in self.nets]
        for number, net in enumerate(self.nets):
            self.count(number, net)
        if name in TYPES:
            self.nets = [SetUnionControlNetType.execute(net, type)[0]
                         for net, type in zip(self.nets, TYPES[name], strict=True)]

    def count(self, number, control):
        net = getattr(control, "control_model", None) or getattr(control, "t2i_model", None)
        parts = {name: getattr(net, name, None) for name in (
            "zero_convs", "controlnet_blocks", "control_blocks", "body", "input_hint_block")}
        first = next((blocks[0] for blocks in list(parts.values())[:4] if blocks), None)
        for part, listed in ((first, self.calls), (parts["input_hint_block"], self.encoded)):
            if part is not None:
                part.register_forward_hook(lambda _net, _given, out, listed=listed: listed[number].append(
                    (self.step, len(out))))

    def hint(self, number, batch=1):
        height, width = (8 * side for side in self.bench.size)
        return torch.rand(batch, height, width, 3, generator=torch.Generator().manual_seed(100 + number))

    def texts(self):
        return self.bench.text(1), self.bench.text(2)

    def chain(self, numbers, strengths=(0.8, 0.5, 1.2, 0.7), start=0.0, end=1.0, batch=1, after=None):
        """Positive and negative behind stock apply nodes; a net that comes again gets another hint."""
        pair, channels = after or self.texts(), tiny_controls.VAES.get(self.name)
        vae = channels and tiny_controls.Vae(channels, self.bench.shape[2:-2])
        for place, number in enumerate(numbers):
            hint = self.hint(number + 10 * list(numbers)[:place].count(number), batch)
            pair = ControlNetApplyAdvanced().apply_controlnet(
                *pair, self.nets[number], hint, strengths[place], start, end, vae=vae)
        return pair

    def run(self, pair, model=None, cfg=4.0, steps=2, callback=None):
        noise = torch.randn(self.bench.shape, generator=torch.Generator().manual_seed(3))

        def tell(step, *arguments):
            self.step = step + 1
            if callback is not None:
                callback(step, *arguments)
        self.step = 0
        for listed in (*self.calls, *self.encoded):
            listed.clear()
        return comfy.sample.sample(model or self.bench.model, noise, steps, cfg, "euler", "simple", *pair,
                                   torch.zeros_like(noise), callback=tell, disable_pbar=True, seed=5)

    def counted(self, pair, **more):
        """Calls, rows of the first call, and encodings, of the first two nets in a run."""
        self.run(pair, **more)
        return [[len(one) for one in self.calls[:2]], [one[0][1] if one else 0 for one in self.calls[:2]],
                [len(one) for one in self.encoded[:2]]]


def rule(curve="always", layers="even", uncond=1.0, priority=0.0, mask=None, region=0):
    return controls.TweedieControlRule.execute(curve, layers, uncond, priority, mask, region)[0]


def blend(pair, *rules, policy="sum", reuse=OFF, union=False, **knobs):
    rules = {f"rule{number}": one for number, one in enumerate(rules)}
    return tuple(controls.TweedieControlBlend.execute(
        *pair, {"policy": policy, **knobs}, reuse, rules, union).result)


def error_of(act):
    try:
        act()
    except (ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return ""


def halves(size=SIZE):
    """Masks [1,H,W] of the left and the right half, in pixels."""
    left = torch.zeros(1, *(8 * side for side in size))
    left[..., : left.shape[-1] // 2] = 1
    return left, 1 - left


def check_exactness(name):
    desk, found = Desk(name), {}
    plain = desk.run(desk.texts())
    for count in (1, 2, 3, 4):
        pair = desk.chain(range(count))
        found[f"{count} nets"] = same(desk.run(pair), desk.run(blend(pair)))
    full, (half, _) = torch.ones(1, 128, 192), halves()
    pair, one = desk.chain([0, 1]), desk.chain([0])
    stock, alone = desk.run(pair), desk.run(one)
    found["moved"] = apart(stock, plain)
    found["strength 0"] = same(desk.run(blend(desk.chain([0, 1], [0, 0]))), plain)
    found["weight 0"] = same(desk.run(blend(pair, rule("0"), rule("0"))), plain)
    found["full mask"] = same(desk.run(blend(pair, rule(mask=full), rule(mask=full))), stock)
    found["empty mask"] = same(desk.run(blend(pair, rule(mask=0 * full), rule(mask=0 * full))), plain)
    found["one off"] = same(desk.run(blend(pair, rule(), rule("0"))), alone)
    found["half mask differs"] = not same(desk.run(blend(pair, rule(mask=half))), stock)
    found["policies, one net"] = all(same(desk.run(blend(one, policy=policy)), alone)
                                     for policy in controls.BLENDS)
    found["policies differ"] = all(not same(desk.run(blend(pair, policy=policy)), stock)
                                   for policy in controls.BLENDS if policy not in ("sum", "project", "cap"))
    return found


def check_chains(name):
    """Chains of every shape against the same chain without the blend."""
    desk = Desk(name)
    two, three = desk.run(desk.chain([0, 1])), desk.run(desk.chain([0, 1, 2]))
    found, again = {}, desk.chain([0, 0])
    found["same net"] = apart(desk.run(blend(again)), desk.run(again))
    mixed = desk.chain([0, 1, 0])
    found["same net, with another between"] = apart(desk.run(blend(mixed)), desk.run(mixed))
    one_sided = desk.chain([0, 1])[0], desk.bench.text(2)
    stock = desk.run(one_sided)
    found["positive only"] = same(desk.run(blend(one_sided)), stock)
    found["uncond 0"] = apart(desk.run(blend(desk.chain([0, 1]), rule(uncond=0), rule(uncond=0))), stock)
    if name not in tiny_controls.VAES:
        old = ControlNetApply().apply_controlnet(desk.bench.text(1), desk.nets[0], desk.hint(0), 0.8)[0]
        pair = old, desk.bench.text(2)
        found["old apply node"] = same(desk.run(blend(pair)), desk.run(desk.chain([0])))
    late = blend(desk.chain([1]))
    late[0][0][1]["control"].set_previous_controlnet(desk.chain([0])[0][0][1]["control"])
    found["behind a control"] = same(desk.run(late), desk.run(desk.chain([0, 1], [0.8, 0.8])))
    longer = desk.chain([2], [1.2], after=blend(desk.chain([0, 1])))
    found["before a control"] = same(desk.run(longer), three)
    found["a blend in a blend"] = (same(desk.run(blend(longer)), three)
                                   and same(desk.run(blend(blend(desk.chain([0, 1])))), two))
    parted = desk.chain([1], [0.5], start=0.4, after=desk.chain([0], end=0.6))
    found["start and end"] = same(desk.run(blend(parted), steps=5), desk.run(parted, steps=5))
    return found


def check_calls(name):
    desk = Desk(name)
    pair, many, empty = desk.chain([0, 1]), {"steps": 20}, torch.zeros(1, 128, 192)
    parted = desk.chain([1], [0.5], start=0.4, after=desk.chain([0], end=0.6))
    found = {"stock": desk.counted(pair), "sum": desk.counted(blend(pair)),
             "weight 0": desk.counted(blend(pair, rule("0"))),
             "empty mask": desk.counted(blend(pair, rule(mask=empty))),
             "uncond 0": desk.counted(blend(pair, rule(uncond=0))),
             "range, stock": desk.counted(parted, steps=5),
             "range": desk.counted(blend(parted), steps=5),
             "curve": desk.counted(blend(pair, rule("0:1, 0.5:1, 0.5:0")), steps=4),
             "same net": desk.counted(blend(desk.chain([0, 0]))),
             "interval": desk.counted(blend(pair, reuse={"reuse": "interval", "interval": 2}), **many)}
    found["interval, ends"] = [desk.calls[0][place][0] for place in (0, -1)]
    for threshold in (0.0, 0.3, 1.0):
        found[f"threshold {threshold}"] = desk.counted(blend(pair, reuse={
            "reuse": "threshold", "threshold": threshold}), **many)
        found[f"threshold {threshold}, ends"] = [desk.calls[0][place][0] for place in (0, -1)]
    apart_ones = desk.chain([0])[0], desk.chain([0])[1]  # two controls, and so two calls a step
    found["a negative alone"] = desk.counted(blend(apart_ones))
    found["a negative alone, uncond 0"] = desk.counted(blend(apart_ones, rule(uncond=0)))
    positive = [ConditioningSetArea().append(pair[0], *area, 1.0)[0][0]
                for area in ((96, 128, 0, 0), (128, 64, 64, 0), (96, 128, 96, 0))]
    areas = positive, pair[1]
    found["areas"] = desk.counted(blend(areas))
    found["areas, as stock"] = same(desk.run(blend(areas)), desk.run(areas))
    return found


def check_union(name):
    """Two types of one net: a call for each where they are summed, one for both where they are joined."""
    desk = Desk(name)
    desk.nets[1] = SetUnionControlNetType.execute(desk.nets[0], TYPES[name][1])[0]
    pair, one = desk.chain([0, 1]), desk.chain([0])
    found = {"sum": desk.counted(blend(pair)), "joined": desk.counted(blend(pair, union=True))}
    stock = desk.run(pair)
    found["same"] = same(desk.run(blend(pair)), stock)
    found["moved"] = apart(desk.run(blend(pair, union=True)), stock)
    found["one type"] = same(desk.run(blend(one, union=True)), desk.run(one))
    found["one of two off"] = apart(desk.run(blend(pair, rule(), rule("0"), union=True)), desk.run(one))
    masked = blend(pair, rule(mask=halves()[0]), union=True)
    found["masked"] = desk.counted(masked)
    return found


LARGE = {"flux": [((185, 135), 1, 1)]}  # whose attention is cheap enough


def check_sizes(name):
    """A net twice, in the left half and in the right, against it once; and the sum against stock."""
    found = {}
    for size, batch, many in ((SIZE, 2, 2), (SIZE, 3, 2), ((65, 41), 1, 1), *LARGE.get(name, ())):
        desk, (left, right) = Desk(name, size, batch), halves(size)
        once = desk.chain([0], batch=many)
        twice = desk.chain([0], batch=many, after=once)
        label, steps = "x".join(map(str, (*size, batch))), {"steps": 1}
        found[label] = error_of(lambda: desk.run(once, **steps))  # noqa: B023
        if found[label]:
            found[f"{label}, blended"] = error_of(lambda: desk.run(blend(once), **steps))  # noqa: B023
            continue
        stock = desk.run(once, **steps)
        found[f"{label}, moved"] = apart(stock, desk.run(desk.texts(), **steps))
        found[f"{label}, sum"] = same(desk.run(blend(once), **steps), stock)
        found[f"{label}, halves"] = apart(
            desk.run(blend(twice, rule(mask=left), rule(mask=right)), **steps), stock)
    rows = torch.tensor([1.0, 0.0, 1.0])[:, None, None].expand(3, 128, 192)
    desk = Desk(name, SIZE, 3)
    pair = desk.chain([0, 1], batch=3)
    ours, stock, plain = (desk.run(one) for one in (
        blend(pair, rule(mask=rows), rule(mask=rows)), pair, desk.texts()))
    found["mask rows"] = max(apart(ours[[0, 2]], stock[[0, 2]]), apart(ours[1], plain[1]))
    found["mask rows, moved"] = apart(stock[1], plain[1])
    return found


def check_orders(name):
    """Every way in which the host packs prompts into calls."""
    desk, found = Desk(name), {}
    positive, negative = desk.texts()
    off = [rule(uncond=0)] * 2
    longer = desk.bench.text(2, 50)
    values = {**positive[0][1], "cross_attn_controlnet": desk.bench.text(9)[0][0]}
    for label, texts in (("two positives", (positive + desk.bench.text(5), negative)),
                         ("two negatives", (positive, negative + desk.bench.text(5))),
                         ("a longer negative", (positive, longer)),
                         ("a text for controls", ([[positive[0][0], values]], negative))):
        pair = desk.chain([0, 1], after=texts)
        found[label] = same(desk.run(blend(pair)), desk.run(pair))
        found[f"{label}, uncond 0"] = apart(desk.run(blend(pair, *off)), desk.run((pair[0], texts[1])))
    pair = desk.chain([0, 1])
    found["cfg 1"] = same(desk.run(blend(pair, *off), cfg=1.0), desk.run(pair, cfg=1.0))
    half = desk.run(blend(pair, *[rule("0.5")] * 2))
    found["weight as strength"] = apart(half, desk.run(desk.chain([0, 1], [0.4, 0.25])))
    return found


def check_regions(name):
    """Beside a regional prompt of each mode; and a region as a rule's mask."""
    desk, found = Desk(name), {}
    masks, texts = desk.bench.masks(hard=True), [desk.bench.text(11), desk.bench.text(12)]
    for mode in ("attention", "latent"):
        model, positive, negative, *_ = desk.bench.put(texts, mode=mode, masks=masks)
        pair = desk.chain([0, 1], after=(positive, negative))
        stock = desk.run(pair, model)
        found[f"{mode}, sum"] = same(desk.run(blend(pair), model), stock)
        ours = desk.run(blend(pair, rule(region=2)), model)
        found[f"{mode}, region"] = apart(ours, desk.run(blend(pair, rule(mask=masks[1][None])), model))
        found[f"{mode}, moved"] = apart(ours, stock)
        found[f"{mode}, after"] = apart(desk.run((positive, negative), model), stock)
    found["no such region"] = error_of(lambda: blend(pair, rule(region=3)))
    found["mask and region"] = error_of(lambda: blend(pair, rule(mask=masks[0][None], region=1)))
    found["no regions"] = error_of(lambda: blend(desk.chain([0]), rule(region=1)))
    found["too many rules"] = error_of(lambda: blend(pair, rule(), rule(), rule()))
    return found


CHECKS = {name.removeprefix("check_"): check for name, check in globals().items()
          if name.startswith("check_")}

if __name__ == "__main__":
    check, *names = sys.argv[1:]
    with torch.no_grad():
        print(json.dumps({name: CHECKS[check](name) for name in names or FAMILIES}))
