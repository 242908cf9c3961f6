"""What weighted guidance costs and how exact it is: PYTHON tests/bench/spectral_cost.py > tables.md

Times are CPU seconds of one thread, as shares of a step of Stable Diffusion 1.5's full-size UNet with random
weights, taken in the same run. Where CUDA is there, an SDXL step follows in half precision, and hooks are
watched for making the host wait. Needs diffusers and kornia, 6 GB of memory and a few minutes.
"""
import math
import statistics
import time
from collections.abc import Callable

import torch
from diffusers import UNet2DConditionModel
from kornia.geometry.transform import build_laplacian_pyramid, pyrup
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from tweedie_pack.samplers.guidance import Companions, Memory, guide
from tweedie_pack.samplers.power import POWER
from tweedie_pack.samplers.recipe import Settings, bind, compose
from tweedie_pack.samplers.spectral import BANDS, Recipe, Window, reweight
from tweedie_pack.samplers.structure import MAPS, blur

OURS = ("`", "APG")  # how our hooks' names begin
SCALE, SIGMA, REPEATS, STEPS = 7.5, 2.0, 15, 3
CUTOFF, SIZES = 0.31, ((64, 64), (128, 128), (104, 152))
PERIODS = (32, 16, 8, 4, 2.5)  # of waves, in latent cells
Hook = Callable[[Tensor, Tensor, Tensor], Tensor]  # (x, cond, uncond) -> cond as guidance shall have it

SDXL = {
    "sample_size": 128, "cross_attention_dim": 2048, "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": [1, 2, 10], "attention_head_dim": [5, 10, 20],
    "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


def recipe(band: str = "off", structure: str = "off", settings: Settings | None = None, **knobs) -> Recipe:
    probes = {"probes": 16} if structure in ("structure", "leverage") else {}
    return compose(bind(band, BANDS, knobs), bind(structure, MAPS, probes), settings or Settings(),
                   POWER["SD15"])


def weigh(recipe: Recipe) -> Hook:
    """What the doors do at every step."""
    def hook(x, cond, uncond):
        delta, sigma = cond - uncond, torch.full([len(x)], SIGMA, device=x.device)
        return cond + reweight(delta, recipe, Window(), sigma, uncond + delta * SCALE, uncond, 1)
    return hook


def project(before: Hook | None = None) -> Hook:
    memory, companions = Memory(), Companions(apg=True)

    def hook(x, cond, uncond):
        weighed = before(x, cond, uncond) if before else cond
        sigma = torch.full([len(x)], SIGMA, device=x.device)
        guided = guide(x, sigma, weighed, uncond, SCALE, companions, memory, flow=False)
        return cond + (guided - (uncond + (cond - uncond) * SCALE)) / SCALE
    return hook


def fft_box(delta: Tensor, cutoff: float = CUTOFF, high: float = 2.0) -> Tensor:
    """As FreSca has it: all outside a square box of the spectrum times `high`."""
    rows, columns = (2 * torch.fft.fftfreq(size, device=delta.device).abs() for size in delta.shape[-2:])
    inside = (rows[:, None] < cutoff) & (columns < cutoff)
    return torch.fft.ifft2(torch.fft.fft2(delta.float()) * torch.where(inside, 1.0, high)).real


def pyramid(delta: Tensor, high: float = 2.0) -> Tensor:
    """As FDG has it, cropped: the two finest Laplacian levels times `high`; kornia pads to powers of two."""
    *levels, out = build_laplacian_pyramid(delta.float(), 3)
    for level in reversed(levels):
        out = pyrup(out) + high * level
    return out[..., :delta.shape[-2], :delta.shape[-1]]


def hooks() -> dict[str, Hook]:
    curve = {"at_1_8": 2.0, "at_1_2": 0.5}
    whole = recipe("equalizer", "structure", Settings(time="deciding"), **curve)
    return {
        "`two_band`": weigh(recipe("two_band", low=3.0)),
        "`equalizer`": weigh(recipe("equalizer", **curve)),
        "`equalizer`, `deciding`": weigh(recipe("equalizer", settings=Settings(time="deciding"), **curve)),
        "`coherence`": weigh(recipe(structure="coherence")),
        "`structure`, 16 probes": weigh(recipe(structure="structure")),
        "`leverage`, 16 probes": weigh(recipe(structure="leverage")),
        "APG": project(),
        "`equalizer`, `deciding`, `structure`, APG": project(weigh(whole)),
        "FFT box, as FreSca": lambda x, cond, uncond: uncond + fft_box(cond - uncond),
        "Laplacian pyramid, as FDG": lambda x, cond, uncond: uncond + pyramid(cond - uncond),
    }


def latents(shape: tuple[int, ...], device: str) -> tuple[Tensor, Tensor, Tensor]:
    """x, cond and uncond [B,C,*S]: noise, and smooth fields that differ a little."""
    noise = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0)).to(device)
    cond = 3 * blur(noise[0], 2)
    return cond + SIGMA * noise[2], cond, cond + 0.5 * blur(noise[1], 1)


