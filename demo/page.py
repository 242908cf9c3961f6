"""Report -> index.html and its PNGs in one folder: no script, no font, no network."""
from __future__ import annotations

import math
import pathlib
from collections.abc import Iterable, Sequence
from html import escape

import torch
from torch import Tensor

from ..samplers.curve import draw_curves
from ..samplers.schedules import SCHEDULES
from ..samplers.table import is_flow
from .gallery import PAINTERS
from .sampling import Brightness, Report, Run, standard_tables

COUNT = len(PAINTERS)
STYLE = """
:root { color-scheme: light dark; --paper: #fbfaf8; --ink: #22262b; --pale: #6a7078; --line: #e2e0db;
  --card: #fff; --heat: 213, 94, 0; --best: #00795a; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181b; --ink: #e6e4e0; --pale: #9aa0a8;
  --line: #2f3338; --card: #1e2125; --best: #4fd1a5; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1080px; padding: 3rem 1.25rem 5rem; background: var(--paper);
  color: var(--ink); font: 16px/1.6 system-ui, sans-serif; }
h1 { font-size: 2.3rem; line-height: 1.15; margin: 0 0 .6rem; letter-spacing: -.02em; }
h2 { margin: 3.2rem 0 .4rem; font-size: 1.45rem; letter-spacing: -.01em; }
h3 { margin: 2rem 0 .4rem; font-size: 1.05rem; }
p { max-width: 46rem; } .pale { color: var(--pale); } .lead { font-size: 1.15rem; }
img { display: block; width: 100%; border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid var(--line); font-weight: 400; }
td { white-space: nowrap; }
th:first-child { text-align: left; } thead th { color: var(--pale); font-size: .85rem; }
td.best { font-weight: 700; color: var(--best); } tr.library th:first-child { color: var(--pale); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.4rem; }
dt { color: var(--pale); } dd { margin: 0; }
.scroll { overflow-x: auto; } .strip { min-width: 640px; margin: .7rem 0; }
.strip h4 { margin: 0 0 .2rem; font-size: .9rem; font-weight: 600; }
.strip ol { display: grid; grid-template-columns: repeat(8, 1fr); list-style: none; margin: .15rem 0 0;
  padding: 0; font-size: .8rem; color: var(--pale); text-align: center; font-variant-numeric: tabular-nums; }
.tones { display: grid; grid-template-columns: repeat(auto-fit, minmax(170px, 1fr)); gap: 1rem; }
figure { margin: 0; } figure img { border: 1px solid var(--line); }
figcaption { font-size: .85rem; padding-top: .35rem; }
.card { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: .5rem;
  margin: 1rem 0; }
details { margin: 1rem 0; } summary { cursor: pointer; font-weight: 600; padding: .3rem 0; }
"""
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Tweedie: schedules on a model whose answer is known</title><style>{style}</style></head><body>
<h1>Schedules on a model whose answer is known</h1>
<p class="lead">The model below is exact: the denoiser of a small gallery of pictures, with a Gaussian around
each, has a closed form. Where sampling should end is therefore a number, and so is every sampler's error.</p>
<dl>{settings}</dl>
<h2>The gallery</h2>
<p>Drawn by the pack itself. A caption restricts the model to its own pictures; guidance compares them with
all others.</p>
{gallery}
<h2>How far off</h2>
<p>Median over the pictures of the relative error: RMSE against the exact end point over its RMS. Every
schedule has its default knobs, untuned, but Recommended, which goes by sampler and step count. The two rows
that name a shift were added by hand, once their defaults had done badly. Rows in grey are the library's own
schedules.</p>
{numbers}
<p>This world is decided at high noise, where large shapes are. Logit-normal, Laplace, Cosine and Sigmoid
crowd log-SNR 0 and come too late for it; their Shift knob moves them up. No schedule is best for every
sampler.</p>
<p class="pale">These are errors of numerical integration on one small world. They say nothing about the
taste of a trained network, and the order may differ on yours.</p>
<h2>Where the steps lie</h2>
{curves}
<h2>Pure black, pure white</h2>
<p>Sampling starts from noise that holds nothing of the picture. The ordinary table stops short of noise
alone, so the model takes the start's grey for the picture's own brightness: black and white come out grey,
as far as the law mean &times; (1 &minus; f) says. The table rescaled to zero terminal SNR ends it; so does a
start whose mean is calibrated with two probes of the model. Means are of all pictures, -1 is black, +1 is
white.</p>
{brightness}
<h2>The pictures</h2>
<p>Same noise, same model; the relative error stands under each.</p>
{pictures}
</body></html>
"""


def save_picture(path: pathlib.Path, picture: Tensor) -> str:
    """picture [H,W,3] in 0..1 to a PNG; returns its name."""
    from PIL import Image
    height, width, _ = picture.shape
    raw = (picture.clamp(0, 1) * 255).round().to(torch.uint8)
    Image.frombytes("RGB", (width, height), raw.numpy().tobytes()).save(path, optimize=True)
    return path.name


def to_row(pictures: Tensor) -> Tensor:
    """[B,3,H,W] in -1..1 -> one row [H,B*W,3] in 0..1."""
    return (pictures.permute(2, 0, 3, 1).flatten(1, 2) + 1) / 2


def file_name(*words: object) -> str:
    """Lower-case letters and digits of the words, joined by underscores, as a PNG's name."""
    plain = "_".join(str(word) for word in words).lower()
    return "_".join("".join(c if c.isalnum() else " " for c in plain).split()) + ".png"


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def tag_strip(folder: pathlib.Path, title: str, name: str, pictures: Tensor, notes: Iterable[str]) -> str:
    """The first COUNT pictures in a row, a note under each."""
    image = save_picture(folder / name, to_row(pictures[:COUNT]))
    items = "".join(f"<li>{escape(note)}</li>" for note in list(notes)[:COUNT])
    return (f'<div class="strip"><h4>{escape(title)}</h4>'
            f'<img src="{image}" alt="{escape(title)}" loading="lazy"><ol>{items}</ol></div>')


