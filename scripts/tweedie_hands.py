"""Binds the panel of hand repair, and registers its axes, for the host."""
import pathlib
import runpy

boot = pathlib.Path(__file__).resolve().parents[1] / "extensions_a1111" / "boot.py"
TweedieHandRepair = runpy.run_path(str(boot))["load"]("hands").TweedieHandRepair
