"""What a row of the scoreboard gives: tables of values, one a seed, and which of their cells to compare."""
from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, NamedTuple

from .stats import Kind

Cell = tuple[str, str]  # line, column
Values = Sequence[float]  # one a seed; rates have 0 or 1


class Table(NamedTuple):
    """Values of a cell are paired by seed with those of every cell that it is compared with.

    `compare` holds (cell, baseline), `better` says which way is; `places` are decimals, of a rate's percent.
    """

    title: str
    unit: str
    cells: Mapping[Cell, Values]
    kind: Kind = "mean"
    better: Literal["lower", "higher"] | None = None
    compare: Sequence[tuple[Cell, Cell]] = ()
    bold: Collection[Cell] = ()
    places: int = 3
    log: bool = False  # of the plot's axis

    @property
    def lines(self) -> list[str]:
        return list(dict.fromkeys(line for line, _ in self.cells))

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(column for _, column in self.cells))


class Result(NamedTuple):
    """about: what is measured, and how, in a sentence or two; notes: what else a reader must know."""

    about: str
    tables: Sequence[Table]
    notes: Sequence[str] = ()
