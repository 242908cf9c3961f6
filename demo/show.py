"""(tiny models, settings) -> sections: rows of pictures [B,3,H,W] in 0..1 from one noise, and notes.

Every section but the first sets off against on. Nothing here knows a page or a console.
"""
from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from random import Random
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..samplers.recipe import preset
from ..samplers.recommend import recommended
from ..samplers.schedules import SCHEDULES
from ..samplers.spectral import Window
from ..samplers.zero_snr import calibrate_dc
from . import regions, spectral
from .sampling import LIBRARY, SAMPLERS, library_sigmas, percent, sample
from .tiny.model import Denoise, Tiny, decode, guide, load, load_control
from .world import Scene, draw, one_hand, one_shape, two_shapes

SAMPLER = "DPM-Solver++ 2M"
SOLVER = SAMPLERS[SAMPLER][2]
RIM = 8  # pixels: the frame in which a background's brightness is measured
APART = 0.15  # distance in RGB from which a pixel is no longer background
SHAPES = (
    "a red circle on the left, white background", "a blue star in the middle, yellow background",
    "a green triangle at the top, black background", "an orange ring on the right, blue background",
    "a purple square at the bottom, white background", "a yellow cross in the middle, purple background",
    "a white star on the left, red background", "a black ring in the middle, orange background")
PAIRS = (
    "a red square on the left and a blue circle on the right, white background",
    "a yellow star at the top and a green ring at the bottom, black background",
    "an orange triangle on the left and a purple cross on the right, yellow background",
    "a white circle at the top and a red triangle at the bottom, blue background",
    "a green cross on the left and an orange star on the right, white background",
    "a blue ring at the top and a yellow square at the bottom, purple background",
    "a black star on the left and a white ring on the right, green background",
    "a purple circle at the top and a black cross at the bottom, orange background")
HANDS = (
    "an open hand, blue background", "a fist, green background", "a pointing hand, white background",
    "a victory hand, purple background", "an open hand in a red glove, white background",
    "a small victory hand, black background", "a small open hand, yellow background",
    "a pointing hand in a green glove, orange background")
PLAIN = (  # in the middle, so that the rim shows nothing but background
    "a red circle in the middle, black background", "a red circle in the middle, white background",
    "a yellow star in the middle, black background", "a purple star in the middle, white background",
    "a blue ring in the middle, black background", "a green ring in the middle, white background",
    "an orange square in the middle, black background", "a blue cross in the middle, white background")
MIXED = (SHAPES[1], PAIRS[0], HANDS[0], SHAPES[3], PAIRS[1], HANDS[3], SHAPES[5], HANDS[4])
TONES = (  # without guidance, with it
    "An ordinary noise table stops short of noise alone: in training a trace of the picture was always left, "
    "its brightness first of all. So the model takes the mean of pure noise for the picture's own. A "
    "DC-calibrated start corrects the noise of such a model; zero terminal SNR trains the end itself. Under "
    "each picture stands the mean brightness of its outermost {rim} pixels, where 0 or 1 was asked for.",
    "Guidance drives colours to their extremes, and in so plain a world that alone brings black and white; "
    "what is left to see here is whether a remedy does harm. Rescaling is meant for stronger guidance yet.")
CONTROL = {
    "edges": "The caption says what, and roughly where; the hint says exactly where, how large, how turned. "
             "Under each picture stands how far what was painted overlaps what the hint was drawn from: "
             "intersection over union of all that is not background.",
    "depth": "The same with another hint: near is white. Where fingers cross, depth knows which is in front."}

State = Literal["off", "on", ""]
Say = Callable[[str], None]


class Models(NamedTuple):
    v: Tiny  # zero terminal SNR
    epsilon: Tiny  # ordinary table
    controls: Mapping[str, nn.Module]  # "edges", "depth", for v


class Settings(NamedTuple):
    """steps, but `few` and `many` where schedules are compared; phi rescales guidance; pictures a row."""

    seed: int = 0
    steps: int = 20
    few: int = 7
    many: int = 100
    guidance: float = 5.0
    phi: float = 0.7
    columns: int = 8


