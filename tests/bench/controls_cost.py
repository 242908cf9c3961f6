"""What blended ControlNets cost: COMFYUI_PATH=.. TWEEDIE_SD15=.. TWEEDIE_CONTROLNETS=.. PYTHON \
tests/bench/controls_cost.py > tables.md

All figures are ratios to the stock chain of two nets in the same run. FLOPs are counted by torch over whole
runs of the host's own sampling; seconds are CPU time of one thread. TWEEDIE_SD15 and the folder
TWEEDIE_CONTROLNETS hold Stable Diffusion 1.5 and two ControlNets for it, whose weights may be random. Where
CUDA is there, random nets of SDXL's size take their place, in half precision. Takes 10 GB and an hour.
"""
# ruff: noqa: E402
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import in_comfyui
import torch

in_comfyui.args.use_pytorch_cross_attention = True  # its kernels are counted
in_comfyui.args.cpu = not torch.cuda.is_available()
import comfy.cldm.cldm
import comfy.controlnet
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sample
import comfy.sd
import comfy.supported_models
from torch.utils.flop_counter import FlopCounterMode
from tweedie_pack.controls.blends import BLENDS
from tweedie_pack.controls.multi import Batch, Rule, Weigher, join, longest
from tweedie_pack.nodes.controls import TweedieControlBlend, TweedieControlRule

from nodes import ControlNetApplyAdvanced

STEPS, ROUNDS, SCALE = 6, 5, 7.0
Pair = tuple[list, list]
OFF, SECOND = {"reuse": "off"}, {"reuse": "interval", "interval": 2}


def rule(curve: str = "always", uncond: float = 1.0):
    return TweedieControlRule.execute(curve, "even", uncond, 0.0)[0]


def blend(pair: Pair, *rules, policy: str = "sum", reuse: dict = OFF) -> Pair:
    named = {f"rule{number}": one for number, one in enumerate(rules)}
    return TweedieControlBlend.execute(*pair, {"policy": policy}, reuse, named).args


def chain(prompts: Pair, nets: list, side: int) -> Pair:
    """Both prompts behind stock apply nodes, a hint of noise for each net."""
    for number, net in enumerate(nets):
        hint = torch.rand(1, side, side, 3, generator=torch.Generator().manual_seed(number))
        prompts = ControlNetApplyAdvanced().apply_controlnet(*prompts, net, hint, 1.0, 0.0, 1.0)
    return prompts


def ways_of(prompts: Pair, nets: list, side: int) -> dict[str, tuple[str, Pair]]:
    """way -> the way that it is a ratio to, and its prompts."""
    stock, twice = chain(prompts, nets, side), chain(prompts, [nets[0], nets[0]], side)
    base, same = "stock chain", "one net twice, stock chain"
    return {
        base: (base, stock),
        "no control": (base, prompts),
        "sum": (base, blend(stock)),
        "cap": (base, blend(stock, policy="cap")),
        "second control of weight 0": (base, blend(stock, rule(), rule("0"))),
        "structure early, detail late": (base, blend(stock, rule("structure early"), rule("detail late"))),
        "nothing for the negative prompt": (base, blend(stock, rule(uncond=0), rule(uncond=0))),
        "reuse, interval 2": (base, blend(stock, reuse=SECOND)),
        same: (same, twice),
        "one net twice, in one batch": (same, blend(twice)),
    }


