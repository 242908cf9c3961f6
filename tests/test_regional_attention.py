"""Routed cross attention is the blend of each text's own attention, in every order of a batch."""
import pytest
import torch
from dense_attention import (
    GRID,
    SETS,
    SIZE,
    attend_heads,
    attend_tokens,
    noise,
    owners,
    same,
    softmax,
    to_heads,
)
from tweedie_pack.controls.attention import Part, divide, route
from tweedie_pack.controls.cross import APPENDED, Cross, Program, Texts, token_grid

WIDTH, TEXT_WIDTH = 8, 6
K, V = noise(TEXT_WIDTH, WIDTH, seed=91), noise(TEXT_WIDTH, WIDTH, seed=92)  # a block's projections
BASE = noise(1, 5, TEXT_WIDTH, seed=1)


def program(name="soft", lengths=(3, 7), seed=2, active=None):
    masks = SETS[name]
    active = tuple(range(len(masks.regions))) if active is None else active
    return Program(masks, active, tuple(noise(1, lengths[number], TEXT_WIDTH, seed=seed + number)
                                        for number in active))


class Block:
    """A cross attention with hooks, as hosts run it."""

    def __init__(self, programs, names=("pos", "neg", "more"), texts=None):
        def who(options):
            return programs, names and names[:len(programs)]
        self.cross = Cross(lambda q, k, v, options: attend_tokens(q, k, v), who, SIZE, texts or Texts())

    def __call__(self, q, context, theirs=None, **options):
        _, k, v = self.cross.append(q, context, context, options)
        self.seen = k.shape[1]
        out = self.cross.replace(q, k @ K, v @ V, options, theirs)
        assert APPENDED not in options
        return out


def blended(q, context, programs):
    """The definition: sum over texts of shares times that text's own attention."""
    rows, size = [], len(q) // len(programs)
    for chunk, given in enumerate(programs):
        part = slice(chunk * size, (chunk + 1) * size)
        texts = [context[part], *(text.expand(size, -1, -1) for text in (given.texts if given else ()))]
        shares = owners(given.masks, given.active) if given else torch.ones(1, 24, dtype=torch.float64)
        rows.append(sum(share[:, None] * softmax(*map(to_heads, (q[part], text @ K, text @ V)))
                        for share, text in zip(shares, texts, strict=True)).transpose(1, 2).flatten(2))
    return torch.cat(rows)


@pytest.mark.parametrize("order", ["pn", "np", "pnn", "pmp", "mp", "pt", "pl", "p"])
@pytest.mark.parametrize("name", SETS)
def test_cross_attention_is_the_blend_of_each_texts_own(name, order):
    made = {"p": program(name), "n": None, "m": program("overlapping"),  # m: other masks
            "t": program(name, seed=8), "l": program(name, (4, 2))}  # t: other texts, l: of other lengths
    programs = [made[letter] for letter in order]
    batch = 2 * len(programs)
    q, context = noise(batch, 24, WIDTH), BASE.repeat(batch, 1, 1) + 0.1 * noise(batch, 1, TEXT_WIDTH, seed=4)
    block = Block(programs)
    for options in ({}, {"activations_shape": [batch, 320, *GRID]}):
        same(block(q, context, **options), blended(q, context, programs))
    assert torch.equal(Block([None] * len(order))(q, context), attend_tokens(q, context @ K, context @ V))


@pytest.mark.parametrize("name", SETS)
def test_where_all_texts_are_the_same_it_is_plain_attention(name):
    given = program(name)._replace(texts=(BASE,) * len(SETS[name].regions))
    q = noise(2, 24, WIDTH)
    same(Block([given])(q, BASE.repeat(2, 1, 1)), attend_tokens(q, (BASE @ K).repeat(2, 1, 1),
                                                                (BASE @ V).repeat(2, 1, 1)))


@pytest.mark.parametrize("name", ["disjoint", "soft", "overlapping"])
def test_another_text_of_a_region_leaves_what_others_own_bit_for_bit(name):
    q, one, other = noise(1, 24, WIDTH), program(name), program(name, seed=50)
    before, after = (Block([given._replace(texts=(given.texts[0], one.texts[1]))])(q, BASE)
                     for given in (one, other))
    mine = owners(SETS[name], (0, 1))[1] > 0
    assert 0 < int(mine.sum()) < 24
    assert torch.equal(before[:, ~mine], after[:, ~mine])
    assert bool((before[:, mine] != after[:, mine]).all())


def test_texts_are_projected_in_the_first_step_only_and_again_for_other_regions():
    q, context, texts = noise(4, 24, WIDTH), BASE.repeat(4, 1, 1), Texts()
    both = [program("disjoint"), None]
    for given, layer, seen in [(both, 0, 15), (both, 0, 5), (both, 1, 15), (both, 0, 5), (both, 1, 5),
                               ([program("disjoint", active=(1,)), None], 0, 12), (both, 0, 5)]:
        block = Block(given, texts=texts)
        same(block(q, context, block=("input", layer)), blended(q, context, given))
        assert block.seen == seen
    assert len(texts.kept) == 3 and len(texts.parts) == 2
    nameless = Block(both, names=None, texts=texts)
    for _ in range(2):  # what can't be told apart over steps isn't kept
        same(nameless(q, context, block=("input", 0)), blended(q, context, both))
        assert nameless.seen == 15
    assert len(texts.kept) == 3


def test_what_another_extension_adds_is_added_to_ours():
    q, context, given = noise(2, 24, WIDTH), BASE.repeat(2, 1, 1), [program("soft")]

    def theirs(q, k, v, options):
        assert k.shape[1] == 5  # theirs knows the model's own text alone
        return attend_tokens(q, k, v) + q.sin()
    for options in ({}, {"block": 1}):
        same(Block(given)(q, context, theirs, **options), blended(q, context, given) + q.sin())
    assert torch.equal(Block([None])(q, context, theirs), theirs(q, context @ K, context @ V, {}))


def test_a_level_is_the_latent_halved_and_rounded_up():
    for latent in [(64, 64), (128, 128), (33, 47), (192, 32), (25, 125), (1, 9)]:
        height, width = latent
        for _ in range(5):
            assert token_grid(height * width, latent) == (height, width)
            height, width = (height + 1) // 2, (width + 1) // 2
    for tokens in (100, 0, 64 * 64 + 1):
        with pytest.raises(ValueError, match=f"Regions: {tokens} tokens are no level of a 64x64 latent; an"):
            token_grid(tokens, (64, 64))


def test_a_share_below_what_counts_is_nobodys():
    shares = torch.tensor([[0.5, 1.0, 5e-5, 0.0], [0.5, 0.0, 1 - 5e-5, 0.0], [0.0, 0.0, 0.0, 1.0]])
    first, second, third = divide(shares)
    assert first.rows.tolist() == [0, 1] and second.rows.tolist() == [0, 2]
    assert first.weight.tolist() == [0.5, 1] and second.weight.tolist() == [0.5, 1]
    assert third.rows.tolist() == [3] and third.weight is None
    assert divide(torch.tensor([[1.0, 1.0], [0.0, 0.0]])) == [Part(None, None), None]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_lanes_are_blended_in_the_type_of_the_kernel(dtype):
    q, k, v = (noise(1, 2, 24, 4, seed=seed).to(dtype) for seed in range(3))
    parts = divide(owners(SETS["soft"], (0, 1)).float())
    out = route(attend_heads, q, ((part, k, v, None) for part in parts if part), 2, 2)
    assert out.dtype == dtype
    torch.testing.assert_close(out, attend_heads(q, k, v), atol=0.01, rtol=0.01)