class Row(NamedTuple):
    """label: what was done. detail: its measure over the row, if any. notes: one a picture."""

    label: str
    pictures: Tensor
    notes: Sequence[str]
    state: State = ""
    detail: str = ""


class Section(NamedTuple):
    """captions stand above the columns; curves: name -> sigmas of the schedules that it compares.

    drawings: title -> picture [H,W,3] in 0..1.
    """

    title: str
    text: str
    captions: Sequence[str]
    rows: Sequence[Row]
    curves: Mapping[str, Tensor] = {}
    drawings: Mapping[str, Tensor] = {}


def load_models() -> Models:
    v = load("v")
    return Models(v, load("epsilon"), {hint: load_control(v, hint) for hint in ("edges", "depth")})


def pure_noise(count: int, seed: int, latent: Sequence[int] = (4, 16, 16)) -> Tensor:
    """[count,4,h,w]"""
    return torch.randn(count, *latent, generator=torch.Generator().manual_seed(seed))


def paint(model: Tiny, denoise: Denoise, noise: Tensor, sigmas: Tensor, calibrate: bool = False) -> Tensor:
    """Pure noise [B,4,h,w] -> pictures [B,3,8h,8w]; `calibrate` gives it its DC-calibrated start."""
    top = float(sigmas[0])
    start = top * noise
    if calibrate:
        start = calibrate_dc(lambda x: denoise(x, top), start, top)
    return decode(model, sample(SAMPLER, denoise, start, sigmas))


def rim_brightness(pictures: Tensor) -> Tensor:
    """Mean [B] over the outermost RIM pixels."""
    rim = torch.ones(pictures.shape[-2:], dtype=torch.bool)
    rim[RIM:-RIM, RIM:-RIM] = False
    return pictures[..., rim].mean((1, 2))


def distance(pictures: Tensor, others: Tensor) -> Tensor:
    """Root mean square difference [B], as a share of the way from black to white."""
    return (pictures - others).square().mean((1, 2, 3)).sqrt()


def overlap(pictures: Tensor, drawn: Tensor) -> Tensor:
    """Intersection over union [B] of what is no background in pictures and in drawn [B,1,H,W] in 0..1."""
    rim = torch.cat([pictures[..., :RIM, :].flatten(2), pictures[..., RIM:, :RIM].flatten(2)], 2)
    background = rim.median(2).values[..., None, None]  # above and at the left: a forearm leaves below
    found, wanted = (pictures - background).square().sum(1).sqrt() > APART, drawn[:, 0] > 0.1
    return (found & wanted).sum((1, 2)) / (found | wanted).sum((1, 2)).clamp_min(1)


def show_gallery(models: Models, s: Settings, say: Say) -> Section:
    sets = {"one shape": SHAPES[:s.columns], "two shapes": PAIRS[:s.columns], "hands": HANDS[:s.columns]}
    captions = [caption for part in sets.values() for caption in part]
    sigmas = recommended(s.steps, models.v.table, SOLVER)
    say(f"gallery: {len(captions)} pictures, {s.steps} steps")
    denoise, noise = guide(models.v, captions, s.guidance), pure_noise(len(captions), s.seed)
    painted = paint(models.v, denoise, noise, sigmas)
    parts = painted.split([len(part) for part in sets.values()])
    rows = [Row(label, pictures, part) for (label, part), pictures in zip(sets.items(), parts, strict=True)]
    return Section(
        "What the model paints", "Each picture from its caption, which stands beneath, and from noise alone: "
        f"v-prediction at zero terminal SNR, {s.steps} steps of the recommended schedule, none picked out.",
        [], rows)


