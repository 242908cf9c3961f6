"""Registers the pack's schedules and sampler, and binds their panel for the host."""
import pathlib
import runpy

boot = pathlib.Path(__file__).resolve().parents[1] / "extensions_a1111" / "boot.py"
TweedieSchedules = runpy.run_path(str(boot))["load"]("schedules").TweedieSchedules
