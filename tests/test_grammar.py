"""Regional prompts mean what they mean in Regional Prompter, and whatever is doubtful has its note.

Boxes and texts of `MEASURED` were read off Regional Prompter's own functions (hako-mikan, commit be62345).
"""
import os
import time
from itertools import chain, combinations, pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tweedie_pack.controls.grammar import MOST, TOKEN, Cell, Tree, parse

THIRD = 1 / 3
WHOLE = (0, 0, 1, 1)


def columns(*sizes, top=0.0, bottom=1.0):
    """Boxes side by side."""
    ends = [sum(sizes[:n]) / sum(sizes) for n in range(len(sizes) + 1)]
    return [(left, top, right, bottom) for left, right in pairwise(ends)]


def rows(*sizes, left=0.0, right=1.0):
    """Boxes one below the other."""
    return [(left, top, right, bottom) for top, _, bottom, _ in columns(*sizes)]


def texts(tree):
    return [cell.text for cell in tree.cells]


def noted(tree, *expected):
    """Each (source, offset, words) of a note is there, and there are no others."""
    assert len(tree.notes) == len(expected), tree.notes
    for note, (source, at, words) in zip(sorted(tree.notes), sorted(expected), strict=True):
        assert (note.source, note.at) == (source, at) and words in note.text, note


DESK = "sky ADDCOL hair ADDCOL aquarium ADDROW desk ADDCOL sofa"
MEASURED = {  # (prompt, layout, ratios) -> texts, boxes
    (DESK, "columns", "1,2,1,1;2,4,6"): (
        ["sky", "hair", "aquarium", "desk", "sofa"],
        columns(2, 1, 1, bottom=THIRD) + columns(4, 6, top=THIRD)),
    ("a ADDROW b ADDROW c ADDCOL d ADDROW e", "rows", "1,2,1,1;2,4,6"): (
        list("abcde"), rows(1, 1, 1, right=THIRD) + rows(1, 1, left=THIRD)),
    ("a ADDCOL b", "rows", "1,3"): (["a", "b"], columns(1, 3)),
    ("a ADDROW b", "columns", "1,3"): (["a", "b"], rows(1, 3)),
    ("a ADDROW b", "rows", "1,3"): (["a", "b"], rows(1, 3)),
    ("a ADDCOL b ADDCOL c", "columns", "1,2"): (["a", "b", "c"], columns(1, 2, 2)),
    ("a ADDCOL b", "columns", "1,2,3,4"): (["a", "b"], columns(1, 2)),
    ("a BREAK b", "columns", "1,1,1"): (["a", "b"], columns(1, 1)),
    ("a BREAK b BREAK c BREAK d", "columns", "1,1"): (["a", "b"], columns(1, 1)),
    ("a BREAK b BREAK c ADDCOL d", "columns", "1,1"): (["a", "b", "d"], columns(1, 1, 1)),
    ("a BREAK b BREAK c BREAK d BREAK e", "columns", "1,2,1,1;2,4,6"): (
        list("abcde"), columns(2, 1, 1, bottom=THIRD) + columns(4, 6, top=THIRD)),
    ("a BREAK b", "rows", "1,3"): (["a", "b"], rows(1, 3)),
    ("a AND b", "columns", "1;3"): (["a", "b"], rows(1, 3)),
    ("a BREAK b", "rows", "1;3"): (["a"], [WHOLE]),
    ("a ADDCOL b ADDCOL c", "columns", "1,,x"): (["a", "b", "c"], columns(1, 1, 1)),
    ("a ADDCOL b ADDROW c ADDCOL d", "columns", "1,2,3,4,5,6"): (
        list("abcd"), columns(2, 3, bottom=0.2) + columns(5, 6, top=0.2)),
    ("a ADDCOL b ADDROW c ADDCOL d", "columns", "1,1"): (
        list("abcd"), columns(1, 1, bottom=0.5) + columns(1, 1, top=0.5)),
    ("fantasy ADDCOMM sky ADDROW castle ADDROW a ADDCOL b ADDCOL c", "columns", "1,1;2,1;2,1,2,1"): (
        ["fantasy, sky", "fantasy, castle", "fantasy, a", "fantasy, b", "fantasy, c"],
        rows(1, 2, 2)[:2] + columns(1, 2, 1, top=0.6)),
    ("a BREAK ", "columns", "1,1"): (["a", ""], columns(1, 1)),
    ("LAND BREAKFAST BREAK SAND castle", "columns", "1,1"): (
        ["LAND BREAKFAST", "SAND castle"], columns(1, 1)),
    ("a addcol b", "columns", "1,1"): (["a addcol b"], [WHOLE]),
}


