"""Several controls -> one: which of them a call of the model needs, and how they are joined by a policy."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from .children import KEPT, MERGED, NEGATIVE, OUT, Call, Child, ask_alone, ask_together
from .multi import Kept, Policy, Residuals, Reuse, join, longest, measure, put_rows


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
            alone = -1 if child.joins and child.net is not None else number
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
    part, rows = call.of_chunks(chunks)
    some = [children[number] for number in numbers]
    said = [(ask_alone(some[0], part), None)] if len(some) == 1 else ask_together(some, part, union)
    voices = [Voice(number, *one) for number, one in zip(numbers, said, strict=True)]
    if rows is None:
        return voices
    return [voice._replace(residuals=voice.residuals and put_rows(voice.residuals, rows, call.batch.rows))
            for voice in voices]


@dataclass
class Entry:
    """What the controls did at one time of a run: each one's energy by place, and why its net rested."""

    progress: float
    energies: list[dict[tuple[str, int], Tensor]]
    why: list[str]


@dataclass
class Blend:
    """Controls, and how they become one. record: what the last run did; it outlives the run."""

    children: Sequence[Child]
    policy: Policy
    reuse: Reuse
    union: bool = False
    record: list[Entry] = field(default_factory=list)

    def forget(self) -> None:
        for child in self.children:
            child.forget()

    def place_of(self, voice: Voice) -> tuple[float, int]:
        """By priority, and as applied among equals."""
        return -self.children[voice.number].rule.priority, voice.number

    def answer(self, call: Call) -> Residuals | None:
        """The residuals of all controls for this call, None where none acts."""
        voices, why = gather(self.children, call, self.reuse, self.union)
        weighed = {}
        for number, residuals, weight in sorted(voices, key=self.place_of):
            child = self.children[number]
            now = child.rule.curve(call.progress) if weight is None else weight
            weighed[number] = child.weigher.weigh(residuals, now, call.batch)
        self.note(call, weighed, why)
        if not weighed:
            return None
        return join(list(weighed.values()), self.policy, longest([voice.residuals for voice in voices]))

    def note(self, call: Call, weighed: dict, why: list[str]) -> None:
        """Record a time's first call that holds a positive prompt."""
        if (self.record and self.record[-1].progress == call.progress) or all(
                kind == NEGATIVE for kind in call.batch.kinds):
            return
        chunk = next(number for number, kind in enumerate(call.batch.kinds) if kind != NEGATIVE)
        self.record.append(Entry(call.progress, [
            measure(weighed.get(number, {}), chunk * call.batch.each) for number in range(len(why))], why))
