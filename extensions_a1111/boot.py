"""(feature's name) -> its module: what each loader in `scripts/` runs, by path, as nothing is loaded yet.

Loads the pack as `tweedie_pack` only where it is missing, and forgets it only when the host unloads its
scripts, which is before any loader runs again: so all loaders share one package, and a reload sees edits.
"""
import importlib.util
import pathlib
import sys
from types import ModuleType

from modules import script_callbacks

PACK = "tweedie_pack"
ROOT = pathlib.Path(__file__).resolve().parents[1]


def forget() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == PACK]:
        del sys.modules[name]


def load(feature: str) -> ModuleType:
    """The registered module of `extensions_a1111/`."""
    if PACK not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
        sys.modules[PACK] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[PACK])
    module = importlib.import_module(f"{PACK}.extensions_a1111.{feature}")
    module.register()
    script_callbacks.on_script_unloaded(forget)
    return module
