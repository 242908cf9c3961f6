"""What ComfyUI gets: the pack's nodes, and its rows in the scheduler and sampler menus of the stock nodes."""
from __future__ import annotations

import pathlib
from importlib.metadata import entry_points

from comfy_api.latest import ComfyExtension, io

from ..controls.blends import BLENDS
from ..controls.hands.detectors import DETECTORS
from ..controls.hands.score import SCORERS
from ..controls.layouts import LAYOUTS
from ..plugin import load_plugins
from ..samplers.schedules import SCHEDULES
from ..samplers.spectral import BANDS
from ..samplers.structure import MAPS
from . import (
    control_probe,
    controls,
    flow,
    hands,
    measure,
    overlay,
    probe,
    regions,
    schedules,
    spectral,
    tiny,
    zero_snr,
)

ROOT = pathlib.Path(__file__).resolve().parents[1]


class Extension(ComfyExtension):
    async def on_load(self) -> None:
        package = __package__.rpartition(".")[0]
        registries = {"SCHEDULES": SCHEDULES, "BANDS": BANDS, "MAPS": MAPS, "LAYOUTS": LAYOUTS,
                      "BLENDS": BLENDS, "DETECTORS": DETECTORS, "SCORERS": SCORERS}
        load_plugins(ROOT / "plugins", package, registries, entry_points(group="tweedie_pack.plugins"))
        schedules.register_menus()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [*schedules.NODES, *zero_snr.NODES, *flow.NODES, *measure.NODES, *spectral.NODES,
                *probe.NODES, *regions.NODES, *overlay.NODES, *controls.NODES, *control_probe.NODES,
                *hands.NODES, *tiny.NODES]
