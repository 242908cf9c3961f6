"""A chain of ComfyUI's controls as one: a ControlBase whose children run only where they matter."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import comfy.controlnet
from comfy.patcher_extension import CallbacksMP
from torch import Tensor

from ..controls.children import NEGATIVE, Call, Child, Voice, gather
from ..controls.multi import Batch, Policy, Residuals, Reuse, Rule, join, longest, measure

HALVINGS = 24  # of progress 0..1


@dataclass
class Entry:
    """What the controls did at one time of a run: each one's energy by place, and why its net rested."""

    progress: float
    energies: list[dict[tuple[str, int], Tensor]]
    why: list[str]


def ask(control, x, t, cond, chunks, options) -> Residuals | None:
    return control.get_control(x, t, cond, chunks, options)


def child_of(control: comfy.controlnet.ControlBase, rule: Rule) -> Child:
    """Controls with a get_control of their own keep their net to themselves."""
    return Child(control, rule, type(control).get_control is comfy.controlnet.ControlNet.get_control)


def progress_at(sigma: float, to_sigma) -> float:
    """The progress 0..1 at which the model's table has this sigma: the inverse of ComfyUI's percent."""
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if float(to_sigma(middle)) > sigma else (low, middle)
    return high if sigma <= 0 else round(high, 6)


def add_previous(residuals: Residuals, previous: Residuals) -> Residuals:
    """As the host joins a chain."""
    return comfy.controlnet.ControlBase().control_merge(residuals, previous, None)


class BlendControl(comfy.controlnet.ControlBase):
    """policy joins the children's residuals. record: what the last run did; it outlives the run."""

    def __init__(self, children: Sequence[Child], policy: Policy, reuse: Reuse, union: bool = False):
        super().__init__()
        self.children, self.policy, self.reuse, self.union = list(children), policy, reuse, union
        self.record: list[Entry] = []
        self.started: list[Child] = []
        self.sampling = self.to_sigma = None

    def pre_run(self, model, percent_to_timestep_function):
        super().pre_run(model, percent_to_timestep_function)
        self.forget()
        self.record, self.started = [], []
        self.sampling, self.to_sigma = model.model_sampling, percent_to_timestep_function
        self.watch(getattr(model, "current_patcher", None))
        for child in self.children:
            child.control.pre_run(model, percent_to_timestep_function)
            self.started.append(child)

    def watch(self, patcher) -> None:
        """Clean up with the patcher: the host leaves the controls of a run that failed as they are."""
        if patcher is None:
            return
        key = f"tweedie_controls_{id(self)}"

        def clean(patcher):
            patcher.remove_callbacks_with_key(CallbacksMP.ON_CLEANUP, key)
            self.cleanup()

        patcher.remove_callbacks_with_key(CallbacksMP.ON_CLEANUP, key)
        patcher.add_callback_with_key(CallbacksMP.ON_CLEANUP, key, clean)

    def forget(self) -> None:
        for child in self.children:
            child.forget()

    def cleanup(self):
        super().cleanup()
        self.forget()
        for child in self.started:
            child.control.cleanup()
        self.started, self.sampling, self.to_sigma = [], None, None

    def get_models(self):
        return super().get_models() + [
            model for child in self.children for model in child.control.get_models()]

    def get_extra_hooks(self):
        return super().get_extra_hooks() + [
            hooks for child in self.children for hooks in child.control.get_extra_hooks()]

    def inference_memory_requirements(self, dtype):
        """The largest, as they run in turn."""
        return max([super().inference_memory_requirements(dtype),
                    *(child.control.inference_memory_requirements(dtype) for child in self.children)])

    def copy(self):
        return self.over([child.control.copy() for child in self.children])

    def over(self, controls: Sequence[comfy.controlnet.ControlBase]) -> BlendControl:
        """The same blend of other controls."""
        pairs = zip(controls, self.children, strict=True)
        copied = BlendControl([child_of(control, child.rule) for control, child in pairs], self.policy,
                              self.reuse, self.union)
        self.copy_to(copied)
        return copied

    def deepclone_multigpu(self, load_device, autoregister=False):
        cloned = self.over([child.control.deepclone_multigpu(load_device) for child in self.children])
        if autoregister:
            self.multigpu_clones[load_device] = cloned
        return cloned

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        arguments = x_noisy, t, cond, batched_number, transformer_options
        previous = self.previous_controlnet and self.previous_controlnet.get_control(*arguments)
        call = self.look(*arguments)
        voices, why = gather(self.children, call, self.reuse, self.union)
        weighed = {}
        for number, residuals, weight in sorted(voices, key=self.place_of):
            child = self.children[number]
            now = child.rule.curve(call.progress) if weight is None else weight
            weighed[number] = child.weigher.weigh(residuals, now, call.batch)
        self.note(call, weighed, why)
        if not weighed:
            return previous
        joined = join(list(weighed.values()), self.policy, longest([voice.residuals for voice in voices]))
        return joined if previous is None else add_previous(joined, previous)

    def place_of(self, voice: Voice) -> tuple[float, int]:
        """By priority, and as applied among equals."""
        return -self.children[voice.number].rule.priority, voice.number

    def look(self, x, t, cond, chunks, options) -> Call:
        """When this call is, and of what."""
        kinds = tuple(options.get("cond_or_uncond", (0,) * chunks))
        sigma, seen, step, last = float(t[0]), None, None, 0
        if self.reuse.mode != "off" and "sample_sigmas" in options:
            sigmas = options["sample_sigmas"].tolist()
            last = len(sigmas) - 2
            step = min(sum(one > sigma * (1 + 1e-5) for one in sigmas), last)
            if self.reuse.mode == "threshold":
                seen = self.sampling.calculate_input(t, x)
        key = (*kinds, *map(str, options.get("uuids", ())), tuple(x.shape))
        return Call(ask, x, t, cond, options, Batch(len(x), kinds, tuple(x.shape[-2:])),
                    progress_at(sigma, self.to_sigma), step, last, key, seen)

    def note(self, call: Call, weighed: dict, why: list[str]) -> None:
        """Record a time's first call that holds a positive prompt."""
        if (self.record and self.record[-1].progress == call.progress) or all(
                kind == NEGATIVE for kind in call.batch.kinds):
            return
        chunk = next(number for number, kind in enumerate(call.batch.kinds) if kind != NEGATIVE)
        self.record.append(Entry(call.progress, [
            measure(weighed.get(number, {}), chunk * call.batch.each) for number in range(len(why))], why))


def chain_of(control: comfy.controlnet.ControlBase | None) -> list[comfy.controlnet.ControlBase]:
    """The controls of a chain in order of application."""
    chain = []
    while control is not None:
        chain.append(control)
        control = control.previous_controlnet
    return chain[::-1]


def absorb(control: comfy.controlnet.ControlBase, rules: Sequence[Rule], policy: Policy, reuse: Reuse,
           union: bool) -> BlendControl:
    """The chain that ends in this control as one blend; the first rule is for what was applied first."""
    chain = chain_of(control)
    pairs = zip_longest(chain, rules[: len(chain)], fillvalue=Rule())
    return BlendControl([child_of(one.copy(), rule) for one, rule in pairs], policy, reuse, union)