@pytest.mark.parametrize("given", MEASURED, ids=" | ".join)
def test_regional_prompters_layouts(given):
    prompt, layout, ratios = given
    tree = parse(prompt, layout=layout, ratios=ratios)
    words, boxes = MEASURED[given]
    assert texts(tree) == words
    assert [cell.box for cell in tree.cells] == [pytest.approx(box) for box in boxes]


@pytest.mark.parametrize("prompt", ["", " a cat,\n(a dog:1.2) ", "land and break", "(a", "a) :)",
                                    "{a|b} [a:b:0.5]", "BREAKFAST IN DISNEYLAND", "ROCK-AND-ROLL"])
def test_a_prompt_without_keywords_is_one_region_as_it_is_written(prompt):
    assert parse(prompt, "bad ") == Tree(None, prompt, "bad ", (Cell(prompt, "bad ", WHOLE, 0.0),), ())


@pytest.mark.parametrize("text", [
    "<lora:x AND y:1>", 'a sign "STOP AND GO"', "“A BREAK B”", r"\BREAK", r"a\, b\(c\)", "{a|b AND_c}",
    "[a:b:0.5]", "x\ny", "#1 # not a comment", "ÉBREAK", "空, 花"])
def test_what_is_no_keyword_is_kept_as_it_is_written(text):
    tree = parse(f"{text} ADDCOL b")
    assert texts(tree) == [text, "b"] and not tree.notes


@pytest.mark.parametrize(("prompt", "words"), [
    ("空BREAK花", ["空", "花"]), ("a,BREAK,b", ["a,", ",b"]), ("a\nBREAK\nb", ["a", "b"]),
    ('5" tall BREAK 6" wide', ['5" tall', '6" wide']), ("a < b BREAK c > d", ["a < b", "c > d"]),
    ('a "b\nBREAK c"', ['a "b', 'c"']), ('5 " tall BREAK 6 " wide', ['5 " tall', '6 " wide'])])
def test_keywords_that_touch_other_signs(prompt, words):
    assert texts(parse(prompt)) == words


def test_joining_a_common_part_with_loose_signs_frees_no_keyword():
    (_, cell) = parse('<lora: ADDCOMM < BREAK "b> AND c"').cells
    assert cell.text == '<lora:, "b> AND c"' and not any(found["key"] for found in TOKEN.finditer(cell.text))


@pytest.mark.parametrize(("prompt", "base", "whole", "words"), [
    ("sky ADDBASE a BREAK b", "sky", "sky, a, b", ["a", "b"]),
    ("sky, ADDCOMM a BREAK b", None, "sky, a, b", ["sky, a", "sky, b"]),
    ("sky ADDCOMM sea ADDBASE a BREAK b", "sky, sea", "sky, sea, a, b", ["sky, a", "sky, b"]),
    ("sea ADDBASE sky ADDCOMM a BREAK b", "sky, sea", "sea, sky, a, b", ["sky, a", "sky, b"]),
    ("sea BREAK sand ADDBASE a BREAK b", "sea, sand", "sea, sand, a, b", ["a", "b"]),
    ("sea ADDBASE a ADDBASE b", "sea, a", "sea, a, b", ["b"]),
    ("ADDBASE a BREAK b", "", "a, b", ["a", "b"]),
    ("sky ADDCOMM a BREAK", None, "sky, a", ["sky, a", "sky"])])
def test_common_parts_and_bases(prompt, base, whole, words):
    tree = parse(prompt)
    assert (tree.base, tree.whole, texts(tree)) == (base, whole, words)


