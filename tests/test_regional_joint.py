"""Routed joint attention is the blend of each text's own attention, whatever else is in the sequence."""
import math
from typing import NamedTuple

import pytest
import torch
from dense_attention import (
    CPU,
    GRID,
    HEADS,
    LEFT,
    RIGHT,
    SETS,
    SIZE,
    attend_heads,
    attend_tokens,
    noise,
    owners,
    same,
    softmax,
)
from tweedie_pack.controls.joint import Prompt, find_lanes, read_prompts, rotations, turn
from tweedie_pack.controls.masks import box_mask
from tweedie_pack.controls.regions import MaskSet, Region


class Case(NamedTuple):
    name: str = "soft"
    lengths: tuple = (4, 3, 6)
    padding: int = 0
    further: int = 0
    frames: int = 1
    isolated: bool = False
    shared: int = 0
    active: tuple = (0, 1)

    @property
    def text(self):
        return sum(self.lengths) + self.padding

    @property
    def total(self):
        return self.text + 24 * self.frames + self.further

    def prompt(self, **more):
        return Prompt(SETS[self.name], self.active, self.lengths, self.text, GRID, self.frames, SIZE,
                      self.isolated, self.shared, **more)


CASES = {
    "disjoint": Case("disjoint"), "soft": Case(), "overlapping": Case("overlapping"),
    "base ratio": Case("base ratio"), "open": Case("open", (4, 3), active=(0,)),
    "one acts": Case(lengths=(4, 6), active=(1,)), "padding": Case(padding=5),
    "further": Case("disjoint", further=3), "both": Case(padding=2, further=4),
    "frames": Case(frames=3), "isolated": Case(isolated=True, further=2),
    "isolated, base": Case("base ratio", isolated=True, padding=1), "shared": Case("disjoint", shared=2),
    "isolated, shared": Case("open", (4, 3), active=(0,), isolated=True, shared=3),
    "both everywhere": Case("both everywhere", padding=1, further=2),
}


def joined(q, k, v, case, bias=0.0):
    """The definition, [B,H,N,D] -> [B,H,N,D]: who reads (weight) and what is seen, text by text.

    A text that nothing else reads is left out.
    """
    place = torch.arange(case.total)
    picture = (place >= case.text) & (place < case.text + 24 * case.frames)
    further = place >= case.text + 24 * case.frames
    shares, out, start = owners(SETS[case.name], case.active).repeat(1, case.frames), 0, 0
    for number, length in enumerate(case.lengths):
        own = (place >= start) & (place < start + length)
        read = bool(shares[number].any()) or (number == 0 and bool(further.any() or case.shared))
        weight = (own & read).double() + (further & (number == 0))
        weight[picture] = shares[number]
        seen = own | further | ((place < case.shared) & (number > 0))
        seen = seen | (picture & (weight > 0) if case.isolated and number else picture)
        hidden = torch.zeros(case.total, dtype=torch.float64).masked_fill(~seen, -math.inf)
        out = out + weight[:, None] * softmax(q, k, v, bias + hidden)
        start += length
    return out


def tensors(count, batch=1, seed=0):
    return tuple(noise(batch, HEADS, count, 4, seed=seed + number) for number in range(3))