def medians(runs: Sequence[Run], sampler: str) -> dict[str, dict[int, float]]:
    """schedule -> steps -> median error over all pictures."""
    table: dict[str, dict[int, float]] = {}
    for run in runs:
        if run.sampler == sampler:
            table.setdefault(run.schedule, {})[run.steps] = float(run.errors.median())
    return table


def tag_cell(value: float, column: Sequence[float]) -> str:
    """Tinted by its error on a log scale from 2 % to 80 %; the column's best is marked."""
    heat = min(max(math.log(value / 0.02) / math.log(0.8 / 0.02), 0), 1) * 0.45
    best = ' class="best"' if value == min(column) else ""
    return f'<td{best} style="background: rgba(var(--heat), {heat:.2f})">{percent(value)}</td>'


def tag_numbers(runs: Sequence[Run], sampler: str) -> str:
    table = medians(runs, sampler)
    counts = list(next(iter(table.values())))
    columns = {steps: [row[steps] for row in table.values()] for steps in counts}
    head = "".join(f"<th>{steps} steps</th>" for steps in counts)
    body = []
    for name, row in table.items():
        kind = ' class="library"' if name.startswith("diffusers") else ""
        cells = "".join(tag_cell(row[steps], columns[steps]) for steps in counts)
        body.append(f"<tr{kind}><th>{escape(name)}</th>{cells}</tr>")
    best = "; ".join(f"{min(table, key=lambda name: table[name][steps])} at {steps}" for steps in counts)
    return (f'<h3>{escape(sampler)}</h3><div class="scroll"><table><thead>'
            f'<tr><th>schedule</th>{head}</tr></thead>'
            f'<tbody>{"".join(body)}</tbody></table></div><p class="pale">Best: {escape(best)}.</p>')


