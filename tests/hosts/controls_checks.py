"""Runs in ComfyUI's Python: blended controls on tiny nets of the host's classes, as a line of JSON."""
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import in_comfyui  # noqa: F401, I001
import torch
from hosts import tiny_controls
from hosts.regions_checks import Bench
from nodes import ControlNetApplyAdvanced
from tweedie_pack.nodes import controls

FAMILIES = {"sd15": "sd15", "sdxl": "sdxl", "flux_xlabs": "flux", "flux": "flux", "sd35": "sd35",
            "qwen": "qwen", "t2i": "sd15_two"}  # control -> model
OFF = {"reuse": "off"}


class Desk:
    """A tiny model, four nets for it with hints of their own, and the stock chain of the first of them."""

    def __init__(self, name, size=(16, 24), batch=1):
        self.name, self.bench = name, Bench(FAMILIES[name], size, batch)
        self.nets = [getattr(tiny_controls, name)(seed) for seed in range(4)]
        self.calls = [0] * 4
        for number, net in enumerate(self.nets):
            self.count(number, net)

    def count(self, number, control):
        net = getattr(control, "control_model", None) or control.t2i_model

        def note(*arguments):
            self.calls[number] += 1
        first = getattr(net, "zero_convs", None) or getattr(net, "controlnet_blocks", None) or net.body
        first[0].register_forward_hook(note)

    def hint(self, number, batch=1):
        height, width = (8 * side for side in self.bench.size)
        return torch.rand(batch, height, width, 3, generator=torch.Generator().manual_seed(100 + number))

    def chain(self, numbers, strengths=None, start=0.0, end=1.0, batch=1):
        """Positive and negative behind stock apply nodes."""
        pair = self.bench.text(1), self.bench.text(2)
        channels = tiny_controls.VAES.get(self.name)
        vae = channels and tiny_controls.Vae(channels, self.bench.shape[2:-2])
        for number, strength in zip(numbers, strengths or [0.8, 0.5, 1.2, 0.7], strict=False):
            pair = ControlNetApplyAdvanced().apply_controlnet(
                *pair, self.nets[number], self.hint(number, batch), strength, start, end, vae=vae)
        return pair

    def run(self, pair, **more):
        return self.bench.run(*pair, **more)


def rule(curve="always", layers="even", uncond=1.0, priority=0.0, mask=None, region=0):
    return controls.TweedieControlRule.execute(curve, layers, uncond, priority, mask, region)[0]


def blend(pair, *rules, policy="sum", reuse=OFF, union=False, **knobs):
    rules = {f"rule{number}": one for number, one in enumerate(rules)}
    return tuple(controls.TweedieControlBlend.execute(
        *pair, {"policy": policy, **knobs}, reuse, rules, union).result)


def same(a, b):
    return bool(torch.equal(a, b))


def check_exactness(name):
    desk, found = Desk(name), {}
    plain = desk.run((desk.bench.text(1), desk.bench.text(2)))
    for count in (1, 2, 3, 4):
        pair = desk.chain(range(count))
        found[f"{count} nets"] = same(desk.run(pair), desk.run(blend(pair)))
    full, half = torch.ones(1, 64, 96), torch.zeros(1, 64, 96)
    half[..., :48] = 1
    pair, one = desk.chain([0, 1]), desk.chain([0])
    stock = desk.run(pair)
    found["moved"] = float((stock - plain).abs().max() / plain.abs().max())
    found["strength 0"] = same(desk.run(blend(desk.chain([0, 1], [0, 0]))), plain)
    found["weight 0"] = same(desk.run(blend(pair, rule("0"), rule("0"))), plain)
    found["full mask"] = same(desk.run(blend(pair, rule(mask=full), rule(mask=full))), stock)
    found["empty mask"] = same(desk.run(blend(pair, rule(mask=0 * full), rule(mask=0 * full))), plain)
    found["one off"] = same(desk.run(blend(pair, rule(), rule("0"))), desk.run(one))
    found["half mask differs"] = not same(desk.run(blend(pair, rule(mask=half))), stock)
    found["policies, one net"] = all(same(desk.run(blend(one, policy=policy)), desk.run(one))
                                     for policy in controls.BLENDS)
    found["policies differ"] = all(not same(desk.run(blend(pair, policy=policy)), stock)
                                   for policy in controls.BLENDS if policy not in ("sum", "project", "cap"))
    return found


CHECKS = {name.removeprefix("check_"): check for name, check in globals().items()
          if name.startswith("check_")}

if __name__ == "__main__":
    check, *names = sys.argv[1:]
    with torch.no_grad():
        print(json.dumps({name: CHECKS[check](name) for name in names or FAMILIES}))
