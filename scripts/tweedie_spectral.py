"""Binds the panel of spectral guidance, and registers its axes, for the host."""
import pathlib
import runpy

boot = pathlib.Path(__file__).resolve().parents[1] / "extensions_a1111" / "boot.py"
TweedieSpectralGuidance = runpy.run_path(str(boot))["load"]("spectral").TweedieSpectralGuidance
