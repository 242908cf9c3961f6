"""The controls of a blend: which of them a call of the model needs, and what they say, in few net calls."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import comfy.controlnet
import torch
from torch import Tensor

from ..controls.calls import MERGER, Features, View, alike, run_once, run_together, run_union
from ..controls.curves import EVEN
from ..controls.multi import Batch, Kept, Residuals, Reuse, Rule, Weigher, pick_rows, put_rows

NEGATIVE = 1  # in cond_or_uncond
LAZY = ("cond_hint", "control_input")  # what a control makes of its hint for one size of latent
OFF, EMPTY, UNUSED, OUT, KEPT, MERGED = (
    "weight 0", "empty mask", "unused rows", "out of range", "reused", "in another's call")


class Call(NamedTuple):
    """One call of the model: get_control's arguments, and when it is; step None where that is not known.

    key tells apart the calls of one step. seen: x in the scale that the model sees, where reuse asks for it.
    """

    arguments: tuple
    batch: Batch
    progress: float
    step: int | None
    last: int
    key: tuple
    seen: Tensor | None

    def of_chunks(self, chunks: tuple[int, ...]) -> tuple[tuple, Tensor | None]:
        """The arguments for these chunks of the batch alone, and their rows; None where they are all."""
        x, t, cond, _, options = self.arguments
        if len(chunks) == len(self.batch.kinds):
            return self.arguments, None
        each, count = self.batch.each, self.batch.rows
        rows = torch.cat([torch.arange(chunk * each, (chunk + 1) * each) for chunk in chunks]).to(x.device)
        fewer = {**options, **{name: [options[name][chunk] for chunk in chunks]
                               for name in ("cond_or_uncond", "uuids") if name in options}}
        cond = {name: pick_rows(value, rows, count) for name, value in cond.items()}
        return (x[rows], t[rows], {**cond, "transformer_options": fewer}, len(chunks), fewer), rows


@dataclass
class Child:
    """A control of the chain: a copy of ours, alone; its rule; and what it remembers during a run."""

    control: comfy.controlnet.ControlBase
    rule: Rule
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
        return EMPTY if self.empty else "" if self.chunks(call.batch.kinds) else UNUSED

    def features(self, *key: Any) -> Features:
        return self.memory.setdefault(("features", *key), Features())

    def ask(self, arguments: tuple, call: Callable[[Any, dict], Any]) -> Residuals | None:
        """What the control makes of `call` in its net's place, with the hint that it has for this size."""
        control, net, size = self.control, self.net, tuple(arguments[0].shape[2:])
        for name in LAZY:
            if hasattr(control, name):
                setattr(control, name, self.memory.get((name, size)))
        if net is not None:
            control.control_model = View(net, call)
        try:
            return control.get_control(*arguments)
        finally:
            if net is not None:
                control.control_model = net
            for name in LAZY:
                if hasattr(control, name):
                    self.memory[name, size] = getattr(control, name)


def ask_alone(child: Child, arguments: tuple) -> Residuals | None:
    features = child.features(arguments[0].shape[2:])
    return child.ask(arguments, lambda net, options: run_once(net, features, (child.control.cond_hint,),
                                                              options))


def capture(child: Child, arguments: tuple) -> dict | None:
    """What the control would call its net with, the hint's own object under None; None if it would not."""
    seen: list[dict] = []

    def note(net, options):
        seen.append(options)
        return {}

    child.ask(arguments, note)
    return seen[0] if seen else None


def mergeable(children: Sequence[Child], calls: Sequence[dict]) -> bool:
    """Whether one call of a union net can take all these types."""
    net = children[0].net
    return (getattr(net, "task_embedding", None) is not None and hasattr(net, MERGER)
            and all(len(call.get("control_type") or ()) == 1 for call in calls)
            and alike([{**call, "control_type": None} for call in calls])
            and all(child.rule.mask is None and child.rule.layers == EVEN and child.rule.uncond == 1
                    for child in children))


Said = tuple["Residuals | None", "float | None"]  # residuals, and their weight where it isn't the curve's


def ask_together(children: Sequence[Child], arguments: tuple, progress: float, union: bool) -> list[Said]:
    """What controls of one net say; {} of one whose part is in another's."""
    calls = [capture(child, arguments) for child in children]
    inside = [number for number, call in enumerate(calls) if call is not None]
    said: list[Said] = [(None, None)] * len(children)
    some, asked = [children[number] for number in inside], [calls[number] for number in inside]
    hints, size = [(child.control.cond_hint,) for child in some], arguments[0].shape[2:]
    if len(some) > 1 and union and mergeable(some, asked):
        strengths = [child.control.strength * child.rule.curve(progress) for child in some]
        output = run_union(some[0].net, asked, [child.features(size) for child in some], hints, strengths)
        for number in inside:
            said[number] = {}, None
        said[inside[0]] = comfy.controlnet.ControlBase().control_merge(output, None, None), 1.0
    elif len(some) > 1 and alike(asked):
        features = some[0].features(size, *map(id, some))
        outputs = run_together(some[0].net, asked, features, tuple(hint for hint, in hints))
        for number, output in zip(inside, outputs, strict=True):
            said[number] = children[number].ask(arguments, lambda net, options, output=output: output), None
    else:
        for number in inside:
            said[number] = ask_alone(children[number], arguments), None
    return said


def batchable(control: comfy.controlnet.ControlBase) -> bool:
    return type(control).get_control is comfy.controlnet.ControlNet.get_control


class Voice(NamedTuple):
    """A control's residuals in this call; weight None for its curve's."""

    number: int
    residuals: Residuals
    weight: float | None


def gather(children: Sequence[Child], call: Call, reuse: Reuse, union: bool) -> tuple[list[Voice], list[str]]:
    """What the controls say, and of each why its net was not called, if so."""
    why = [child.silent(call) for child in children]
    voices, jobs = [], {}
    for number, child in enumerate(children):
        if why[number]:
            continue
        kept = child.kept.get(call.key)
        if kept is not None and call.step is not None and reuse.allows(kept, call.step, call.last, call.seen):
            why[number] = KEPT
            voices.append(Voice(number, kept.residuals, kept.weight))
        else:
            alone = number if child.net is None or not batchable(child.control) else -1
            jobs.setdefault((id(child.net), child.chunks(call.batch.kinds), alone), []).append(number)
    for (_, chunks, _), numbers in jobs.items():
        for voice in ask_job(children, numbers, call, chunks, union):
            child = children[voice.number]
            if voice.residuals is None:
                why[voice.number] = OUT
                continue
            why[voice.number] = "" if voice.residuals else MERGED
            voices.append(voice)
            if reuse.mode != "off" and call.step is not None:
                child.kept[call.key] = Kept(call.step, call.seen, voice.residuals, voice.weight)
    return voices, why


def ask_job(children: Sequence[Child], numbers: Sequence[int], call: Call, chunks: tuple[int, ...],
            union: bool) -> list[Voice]:
    """What controls of one net say about these chunks; 0 about the others."""
    arguments, rows = call.of_chunks(chunks)
    some = [children[number] for number in numbers]
    said = [(ask_alone(some[0], arguments), None)] if len(some) == 1 else ask_together(
        some, arguments, call.progress, union)
    voices = [Voice(number, *one) for number, one in zip(numbers, said, strict=True)]
    if rows is None:
        return voices
    return [voice._replace(residuals=voice.residuals and put_rows(voice.residuals, rows, call.batch.rows))
            for voice in voices]