def tag_pictures(folder: pathlib.Path, report: Report, sampler: str, opened: bool) -> str:
    """One fold for each step count: the exact end points, then every schedule's, errors beneath."""
    blocks = []
    runs = [run for run in report.runs if run.sampler == sampler]
    for steps in dict.fromkeys(run.steps for run in runs):
        strips = [tag_strip(folder, "Exact end point", "exact.png", report.exact, PAINTERS)]
        for run in (run for run in runs if run.steps == steps):
            name = file_name(sampler, f"{steps:02d}", run.schedule)
            errors = map(percent, run.errors.tolist())
            strips.append(tag_strip(folder, run.schedule, name, run.pictures, errors))
        blocks.append(f'<details{" open" if opened else ""}>'
                      f'<summary>{escape(sampler)}, {steps} steps</summary>'
                      f'<div class="scroll">{"".join(strips)}</div></details>')
    return "".join(blocks)


def tag_curves(folder: pathlib.Path, steps: int) -> str:
    """Every schedule of the pack over each standard table."""
    blocks = []
    for name, table in standard_tables().items():
        curves = {plugin.label: plugin(steps, table) for plugin in SCHEDULES.values()}
        image = save_picture(folder / file_name("curves", name), draw_curves(curves, is_flow(table)))
        blocks.append(f'<h3>{escape(name)}, {steps} steps</h3><div class="card">'
                      f'<img src="{image}" alt="schedules over the {escape(name)} table" '
                      'loading="lazy"></div>')
    return "".join(blocks)


def tag_brightness(folder: pathlib.Path, found: Sequence[Brightness]) -> str:
    figures = []
    for case in found:
        image = save_picture(folder / file_name(case.caption, case.way), to_row(case.picture[None]))
        law = "" if math.isnan(case.law) else f"; by the law {case.law:+.2f}"
        mean = f"mean brightness {case.means.mean():+.2f} &plusmn; {case.means.std():.2f}{law}"
        figures.append(f'<figure><img src="{image}" alt="{escape(case.caption)}, {escape(case.way)}">'
                       f"<figcaption><strong>{escape(case.caption)}</strong>, {escape(case.way)}<br>{mean}"
                       "</figcaption></figure>")
    half = [figures[0::2], figures[1::2]]
    return "".join(f'<div class="tones">{"".join(row)}</div><br>' for row in half)


def tag_gallery(folder: pathlib.Path, gallery: Tensor) -> str:
    """All captioned pictures, variants of one caption beneath each other."""
    painted = gallery[:-2].unflatten(0, (COUNT, -1))
    sheet = torch.cat([to_row(painted[:, variant]) for variant in range(painted.shape[1])])
    image = save_picture(folder / "gallery.png", sheet)
    items = "".join(f"<li>{escape(caption)}</li>" for caption in PAINTERS)
    strip = f'<div class="strip"><img src="{image}" alt="the gallery"><ol>{items}</ol></div>'
    return f'<div class="scroll">{strip}</div>'


def write_page(folder: pathlib.Path, report: Report, curve_steps: int = 20) -> pathlib.Path:
    """Write index.html and every PNG into `folder`; returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    samplers = list(dict.fromkeys(run.sampler for run in report.runs))
    settings = [f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in report.settings.items()]
    path = folder / "index.html"
    path.write_text(PAGE.format(
        style=STYLE,
        settings="".join(settings),
        gallery=tag_gallery(folder, report.gallery),
        numbers="".join(tag_numbers(report.runs, sampler) for sampler in samplers),
        curves=tag_curves(folder, curve_steps),
        brightness=tag_brightness(folder, report.brightness),
        pictures="".join(tag_pictures(folder, report, sampler, sampler == samplers[0])
                         for sampler in samplers),
    ), encoding="utf-8")
    return path