@pytest.mark.parametrize(("prompt", "words"), [
    ("(a BREAK b:1.3)", ["(a:1.3)", "(b:1.3)"]),
    ("((a) x BREAK b BREAK c: 1.3 ) y", ["((a) x: 1.3 )", "(b: 1.3 )", "(c: 1.3 ) y"]),
    ("[a BREAK b] c", ["[a]", "[b] c"]),
    ("[x:a BREAK b:0.5]", ["[x:a:0.5]", "[b:0.5]"]),
    ("(p, [a BREAK b], q:1.3)", ["(p, [a]:1.3)", "([b], q:1.3)"]),
    ("(a BREAK ) BREAK b", ["(a)", "", "b"]),
    (r"(a \) BREAK b:1.3)", [r"(a \):1.3)", "(b:1.3)"]),
    ("(a BREAK <lora:):1>b)", ["(a)", "(<lora:):1>b)"]),
    ("(a BREAK b", ["(a", "b"])])
def test_emphasis_goes_on_across_keywords(prompt, words):
    assert texts(parse(prompt, ratios="1,1,1")) == words


@pytest.mark.parametrize(("prompt", "negative", "whole", "each"), [
    ("a BREAK b", "x", "x", ["x", "x"]), ("a BREAK b", "x BREAK y", "x, y", ["x", "y"]),
    ("a BREAK b", "x ADDCOMM y BREAK z", "x", ["x, y", "x, z"]), ("a BREAK b", "x ADDCOMM", "x", ["x", "x"]),
    ("a BREAK b", "x BREAK y BREAK z", "x, y, z", ["x", "y"]),
    ("s ADDBASE a BREAK b", "x BREAK y BREAK z", "x", ["y", "z"]),
    ("s ADDBASE a BREAK b", "x ADDBASE y", "x", ["y", "y"]),
    ("s ADDBASE a BREAK b", "w ADDCOMM x ADDBASE y BREAK z", "w, x", ["w, y", "w, z"]),
    ("a ADDCOL b ADDCOL c", "x BREAK y", "x, y", ["x", "y", "y"]),
    ("a BREAK b BREAK c ADDCOL d", "w BREAK x BREAK y BREAK z", "w, x, y, z", ["w", "x", "z"]),
    ("a", "x BREAK y", "x, y", ["x, y"])])
def test_negatives(prompt, negative, whole, each):
    tree = parse(prompt, negative)
    assert (tree.negative, [cell.negative for cell in tree.cells]) == (whole, each)


@pytest.mark.parametrize(("layout", "prompt", "base_ratio", "shares"), [
    ("columns", "a ADDCOL b", "0.3", [0.3, 0.3]), ("columns", "a ADDROW b", "0.3;0.1", [0.3, 0.1]),
    ("columns", "a ADDCOL b ADDCOL c", "0.3,0.1", [0.3, 0.1, 0.1]),
    ("rows", "a BREAK b", "0.3,0.1", [0.3, 0.1]),
    ("columns", "a ADDCOL b ADDROW c ADDCOL d", "0.2,0.4;0.1", [0.2, 0.4, 0.1, 0.1]),
    ("columns", "a ADDCOL b ADDROW c", "0.1,0.2,0.3", [0.1, 0.2, 0.3]),
    ("rows", "a ADDROW b ADDCOL c ADDROW d", "0.2;0.4,0.1", [0.2, 0.4, 0.1, 0.1]),
    ("columns", "a ADDCOL b", "-1,7", [0, 1]), ("columns", "a ADDCOL b", "nan,", [0, 0])])
def test_base_ratios(layout, prompt, base_ratio, shares):
    tree = parse(f"sky ADDBASE {prompt}", layout=layout, base_ratio=base_ratio)
    assert [cell.base_ratio for cell in tree.cells] == shares
    assert all(cell.base_ratio == 0 for cell in parse(prompt, layout=layout, base_ratio=base_ratio).cells)


def test_flips():
    turned = parse("a BREAK b BREAK c", ratios="1;2;1,3", flip=True)
    assert turned == parse("a BREAK b BREAK c", ratios="1,2,1;3")
    assert [cell.box for cell in turned.cells] == [*columns(2, 1, bottom=0.25), (0, 0.25, 1, 1)]
    backwards = parse("s ADDBASE a BREAK b", "x ADDBASE y BREAK z", ratios="1,3", flip_prompts=True)
    assert (backwards.base, backwards.whole) == ("s", "s, a, b")
    assert [(cell.text, cell.negative) for cell in backwards.cells] == [("b", "z"), ("a", "y")]
    assert [cell.box for cell in backwards.cells] == columns(1, 3)


