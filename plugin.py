"""A plugin is a plain function: its signature is its form, its docstring is its help.

    @SCHEDULES.add("karras", "Karras")
    def karras(steps: int, table: Tensor, rho: Annotated[float, Range(1, 20, 0.1)] = 7.0) -> Tensor: ...

Arguments marked with `Range`, or typed `Literal` or `bool`, are knobs; each host draws them as its widgets.
The unmarked leading arguments are the registry's contract: what a caller promises to pass.
"""
from __future__ import annotations

import importlib.util
import inspect
import logging
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

log = logging.getLogger("tweedie")


@dataclass(frozen=True)
class Range:
    """A number's bounds (both allowed), the widget's step, and the tip that both hosts show."""

    low: float
    high: float
    step: float = 0.01
    tip: str = ""


class Knob(NamedTuple):
    name: str
    kind: type  # float, int, bool or str
    default: Any
    range: Range | None = None
    choices: tuple[str, ...] = ()

    def check(self, value: Any, owner: str) -> Any:
        """Return the value in the knob's type, or raise ValueError saying what, got, do."""
        if self.kind is bool and not isinstance(value, bool):
            raise ValueError(f"{owner}: {self.name} is {value!r}; give true or false")
        if self.range is None:
            if self.choices and value not in self.choices:
                raise ValueError(f"{owner}: {self.name} is {value!r}; "
                                 f"choose one of {', '.join(self.choices)}")
            return value
        low, high = self.range.low, self.range.high
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise ValueError(f"{owner}: {self.name} is {value!r}; give a number from {low:g} to {high:g}")
        return self.kind(value)


class Plugin(NamedTuple):
    id: str
    label: str
    run: Callable
    knobs: tuple[Knob, ...]

    @property
    def help(self) -> str:
        return inspect.getdoc(self.run) or ""

    def __call__(self, *contract: Any, **knobs: Any) -> Any:
        """Run with checked knobs; those left out take their defaults."""
        forms = {knob.name: knob for knob in self.knobs}
        if unknown := knobs.keys() - forms.keys():
            raise ValueError(f"{self.label}: unknown knob {', '.join(sorted(unknown))}; "
                             f"it has {', '.join(forms)}")
        return self.run(*contract, **{name: forms[name].check(value, self.label)
                                      for name, value in knobs.items()})


def read_knobs(function: Callable) -> Iterator[Knob]:
    hints = get_type_hints(function, include_extras=True)
    for name, argument in inspect.signature(function).parameters.items():
        hint = hints.get(name)
        marks = [mark for mark in getattr(hint, "__metadata__", ()) if isinstance(mark, Range)]
        if marks:
            yield Knob(name, hint.__origin__, argument.default, marks[0])
        elif get_origin(hint) is Literal:
            yield Knob(name, str, argument.default, choices=get_args(hint))
        elif hint is bool:
            yield Knob(name, bool, argument.default)


class Registry(dict[str, Plugin]):
    """id -> Plugin in order of declaration; `contract` names the arguments that each plugin takes first."""

    def __init__(self, *contract: str):
        super().__init__()
        self.contract = contract

    def add(self, id: str, label: str) -> Callable[[Callable], Callable]:
        def register(function: Callable) -> Callable:
            names = tuple(inspect.signature(function).parameters)
            if names[: len(self.contract)] != self.contract:
                raise TypeError(f"'{id}': {function.__name__}({', '.join(names)}) must start with "
                                f"({', '.join(self.contract)})")
            if id in self:
                raise ValueError(f"'{id}' is taken by {self[id].run.__module__}.{self[id].run.__name__}; "
                                 "pick another id")
            knobs = tuple(read_knobs(function))
            for knob in knobs:
                if knob.default is inspect.Parameter.empty:
                    raise TypeError(f"'{id}': knob {knob.name} has no default; give it its neutral value")
            self[id] = Plugin(id, label, function, knobs)
            return function
        return register


def load_plugins(folder: pathlib.Path, package: str, registries: dict[str, Registry],
                 entry_points: Iterable[EntryPoint] = ()) -> list[str]:
    """Run every `folder`/*.py and entry point; a failing one is logged with its traceback, the rest loads.

    A file is run as `<package>.plugins.<stem>`, so it says `from ..samplers.schedules import SCHEDULES`.
    An entry point names a function that is called with a namespace of `Range` and the registries. What a
    failing plugin had registered before it failed is taken back. Returns one line for each failure.
    """
    def run_file(path: pathlib.Path) -> None:
        spec = importlib.util.spec_from_file_location(f"{package}.plugins.{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)

    tools = SimpleNamespace(Range=Range, **registries)
    jobs = [(str(path), lambda path=path: run_file(path)) for path in sorted(folder.glob("[!_]*.py"))]
    jobs += [(f"entry point {point.name}", lambda point=point: point.load()(tools)) for point in entry_points]
    failures = []
    for name, job in jobs:
        before = {key: dict(registry) for key, registry in registries.items()}
        try:
            job()
        except Exception as error:  # a stranger's file: whatever it raises must not take the pack down
            for key, registry in registries.items():
                registry.clear()
                registry.update(before[key])
            failures.append(f"plugin {name} was not loaded: {error}")
            log.exception("plugin %s was not loaded; the rest is", name)
    return failures
