"""(text such as "1,2,1,1;2,4,6", regions in each outer part) -> a box [x0,y0,x1,y1] for every region.

In columns layout ";" parts rows from top to bottom and "," the columns of a row; in rows layout "," parts
columns from left to right and ";" the rows of a column. A part's first number is its own size beside the
other parts, the rest are its regions'; where only commas are given and all regions lie in one line, all are.
":" is read as ",". This is what Regional Prompter does (hako-mikan, commit be62345), measured.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from itertools import accumulate, pairwise
from typing import NamedTuple

Box = tuple[float, float, float, float]
Report = Callable[[int, str], None]  # (offset in the text, what was found and what to do)

OUTER = {"columns": "ADDROW", "rows": "ADDCOL"}
INNER = {"columns": "ADDCOL", "rows": "ADDROW"}
MARKS = {"columns": (";", ","), "rows": (",", ";")}  # outer, inner
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
SMALL, LARGE = 1e-6, 1e6  # ratios above 0 are kept between these
LONGEST = 4000  # characters of a text of numbers that are read


class Number(NamedTuple):
    """A number and its offset in the text."""

    value: float
    at: int


ONE = Number(1.0, 0)


def tidy(text: str, report: Report, flip: bool = False) -> str:
    """The text with "," for ":", and "," and ";" swapped where `flip`; every character keeps its offset."""
    if len(text) > LONGEST:
        report(LONGEST, f"there are {len(text)} characters; {LONGEST} are read, give fewer numbers")
    text = text[:LONGEST].replace(":", ",")
    return text.translate(str.maketrans(",;", ";,")) if flip else text


def find_separators(text: str, layout: str) -> list[str]:
    """What the first, second, ... bare BREAK stands for, ADDCOL or ADDROW, in a grid of this text's shape."""
    outer, inner = MARKS[layout]
    if ";" not in text:
        return [INNER[layout]] * text.count(",")
    keys = []
    for part in text.split(outer):
        keys += [INNER[layout]] * max(part.count(inner) - 1, 0) + [OUTER[layout]]
    return keys[:-1]


def lay_out(text: str, shape: list[int], layout: str, report: Report) -> list[Box]:
    """Boxes in fractions of the picture, part by part; a region of ratio 0 has no area.

    `shape` is the number of regions in each outer part. The last number is repeated where there are too few,
    those beyond the last region are not used; both are reported.
    """
    if shape == [1]:
        return [WHOLE]
    rows = read(text, shape, layout, take_ratio, report)
    if not in_line(text, shape):
        outers, cells = spread(rows, shape, True, report)
    elif len(shape) == 1:
        outers, cells = [ONE], [fill(rows[0], shape[0], report)]
    else:
        outers, cells = fill(rows[0], len(shape), report), [[ONE]] * len(shape)
    spans = [(outer, inner) for outer, numbers in zip(cut(outers, report), cells, strict=True)
             for inner in cut(numbers, report)]
    if layout == "columns":
        return [(inner[0], outer[0], inner[1], outer[1]) for outer, inner in spans]
    return [(outer[0], inner[0], outer[1], inner[1]) for outer, inner in spans]


def share_base(text: str, shape: list[int], layout: str, report: Report) -> list[float]:
    """The base prompt's share in every region, 0..1: one number for all, or one for each as in the ratios.

    Regions in one line take the numbers in turn in both layouts (Regional Prompter knows only the first one
    in rows layout).
    """
    rows = read(text, shape, layout, take_share, report)
    if in_line(text, shape):
        return [number.value for number in fill(rows[0], sum(shape), report)]
    return [number.value for numbers in spread(rows, shape, False, report)[1] for number in numbers]


def in_line(text: str, shape: list[int]) -> bool:
    """Whether commas alone are given for regions in one row or one column."""
    return ";" not in text and (len(shape) == 1 or max(shape) == 1)


