"""(sections, report) -> index.html, alone enough: pictures within it, no script, no font, no network.

Every picture is also written as a PNG beside it.
"""
from __future__ import annotations

import base64
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..samplers.curve import draw_curves
from ..samplers.schedules import SCHEDULES
from ..samplers.table import is_flow
from .gallery import PAINTERS
from .sampling import Brightness, Report, Run, percent, standard_tables

if TYPE_CHECKING:  # show.py needs more libraries than a page does
    from .show import Row, Section

STYLE = """
:root { color-scheme: light dark; --paper: #faf9f7; --ink: #1f2328; --pale: #676d75; --line: #e3e0da;
  --card: #fff; --heat: 213, 94, 0; --on: #00755a; --off: #a3480a; --chip: #f0eee9; }
@media (prefers-color-scheme: dark) { :root { --paper: #141618; --ink: #e7e5e1; --pale: #9aa0a8;
  --line: #2d3136; --card: #1c1f23; --on: #52d3a8; --off: #f0a05e; --chip: #24282d; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body { margin: 0 auto; max-width: 1290px; padding: 3.5rem 1.5rem 6rem; background: var(--paper);
  color: var(--ink); font: 16px/1.6 system-ui, sans-serif; }
h1 { font-size: 2.7rem; line-height: 1.1; margin: 0 0 .8rem; letter-spacing: -.025em; }
h2 { margin: 4rem 0 .4rem; font-size: 1.55rem; line-height: 1.25; letter-spacing: -.015em; }
h3 { margin: 2.2rem 0 .4rem; font-size: 1.05rem; }
p { max-width: 46rem; margin: .5rem 0 1rem; } .pale { color: var(--pale); }
.lead { font-size: 1.2rem; line-height: 1.5; max-width: 50rem; }
a { color: inherit; text-underline-offset: .2em; }
nav { display: flex; flex-wrap: wrap; gap: .5rem; margin: 1.6rem 0; }
nav a { background: var(--chip); border-radius: 99px; padding: .25rem .9rem; font-size: .9rem;
  text-decoration: none; } nav a:hover { text-decoration: underline; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1.6rem; margin: 1.4rem 0;
  padding: 1rem 1.3rem; background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  max-width: 60rem; font-size: .92rem; }
dt { color: var(--pale); } dd { margin: 0; }
img { display: block; height: auto; max-width: 100%; }
.scroll { overflow-x: auto; }
.show { border-collapse: separate; border-spacing: 6px 0; margin: 0 -6px; table-layout: fixed; }
.show th { width: 150px; text-align: left; vertical-align: top; font-weight: 400; font-size: .9rem;
  line-height: 1.35; padding: 0 .6rem 0 0; position: sticky; left: 0; background: var(--paper); z-index: 1; }
.show th small { display: block; color: var(--pale); font-size: .8rem; padding-top: .25rem;
  font-variant-numeric: tabular-nums; }
.show thead td { vertical-align: bottom; color: var(--pale); font-size: .75rem; padding-bottom: .5rem;
  line-height: 1.3; }
.show td { width: 128px; min-width: 128px; vertical-align: top; padding: 0 0 .9rem; }
.show td img { width: auto; height: 128px; max-width: none; border-radius: 7px; background: var(--chip);
  outline: 1px solid rgba(128, 128, 128, .3); outline-offset: -1px; }
.show td span { display: block; padding-top: .3rem; font-size: .75rem; line-height: 1.3; color: var(--pale);
  font-variant-numeric: tabular-nums; }
.badge { display: table; margin-bottom: .3rem; padding: .08rem .55rem; border-radius: 99px; font-size: .72rem;
  font-weight: 700; letter-spacing: .06em; text-transform: uppercase; border: 1.5px solid; }
.badge.on { color: var(--on); } .badge.off { color: var(--off); }
.numbers { border-collapse: collapse; font-variant-numeric: tabular-nums; min-width: 30rem; }
.numbers th, .numbers td { padding: .3rem .9rem; text-align: right; border-bottom: 1px solid var(--line);
  font-weight: 400; white-space: nowrap; }
.numbers th:first-child { text-align: left; } .numbers thead th { color: var(--pale); font-size: .85rem; }
td.best { font-weight: 700; color: var(--on); } tr.library th:first-child { color: var(--pale); }
.pair { display: flex; flex-wrap: wrap; gap: 0 3rem; } .pair > div { min-width: 0; }
.pair p { max-width: 34rem; }
.cards { display: grid; gap: 0 1.2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 560px), 1fr)); }
figure { margin: 1rem 0; max-width: 800px; } figcaption { font-size: .9rem; padding-bottom: .4rem; }
.card { background: #fff; border: 1px solid var(--line); border-radius: 12px; padding: .6rem; }
@media (max-width: 640px) { h1 { font-size: 2rem; } .show th { width: 92px; min-width: 92px; }
  dl { grid-template-columns: 1fr; gap: 0; } dd { padding-bottom: .5rem; } }
"""
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Tweedie: off and on</title><style>{style}</style></head><body>
<header><h1>Tweedie, off and on</h1>
<p class="lead">A small latent diffusion model painted everything below on a CPU, without a host and without
a network. Each part of the pack is shown without it and with it, from the same noise. At the end stand
measured errors on a second model, whose true answer is known.</p>
<nav>{links}</nav>
<dl>{settings}</dl></header>
<main>{sections}
<section id="exact"><h2>How far off: a model whose answer is known</h2>
<p>The denoiser of a small gallery of pictures, with a Gaussian around each, has a closed form. Where sampling
should end is therefore a number, and so is every sampler's error. Here are the exact end points.</p>
{exact}
<dl>{exact_settings}</dl>
<p>The tables give the median over the pictures of the relative error: RMSE against the exact end point over
its RMS. Every schedule has its default knobs, untuned, but Recommended, which goes by sampler and step count.
The two rows that name a shift were added by hand, once their defaults had done badly. Rows in grey are the
library's own schedules.</p>
<div class="pair">{numbers}</div>
<p>This world is decided at high noise, where large shapes are. Logit-normal, Laplace, Cosine and Sigmoid
crowd log-SNR 0 and come too late for it; their Shift knob moves them up. No schedule is best for every
sampler.</p>
<p class="pale">These are errors of numerical integration on one small world. They say nothing about the
taste of a trained network, and the order may differ on yours.</p>
<h3>Pure black, pure white</h3>
<p>The ordinary table stops short of noise alone, so black and white come out grey, as far as the law
mean &times; (1 &minus; f) says. The table rescaled to zero terminal SNR ends it; so does a start whose mean
is calibrated with two probes of the model. Means are of all pictures, -1 is black, +1 is white.</p>
{brightness}</section>
<section id="curves"><h2>Where the steps lie</h2>
<p>Every schedule of the pack at {curve_steps} steps, over a table of each kind.</p>
<div class="cards">{curves}</div></section></main>
</body></html>
"""


def save_picture(path: pathlib.Path, picture: Tensor, colors: int = 0) -> bytes:
    """picture [H,W,3] in 0..1 to a PNG, of a palette of `colors` if any; returns the file's bytes."""
    from PIL import Image
    height, width, _ = picture.shape
    raw = (picture.clamp(0, 1) * 255).round().to(torch.uint8)
    image = Image.frombytes("RGB", (width, height), raw.numpy().tobytes())
    (image.quantize(colors, dither=Image.Dither.NONE) if colors else image).save(path)
    return path.read_bytes()


