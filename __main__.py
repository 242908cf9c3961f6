"""python -m tweedie_pack demo | doctor | checkpoint: the pack without a host."""
from __future__ import annotations

import argparse
import os
import pathlib
import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

OUT = pathlib.Path(__file__).parent / "demo" / "out"
EXTRAS = ("diffusers", "transformers", "kornia", "opencv-python", "ultralytics", "einops")
NEEDED = ("diffusers", "transformers")  # by the demo
COUNTS = (5, 8, 12, 20)


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def run_demo(out: pathlib.Path, seed: int, noises: int) -> int:
    """Sample the tiny model and the exact one, write the page; 1 where a library or weights are missing."""
    began = time.perf_counter()
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        print(f"The demo needs {' and '.join(missing)}, not installed here; "
              f"run: pip install {' '.join(missing)}", file=sys.stderr)
        return 1
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin starve each other on busy cores
    import torch

    from .demo.page import write_page
    from .demo.sampling import make_report
    from .demo.show import Settings, list_settings, load_models, show

    def say(line: str) -> None:
        print(f"{time.perf_counter() - began:4.0f} s  {line}", flush=True)
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    try:
        models = load_models()
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 1
    chosen = Settings(seed)
    settings, sections = list_settings(models, chosen), list(show(models, chosen, say))
    torch.set_num_threads(1)  # the exact model's matrices are small: more threads are slower
    report = make_report(seed, noises, COUNTS, say)
    settings["Took"] = f"{time.perf_counter() - began:.0f} seconds, from import to the last number"
    print(f"wrote {write_page(out, sections, report, settings)}")
    return 0


def run_doctor() -> int:
    """Versions, extras, and every schedule against its validator on standard tables; 1 where one fails."""
    import torch

    from .demo.sampling import standard_tables
    from .samplers.schedules import SCHEDULES
    print(f"tweedie {installed('tweedie-pack')}, Python {platform.python_version()}, "
          f"torch {torch.__version__}")
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


def write_checkpoints(folder: pathlib.Path) -> int:
    """Both checkpoints of the tiny model and their YAMLs; 1 where the folder or weights are missing."""
    from .demo.tiny.checkpoint import PARAMETERIZATION, write
    try:
        for prediction in PARAMETERIZATION:
            print(f"wrote {write(folder, prediction)}")
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tweedie", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser(
        "demo", help="paint with a tiny model, off and on, and write a page of pictures")
    demo.add_argument("--out", type=pathlib.Path, default=OUT, help="folder for index.html and its pictures")
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument("--noises", type=int, default=1,
                      help="starts of the exact model for each caption; more are surer")
    commands.add_parser("doctor", help="say what is installed and check every schedule")
    checkpoint = commands.add_parser("checkpoint", help="write the tiny model's checkpoints for A1111")
    checkpoint.add_argument("folder", type=pathlib.Path, help="the host's folder of checkpoints")
    chosen = parser.parse_args(arguments)
    if chosen.command == "checkpoint":
        return write_checkpoints(chosen.folder)
    return run_doctor() if chosen.command == "doctor" else run_demo(chosen.out, chosen.seed, chosen.noises)


if __name__ == "__main__":
    sys.exit(main())