@pytest.mark.parametrize(("ratios", "words", "sizes", "notes"), [
    ("0,0,0", "abc", (1, 1, 1), [("ratios", 0, "all ratios are 0")]),
    ("1,0,2", "ac", (1, 2), [("ratios", 2, "a ratio is 0; its region is left out")]),
    ("-1, nan,inf", "abc", (1, 1, 1), [("ratios", 0, "'-1'"), ("ratios", 4, "'nan'"), ("ratios", 8, "inf")]),
    ("1,,x", "abc", (1, 1, 1), [("ratios", 2, "a ratio is ''; it is taken as 1"), ("ratios", 3, "'x'")]),
    ("1,2", "abc", (1, 2, 2), [("ratios", 2, "2 numbers for 3 regions; the last is repeated")]),
    ("1,2,3,4,5", "abc", (1, 2, 3), [("ratios", 6, "5 numbers for 3; the rest are not used")]),
    ("1e9,1e-9,1", "abc", (1e6, 1e-6, 1), [("ratios", 0, "taken as 1e+06"), ("ratios", 4, "taken as 1e-06")]),
    ("256:128:128", "abc", (2, 1, 1), []), ("1", "abc", (1, 1, 1), [])])
def test_ratios(ratios, words, sizes, notes):
    tree = parse("a ADDCOL b ADDCOL c", ratios=ratios)
    noted(tree, *notes)
    assert "".join(texts(tree)) == words
    assert [cell.box for cell in tree.cells] == [pytest.approx(box) for box in columns(*sizes)]


@pytest.mark.parametrize(("prompt", "settings", "notes"), [
    ("a addcol b Addbase xADDROW", {}, [("prompt", 2, "write ADDCOL"), ("prompt", 11, "'Addbase'"),
                                        ("prompt", 20, "write ADDROW")]),
    ("a BREAK b BREAK c BREAK d", {}, [("prompt", 10, "no region for the text behind BREAK"),
                                       ("prompt", 18, "give a ratio for each region")]),
    ("s ADDBASE t ADDCOMM a BREAK b", {}, [("prompt", 12, "ADDCOMM comes after ADDBASE")]),
    ("s ADDBASE t ADDBASE a BREAK b", {}, [("prompt", 12, "ADDBASE comes again")]),
    ("s BREAK t ADDBASE a BREAK b", {}, [("prompt", 2, "BREAK before ADDBASE begins no region")]),
    ("ADDBASE a BREAK b", {}, [("prompt", 0, "ADDBASE has no text before it")]),
    ("a ADDCOL ", {"ratios": "1"}, [("prompt", 8, "no text of its own")]),
    ("a ADDP b", {}, [("prompt", 2, "ADDP asks for regions found by words")]),
    ("a: .5 AND b :1.2", {}, [("prompt", 1, "': .5' beside AND"), ("prompt", 12, "':1.2' beside AND")]),
    ("(a BREAK [b:1.3)] c", {}, [("prompt", 0, "each part gets it with ':1.3)'")]),
    ("a) BREAK [b", {}, [("prompt", 1, "')' closes nothing"), ("prompt", 9, "'[' is never closed")]),
    ("a ADDCOL b ADDROW c", {"ratios": "1,2,3,4;5"}, [("ratios", 6, "run on into the next"),
                                                      ("ratios", 8, "more numbers than regions")]),
    ("a ADDCOL b ADDROW c", {"ratios": "1,2,3"}, [("ratios", 4, "1 of 2 parts have numbers")]),
    ("s ADDBASE a BREAK b", {"base_ratio": "1.5"}, [("base ratio", 0, "1.5; it is taken as 1")]),
    ("s ADDBASE a BREAK b", {"base_ratio": "x,-inf"}, [("base ratio", 0, "'x'"), ("base ratio", 2, "'-inf")]),
    ("a ADDROW b ADDCOL c ADDROW d ADDCOL e", {"ratios": "1;1,2,0"}, [
        ("ratios", 6, "2 of 3 parts have numbers"), ("ratios", 6, "a ratio is 0")]),
    ("a ADDCOL b", {"ratios": "1,1" + "." * 9999}, [("ratios", 2, "'1.."), ("ratios", 4000, "4000 are")]),
    ("a ADDROW b", {"ratios": "1;0"}, [("ratios", 2, "a ratio is 0")]),
    ("a BREAK b", {"negative": "x BREAK y BREAK z"}, [("negative", 10, "3 negative parts for 2")]),
    ("a ADDCOL b ADDCOL c", {"negative": "x BREAK y", "ratios": "1"}, [("negative", 7, "parts for 3")]),
    ("a BREAK b", {"negative": "x ADDBASE y"}, [("negative", 2, "not in the prompt")]),
    ("a", {"negative": "x BREAK y"}, [("negative", 2, "the prompt has no keyword")])])