def file_name(*words: object) -> str:
    """Lower-case letters and digits of the words, joined by underscores, as a PNG's name."""
    plain = "_".join(str(word) for word in words).lower()
    return "_".join("".join(c if c.isalnum() else " " for c in plain).split()) + ".png"


def tag_image(path: pathlib.Path, picture: Tensor, words: str, colors: int = 0) -> str:
    """Write picture [H,W,3] and give it as a tag that holds the same bytes."""
    data = base64.b64encode(save_picture(path, picture, colors)).decode("ascii")
    height, width, _ = picture.shape
    return f'<img src="data:image/png;base64,{data}" alt="{escape(words)}" width="{width}" height="{height}">'


def tag_row(folder: pathlib.Path, name: str, captions: Sequence[str], row: Row) -> str:
    badge = f'<b class="badge {row.state}">{row.state}</b>' if row.state else ""
    cells = []
    for i, (picture, note) in enumerate(zip(row.pictures, row.notes, strict=True)):
        words = ": ".join(filter(None, (row.label, captions[i] if captions else note)))
        image = tag_image(folder / file_name(name, i + 1), picture.permute(1, 2, 0), words)
        cells.append(f"<td>{image}<span>{escape(note)}</span></td>" if note else f"<td>{image}</td>")
    small = f"<small>{escape(row.detail)}</small>" if row.detail else ""
    return f'<tr><th scope="row">{badge}{escape(row.label)}{small}</th>{"".join(cells)}</tr>'


def tag_rows(folder: pathlib.Path, name: str, captions: Sequence[str], rows: Sequence[Row]) -> str:
    """A table: captions above, a row each, off above on."""
    head = "".join(f"<td>{escape(caption)}</td>" for caption in captions)
    head = f"<thead><tr><th></th>{head}</tr></thead>" if captions else ""
    body = "".join(tag_row(folder, f"{name} {i} {row.state}", captions, row) for i, row in enumerate(rows, 1))
    return f'<div class="scroll"><table class="show">{head}<tbody>{body}</tbody></table></div>'


