"""What lasts for one pass: instance attributes that are put back, and a wrapper that takes itself away."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

PROMPTS = ("cached_c", "cached_uc", "cached_hr_c", "cached_hr_uc")


def owns(instance: Any, name: str) -> bool:
    """Is the attribute the instance's own (plain, or a module's buffer or child), not only its class's?"""
    return hasattr(instance, name) and (name in vars(instance) or not hasattr(type(instance), name))


@contextmanager
def patched(instance: Any, **values: Any) -> Iterator[None]:
    """Set attributes on one instance, never on its class; then put back its own and delete the others."""
    kept = {name: getattr(instance, name) for name in values if owns(instance, name)}
    for name, value in values.items():
        setattr(instance, name, value)
    try:
        yield
    finally:
        for name in values:
            if name in kept:
                setattr(instance, name, kept[name])
            else:
                delattr(instance, name)


class Clock:
    """Where a pass stands: the step of the sampler's denoiser, and how often the model was called in it."""

    def __init__(self, guide: Any):
        self.guide, self.step, self.calls = guide, -1, 0

    def tick(self) -> None:
        """The model is called."""
        self.calls = self.calls + 1 if self.step == self.guide.step else 1
        self.step = self.guide.step

    @property
    def last(self) -> int:
        return self.guide.total_steps - 1


def forget_prompts(p: Any) -> None:
    """Empty the host's caches of encoded prompts, as a pass ends before the model was called.

    sd-webui-controlnet marks them before the pass, and takes the marks away in the model's first call.
    """
    for name in PROMPTS:
        cache = getattr(p, name, None) or []
        cache[:] = [None] * len(cache)


def enclose_next_pass(sampler: Any, scope: Callable[..., AbstractContextManager], panel: str = "") -> None:
    """Run the sampler's next `sample` or `sample_img2img`, no other, inside `scope(p, x, steps, partial)`.

    x is the pass's latent [B,C,...], `steps` what the host asks for by keyword, `partial` whether it starts
    from a picture. An error raised in the scope reaches the user, unlike one in a script's hook. A panel's
    second call before the pass begins changes nothing: Forge calls the hook twice before a hires pass. The
    panel that called last is entered first, so what it hangs into the sampler acts first.
    """
    if hasattr(sampler, "tweedie_waits"):
        sampler.tweedie_waits.setdefault(panel, scope)
        return
    waiting, scopes = ExitStack(), {panel: scope}

    def once(original: Callable, partial: bool) -> Callable:
        def run(p, x, *arguments, **options):
            waiting.close()
            with ExitStack() as stack:
                try:
                    for scope in reversed(scopes.values()):
                        stack.enter_context(scope(p, x, options.get("steps"), partial))
                except ValueError:
                    forget_prompts(p)
                    raise
                return original(p, x, *arguments, **options)
        return run

    waiting.enter_context(patched(sampler, tweedie_waits=scopes, sample=once(sampler.sample, False),
                                  sample_img2img=once(sampler.sample_img2img, True)))