def show_zero_snr(models: Models, guidance: float, s: Settings, say: Say) -> Section:
    captions, rows = PLAIN[:s.columns], []
    noise = pure_noise(len(captions), s.seed)
    goals = torch.tensor([float("white background" in caption) for caption in captions])
    ways: list[tuple[str, State, Tiny, bool, float]] = [
        ("epsilon, ordinary table", "off", models.epsilon, False, 0.0),
        ("the same, DC-calibrated start", "on", models.epsilon, True, 0.0),
        ("v, zero terminal SNR", "on", models.v, False, 0.0)]
    if guidance > 1:
        ways.append((f"the same, CFG rescaled by {s.phi:g}", "on", models.v, False, s.phi))
    for label, state, model, calibrate, phi in ways:
        say(f"black and white, guidance {guidance:g}: {label}")
        denoise = guide(model, captions, guidance, phi)
        pictures = paint(model, denoise, noise, recommended(s.steps, model.table, SOLVER), calibrate)
        rims = rim_brightness(pictures)
        notes = [f"{rim:.2f}, asked {goal:.0f}" for rim, goal in zip(rims, goals, strict=True)]
        rows.append(Row(label, pictures, notes, state, f"{float((rims - goals).abs().mean()):.3f} off"))
    title = f"guidance {guidance:g}" if guidance > 1 else "no guidance"
    return Section(f"Black and white, {title}", TONES[guidance > 1].format(rim=RIM), captions, rows)


def show_schedules(models: Models, s: Settings, say: Say) -> Section:
    model, captions = models.epsilon, MIXED[:s.columns]
    denoise, noise = guide(model, captions, s.guidance), pure_noise(len(captions), s.seed)
    say(f"schedules: the {s.many}-step solution")
    best = paint(model, denoise, noise, recommended(s.many, model.table, SOLVER))
    sigmas = {name: library_sigmas(LIBRARY[name], s.few)
              for name in ("diffusers: Karras", "diffusers: linspace")}
    sigmas["Recommended"] = recommended(s.few, model.table, SOLVER)
    sigmas |= {SCHEDULES[id].label: SCHEDULES[id](s.few, model.table) for id in ("karras", "beta")}
    rows = [Row(f"{s.many} steps", best, [""] * len(captions), "", "where all of them go")]
    for name, nodes in sigmas.items():
        say(f"schedules: {name}, {s.few} steps")
        pictures = paint(model, denoise, noise, nodes)
        off = distance(pictures, best)
        state: State = "off" if name in LIBRARY else "on"
        notes = [percent(float(share)) for share in off]
        rows.append(Row(name, pictures, notes, state, f"{percent(float(off.mean()))} off"))
    return Section(
        f"Schedules at {s.few} steps",
        f"The epsilon model from the same noise with the same sampler, {s.few} steps each; only the sigmas "
        "differ. Off is what the library brings, on is ours. Under each picture stands its distance from the "
        f"{s.many}-step solution: root mean square, where 100 % is black against white.",
        captions, rows, sigmas)


def show_spectral(models: Models, s: Settings, say: Say) -> Section:
    model, scenes = models.v, spectral.open_hands(s.seed, s.columns)
    captions, noise = [scene.caption for scene in scenes], pure_noise(len(scenes), s.seed)
    sigmas, window = recommended(s.steps, model.table, SOLVER), Window.of(model.table)
    powers, record = spectral.measure_power(model, s.seed), spectral.Record([], [], [])
    names, rows = spectral.choose(), []
    for name in (None, *names):
        label = name or "plain guidance"
        say(f"spectral guidance: {label}")
        change = name and spectral.weigh(preset(name, powers), window, s.guidance, s.seed,
                                         record if name == names[0] else None)
        pictures = paint(model, guide(model, captions, s.guidance, change=change), noise, sigmas)
        notes, right = spectral.judge_fingers(scenes, pictures)
        rows.append(Row(label, pictures, notes, "on" if name else "off", right))
    return Section("Spectral guidance", spectral.TEXT.format(scale=s.guidance), captions, rows,
                   drawings=spectral.illustrate(names[0], record))