def sample(model, prompts: Pair, side: int) -> None:
    latent = torch.zeros(1, 4, side // 8, side // 8)
    comfy.sample.sample(model, torch.ones_like(latent), STEPS, SCALE, "euler", "normal", *prompts, latent,
                        disable_pbar=True, seed=0)


def count(run: Callable[[], None]) -> float:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 1e12


def spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


def table(title: str, model, ways: dict[str, tuple[str, Pair]], side: int, clock: Callable) -> None:
    """FLOPs and seconds of whole runs, the ways taking turns."""
    runs = {way: partial(sample, model, prompts, side) for way, (_, prompts) in ways.items()}
    for run in runs.values():
        run()
    flops = {way: count(run) for way, run in runs.items()}
    took = [{way: clock(run) for way, run in runs.items()} for _ in range(ROUNDS)]
    print(f"\n### {title}\n\nRuns of {STEPS} steps; time as the median over {ROUNDS} pairs of runs, their "
          "range in brackets.\n\n| way | FLOPs | time | a step |\n|---|---|---|---|")
    for way, (base, _) in ways.items():
        ratios, seconds = [one[way] / one[base] for one in took], statistics.median(one[way] for one in took)
        print(f"| {way} | {flops[way] / flops[base]:.4f} | {spread(ratios)} | {seconds / STEPS:.3g} s |",
              flush=True)


def on_cpu(run: Callable[[], None]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def on_cuda(run: Callable[[], None]) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def policies(net, context: torch.Tensor, clock: Callable, title: str) -> None:
    """Joining two nets' residuals, beside one net's call on the same rows."""
    model = net.control_model
    new = partial(torch.randn, device=context.device, dtype=context.dtype)
    rows, side = len(context), 32 if context.shape[-1] == 768 else 128
    given = dict(x=new(rows, 4, side, side), timesteps=torch.full((rows,), 500.0).to(context),
                 context=context)
    if model.num_classes is not None:
        given["y"] = new(rows, 2816)
    outputs = [model(hint=new(rows, 3, 8 * side, 8 * side), **given) for _ in range(2)]
    whole = min(clock(lambda: model(hint=new(rows, 3, 8 * side, 8 * side), **given)) for _ in range(ROUNDS))
    batch = Batch(rows, (1, 0), (side, side))
    weighed = [Weigher(Rule()).weigh(output, 1.0, batch) for output in outputs]
    print(f"\n### {title}\n\n| policy | beside one net's call |\n|---|---|")
    for id, plugin in BLENDS.items():
        took = min(clock(lambda plugin=plugin: join(weighed, plugin, longest(outputs)))
                   for _ in range(2 * ROUNDS))
        print(f"| {id} | {took / whole:.2%} |", flush=True)


def stable_diffusion() -> None:
    model, clip, _, _ = comfy.sd.load_checkpoint_guess_config(os.environ["TWEEDIE_SD15"])
    paths = sorted(pathlib.Path(os.environ["TWEEDIE_CONTROLNETS"]).glob("*.safetensors"))[:2]
    nets = [comfy.controlnet.load_controlnet(str(path)) for path in paths]
    prompts = tuple(clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("a cat", "blurry"))
    name = "Stable Diffusion 1.5 at 256x256, one CPU thread"
    table(f"Time and FLOPs of {name}", model, ways_of(prompts, nets, 256), 256, on_cpu)
    policies(nets[0], prompts[0][0][0].repeat(2, 1, 1), on_cpu, f"Policies beside a net's call, {name}")


SDXL = dict(in_channels=4, image_size=32, model_channels=320, num_res_blocks=[2] * 3, channel_mult=[1, 2, 4],
            num_head_channels=64, num_heads=-1, context_dim=2048, use_spatial_transformer=True, legacy=False,
            use_linear_in_transformer=True, adm_in_channels=2816, num_classes="sequential",
            transformer_depth=[0, 0, 2, 2, 10, 10], transformer_depth_middle=10, dtype=torch.float16)


def fill(net: torch.nn.Module) -> torch.nn.Module:
    for weight in net.parameters():
        weight.data.normal_(std=0.02)
    return net


def large() -> None:
    """SDXL's size, at random, in half precision."""
    device = comfy.model_management.get_torch_device()
    settings = comfy.supported_models.SDXL({
        **SDXL, "out_channels": 4, "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        "use_temporal_attention": False})
    settings.manual_cast_dtype = None
    model = comfy.model_patcher.ModelPatcher(fill(comfy.model_base.SDXL(settings, device=device)), device,
                                             torch.device("cpu"))
    nets = [comfy.controlnet.ControlNet(fill(comfy.cldm.cldm.ControlNet(
        **SDXL, hint_channels=3, device=device, operations=comfy.ops.disable_weight_init)),
        load_device=device) for _ in range(2)]
    prompts = tuple([[torch.randn(1, 77, 2048), {"pooled_output": torch.randn(1, 1280)}]] for _ in range(2))
    name = f"SDXL at 1024x1024, float16, {torch.cuda.get_device_name()}"
    table(f"Time and FLOPs of {name}", model, ways_of(prompts, nets, 1024), 1024, on_cuda)
    context = torch.randn(2, 77, 2048, device=device, dtype=SDXL["dtype"])
    policies(nets[0], context, on_cuda, f"Policies beside a net's call, {name}")


@torch.inference_mode()
def main() -> None:
    torch.set_num_threads(1)
    if torch.cuda.is_available():
        large()
    else:
        stable_diffusion()


if __name__ == "__main__":
    main()
