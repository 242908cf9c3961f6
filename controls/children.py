"""A control in a blend: what a call of the model asks of it, alone or together with others of its net.

A control is what ComfyUI and Forge call ControlBase: it has a `strength`, mostly a net in `control_model`,
and keeps its hint for the size at hand in `cond_hint`.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .calls import MERGER, Features, View, alike, plain, run_once, run_together, run_union
from .curves import EVEN
from .multi import Batch, Kept, Residuals, Rule, Weigher, pick_rows

NEGATIVE = 1  # in cond_or_uncond
CHUNKED = ("cond_or_uncond", "uuids")  # options with an item for each chunk
ROWED = ("cond_mark",)  # options with an item for each row
LAZY = ("cond_hint", "control_input")  # what a control makes of its hint for one size of latent
OFF, EMPTY, UNUSED, OUT, KEPT, MERGED = (
    "weight 0", "empty mask", "unused rows", "out of range", "reused", "in another's call")


class Call(NamedTuple):
    """One call of the model: what its host hands to controls, and when it is; step None where not known.

    ask: (control, x, t, cond, chunks, options) -> its residuals or None, in the host's way. rests: (control,
    t) -> whether the host itself leaves it out now. key tells apart the calls of one step. seen: x in the
    scale that the model sees, where reuse asks for it.
    """

    ask: Callable[..., Residuals | None]
    rests: Callable[[Any, Tensor], bool]
    x: Tensor
    t: Tensor
    cond: dict
    options: dict
    batch: Batch
    progress: float
    step: int | None
    last: int
    key: tuple
    seen: Tensor | None

    def of_chunks(self, chunks: tuple[int, ...]) -> tuple[Call, Tensor | None]:
        """This call for these chunks of the batch alone, and their rows; None where they are all."""
        if len(chunks) == len(self.batch.kinds):
            return self, None
        each, count = self.batch.each, self.batch.rows
        rows = torch.cat([torch.arange(chunk * each, (chunk + 1) * each) for chunk in chunks])
        rows, options = rows.to(self.x.device), dict(self.options)
        options |= {name: [options[name][chunk] for chunk in chunks] for name in CHUNKED if name in options}
        options |= {name: options[name][rows] for name in ROWED if name in options}
        cond = {name: pick_rows(value, rows, count) for name, value in self.cond.items()}
        if "transformer_options" in cond:
            cond["transformer_options"] = options
        batch = self.batch._replace(rows=len(rows), kinds=tuple(self.batch.kinds[chunk] for chunk in chunks))
        return self._replace(x=self.x[rows], t=self.t[rows], cond=cond, options=options, batch=batch), rows


def out_of_range(control: Any, t: Tensor) -> bool:
    """Whether these sigmas [B] lie outside the control's own, as ComfyUI and Forge have it."""
    span = getattr(control, "timestep_range", None)
    return span is not None and bool(t[0] > span[0] or t[0] < span[1])


@dataclass
class Child:
    """A control of ours, alone; its rule; and what it remembers during a run.

    joins: whether it may share calls of its net with others, as it only wraps what the net gives.
    """

    control: Any
    rule: Rule
    joins: bool = False
    memory: dict = field(default_factory=dict)
    kept: dict[tuple, Kept] = field(default_factory=dict)

    def __post_init__(self):
        self.weigher = Weigher(self.rule)
        self.empty = self.rule.mask is not None and not bool(self.rule.mask.any())

    @property
    def net(self) -> Any:
        return getattr(self.control, "control_model", None)

    def forget(self) -> None:
        for memory in (self.memory, self.kept, self.weigher.fitted):
            memory.clear()

    def chunks(self, kinds: tuple[int, ...]) -> tuple[int, ...]:
        """Those whose residuals count."""
        return tuple(number for number, kind in enumerate(kinds) if kind != NEGATIVE or self.rule.uncond > 0)

    def silent(self, call: Call) -> str:
        """Why the control need not be asked, if so."""
        if self.control.strength == 0 or self.rule.curve(call.progress) == 0:
            return OFF
        if call.rests(self.control, call.t):
            return OUT
        return EMPTY if self.empty else "" if self.chunks(call.batch.kinds) else UNUSED

    def features(self, *key: Any) -> Features:
        return self.memory.setdefault(("features", *key), Features())

    def ask(self, call: Call, stand_in: Callable[[Any, dict], Any]) -> Residuals | None:
        """What the control makes of this in its net's place, with the hint that it has for this size."""
        control, net, size = self.control, self.net, tuple(call.x.shape[2:])
        for name in LAZY:
            if hasattr(control, name):
                setattr(control, name, self.memory.get((name, size)))
        if net is not None:
            control.control_model = View(net, stand_in)
        try:
            return call.ask(control, call.x, call.t, call.cond, len(call.batch.kinds), call.options)
        finally:
            if net is not None:
                control.control_model = net
            for name in LAZY:
                if hasattr(control, name):
                    self.memory[name, size] = getattr(control, name)


    def take(self, call: Call, output: Any, strength: float | None = None) -> Residuals | None:
        """What the control makes of this output of its net, at another strength if one is given."""
        own = self.control.strength
        self.control.strength = own if strength is None else strength
        try:
            return self.ask(call, lambda net, options: output)
        finally:
            self.control.strength = own


def ask_alone(child: Child, call: Call) -> Residuals | None:
    features = child.features(call.x.shape[2:])
    return child.ask(call, lambda net, options: run_once(net, features, (child.control.cond_hint,), options))


def capture(child: Child, call: Call) -> dict | None:
    """What the control would call its net with; None if it would not."""
    seen: list[dict] = []

    def note(net, options):
        seen.append(options)
        return {}

    child.ask(call, note)
    return seen[0] if seen else None


def mergeable(children: Sequence[Child], calls: Sequence[dict]) -> bool:
    """Whether one call of a union net can take all these types."""
    net = children[0].net
    return (plain(net) and getattr(net, "task_embedding", None) is not None and hasattr(net, MERGER)
            and all(len(call.get("control_type") or ()) == 1 for call in calls)
            and alike([{**call, "control_type": None} for call in calls])
            and all(child.rule.mask is None and child.rule.layers == EVEN and child.rule.uncond == 1
                    for child in children))


Said = tuple["Residuals | None", "float | None"]  # residuals, and their weight where it isn't the curve's


def ask_together(children: Sequence[Child], call: Call, union: bool) -> list[Said]:
    """What controls of one net say; {} of one whose part is in another's."""
    asked = [capture(child, call) for child in children]
    inside = [number for number, options in enumerate(asked) if options is not None]
    said: list[Said] = [(None, None)] * len(children)
    some, calls = [children[number] for number in inside], [asked[number] for number in inside]
    hints, size = [(child.control.cond_hint,) for child in some], call.x.shape[2:]
    if len(some) > 1 and union and mergeable(some, calls):
        strengths = [child.control.strength * child.rule.curve(call.progress) for child in some]
        output = run_union(some[0].net, calls, [child.features(size) for child in some], hints, strengths)
        for number in inside:
            said[number] = {}, None
        said[inside[0]] = some[0].take(call, output, 1.0), 1.0
    elif len(some) > 1 and alike(calls):
        features = some[0].features(size, *map(id, some))
        outputs = run_together(some[0].net, calls, features, tuple(hint for hint, in hints))
        for number, output in zip(inside, outputs, strict=True):
            said[number] = children[number].take(call, output), None
    else:
        for number in inside:
            said[number] = ask_alone(children[number], call), None
    return said
