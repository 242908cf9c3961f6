"""Every feature on the tiny model, with intervals: python tests/bench/scoreboard.py -> docs/scoreboard.md

A row is a function (seeds) -> Result (score/result.py) in a file of score/, named in ROWS. `--rows` measures
some rows again and leaves the others' sections as they are. On one machine the same seeds, weights and
versions give the same page, however many cores share the work.
"""
from __future__ import annotations

import argparse
import hashlib
import pathlib
from collections.abc import Callable
from importlib.metadata import version

import torch
from score import accuracy, blends, controls, guidance, hands, regions, schedules, zero_snr
from score.page import read_sections, write_page, write_section
from score.plot import draw_result
from score.result import Result
from tweedie_pack.demo.tiny.checkpoint import WEIGHTS

ROWS: dict[str, Callable[[int], Result]] = {
    "zero terminal SNR": zero_snr.measure,
    "schedules": schedules.measure,
    "model": accuracy.measure,
    "ControlNets": controls.measure,
    "ControlNet blending": blends.measure,
    "spectral guidance": guidance.measure,
    "regional prompting": regions.measure,
    "hand repair": hands.measure,
}
PACKAGES = ("tweedie-pack", "torch", "diffusers", "numpy")
LEAST = 8
OUT = pathlib.Path(__file__).resolve().parents[2] / "docs" / "scoreboard.md"


def settle(seeds: int) -> str:
    """What a section was made from."""
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(WEIGHTS.glob("*.safetensors"))))
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return f"`--seeds {seeds}`, weights {digest.hexdigest()[:12]}, {packages}."


def add_section(name: str, seeds: int, out: pathlib.Path) -> None:
    """Measure one row, and put it in its place on the page."""
    result = ROWS[name](seeds)
    picture = out.parent / "pictures" / f"scoreboard_{name.lower().replace(' ', '_')}.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    draw_result(result).save(picture, optimize=True)
    sections = read_sections(out.read_text("utf-8")) if out.exists() else {}
    sections[name] = write_section(result, settle(seeds), f"pictures/{picture.name}")
    ordered = {row: sections[row] for row in ROWS if row in sections}
    out.write_text(write_page(ordered, "python tests/bench/scoreboard.py"), "utf-8")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=64, help="rows take a share or a multiple of them")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="NAME",
                        help=f"of {', '.join(ROWS)}; all unless told")
    parser.add_argument("--out", type=pathlib.Path, default=OUT)
    chosen = parser.parse_args(arguments)
    if chosen.seeds < LEAST:
        parser.error(f"--seeds is {chosen.seeds}; an interval over fewer than {LEAST} says nothing")
    torch.set_num_threads(1)  # the rows share their work among processes
    for name in chosen.rows:
        add_section(name, chosen.seeds, chosen.out)
        print(f"{name}: {chosen.out}", flush=True)


if __name__ == "__main__":
    main()
