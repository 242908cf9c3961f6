"""Binds the panel of regional prompts, and registers its axes, for the host."""
import pathlib
import runpy

boot = pathlib.Path(__file__).resolve().parents[1] / "extensions_a1111" / "boot.py"
TweedieRegionalPrompt = runpy.run_path(str(boot))["load"]("regions").TweedieRegionalPrompt
