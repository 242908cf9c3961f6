"""(model, LoRA file) -> what it adds to each layer that it touches, read by the host, no weight changed."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import comfy.lora
import comfy.lora_convert
import comfy.utils
import folder_paths
import torch
from comfy.weight_adapter import BypassForwardHook, WeightAdapterBase
from torch import Tensor

from ..controls.lora import Kernel, Term, kernel_of

KINDS = ("lora", "loha", "lokr")  # what adds to a layer's output; others turn it, or need the layer's weights


class Layer(NamedTuple):
    """adapter: the host's. offset: axis, start and length of the slice of the weight that it is for."""

    adapter: WeightAdapterBase
    offset: tuple[int, int, int] | None


@dataclass(frozen=True, eq=False)
class Lora:
    """A file's layers by the path of their module; left: how many can't act in a part of the picture."""

    name: str
    strength: float
    layers: dict[str, list[Layer]]
    left: int

    def tell(self) -> str:
        said = f"LoRA {self.name} at {self.strength:g}, {sum(map(len, self.layers.values()))} layers"
        return said + (f"; {self.left} are left out: whole weights, DoRA, OFT, or sizes that the model lacks"
                       if self.left else "")


class LayerTerm(NamedTuple):
    """A layer's LoRA on a device; kernel: of a convolution."""

    add: Term
    kernel: Kernel | None
    offset: tuple[int, int, int] | None


def term_of(layer: Layer, module: torch.nn.Module, strength: float, device: torch.device,
            dtype: torch.dtype) -> LayerTerm:
    kernel = kernel_of(module)

    def settle(weight: Tensor) -> Tensor:  # kernels of 1x1 fit linear layers, too
        weight = weight.flatten(1) if kernel is None and weight.ndim > 2 else weight
        return weight.to(device, dtype)

    adapter = type(layer.adapter)(set(), tuple(settle(weight) if isinstance(weight, Tensor) else weight
                                               for weight in layer.adapter.weights))
    BypassForwardHook(module, adapter, strength)  # made to tell the adapter about its module, and not used
    if kernel is not None:
        adapter.kw_dict = {**adapter.kw_dict, "padding": 0}
    return LayerTerm(lambda x: adapter.h(x, x), kernel, layer.offset)


def fits(layer: Layer, module: torch.nn.Module) -> bool:
    """Whether the adapter's sizes are the module's, found by a run without data."""
    meta = torch.device("meta")
    sides = [getattr(module, f"{side}_features", getattr(module, f"{side}_channels", None))
             for side in ("out", "in")]
    if None in sides or isinstance(getattr(module, "padding", None), str):
        return False
    if layer.offset is not None:
        sides[layer.offset[0]] = layer.offset[2]
    term = term_of(layer, module, 1.0, meta, torch.float32)
    reach = () if term.kernel is None else tuple(
        (size - 1) * step + 1 for size, step in zip(term.kernel.size, term.kernel.dilation, strict=True))
    try:
        return term.add(torch.empty(1, sides[1], *reach, device=meta)).shape[1] == sides[0]
    except RuntimeError:  # torch's word for sizes that don't match
        return False


def read_layer(modules: dict[str, torch.nn.Module], target: str | tuple, adapter: object,
               dora: set[int]) -> tuple[str, Layer] | None:
    """The path of a module and what a file has for it; None where it can't act in a part of the picture."""
    weight, offset, function = (*((target,) if isinstance(target, str) else target), None, None)[:3]
    path, layer = weight.removesuffix(".weight"), Layer(adapter, offset)
    if (getattr(adapter, "name", None) not in KINDS or path not in modules or function is not None
            or (offset is not None and offset[0] > 1) or dora & {id(value) for value in adapter.weights}):
        return None
    return (path, layer) if fits(layer, modules[path]) else None


def read_lora(model, name: str, strength: float) -> Lora:
    """A LoRA for a ModelPatcher's model; errors of the host's for a file that is missing or unsafe.

    ValueError where the file has no layer of this model.
    """
    path = folder_paths.get_full_path_or_raise("loras", name)
    file = comfy.lora_convert.convert_lora(comfy.utils.load_torch_file(path, safe_load=True))
    found = comfy.lora.load_lora(file, comfy.lora.model_lora_keys_unet(model.model, {}), log_missing=False)
    dora = {id(value) for key, value in file.items() if key.endswith(".dora_scale")}
    modules = dict(model.model.named_modules())
    read = [read_layer(modules, target, adapter, dora) for target, adapter in found.items()]
    layers: dict[str, list[Layer]] = {}
    for path, layer in filter(None, read):
        layers.setdefault(path, []).append(layer)
    if not layers:
        why = "for it only what can't act in a part of the picture" if read else "nothing for it"
        raise ValueError(f"Region: the model is {type(model.model).__name__}, and the LoRA {name} has {why}; "
                         "choose another, or none")
    return Lora(name, strength, layers, read.count(None))


def read_loras(model, wanted: Sequence[tuple[str, float] | None]) -> tuple[Lora | None, ...]:
    """A LoRA for each region that wants one by name and strength; equal ones are read once."""
    read = {one: read_lora(model, *one) for one in dict.fromkeys(wanted) if one is not None}
    return tuple(read.get(one) for one in wanted)
