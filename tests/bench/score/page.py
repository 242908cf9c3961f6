"""Results -> docs/scoreboard.md: a section for each row, so that one row can be measured again alone."""
from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from .result import Cell, Result, Table
from .stats import DRAWS, NOTHING, Estimate, difference, estimate, finding

FINDINGS = ("better", "worse", "higher", "lower", NOTHING)
HEAD = """\
# Scoreboard

What the pack's features do on its own tiny model (`demo/tiny`), in a world with exact labels
(`demo/world.py`). Made by `{command}`, on a CPU; each section names its seeds.

In brackets: 95 % intervals over seeds, by bootstrap (percentile, {draws} draws, fixed seed); of rates by
Wilson. A difference is the mean, or the median, of the differences seed by seed; of rates its interval is
Agresti and Min's; beside it in per cent of the baseline. Where the interval contains 0 the finding is
"{nothing}". Intervals are not corrected for the number of comparisons: where there is no difference,
about 1 in 20 excludes 0 all the same.
"""


def write_number(table: Table, value: float, sign: str = "") -> str:
    percent = table.kind == "rate"
    return f"{(100 if percent else 1) * value:{sign}.{table.places}f}"


def write_estimate(table: Table, found: Estimate, sign: str = "") -> str:
    value, low, high = (write_number(table, one, sign) for one in found)
    return f"{value} [{low}, {high}]"


def write_values(table: Table) -> str:
    """A row a line, a column a column, what is missing as a dash."""
    lines = [f"| {table.unit} | " + " | ".join(table.columns) + " |", "|---|" + "---|" * len(table.columns)]
    for line in table.lines:
        cells = []
        for column in table.columns:
            values = table.cells.get((line, column))
            cell = "-" if values is None else write_estimate(table, estimate(values, table.kind))
            cells.append(f"**{cell}**" if (line, column) in table.bold else cell)
        lines.append(f"| {line} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def name_pair(ours: Cell, baseline: Cell) -> tuple[str, str, str]:
    """What is compared, with what, and where: what both have in common."""
    if ours[1] == baseline[1]:
        return ours[0], baseline[0], ours[1]
    if ours[0] == baseline[0]:
        return ours[1], baseline[1], ours[0]
    return ", ".join(ours), ", ".join(baseline), ""


def compare(table: Table) -> list[tuple[Cell, Cell, Estimate, str]]:
    """Every comparison of a table with its difference and what may be said of it."""
    found = [(ours, baseline, difference(table.cells[ours], table.cells[baseline], table.kind))
             for ours, baseline in table.compare]
    return [(*one, finding(one[-1], table.better)) for one in found]


def write_comparisons(table: Table) -> str:
    lines = ["| compared | with | where | difference | finding |", "|---|---|---|---|---|"]
    for ours, baseline, found, word in compare(table):
        base = estimate(table.cells[baseline], table.kind).value
        share = f" ({found.value / base:+.0%})" if base > 0 and table.kind != "rate" else ""
        names = " | ".join(name_pair(ours, baseline))
        word = word if word == NOTHING else f"**{word}**"
        lines.append(f"| {names} | {write_estimate(table, found, '+')}{share} | {word} |")
    return "\n".join(lines)


def summarise(result: Result) -> str:
    """"**Summary.** Of 3 comparisons: better in 2, no difference found in 1."; empty without comparisons."""
    counts = Counter(word for table in result.tables for *_, word in compare(table))
    if not counts:
        return ""
    words = ", ".join(f"{word} in {counts[word]}" for word in FINDINGS if counts[word])
    return f"**Summary.** Of {counts.total()} comparisons: {words}."


def write_section(result: Result, made: str, picture: str) -> str:
    parts = [result.about, made, *result.notes, summarise(result), f"![Every table as a plot]({picture})"]
    for table in result.tables:
        parts += [f"### {table.title}", write_values(table)]
        parts += [write_comparisons(table)] if table.compare else []
    return "\n\n".join(part for part in parts if part)


def read_sections(page: str) -> dict[str, str]:
    """Name -> text of the sections of an earlier page."""
    parts = (part.partition("\n") for part in ("\n" + page).split("\n## ")[1:])
    return {name: text.strip() for name, _, text in parts}


def write_page(sections: Mapping[str, str], command: str) -> str:
    return "\n\n".join([HEAD.format(command=command, nothing=NOTHING, draws=DRAWS).strip(),
                        *(f"## {name}\n\n{text}" for name, text in sections.items())]) + "\n"