def seconds(call: Callable[[], object], repeats: int, device: str) -> float:
    """Median after one call to warm up; CPU time of this process, or until the device is done."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    times = []
    for _ in range(repeats + 1):
        start = clock()
        call()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(clock() - start)
    return statistics.median(times[1:])


def step(device: str, dtype: torch.dtype, side: int, **config) -> Callable[[], object]:
    """One call of a UNet for cond and uncond; without config that of Stable Diffusion 1.5."""
    torch.manual_seed(0)
    with torch.device(device):
        config = {"sample_size": 64, "cross_attention_dim": 768, **config}
        net = UNet2DConditionModel(**config).to(dtype).eval()
        x, words, pooled, size = (torch.randn(2, *shape).to(dtype) for shape in (
            (4, side, side), (77, config["cross_attention_dim"]), (1280,), (6,)))
    return lambda: net(x, 500, words, added_cond_kwargs={"text_embeds": pooled, "time_ids": size})


def costs(title: str, run: Callable[[], object], side: int, device: str) -> None:
    """Prints a table; steps are timed before and after the hooks."""
    x, cond, uncond = latents((1, 4, side, side), device)
    first = seconds(run, STEPS, device)
    times = {name: seconds(lambda hook=hook: hook(x, cond, uncond), REPEATS, device)
             for name, hook in hooks().items()}
    whole = (first + seconds(run, STEPS, device)) / 2
    print(f"\n### {title}\n\nA step of the UNet: {whole:.3g} s.\n\n| hook | ms | of a step |\n|---|---|---|")
    for name, took in times.items():
        print(f"| {name} | {1000 * took:.2f} | {took / whole:.3%} |", flush=True)


def watch(side: int) -> None:
    """Our hooks never make the host wait: torch's own check raises, and the profiler saw no wait."""
    x, cond, uncond = latents((1, 4, side, side), "cuda")
    for name, hook in hooks().items():
        if not name.startswith(OURS):
            continue
        hook(x, cond, uncond)  # fills the caches, which may wait
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
            torch.cuda.set_sync_debug_mode("error")
            try:
                hook(x, cond, uncond)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        waits = {event.name for event in seen.events() if "Synchronize" in event.name}
        assert waits <= {"cudaDeviceSynchronize"}, f"{name}: {waits}"  # this one is the profiler's own
        print(f"- {name}: never waits")


def high_part(x: Tensor) -> dict[str, Tensor]:
    """What each transform takes for high frequencies in x: the change when they count twice."""
    ours = recipe("two_band", settings=Settings(keep_energy=False), high=2.0, cutoff=CUTOFF)
    one = torch.ones(len(x))
    return {"DCT, ours": reweight(x, ours, Window(), one, x, x), "FFT box": fft_box(x) - x,
            "Laplacian pyramid": pyramid(x) - x}


def leakage() -> None:
    print("\n### A ramp has no high frequencies\n\n| size | transform | border, largest | interior, RMS |\n"
          "|---|---|---|---|")
    for height, width in SIZES:
        ramp = torch.linspace(-1, 1, height)[:, None] + 0.5 * torch.linspace(-1, 1, width)
        border = torch.ones(height, width, dtype=torch.bool)
        border[4:-4, 4:-4] = False
        for name, high in high_part(ramp[None, None]).items():
            inside = high[0, 0, 24:-24, 24:-24]
            print(f"| {height}x{width} | {name} | {high[0, 0][border].abs().max():.4f} | "
                  f"{inside.square().mean().sqrt():.5f} |")


def precision() -> None:
    """Of the weighted delta, over the RMS of the plain one."""
    print("\n### Half precision against float32, 104x152, 16 channels\n\n"
          "| hook | float16 | bfloat16 |\n|---|---|---|")
    x, cond, uncond = latents((1, 16, 104, 152), "cpu")
    plain = (cond - uncond).square().mean().sqrt()
    for name, hook in {"none, as rounded": lambda x, cond, uncond: cond, **hooks()}.items():
        if not name.startswith((*OURS, "none")):
            continue
        true, cells = hook(x, cond, uncond), []
        for dtype in (torch.float16, torch.bfloat16):
            half = hook(x.to(dtype), cond.to(dtype), uncond.to(dtype))
            cells.append(f"{(half.float() - true).square().mean().sqrt() / plain:.4f}")
        print(f"| {name} | {' | '.join(cells)} |")


def gain(weighted: Callable[[Tensor], Tensor], size: int, period: float) -> float:
    """RMS after over before, of waves of this period in cells along the columns, over eight phases."""
    phases = torch.arange(8)[:, None, None, None] * math.pi / 8
    wave = torch.cos(2 * math.pi * torch.arange(size) / period + phases).expand(-1, 1, size, size)
    return float((weighted(wave).square().sum() / wave.square().sum()).sqrt())


def sizes() -> None:
    print("\n### The same wave in two sizes of picture: its gain at 64x64, at 128x128\n\n"
          "| period, cells | `two_band`, high 2 | FFT box of 20 bins |\n|---|---|---|")
    ours = recipe("two_band", settings=Settings(keep_energy=False), high=2.0)
    for period in PERIODS:
        found = [[gain(lambda x: x + reweight(x, ours, Window(), torch.ones(len(x)), x, x), size, period),
                  gain(lambda x, size=size: fft_box(x, 40 / size), size, period)] for size in (64, 128)]
        print(f"| {period} | " + " | ".join(f"{small:.3f}, {large:.3f}" for small, large in
                                            zip(*found, strict=True)) + " |")


@torch.inference_mode()
def main() -> None:
    torch.set_num_threads(1)
    leakage()
    sizes()
    precision()
    costs("Stable Diffusion 1.5 at 512x512, float32, one CPU thread", step("cpu", torch.float32, 64), 64,
          "cpu")
    if torch.cuda.is_available():
        costs(f"SDXL at 1024x1024, float16, {torch.cuda.get_device_name()}",
              step("cuda", torch.float16, 128, **SDXL), 128, "cuda")
        watch(128)


if __name__ == "__main__":
    main()