def read(text: str, shape: list[int], layout: str, take: Callable[[str, int, Report], float],
         report: Report) -> list[list[Number]]:
    """The text's numbers, part by part."""
    outer, inner = (";", ",") if in_line(text, shape) else MARKS[layout]
    rows, at = [], 0
    for part in text.split(outer):
        rows.append([])
        for word in part.split(inner):
            place = at + len(word) - len(word.lstrip())
            rows[-1].append(Number(take(word.strip(), place, report), place))
            at += len(word) + 1
    return rows


def parse_number(word: str) -> float:
    """The word's value, NaN where it has none."""
    try:
        value = float(word)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def take_ratio(word: str, at: int, report: Report) -> float:
    """A ratio of at least 0; 1, with a report, for what is none."""
    value = parse_number(word)
    if not value >= 0:
        report(at, f"a ratio is '{word[:40]}'; it is taken as 1, give a number above 0")
        return 1.0
    kept = min(max(value, SMALL), LARGE) if value else 0.0
    if kept != value:
        report(at, f"a ratio is {value:g}; it is taken as {kept:g}, give numbers from {SMALL:g} to {LARGE:g}")
    return kept


def take_share(word: str, at: int, report: Report) -> float:
    """A share in 0..1; 0, with a report, for what is no number."""
    value = parse_number(word)
    if math.isnan(value):
        report(at, f"a base ratio is '{word[:40]}'; it is taken as 0, give a number from 0 to 1")
        return 0.0
    kept = min(max(value, 0.0), 1.0)
    if kept != value:
        report(at, f"a base ratio is {value:g}; it is taken as {kept:g}, give a number from 0 to 1")
    return kept


def fill(numbers: list[Number], need: int, report: Report) -> list[Number]:
    """`need` numbers: the last is repeated, the rest left out. A lone number stands for all, unreported."""
    if len(numbers) > need:
        report(numbers[need].at, f"there are {len(numbers)} numbers for {need}; the rest are not used, "
                                 "give one for each region")
    elif 1 < len(numbers) < need:
        report(numbers[-1].at, f"there are {len(numbers)} numbers for {need} regions; the last is repeated, "
                               "give one for each region")
    return numbers[:need] + numbers[-1:] * (need - len(numbers))


def spread(rows: list[list[Number]], shape: list[int], lead: bool,
           report: Report) -> tuple[list[Number], list[list[Number]]]:
    """(a number for each part, numbers for the regions in each part); the former only where numbers `lead`.

    What a part can't hold runs on into the next one. Parts without numbers are as large as the last and equal
    inside; where none lead, they get the last number of all.
    """
    outers: list[Number] = []
    cells: list[list[Number]] = []
    for numbers in rows:
        rest = numbers
        while rest and len(cells) < len(shape):
            if lead:
                outers.append(rest[0])
            inner, need = (rest[1:] or [ONE]) if lead else rest, shape[len(cells)]
            cells.append(fill(inner[:need], need, report))
            rest = inner[need:]
            if rest and lead and len(cells) < len(shape):
                report(rest[0].at, f"part {len(cells)} has more numbers than regions; they run on into the "
                                   "next, give its size and one for each region")
        if rest:
            report(rest[0].at, "there are more numbers than regions; the rest are not used, give fewer")
    if len(cells) < len(shape) and sum(map(len, rows)) > 1:
        report(rows[-1][-1].at, f"{len(cells)} of {len(shape)} parts have numbers; the last is repeated, "
                                "give some for each part")
    last = ONE if lead else rows[-1][-1]
    cells += [[last] * need for need in shape[len(cells):]]
    return outers + outers[-1:] * (len(shape) - len(outers)), cells


def cut(numbers: list[Number], report: Report) -> list[tuple[float, float]]:
    """Start and end of each share of 0..1."""
    sizes = [number.value for number in numbers]
    if not any(sizes):
        report(numbers[0].at, "all ratios are 0; they are taken as equal, give numbers above 0")
        sizes = [1.0] * len(sizes)
    for number, size in zip(numbers, sizes, strict=True):
        if size == 0:
            report(number.at, "a ratio is 0; its region is left out, give a number above 0")
    ends = list(accumulate(sizes))
    return list(pairwise([0.0] + [end / ends[-1] for end in ends]))
