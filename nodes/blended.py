"""A chain of ComfyUI's controls as one: a ControlBase whose children run only where they matter."""
from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import comfy.controlnet
from comfy.patcher_extension import CallbacksMP

from ..controls.blended import Blend
from ..controls.children import Call, Child, out_of_range
from ..controls.multi import Batch, Policy, Residuals, Reuse, Rule, progress_at


def ask(control, x, t, cond, chunks, options) -> Residuals | None:
    return control.get_control(x, t, cond, chunks, options)


def child_of(control: comfy.controlnet.ControlBase, rule: Rule) -> Child:
    """Controls that have, or were given, a get_control of their own keep their net to themselves."""
    own = getattr(control.get_control, "__func__", None)
    return Child(control, rule, own is comfy.controlnet.ControlNet.get_control)


class BlendControl(comfy.controlnet.ControlBase):
    """A blend of controls in the place of their chain."""

    def __init__(self, blend: Blend):
        super().__init__()
        self.blend = blend
        self.started: list[Child] = []
        self.sampling = self.to_sigma = None

    @property
    def controls(self) -> list[comfy.controlnet.ControlBase]:
        return [child.control for child in self.blend.children]

    def pre_run(self, model, percent_to_timestep_function):
        super().pre_run(model, percent_to_timestep_function)
        self.blend.forget()
        self.blend.record, self.started = [], []
        self.sampling, self.to_sigma = model.model_sampling, percent_to_timestep_function
        self.watch(getattr(model, "current_patcher", None))
        for child in self.blend.children:
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

    def cleanup(self):
        super().cleanup()
        self.blend.forget()
        for child in self.started:
            child.control.cleanup()
        self.started, self.sampling, self.to_sigma = [], None, None

    def get_models(self):
        return super().get_models() + [model for control in self.controls for model in control.get_models()]

    def get_extra_hooks(self):
        return super().get_extra_hooks() + [
            hooks for control in self.controls for hooks in control.get_extra_hooks()]

    def inference_memory_requirements(self, dtype):
        """The largest, as they run in turn."""
        return max([super().inference_memory_requirements(dtype),
                    *(control.inference_memory_requirements(dtype) for control in self.controls)])

    def copy(self):
        return self.over([control.copy() for control in self.controls])

    def over(self, controls: Sequence[comfy.controlnet.ControlBase]) -> BlendControl:
        """The same blend of other controls."""
        blend = self.blend
        children = [child_of(control, child.rule)
                    for control, child in zip(controls, blend.children, strict=True)]
        copied = BlendControl(Blend(children, blend.policy, blend.reuse, blend.union))
        self.copy_to(copied)
        return copied

    def deepclone_multigpu(self, load_device, autoregister=False):
        cloned = self.over([control.deepclone_multigpu(load_device) for control in self.controls])
        if autoregister:
            self.multigpu_clones[load_device] = cloned
        return cloned

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        previous = self.previous_controlnet and self.previous_controlnet.get_control(
            x_noisy, t, cond, batched_number, transformer_options)
        residuals = self.blend.answer(self.look(x_noisy, t, cond, batched_number, transformer_options))
        if residuals is None or previous is None:
            return previous if residuals is None else residuals
        return comfy.controlnet.ControlBase().control_merge(residuals, previous, None)

    def look(self, x, t, cond, chunks, options) -> Call:
        """When this call is, and of what."""
        kinds = tuple(options.get("cond_or_uncond", (0,) * chunks))
        sigma, seen, step, last = float(t[0]), None, None, 0
        if self.blend.reuse.mode != "off" and "sample_sigmas" in options:
            sigmas = options["sample_sigmas"].tolist()
            last = len(sigmas) - 2
            step = min(sum(one > sigma * (1 + 1e-5) for one in sigmas), last)
            if self.blend.reuse.mode == "threshold":
                seen = self.sampling.calculate_input(t, x)
        key = (*kinds, *map(str, options.get("uuids", ())), tuple(x.shape))
        return Call(ask, out_of_range, x, t, cond, options, Batch(len(x), kinds, tuple(x.shape[-2:])),
                    progress_at(sigma, self.to_sigma), step, last, key, seen)


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
    return BlendControl(Blend([child_of(one.copy(), rule) for one, rule in pairs], policy, reuse, union))
