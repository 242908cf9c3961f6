"""What regional prompts cost: COMFYUI_PATH=.. TWEEDIE_SD15=.. PYTHON tests/bench/regions_cost.py > tables.md

All figures are ratios to a step without regions, of a positive and a negative prompt (Flux: the positive), in
the same run. FLOPs are counted by torch on the host's own full-size nets without data (meta tensors); where
rows go is worked out before, with data. Seconds are CPU time of one thread on TWEEDIE_SD15, whose weights may
be random, through the host's own sampling; where CUDA is there, SDXL in half precision follows. Takes 10 GB
of memory and half an hour.
"""
# ruff: noqa: E402
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from unittest.mock import patch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import in_comfyui
import torch

in_comfyui.args.use_pytorch_cross_attention = True  # its kernels are counted, and flash attention is one
import comfy.ops
import comfy.patcher_extension
import comfy.sample
import comfy.sd
from comfy.ldm.flux.model import Flux
from comfy.ldm.lumina.model import NextDiT
from comfy.ldm.modules.attention import optimized_attention
from comfy.ldm.modules.diffusionmodules.mmdit import OpenAISignatureMMDITWrapper
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.ldm.qwen_image.model import QwenImageTransformer2DModel
from torch.utils.flop_counter import FlopCounterMode
from tweedie_pack.controls import cross, joint
from tweedie_pack.controls.attention import Part, divide
from tweedie_pack.controls.masks import box_mask
from tweedie_pack.controls.regions import MaskSet, Region, gather
from tweedie_pack.nodes.regions import TweedieRegionalPrompt, encode

CPU, META = torch.device("cpu"), torch.device("meta")
ROUNDS, SCALE = 5, 7.0
BOXES = [(x / 2, y / 2, (x + 1) / 2, (y + 1) / 2) for y in (0, 1) for x in (0, 1)]  # four regions
WAYS = {"hard": (0.0, 0.0), "hard, base ratio 0.2": (0.2, 0.0), "feather 0.1": (0.0, 0.1)}
COMMON = {"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320,
          "use_spatial_transformer": True, "operations": comfy.ops.disable_weight_init}
UNETS = {  # name -> side of the latent, width of the text, the net
    "SD1.5 at 512x512": (64, 768, {
        "num_res_blocks": [2] * 4, "channel_mult": [1, 2, 4, 4], "num_heads": 8, "context_dim": 768,
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_output": [1] * 9 + [0] * 3,
        "transformer_depth_middle": 1}),
    "SDXL at 1024x1024": (128, 2048, {
        "num_res_blocks": [2] * 3, "channel_mult": [1, 2, 4], "num_head_channels": 64, "context_dim": 2048,
        "use_linear_in_transformer": True, "adm_in_channels": 2816, "num_classes": "sequential",
        "transformer_depth": [0, 0, 2, 2, 10, 10], "transformer_depth_middle": 10,
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10]})}
Step = Callable[[dict], object]  # of a net, by its transformer options


class Known(MaskSet):
    """Regions whose shares can be read where tensors have no data."""

    def on(self, grid, full, active, device):
        return super().on(grid, full, active, CPU if device == META else device)


def divide_known(shares):
    """The parts of shares with data, as tensors without."""
    return [part and Part(*(x if x is None else x.to(META) for x in part)) for part in divide(shares)]


def regions(way: str, pixels: int) -> Known:
    ratio, soft = WAYS[way]
    size = pixels, pixels
    return Known(gather([Region(box_mask(box, size), base_ratio=ratio) for box in BOXES], size,
                        [soft] * len(BOXES)).regions)


def new_unet(name: str, device: torch.device, dtype: torch.dtype) -> tuple[UNetModel, Step]:
    """The net, and its step for a negative and a positive prompt of 77 tokens."""
    side, width, config = UNETS[name]
    net = UNetModel(**COMMON, **config, dtype=dtype, device=device).eval()
    for weight in net.parameters():
        weight.data.normal_(std=0.02)
    new = partial(torch.randn, device=device, dtype=dtype)
    x, t, context = new(2, 4, side, side), new(2), new(2, 77, width)
    y = new(2, 2816) if "adm_in_channels" in config else None
    return net, lambda options: net(x, t, context, y=y, transformer_options=options)


def routed(net: UNetModel, name: str, way: str, device: torch.device, dtype: torch.dtype) -> dict:
    """Options that route the positive prompt, which stands second; they keep its projected texts."""
    side, width, _ = UNETS[name]
    texts = tuple(torch.randn(1, 77, width, device=device, dtype=dtype) for _ in BOXES)
    program = cross.Program(regions(way, 8 * side), tuple(range(len(BOXES))), texts)
    hooks = cross.Cross(lambda q, k, v, options: optimized_attention(q, k, v, options["n_heads"]),
                        lambda options: ([None, program], ("negative", "positive")), (side, side),
                        cross.Texts())
    blocks = [("middle", 0), *(("input", n) for n in range(len(net.input_blocks))),
              *(("output", n) for n in range(len(net.output_blocks)))]
    return {"patches": {"attn2_patch": [hooks.append]},
            "patches_replace": {"attn2": dict.fromkeys(blocks, hooks.replace)}}


