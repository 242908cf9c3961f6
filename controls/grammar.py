r"""A regional prompt -> a tree of regions: `[common ADDCOMM] [base ADDBASE] region {separator region}`.

Regional Prompter's syntax with its measured meaning (hako-mikan, commit be62345), and a Note wherever that is
silent or fails. ADDCOL begins a column and ADDROW a row; the k-th BREAK or AND stands for the k-th separator
in the grid of the ratios (`ratios.find_separators`), and text behind a BREAK beyond them is in no region.
ADDP, which there asks for regions found by words, is read as BREAK.

Keywords are upper-case words of their own: not within words (LAND, BREAKFAST, ROCK-AND-ROLL), `<lora:...>` or
"double quotes", nor after a backslash; CJK text may touch them. Unlike in Regional Prompter, emphasis goes on
across a keyword, flipping never moves the base, and an empty region stays empty. `#` is text, as it is there
by default.
"""
from __future__ import annotations

import re
from functools import partial
from itertools import chain
from typing import NamedTuple

from .ratios import INNER, OUTER, WHOLE, Box, Report, find_separators, lay_out, share_base, tidy

MOST = 64  # parts of a prompt, brackets carried over a separator, notes
HEADS = ("ADDCOMM", "ADDBASE")
BREAKS = ("BREAK", "AND", "ADDP")

NETWORK = r'<\w+:[^<>"“”]*>'
LETTER = r"0-9A-Za-z_\-\u00c0-\u024f\u0370-\u052f"  # of scripts with spaces between words
CLOSED = r"[\s,.;:!?)\]}]"  # stands behind a closing quote, never behind an opening one
WEIGHT = r":\s{0,9}[-+]?[.\d]{1,20}\s{0,9}"
TOKEN = re.compile(
    NETWORK
    + rf'|(?<![{LETTER}])["“](?!{CLOSED})[^"“”\n]*["”](?={CLOSED}|\Z)'
    + rf"|(?<![\\{LETTER}])(?P<key>ADDCOL|ADDROW|ADDBASE|ADDCOMM|ADDP|BREAK|AND)(?![{LETTER}])"
    + r"|(?<!\\)(?P<near>(?i:ADDCOL|ADDROW|ADDBASE|ADDCOMM))")
AND_WEIGHT = re.compile(rf"{WEIGHT}\Z")
BRACKET = re.compile(NETWORK + rf"|\\.|(?P<open>[(\[])|(?P<close>(?:{WEIGHT})?[)\]])", re.DOTALL)
BLANK = re.compile(rf"(?:[\s,(\[]|(?:{WEIGHT})?[)\]])*")


class Note(NamedTuple):
    """A diagnostic: what was found at an offset of "prompt", "negative", "ratios" or "base ratio"."""

    source: str
    at: int
    text: str


class Cell(NamedTuple):
    """A region: its texts, common part included; its box x0, y0, x1, y1 and the base's share, in 0..1."""

    text: str
    negative: str
    box: Box
    base_ratio: float


class Tree(NamedTuple):
    """Regions that tile the picture, in the prompt's order, and the texts for the whole picture.

    `base` has the common part in it and is None without ADDBASE; `whole` is all of the prompt without
    keywords, to stand in for it. `negative` is the negative's common part and base, or all of it where it has
    neither.
    """

    base: str | None
    whole: str
    negative: str
    cells: tuple[Cell, ...]
    notes: tuple[Note, ...]


class Part(NamedTuple):
    """Text between keywords, and the keyword behind it ("" at the end), with their offsets."""

    text: str
    at: int
    key: str
    key_at: int


class Sections(NamedTuple):
    """A prompt's common part ("" if none), base (None if none) and regions."""

    common: str
    base: str | None
    parts: list[Part]