def test_every_doubt_has_its_note(prompt, settings, notes):
    noted(parse(prompt, **settings), *notes)


@pytest.mark.parametrize(("prompt", "ratios"), [
    (f"sky ADDCOMM sea ADDBASE {DESK}", "1,2,1,1;2,4,6"), ("(a:1.2) BREAK b", "1,1"), ("a AND b", "1;1"),
    ("a ADDCOL b ADDROW c ADDCOL d", "1;1"), ("a ADDCOMM b", "1,1")])
def test_no_note_without_a_doubt(prompt, ratios):
    assert not parse(prompt, "x ADDCOMM y", ratios=ratios).notes


def test_another_layout_is_refused():
    with pytest.raises(ValueError, match="layout is 'diagonal'; give columns or rows"):
        parse("a BREAK b", layout="diagonal")


@pytest.mark.parametrize("text", [
    "1," * 50_000, "9" * 100_000, ";,:" * 30_000, " ADDCOL " * 20_000, "x ADDBASE" * 10_000, '"a' * 50_000,
    "addcol " * 15_000, "(" * 20_000 + " BREAK " * 70 + ":1)" * 20_000, "<a:" * 30_000, ":1" * 50_000,
    '"' * 100_000, " " * 100_000])
def test_texts_of_hostile_size_are_quick(text):
    start = time.process_time()
    for prompt in (text, "s ADDBASE a BREAK b"):
        tree = parse(prompt, text, "rows", text, text)
        assert len(tree.cells) <= MOST and len(tree.notes) <= MOST
        assert len(tree.whole) < 2 * len(prompt) + 100
    assert time.process_time() - start < 2


PIECES = st.sampled_from([
    "ADDCOL", "ADDROW", "ADDBASE", "ADDCOMM", "ADDP", "BREAK", "AND", "addcol", "and", "BREAKFAST", " ", " ",
    " ", "\n", "a", "cat", "空", "É", "(", ")", "[", "]", ":1.3)", ":0.5]", "\\", '"', "“", "”", "<lora:",
    ">", "{", "|", "}", "#", ",", ";", ":", "-", "_", "0", "1", "2.5"])
WORDS = st.lists(PIECES, max_size=24).map("".join) | st.lists(PIECES | st.characters()).map("".join)
NUMBERS = st.lists(st.sampled_from([
    "0", "1", "2.5", "-1", "nan", "inf", "1e-300", "1e300", "x", ",", ",", ",", ";", ";", ":"])).map("".join)
FUZZ = os.environ.get("TWEEDIE_FUZZ")  # number of examples, drawn at random


def overlap(one, other):
    return all(max(one[axis], other[axis]) < min(one[axis + 2], other[axis + 2]) for axis in (0, 1))


@settings(max_examples=int(FUZZ or 500), derandomize=not FUZZ, database=None, deadline=None,
          suppress_health_check=list(HealthCheck))
@given(prompt=WORDS, negative=WORDS, layout=st.sampled_from(["columns", "rows"]), ratios=NUMBERS | WORDS,
       base_ratio=NUMBERS | WORDS, flip=st.booleans(), flip_prompts=st.booleans())
def test_any_text_makes_regions_that_tile_the_picture(**given):
    tree = parse(**given)
    boxes = [cell.box for cell in tree.cells]
    assert boxes and all(0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1 for box in boxes)
    assert sum((box[2] - box[0]) * (box[3] - box[1]) for box in boxes) == pytest.approx(1, abs=1e-6)
    assert not any(overlap(*pair) for pair in combinations(boxes, 2))
    assert all(0 <= cell.base_ratio <= (tree.base is not None) for cell in tree.cells)
    for note in tree.notes:
        assert note.text and 0 <= note.at <= len(given[note.source.replace(" ", "_")]), note
    for text in (tree.base or "", tree.whole, tree.negative, *chain(*(cell[:2] for cell in tree.cells))):
        assert not any(found["key"] for found in TOKEN.finditer(text)), text