def tag_figure(path: pathlib.Path, picture: Tensor, title: str, words: str = "") -> str:
    image = tag_image(path, picture, words or title, 128)
    return f'<figure><figcaption>{escape(title)}</figcaption><div class="card">{image}</div></figure>'


def tag_chart(path: pathlib.Path, curves: Mapping[str, Tensor], title: str, flow: bool = False) -> str:
    return tag_figure(path, draw_curves(curves, flow, 1100, 740), title, f"schedules over steps: {title}")


def tag_section(folder: pathlib.Path, section: Section) -> str:
    name = section.title
    charts = [tag_figure(folder / file_name(name, title), picture, title)
              for title, picture in section.drawings.items()]
    if section.curves:
        charts.append(tag_chart(folder / file_name(name, "curves"), section.curves, "Where their steps lie"))
    cards = f'<div class="cards">{"".join(charts)}</div>' if charts else ""
    return (f'<section id="{anchor(name)}"><h2>{escape(name)}</h2><p>{escape(section.text)}</p>'
            f'{tag_rows(folder, name, section.captions, section.rows)}{cards}</section>')


def anchor(title: str) -> str:
    return file_name(title).removesuffix(".png")


def tag_list(settings: Mapping[str, str]) -> str:
    return "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in settings.items())


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
    return (f'<div><h3>{escape(sampler)}</h3><div class="scroll"><table class="numbers"><thead>'
            f'<tr><th>schedule</th>{head}</tr></thead>'
            f'<tbody>{"".join(body)}</tbody></table></div><p class="pale">Best: {escape(best)}.</p></div>')


def tag_brightness(found: Sequence[Brightness]) -> str:
    """A row each way; under every caption the mean, its spread, and what the law says."""
    captions = list(dict.fromkeys(case.caption for case in found))
    cells: dict[str, str] = {}
    for case in found:
        law = "" if math.isnan(case.law) else f' <span class="pale">by the law {case.law:+.2f}</span>'
        cell = f"<td>{case.means.mean():+.2f} &plusmn; {case.means.std():.2f}{law}</td>"
        cells[case.way] = cells.get(case.way, "") + cell
    head = "".join(f"<th>{escape(caption)}</th>" for caption in captions)
    body = "".join(f"<tr><th>{escape(way)}</th>{row}</tr>" for way, row in cells.items())
    return (f'<div class="scroll"><table class="numbers"><thead><tr><th></th>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>")


def tag_exact(folder: pathlib.Path, exact: Tensor) -> str:
    """The first end point of every caption."""
    cells = []
    for caption, picture in zip(PAINTERS, exact, strict=False):
        path = folder / file_name("exact", caption)
        image = tag_image(path, (picture.permute(1, 2, 0) + 1) / 2, f"exact end point: {caption}")
        cells.append(f"<td>{image}<span>{escape(caption)}</span></td>")
    return f'<div class="scroll"><table class="show"><tr>{"".join(cells)}</tr></table></div>'


def tag_curves(folder: pathlib.Path, steps: int) -> Iterator[str]:
    """Every schedule of the pack over each standard table."""
    for name, table in standard_tables().items():
        curves = {plugin.label: plugin(steps, table) for plugin in SCHEDULES.values()}
        yield tag_chart(folder / file_name("curves", name), curves, name, is_flow(table))


def write_page(folder: pathlib.Path, sections: Sequence[Section], report: Report,
               settings: Mapping[str, str], curve_steps: int = 20) -> pathlib.Path:
    """Write index.html and every PNG into `folder`; returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    titles = {anchor(section.title): section.title for section in sections}
    titles |= {"exact": "How far off", "curves": "Where the steps lie"}
    samplers = list(dict.fromkeys(run.sampler for run in report.runs))
    path = folder / "index.html"
    path.write_text(PAGE.format(
        style=STYLE,
        links="".join(f'<a href="#{name}">{escape(title)}</a>' for name, title in titles.items()),
        settings=tag_list(settings),
        sections="".join(tag_section(folder, section) for section in sections),
        exact=tag_exact(folder, report.exact),
        exact_settings=tag_list(report.settings),
        numbers="".join(tag_numbers(report.runs, sampler) for sampler in samplers),
        brightness=tag_brightness(report.brightness),
        curves="".join(tag_curves(folder, curve_steps)),
        curve_steps=curve_steps,
    ), encoding="utf-8")
    return path
