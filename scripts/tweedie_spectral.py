"""Loads the pack as `tweedie_pack` where another loader has not, and binds its panel of spectral guidance."""
import importlib.util
import pathlib
import sys

from modules import script_callbacks

PACK = "tweedie_pack"
ROOT = pathlib.Path(__file__).resolve().parents[1]


def forget():
    for name in [name for name in sys.modules if name.partition(".")[0] == PACK]:
        del sys.modules[name]


if PACK not in sys.modules:
    spec = importlib.util.spec_from_file_location(
        PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    sys.modules[PACK] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[PACK])

from tweedie_pack.extensions_a1111 import spectral  # noqa: E402

spectral.register()
script_callbacks.on_script_unloaded(forget)
TweedieSpectralGuidance = spectral.TweedieSpectralGuidance