def read_hnd(q, k, v, prompts, mask=None, cache=None):
    return read_prompts(attend_heads, q, k, v, mask, prompts, (2, 2), {} if cache is None else cache)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_joint_attention_is_the_blend_of_each_texts_own_in_every_layout(case):
    q, k, v = tensors(case.total, 2)
    expected, prompts = joined(q, k, v, case), [case.prompt()]
    tokens = [x.transpose(1, 2).flatten(2) for x in (q, k, v)]
    same(read_hnd(q, k, v, prompts), expected)
    flat = read_prompts(lambda *given: attend_heads(*given).transpose(1, 2).flatten(2), q, k, v, None,
                        prompts, (2, 1), {})
    by_tokens = read_prompts(attend_tokens, *tokens, None, prompts, (1, 1), {})
    values_in_heads = read_prompts(attend_tokens, *tokens[:2], v.transpose(1, 2), None, prompts, (1, 1), {})
    for out in (flat, by_tokens, values_in_heads):
        same(out, expected.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("shape", [(2, 1, 1, 0), (1, 1, 1, 0), (2, HEADS, 0, 0), (0, 0), (1, 1, 0, 0),
                                   (2, 1, 0, 1)])
def test_additive_masks_of_the_model_stay_in_force(shape):
    case = CASES["both"]
    bias = noise(*(side or case.total for side in shape), seed=7)
    if shape[-1] == 0:
        bias[..., [1, 6, case.text + 3]] = -math.inf  # some keys are hidden, not all of any text
    q, k, v = tensors(case.total, 2)
    same(read_hnd(q, k, v, [case.prompt()], bias), joined(q, k, v, case, bias))
    mixed = read_hnd(q, k, v, [None, case.prompt()], bias)
    part = bias[1:] if len(bias) == 2 else bias
    same(mixed[1:], joined(q[1:], k[1:], v[1:], case, part))
    same(mixed[:1], softmax(q[:1], k[:1], v[:1], bias[:1] if bias.ndim > 2 else bias))


@pytest.mark.parametrize("order", ["pn", "np", "pnn", "pm", "mpf", "fp", "pi", "spl", "pp"])
def test_prompts_of_a_batch_are_each_routed_their_own_way(order):
    made = {"p": Case(padding=1), "n": None, "m": Case("overlapping", padding=1),
            "l": Case(lengths=(6, 5, 3)), "i": Case(padding=1, isolated=True), "s": Case(padding=1, shared=2),
            "f": Case(lengths=(9,), padding=5)}
    prompts = {letter: case and case.prompt() for letter, case in made.items()}
    prompts["f"] = prompts["f"]._replace(masks=None)
    q, k, v = tensors(made["p"].total, 2 * len(order))
    cache = {}
    for _ in range(2):
        out = read_hnd(q, k, v, [prompts[letter] for letter in order], cache=cache)
        for chunk, letter in enumerate(order):
            part = [x[2 * chunk:2 * chunk + 2] for x in (q, k, v)]
            if letter == "f":  # a neighbour without regions: its padding alone is left out
                seen = [*range(9), *range(14, 38)]
                same(out[2 * chunk:2 * chunk + 2, :, seen], softmax(*(x[:, :, seen] for x in part)))
            else:
                expected = softmax(*part) if letter == "n" else joined(*part, made[letter])
                same(out[2 * chunk:2 * chunk + 2], expected)
    assert len(cache) == len(set(order) - {"n"})


@pytest.mark.parametrize("name", SETS)
def test_where_all_texts_are_the_same_the_picture_reads_as_if_there_were_one(name):
    count = len(SETS[name].regions)
    case = Case(name, (4,) * (1 + count), active=tuple(range(count)))
    alone = tensors(4 + 24)
    repeated = [torch.cat([x[:, :, :4]] * (1 + count) + [x[:, :, 4:]], 2) for x in alone]
    same(read_hnd(*repeated, [case.prompt()])[:, :, case.text:], softmax(*alone)[:, :, 4:])


def test_another_text_of_a_region_leaves_what_others_own_bit_for_bit_in_joint_attention():
    case = Case("disjoint")
    q, k, v = tensors(case.total)
    others = tensors(case.total, seed=20)
    changed = [torch.cat([x[:, :, :4], y[:, :, 4:7], x[:, :, 7:]], 2) for x, y in zip((q, k, v), others,
                                                                                      strict=True)]
    before, after = read_hnd(q, k, v, [case.prompt()]), read_hnd(*changed, [case.prompt()])
    mine = torch.zeros(case.total, dtype=torch.bool)
    mine[4:7] = True
    mine[case.text:] = owners(SETS["disjoint"], (0, 1))[1] > 0
    assert torch.equal(before[:, :, ~mine], after[:, :, ~mine])
    assert bool((before[:, :, mine] != after[:, :, mine]).any(-1).all())


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_texts_alone_read_themselves_and_the_picture_alone_only_what_isolation_leaves(case):
    q, k, v = tensors(case.text)
    out, start = read_hnd(q, k, v, [case.prompt()]), 0
    for length in case.lengths:
        part = slice(start, start + length)
        same(out[:, :, part], softmax(q[:, :, part], k[:, :, part], v[:, :, part]))
        start += length
    q, k, v = tensors(24 * case.frames)
    alone = case._replace(lengths=(0,) * len(case.lengths), padding=0, shared=0, further=0)
    expected = joined(q, k, v, alone) if case.isolated else softmax(q, k, v)
    same(read_hnd(q, k, v, [case.prompt()]), expected)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_picture_that_reads_texts_reads_those_of_its_regions(case):
    q = noise(1, HEADS, 24 * case.frames, 4)
    k, v = (noise(1, HEADS, case.text, 4, seed=seed) for seed in (1, 2))
    shares = owners(SETS[case.name], case.active).repeat(1, case.frames)
    ends = [*case.lengths, case.padding]
    expected = sum(share[:, None] * softmax(q, keys, values) for share, keys, values in zip(
        shares, k.split(ends, 2), v.split(ends, 2), strict=False))
    same(read_hnd(q, k, v, [case.prompt()]), expected)


def test_what_is_no_business_of_texts_stays_plain():
    prompt, cache = CASES["soft"].prompt(), {}
    assert find_lanes(prompt, 24, 13, CPU) is not None  # the picture reads texts
    read_hnd(noise(1, HEADS, 24, 4), *(noise(1, HEADS, 13, 4) for _ in "kv"), [prompt], cache=cache)
    for queries, keys in ((24, 24), (7, 7), (24, 9), (13, 24), (36, 36)):
        assert find_lanes(prompt, queries, keys, CPU) is None
        q, (k, v) = noise(1, HEADS, queries, 4), (noise(1, HEADS, keys, 4, seed=seed) for seed in (1, 2))
        same(read_hnd(q, k, v, [prompt], cache=cache), softmax(q, k, v))


def rope(x, places, axes, theta):
    """Rotary positions [N,A] by the definition, in complex numbers; x [B,H,N,D]."""
    angles = torch.cat([places[:, number, None] / theta ** (torch.arange(0, size, 2).double() / size)
                        for number, size in enumerate(axes)], 1)
    turned = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * torch.polar(
        torch.ones_like(angles), angles)
    return torch.view_as_real(turned).flatten(-2)


def test_turning_moves_a_texts_rotary_positions():
    axes, theta = (2, 4, 6), 2000.0
    draw = torch.Generator().manual_seed(0)
    x, places = noise(2, HEADS, 11, 12), torch.randint(0, 300, (11, 3), generator=draw)
    moves = torch.randint(-300, 300, (7, 3), generator=draw)
    angles, moved = rotations(moves, axes, theta), places.clone()
    moved[:7] += moves
    assert angles.shape == (7, 6)
    turned = turn(rope(x, places, axes, theta), angles, 2)
    torch.testing.assert_close(turned, rope(x, moved, axes, theta), atol=1e-4, rtol=0)
    assert torch.equal(turned[:, :, 7:], rope(x, places, axes, theta)[:, :, 7:])
    assert torch.equal(turn(x.transpose(1, 2), angles, 1), turn(x, angles, 2).transpose(1, 2))
    assert turn(x.half(), angles, 2).dtype == torch.float16


def test_a_prompts_angles_turn_its_texts_where_they_are_read():
    case, angles = CASES["both"], 0.1 * noise(13, 2, seed=5)
    prompt = case.prompt(angles=angles)
    q, k, v = tensors(case.total)
    same(read_hnd(q, k, v, [prompt]), joined(turn(q, angles, 2), turn(k, angles, 2), v, case))
    alone = [x[:, :, :case.text] for x in (q, k, v)]
    same(read_hnd(*alone, [prompt])[:, :, 4:7],
         softmax(*(turn(x, angles, 2)[:, :, 4:7] for x in alone[:2]), alone[2][:, :, 4:7]))
    picture, alone = tensors(24), case._replace(lengths=(0, 0, 0), padding=0, further=0, isolated=True)
    same(read_hnd(*picture, [prompt._replace(isolated=True)]), joined(*picture, alone))


def test_masks_of_one_prompt_are_not_taken_for_anothers():
    one, other = (MaskSet((Region(box_mask(box, SIZE)),)) for box in (LEFT, RIGHT))
    case, cache = CASES["open"], {}
    q, k, v = tensors(case.total)
    outs = [read_hnd(q, k, v, [case.prompt()._replace(masks=masks)], cache=cache) for masks in (one, other)]
    assert len(cache) == 2 and not torch.equal(*outs)
