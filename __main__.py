"""python -m tweedie_pack demo | doctor: the pack without a host."""
from __future__ import annotations

import argparse
import pathlib
import platform
import sys
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


def run_demo(out: pathlib.Path, seed: int, noises: int) -> int:
    """Sample the exact model and write the page; 1 where diffusers is missing."""
    if find_spec("diffusers") is None:
        print("The demo samples with diffusers, which is missing; run: pip install diffusers",
              file=sys.stderr)
        return 1
    import torch

    from .demo.page import write_page
    from .demo.sampling import make_report
    torch.set_num_threads(1)  # the matrices are small: on shared cores more threads are slower
    report = make_report(seed, noises, COUNTS, say=lambda line: print(line, flush=True))
    print(f"wrote {write_page(out, report)}")
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


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tweedie", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser(
        "demo", help="sample a model whose answer is known and write a page of pictures")
    demo.add_argument("--out", type=pathlib.Path, default=OUT, help="folder for index.html and its pictures")
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument("--noises", type=int, default=1,
                      help="starts for each caption; more are slower and surer")
    commands.add_parser("doctor", help="say what is installed and check every schedule")
    chosen = parser.parse_args(arguments)
    return run_doctor() if chosen.command == "doctor" else run_demo(chosen.out, chosen.seed, chosen.noises)


if __name__ == "__main__":
    sys.exit(main())
