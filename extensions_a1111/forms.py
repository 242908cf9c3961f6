"""(what a panel's widgets say, by position or by name) -> values by name, checked: what panels share."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ..plugin import Knob

Names = Mapping[str, Any]


def refuse_unknown(title: str, names: Names, known: Iterable[str]) -> None:
    """ValueError for names that the panel has not."""
    known = list(known)
    if unknown := names.keys() - set(known):
        raise ValueError(f"{title}: unknown {', '.join(map(str, sorted(unknown, key=str)))}; it takes "
                         f"{', '.join(known)}")


def check(title: str, knob: Knob, value: Any) -> Any:
    if knob.kind is str and not isinstance(value, str):
        raise ValueError(f"{title}: {knob.name} is {value!r}; give a text such as {knob.default!r}")
    return knob.check(value, title)


def fill_in(defaults: Names, values: Sequence[Any], axes: Names | None,
            take: Callable[[Names], Names]) -> dict[str, Any]:
    """The widgets' values in order, or the first of them a dict of names; then what an X/Y/Z plot's axes set,
    which switch the panel on. `take` reads names."""
    by_name = bool(values) and isinstance(values[0], Mapping)
    given = {**defaults, **(take(values[0]) if by_name else dict(zip(defaults, values, strict=False)))}
    return {**given, **take({"enabled": True, **axes})} if axes else given