def show_regions(models: Models, s: Settings, say: Say) -> Section:
    layout, scenes, rows = regions.LAYOUTS[regions.SHOWN], regions.draft_row(s.seed, s.columns), []
    noise = pure_noise(len(scenes), s.seed, layout.latent)
    sigmas = recommended(s.steps, models.v.table, SOLVER)
    for label, denoise in regions.ways(models.v, layout, scenes, s.guidance).items():
        say(f"regional prompting: {label}")
        pictures = paint(models.v, denoise, noise, sigmas)
        notes, right = regions.judge_all(layout, scenes, pictures)
        rows.append(Row(label, pictures, notes, "on" if rows else "off", right))
    return Section("Regional prompting", regions.TEXT, [regions.ask_all(scene) for scene in scenes], rows,
                   drawings=regions.illustrate(layout, scenes[0]))


def control_scenes(seed: int, count: int) -> list[Scene]:
    """Shapes, pairs and hands in turn."""
    random = Random(seed)
    makers = (one_shape, partial(one_hand, small=False), two_shapes, one_hand)
    return [makers[i % len(makers)](random) for i in range(count)]


def show_control(models: Models, hint: str, s: Settings, say: Say) -> Section:
    scenes = control_scenes(s.seed if hint == "edges" else s.seed + 1, s.columns)
    captions, drawn = [scene.caption for scene in scenes], [draw(scene) for scene in scenes]
    hints, solid = (torch.stack([getattr(picture, what) for picture in drawn]) for what in (hint, "depth"))
    model, noise = models.v, pure_noise(len(scenes), s.seed)
    sigmas = recommended(s.steps, model.table, SOLVER)
    plain = guide(model, captions, s.guidance)
    steered = guide(model, captions, s.guidance, control=models.controls[hint], hints=hints)
    ways: tuple[tuple[str, State, Denoise], ...] = (
        ("caption alone", "off", plain), (f"with the {hint} ControlNet", "on", steered))
    rows = [Row(f"hint: {hint}", hints.expand(-1, 3, -1, -1), [""] * len(scenes))]
    for label, state, denoise in ways:
        say(f"ControlNet, {hint}: {label}")
        pictures = paint(model, denoise, noise, sigmas)
        shares = overlap(pictures, solid)
        notes = [f"overlap {percent(float(share))}" for share in shares]
        rows.append(Row(label, pictures, notes, state, f"overlap {percent(float(shares.mean()))}"))
    return Section(f"ControlNet: {hint}", CONTROL[hint], captions, rows)


def show(models: Models, s: Settings, say: Say) -> Iterator[Section]:
    yield show_gallery(models, s, say)
    for guidance in (1.0, s.guidance):
        yield show_zero_snr(models, guidance, s, say)
    yield show_schedules(models, s, say)
    yield show_spectral(models, s, say)
    yield show_regions(models, s, say)
    for hint in models.controls:
        yield show_control(models, hint, s, say)


def list_settings(models: Models, s: Settings) -> dict[str, str]:
    """What is needed to make the sections again."""
    nets = (models.v.vae, models.v.text, models.v.unet)
    size = sum(value.numel() for net in nets for name, value in net.named_parameters()
               if "token_embedding" not in name)
    threads = torch.get_num_threads()
    return {
        "Model": f"Stable Diffusion 1.x in small, {size / 1e6:.1f} million parameters, trained on the pack's "
                 "own world of shapes and hands; its epsilon sibling and two ControlNets",
        "Sampler": f"{SAMPLER} of diffusers {version('diffusers')}, {s.steps} steps, recommended schedule; "
                   f"{s.few} steps where schedules are compared",
        "Guidance": f"{s.guidance:g}, and not rescaled, unless a heading or a row says so",
        "Seed": f"{s.seed}; every row of a table starts from the same noise",
        "Made with": f"torch {torch.__version__} on {threads} thread{'s' * (threads > 1)}, "
                     f"transformers {version('transformers')}, Python {platform.python_version()}, CPU",
    }