def parse(prompt: str, negative: str = "", layout: str = "columns", ratios: str = "1,1",
          base_ratio: str = "0.2", flip: bool = False, flip_prompts: bool = False) -> Tree:
    """Read a regional prompt; no text is an error, what is doubtful is noted. ValueError for another layout.

    `layout` is what the ratios' commas part, "columns" or "rows"; `flip` swaps "," and ";" in the ratios, and
    `flip_prompts` reverses the order of the regions' texts. At most 64 parts of a prompt are read. A prompt
    without keywords is one region, as written.
    """
    if layout not in INNER:
        raise ValueError(f"layout is '{layout}'; give columns or rows")
    notes: list[Note] = []
    about = partial(reporter, notes)
    parts = split(prompt, about("prompt"))
    if len(parts) == 1:
        plain = read_plain(negative, about("negative"))
        return Tree(None, prompt, plain, (Cell(prompt, plain, WHOLE, 0.0),), gather(notes))
    common, base, regions = sort(parts, about("prompt"))
    ratios = tidy(ratios, about("ratios"), flip)
    grid = arrange(regions, ratios, layout, about("prompt"))
    shape = [len(row) for row in grid]
    boxes = lay_out(ratios, shape, layout, about("ratios"))
    shares = [0.0] * len(boxes)
    if base is not None:
        base_ratio = tidy(base_ratio, about("base ratio"))
        shares = share_base(base_ratio, shape, layout, about("base ratio"))
    used = list(chain(*grid))
    texts = [join(common, regions[index].text) for index in used]
    negative, each = read_negative(negative, used[-1] + 1, base is not None, about("negative"))
    negatives = [each[index] for index in used]
    if flip_prompts:
        texts, negatives = texts[::-1], negatives[::-1]
    cells = map(Cell, texts, negatives, boxes, shares)
    return Tree(None if base is None else join(common, base), join(*(part.text for part in parts)), negative,
                tuple(cell for cell in cells if cell.box[0] < cell.box[2] and cell.box[1] < cell.box[3]),
                gather(notes))


def reporter(notes: list[Note], source: str) -> Report:
    """A function that adds notes about one source."""
    return lambda at, text: notes.append(Note(source, at, text))


def gather(notes: list[Note]) -> tuple[Note, ...]:
    """The first notes, each once."""
    return tuple(dict.fromkeys(notes))[:MOST]


def join(*texts: str) -> str:
    """The texts that are not empty with commas between them."""
    joined = ""
    for text in filter(None, texts):
        joined += f"{'' if not joined else ' ' if joined.endswith(',') else ', '}{text}"
    return joined


def split(text: str, report: Report) -> list[Part]:
    """Cut a text at its keywords into stripped parts with balanced brackets; without any it stays as is."""
    parts: list[Part] = []
    start = 0
    for found in TOKEN.finditer(text):
        at = found.start()
        if found["near"]:
            report(at, f"'{found[0]}' is no keyword here; write {found[0].upper()}, between spaces")
        elif found["key"] and len(parts) == MOST - 1:
            report(at, f"there are more than {MOST} parts; what comes from here on is left out, use fewer")
            text = text[:at]
            break
        elif found["key"]:
            parts.append(Part(text[start:at], start, found["key"], at))
            start = found.end()
    if not parts:
        return [Part(text, 0, "", len(text))]
    parts.append(Part(text[start:], start, "", len(text)))
    warn(parts, report)
    return balance(parts, report)


def warn(parts: list[Part], report: Report) -> None:
    """Report what means something else in other programs: ADDP, and weights beside AND."""
    for index, part in enumerate(parts):
        if part.key == "ADDP":
            report(part.key_at, "ADDP asks for regions found by words; it is read as BREAK, give ratios")
        weight = AND_WEIGHT.search(part.text)
        if weight and "AND" in (part.key, parts[index - 1].key):
            report(part.at + weight.start(), f"'{weight[0].strip()}' beside AND is no region's weight; it "
                                             "stays text, write (text:weight) or change the base ratio")


def balance(parts: list[Part], report: Report) -> list[Part]:
    """Strip the parts, and close and open again every bracket that a keyword cuts, with the same weight."""
    opened: dict[str, list[tuple[int, int]]] = {"(": [], "[": []}
    carried = []
    for index, part in enumerate(parts):
        for found in BRACKET.finditer(part.text):
            if found["open"]:
                opened[found["open"]].append((part.at + found.start(), index))
            elif found["close"]:
                end = found["close"]
                kind = "(" if end[-1] == ")" else "["
                if opened[kind]:
                    carried.append((*opened[kind].pop(), index, kind, end))
                else:
                    report(part.at + found.end() - 1, f"'{end[-1]}' closes nothing; remove it, or write "
                                                      f"\\{end[-1]} for the sign itself")
    for kind, left in opened.items():
        for at, _ in left:
            report(at, f"'{kind}' is never closed; close it, or write \\{kind} for the sign itself")
    heads, tails = [""] * len(parts), [""] * len(parts)
    carried = sorted(each for each in carried if each[1] < each[2])  # outer ones first
    for at, first, last, kind, end in carried[:MOST]:
        report(at, f"'{kind}' is open across a keyword; each part gets it with '{end}', write it for each")
        for index in range(first, last):
            tails[index] = end + tails[index]
            heads[index + 1] += kind
    return [part._replace(text="" if BLANK.fullmatch(part.text) else head + part.text.strip() + tail)
            for part, head, tail in zip(parts, heads, tails, strict=True)]


