"""python -m tweedie_pack demo | doctor: the pack without a host."""
from __future__ import annotations

import argparse
import pathlib
import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

OUT = pathlib.Path(__file__).parent / "demo" / "out"
EXTRAS = ("diffusers", "kornia", "opencv-python", "ultralytics", "einops")
COUNTS = (5, 8, 12, 20)


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def run_demo(out: pathlib.Path, seed: int, noises: int, counts: tuple[int, ...] = COUNTS) -> int:
    """Sample the exact model, write the page; 1 where diffusers is missing."""
    if find_spec("diffusers") is None:
        print("The demo's samplers come from diffusers, which is missing; run: pip install diffusers", file=sys.stderr)
        return 1
    import torch

    from .demo import exact, gallery, page, sampling
    torch.set_num_threads(1)  # small matrices: on shared cores more threads are slower
    began = time.perf_counter()
    pictures, captions = gallery.paint()
    model, table = sampling.gallery_model(pictures), sampling.stable_diffusion_table()
    denoise = sampling.guide(model, captions, noises)
    start = table[-1] * sampling.pure_noise(len(gallery.PAINTERS) * noises, seed)
    print("exact end points ..", flush=True)
    ends = exact.solve(denoise, start, sampling.fine_grid(table))
    rough = exact.solve(denoise, start, sampling.fine_grid(table, sampling.FINE // 2))
    drift = float(sampling.relative_error(rough, ends).median())
    runs = []
    for run in sampling.compare(denoise, start, ends, table, counts):
        runs.append(run)
        print(f"{run.sampler}, {run.steps} steps, {run.schedule}: {run.errors.median():.1%} off", flush=True)
    print("black and white ..", flush=True)
    tones = list(sampling.compare_brightness(model, captions, sampling.pure_noise(8, seed), max(counts)))
    settings = {
        "Model": f"{len(pictures)} pictures of {sampling.SIZE}x{sampling.SIZE}, spread {sampling.STD:g} with variance "
                 f"falling as radius^-{sampling.ALPHA:g}, guidance {sampling.SCALE:g}",
        "Start": f"pure noise at sigma {table[-1]:.2f}, Stable Diffusion's table; seed {seed}, "
                 f"{noises} noise{'s' * (noises > 1)} for each of {len(gallery.PAINTERS)} captions",
        "Samplers": f"{', '.join(sampling.SAMPLERS)} of diffusers {installed('diffusers')}",
        "Exact end point": f"Heun, {sampling.FINE} steps; with half as many it moves by {drift:.2%}",
        "Made with": f"torch {torch.__version__}, Python {platform.python_version()}, one CPU thread",
        "Took": f"{time.perf_counter() - began:.0f} seconds",
    }
    path = page.write_page(out, page.Report(pictures, ends, runs, tones, settings))
    print(f"wrote {path} after {time.perf_counter() - began:.0f} s")
    return 0


def run_doctor() -> int:
    """Versions, extras, and every schedule against its validator on the standard tables; 1 where one fails."""
    import torch

    from .demo.sampling import standard_tables
    from .samplers.schedules import SCHEDULES
    print(f"tweedie {installed('tweedie-pack')}, Python {platform.python_version()}, torch {torch.__version__}")
    for name in EXTRAS:
        print(f"  {name}: {installed(name)}")
    failures = 0
    for plugin in SCHEDULES.values():
        for name, table in standard_tables().items():
            for steps in (1, 2, 5, 20, 1000):
                try:
                    plugin(steps, table)
                except ValueError as error:
                    failures += 1
                    print(f"  {plugin.label}, {steps} steps, {name}: {error}")
    print(f"{len(SCHEDULES)} schedules checked, {failures} failure{'s' * (failures != 1)}")
    return min(failures, 1)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tweedie", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="sample a model whose answer is known and write a page of pictures")
    demo.add_argument("--out", type=pathlib.Path, default=OUT, help="folder for index.html and its pictures")
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument("--noises", type=int, default=1, help="starts for each caption; more are slower and surer")
    commands.add_parser("doctor", help="say what is installed and check every schedule")
    chosen = parser.parse_args(arguments)
    return run_doctor() if chosen.command == "doctor" else run_demo(chosen.out, chosen.seed, chosen.noises)


if __name__ == "__main__":
    sys.exit(main())