def repeated() -> dict:
    """As attention couple has it: the positive's queries once for each region, through both projections."""
    def repeat(q, k, v, options):
        q, k = (torch.cat([x[:1], x[1:].repeat(len(BOXES), 1, 1)]) for x in (q, k))
        return q, k, k

    def blend(out, options):
        return torch.cat([out[:1], out[1:].sum(0, keepdim=True)])
    return {"patches": {"attn2_patch": [repeat], "attn2_output_patch": [blend]}}


def count(step: Step, options: dict) -> float:
    """TFLOPs."""
    with FlopCounterMode(display=False) as counter:
        step(options)
    return counter.get_total_flops() / 1e12


def unet_flops() -> None:
    print("\n### FLOPs of UNets, four regions\n\n| net | way | first step | later steps |\n|---|---|---|---|")
    for name in UNETS:
        net, step = new_unet(name, META, torch.float32)
        plain = count(step, {})
        for way in WAYS:
            options = routed(net, name, way, META, torch.float32)
            first, later = (count(step, dict(options)) / plain for _ in range(2))
            print(f"| {name}, {plain:.2f} TFLOP | {way} | {first:.4f} | {later:.4f} |", flush=True)
        couple = count(step, repeated()) / plain
        print(f"| | queries repeated, as attention couple | {couple:.4f} | {couple:.4f} |", flush=True)


def zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(*shape, device=META)


def new_dits() -> dict[str, tuple]:
    """Name -> prompts in a step, tokens of the base's text, of a region's, and (tokens, options) -> a step.

    Lengths are those that the host makes: Flux fills the base's text up to 256, SD3 puts 77 tokens of CLIP
    before every text, Z-Image fills up to multiples of 32.
    """
    def new(net, **config):
        return net(**config, dtype=torch.float32, device=META, operations=comfy.ops.disable_weight_init)
    flux = new(Flux, in_channels=16, out_channels=16, vec_in_dim=768, context_in_dim=4096, hidden_size=3072,
               mlp_ratio=4.0, num_heads=24, depth=19, depth_single_blocks=38, axes_dim=[16, 56, 56],
               theta=10000, patch_size=2, qkv_bias=True, guidance_embed=True, txt_ids_dims=[])
    sd3 = new(OpenAISignatureMMDITWrapper, input_size=None, patch_size=2, in_channels=16, out_channels=16,
              depth=38, pos_embed_max_size=192, num_patches=192**2, adm_in_channels=2048, qk_norm="rms",
              context_embedder_config={"target": "torch.nn.Linear",
                                       "params": {"in_features": 4096, "out_features": 2432}})
    qwen = new(QwenImageTransformer2DModel)
    z_image = new(NextDiT, patch_size=2, in_channels=16, dim=3840, n_layers=30, n_refiner_layers=2,
                  n_heads=30, n_kv_heads=30, qk_norm=True, cap_feat_dim=2560, axes_dims=(32, 48, 48),
                  axes_lens=(1536, 512, 512), z_image_modulation=True, time_scale=1000.0,
                  pad_tokens_multiple=32, ffn_dim_multiplier=8 / 3, multiple_of=256)
    return {
        "Flux": (1, 256, 40, lambda tokens, options: flux(
            zeros(1, 16, 128, 128), zeros(1), zeros(1, tokens, 4096), y=zeros(1, 768), guidance=zeros(1),
            transformer_options=options)),
        "SD3.5-L": (2, 154, 117, lambda tokens, options: sd3(
            zeros(2, 16, 128, 128), zeros(2), context=zeros(2, tokens, 4096), y=zeros(2, 2048),
            transformer_options=options)),
        "Qwen-Image": (2, 40, 40, lambda tokens, options: qwen(
            zeros(2, 16, 1, 128, 128), zeros(2), zeros(2, tokens, 3584), transformer_options=options)),
        "Z-Image": (2, 64, 64, lambda tokens, options: z_image(
            zeros(2, 16, 128, 128), zeros(2), zeros(2, tokens, 2560), tokens, transformer_options=options)),
    }


