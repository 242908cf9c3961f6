"""Loads the pack as `tweedie_pack`, registers its schedules and sampler, and binds their panel for the host.

Every loader in this folder loads the package only where it is missing, and forgets it only when the host
unloads its scripts, which is before any loader runs again: so all share one package, and a reload sees edits.
"""
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

from tweedie_pack.extensions_a1111 import schedules  # noqa: E402

schedules.register()
script_callbacks.on_script_unloaded(forget)
TweedieSchedules = schedules.TweedieSchedules
