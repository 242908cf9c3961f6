"""Loads the checkout as `tweedie_pack`, as both doors do, whatever its folder is called."""
import importlib.util
import pathlib
import sys

import torch

ROOT = pathlib.Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location("tweedie_pack", ROOT / "__init__.py",
                                              submodule_search_locations=[str(ROOT)])
sys.modules["tweedie_pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["tweedie_pack"])
torch.set_num_threads(1)  # the problems are small; threads only make them wait for each other