def override(prompts: list[joint.Prompt], cache: dict) -> dict:
    def attend(attention, q, k, v, heads, mask=None, **keywords):
        def plain(q, k, v, mask):
            return attention(q, k, v, heads, mask=mask, **keywords)
        dims = tuple(2 if keywords.get(side) else 1 for side in ("skip_reshape", "skip_output_reshape"))
        return joint.read_prompts(plain, q, k, v, mask, prompts, dims, cache)
    return {"optimized_attention_override": attend}


def dit_flops() -> None:
    print("\n### FLOPs of transformers at 1024x1024, four regions of 40 tokens as each family needs them\n\n"
          "| net | text | tokens of the positive | way | a step |\n|---|---|---|---|---|")
    for name, (chunks, base, own, step) in new_dits().items():
        plain, lengths = count(partial(step, base), {}), (base, *[own] * len(BOXES))
        more = (sum(lengths) - base) / (4096 + base)
        for way in WAYS:
            prompt = joint.Prompt(regions(way, 1024), tuple(range(len(BOXES))), lengths, sum(lengths),
                                  (64, 64), 1, (128, 128))
            prompts = [prompt._replace(masks=None, active=(), lengths=(base,)), prompt][-chunks:]
            ratio = count(partial(step, prompt.text), override(prompts, {})) / plain
            print(f"| {name}, {plain:.1f} TFLOP | {base} + 4 x {own} | {more:+.1%} | {way} | {ratio:.4f} |",
                  flush=True)


def seconds_on_cpu() -> None:
    """The host's own sampling, plain and regional in turn; a run has two steps, its first and a later one."""
    model, clip, _, _ = comfy.sd.load_checkpoint_guess_config(os.environ["TWEEDIE_SD15"])
    took = []

    def clock(executor, *arguments):
        start = time.process_time()
        out = executor(*arguments)
        took.append(time.process_time() - start)
        return out
    model = model.clone()
    model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.CALC_COND_BATCH, "clock", clock)

    def regional(mode, base_ratio="0", feather=0.0, base=""):
        text = base + "a red ball BREAK a blue cup BREAK a green tree BREAK a white house"
        return TweedieRegionalPrompt.execute(model, clip, text, "dull", 512, 512, mode, "columns",
                                             "1,1,1;1,1,1", base_ratio, feather, 0.0, 1.0).args[:3]
    ways = {"plain": (model, encode(clip, "a red ball"), encode(clip, "dull")),
            "attention, hard": regional("attention"),
            "attention, base ratio 0.2": regional("attention", "0.2", base="a room ADDBASE "),
            "attention, feather 0.1": regional("attention", feather=0.1), "latent": regional("latent")}
    latent = torch.zeros(1, 4, 64, 64)
    steps = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, (patched, positive, negative) in ways.items():
            took.clear()
            comfy.sample.sample(patched, torch.randn_like(latent), 2, SCALE, "euler", "simple", positive,
                                negative, latent, disable_pbar=True, seed=0)
            steps[way].append(tuple(took))
    plain = statistics.median(sum(pair) / 2 for pair in steps["plain"])
    print("\n### Time of SD1.5 at 512x512, four regions, one CPU thread\n\n"
          f"A plain step: {plain:.3g} s; ratios are medians over {ROUNDS} pairs of steps, their range in "
          "brackets.\n\n| mode | first step | later steps |\n|---|---|---|")
    for way in list(ways)[1:]:
        pairs = list(zip(steps[way], steps["plain"], strict=True))
        print(f"| {way} | " + " | ".join(spread([ours[step] / theirs[step] for ours, theirs in pairs])
                                         for step in (0, 1)) + " |", flush=True)


def spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


def seconds_on_cuda() -> None:
    name, device, half = "SDXL at 1024x1024", torch.device("cuda"), torch.float16
    net, step = new_unet(name, device, half)

    def clock(options):
        torch.cuda.synchronize()
        start = time.perf_counter()
        step(dict(options))
        torch.cuda.synchronize()
        return time.perf_counter() - start
    for _ in range(3):
        clock({})
    print(f"\n### Time of {name}, four regions, float16, {torch.cuda.get_device_name()}\n\n"
          "| way | first step | later steps |\n|---|---|---|")
    for way in WAYS:
        firsts, laters = [], []
        for _ in range(4 * ROUNDS):
            options = routed(net, name, way, device, half)
            for ratios in (firsts, laters):
                ratios.append(clock(options) / clock({}))
        print(f"| {way} | {spread(firsts)} | {spread(laters)} |", flush=True)


@torch.inference_mode()
def main() -> None:
    torch.set_num_threads(1)
    with patch.object(cross, "divide", divide_known), patch.object(joint, "divide", divide_known):
        unet_flops()
        dit_flops()
    if torch.cuda.is_available():
        seconds_on_cuda()
    if "TWEEDIE_SD15" in os.environ:
        seconds_on_cpu()


if __name__ == "__main__":
    main()