def sort(parts: list[Part], report: Report) -> Sections:
    """Tell the common part and the base, which stand before their keywords, from the regions behind them."""
    last = max((index for index, part in enumerate(parts) if part.key in HEADS), default=-1)
    heads: dict[str, str] = {}
    run: list[Part] = []
    for part in parts[: last + 1]:
        run.append(part)
        if part.key not in HEADS:
            continue
        for earlier in run[:-1]:
            report(earlier.key_at, f"{earlier.key} before {part.key} begins no region; the texts are joined, "
                                   f"write regions behind {part.key}")
        if part.key in heads:
            report(part.key_at, f"{part.key} comes again; the texts before each are joined, write it once")
        elif part.key == HEADS[0] and HEADS[1] in heads:
            report(part.key_at, "ADDCOMM comes after ADDBASE; each gets the text before it, write "
                                "common ADDCOMM base ADDBASE regions")
        if not any(each.text for each in run):
            report(part.key_at, f"{part.key} has no text before it; write one, or remove it")
        heads[part.key] = join(heads.get(part.key, ""), *(each.text for each in run))
        run = []
    return Sections(heads.get("ADDCOMM", ""), heads.get("ADDBASE"), parts[last + 1:])


def arrange(regions: list[Part], ratios: str, layout: str, report: Report) -> list[list[int]]:
    """Indices of the regions that are used: rows of them in columns layout, columns in rows layout."""
    separators = iter(find_separators(ratios, layout))
    grid = [[0]]
    for index, before in enumerate(regions[:-1], 1):
        key = next(separators, None) if before.key in BREAKS else before.key
        if key is None:
            report(before.key_at, f"the ratios have no region for the text behind {before.key}; it is not "
                                  "used, give a ratio for each region")
        elif key == OUTER[layout]:
            grid.append([index])
        else:
            grid[-1].append(index)
    for index in chain(*grid):
        if not regions[index].text:
            report(regions[index].at, "a region has no text of its own; write one, or remove its keyword")
    return grid


def read_plain(text: str, report: Report) -> str:
    """A negative prompt beside a prompt without keywords: its parts, joined."""
    parts = split(text, report)
    if len(parts) > 1:
        report(parts[0].key_at, f"{parts[0].key} is in the negative, but the prompt has no keyword; the "
                                "parts are joined, write keywords in both or in none")
    return text if len(parts) == 1 else join(*(part.text for part in parts))


def read_negative(text: str, count: int, based: bool, report: Report) -> tuple[str, list[str]]:
    """A negative prompt's text for the whole picture and for each of `count` parts, common part included.

    Its n-th part stands against the prompt's n-th, whatever separates them. One part alone is for all; where
    there are fewer than regions the last is repeated (Regional Prompter fails). Beside a prompt with a base
    (`based`), the first part is the base's if ADDBASE says so or there are more parts than regions.
    """
    parts = split(text, report)
    if len(parts) == 1:
        return text, [text] * count
    common, base, regions = sort(parts, report)
    if base is None and based and len(regions) > count:
        base, regions = regions[0].text, regions[1:]
    elif base is not None and not based:
        report(next(part.key_at for part in parts if part.key == "ADDBASE"),
               "ADDBASE is in the negative, but not in the prompt; this base is in no region, write ADDCOMM")
    if len(regions) > count:
        report(regions[count - 1].key_at, f"there are {len(regions)} negative parts for {count}; the rest "
                                          "are not used, write one for each region")
    elif 1 < len(regions) < count:
        report(regions[-1].at, f"there are {len(regions)} negative parts for {count} regions; the last is "
                               "repeated, write one for each region, or one for all")
    kept = [join(common, part.text) for part in regions[:count]]
    whole = join(common, base or "") or join(*(part.text for part in parts))
    return whole, kept + kept[-1:] * (count - len(kept))
