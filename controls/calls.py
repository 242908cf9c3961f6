"""One control net, called sparingly: its hint is encoded once, and controls of the same net run as one batch.

A net is looked at through a `View`: `forward` of its own class runs on the view, which hands out the net's
parts but for those that are known already. The net itself, which all users of the host share, is untouched.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

ENCODERS = ("input_hint_block", "input_cond_block")  # what a net makes features of a picture with
MERGER = "union_controlnet_merge"
OWN_CALL = ("_forward_hooks", "_forward_pre_hooks")


def plain(net: Any) -> bool:
    """Whether a view may stand in: nobody has hooked or replaced the net's own forward."""
    return (isinstance(net, nn.Module) and "forward" not in vars(net)
            and not any(getattr(net, name) for name in OWN_CALL)
            and any(hasattr(net, name) for name in ENCODERS))


@dataclass
class Features:
    """What an encoder made of hints; made anew when the host passes others."""

    hints: tuple = ()
    made: Any = None

    def of(self, hints: tuple, encode: Callable[[], Any]) -> Any:
        """hints: the host's own objects, which it keeps as long as it means the same."""
        if len(hints) != len(self.hints) or any(a is not b for a, b in zip(hints, self.hints, strict=True)):
            self.made, self.hints = encode(), hints
        return self.made


class View:
    """A net with some parts of another kind; `call` (net, options) is what happens when it is called."""

    def __init__(self, net: Any, call: Callable[[Any, dict], Any], **parts: Any):
        self.__dict__.update(parts, net=net, call=call)

    @property
    def __class__(self) -> type:  # what super() in a forward goes by
        return type(self.net)

    def __getattr__(self, name: str) -> Any:
        part = getattr(self.net, name)
        inside = name == MERGER and isinstance(part, MethodType)  # it calls an encoder
        return MethodType(part.__func__, self) if inside else part

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self.net(*arguments, **options) if arguments else self.call(self.net, options)


def run_with(net: Any, parts: dict[str, Callable], options: dict) -> Any:
    """The net's forward, with these parts in the place of its own."""
    return type(net).forward(View(net, lambda net, options: net(**options), **parts), **options)


def run_once(net: Any, features: Features, hints: tuple, options: dict) -> Any:
    """The net's output; its hint is encoded where it is new."""
    if not plain(net):
        return net(**options)

    def known(own: Callable) -> Callable:
        return lambda hint, *more: features.of(hints, lambda: own(hint, *more))

    parts = {name: known(getattr(net, name)) for name in ENCODERS if hasattr(net, name)}
    return run_with(net, parts, options)


def rows_of(value: Tensor, count: int) -> Tensor:
    return value.expand(count, *value.shape[1:]) if len(value) == 1 else value


def alike(calls: Sequence[dict]) -> bool:
    """Whether these calls can be one: the same options, in tensors of the same shape but for their rows."""
    first, count = calls[0], len(calls[0]["x"])

    def same(name: str, value: Any) -> bool:
        if not isinstance(value, Tensor) or not isinstance(first[name], Tensor):
            return value is first[name] or value == first[name]
        return (value.ndim > 0 and value.shape[1:] == first[name].shape[1:]
                and value.dtype == first[name].dtype and len(value) in (1, count))

    return all(call.keys() == first.keys() and all(same(name, value) for name, value in call.items())
               for call in calls)


def run_together(net: Any, calls: Sequence[dict], features: Features, hints: tuple) -> list:
    """The outputs of calls that are `alike`, from one call of the net."""
    count = len(calls[0]["x"])
    joined = {name: torch.cat([rows_of(call[name], count) for call in calls])
              if isinstance(value, Tensor) else value for name, value in calls[0].items()}
    output = run_once(net, features, hints, joined)
    return [split(output, number, len(calls)) for number in range(len(calls))]


def split(output: Any, number: int, of: int) -> Any:
    """One call's share of what a joined one gave; a tensor that is repeated stays one."""
    done: dict[int, Tensor] = {}

    def part(value: Any) -> Any:
        if isinstance(value, Tensor):
            return done.setdefault(id(value), value.chunk(of)[number])
        if isinstance(value, dict):
            return {key: part(one) for key, one in value.items()}
        return type(value)(part(one) for one in value) if isinstance(value, (list, tuple)) else value

    return part(output)


def run_union(net: Any, calls: Sequence[dict], features: Sequence[Features], hints: Sequence[tuple],
              strengths: Sequence[float]) -> Any:
    """Several types of one union net in one call (xinsir's ControlNet++): strengths scale the hints.

    Every hint's features get the mean of themselves and their type's embedding as a token; a transformer over
    all tokens says what to add to each, and their sum is the net's hint [B,C,h,w].
    """
    types, count = [type for call in calls for type in call["control_type"]], len(calls[0]["x"])

    def merge(hint: Tensor, control_type: list[int], emb: Tensor, context: Tensor) -> Tensor:
        made = [strength * rows_of(kept.of(key, lambda call=call: net.input_hint_block(call["hint"], emb,
                                                                                      context)), count)
                for kept, key, call, strength in zip(features, hints, calls, strengths, strict=True)]
        tokens = [one.mean((2, 3)) + strength * net.task_embedding[type].to(one)
                  for one, type, strength in zip(made, types, strengths, strict=True)]
        moves = net.spatial_ch_projs(net.transformer_layes(torch.stack(tokens, 1))).unbind(1)
        return sum(one + strength * move[..., None, None]
                   for one, move, strength in zip(made, moves, strengths, strict=True))

    return run_with(net, {MERGER: merge}, {**calls[0], "control_type": types})
