"""A LoRA in its place: rows beside the plain formula, windows of convolutions, layers told by length."""
import pytest
import torch
from tweedie_pack.controls.attention import Part, divide
from tweedie_pack.controls.joint import Prompt
from tweedie_pack.controls.lora import (
    Window,
    add_conv,
    add_tokens,
    find_window,
    kernel_of,
    sequence_parts,
    text_parts,
)
from tweedie_pack.controls.regions import Region, gather

CPU = torch.device("cpu")
GRID = 6, 8


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def soft_parts():
    """Shares of three texts over a grid, and where each acts."""
    x = torch.linspace(0, 1, GRID[1]).expand(GRID)
    shares = torch.stack([(1 - 2 * x).clamp(0), (1 - (2 * x - 1).abs()), (2 * x - 1).clamp(0)]).flatten(1)
    return shares, divide(shares)


@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-5), (torch.bfloat16, 0.1)])
def test_tokens_are_the_plain_formula(dtype, near):
    shares, parts = soft_parts()
    x, y, downs, ups = (noise(*shape, seed=seed).to(dtype) for seed, shape in enumerate(
        [(2, 48, 5), (2, 48, 7), (3, 2, 5), (3, 7, 2)]))
    expected = y.float() + sum(share[:, None] * (x @ (up @ down).T).float()
                               for share, down, up in zip(shares, downs, ups, strict=True))
    for part, down, up in zip(parts, downs, ups, strict=True):
        add_tokens(lambda rows, down=down, up=up: rows @ down.T @ up.T, x, y, part)
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), expected, atol=near, rtol=near)


def test_only_a_parts_rows_are_computed_and_changed():
    part, seen = Part(torch.tensor([1, 4]), None), []
    before = noise(1, 6, 3)
    y = before.clone()
    add_tokens(lambda rows: seen.append(rows.shape) or torch.ones(1, 2, 3), noise(1, 6, 5), y, part)
    assert seen == [(1, 2, 5)]
    assert torch.equal((y != before).any(-1)[0].nonzero().flatten(), part.rows)


CONVS = [{"kernel_size": 3, "padding": 1}, {"kernel_size": 1}, {"kernel_size": 3, "padding": 1, "stride": 2},
         {"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
         {"kernel_size": (3, 5), "padding": (2, 2), "dilation": (2, 1)}, {"kernel_size": 2, "stride": 2}]


@pytest.mark.parametrize("options", CONVS, ids=str)
@pytest.mark.parametrize("box", [(0, 3, 0, 4), (1, 3, 2, 3), (2, 3, 0, 4), (0, 1, 3, 4)])
def test_a_window_of_a_convolution_is_a_part_of_the_whole(options, box):
    down = torch.nn.Conv2d(5, 2, bias=False, **options)
    bare = torch.nn.Conv2d(5, 2, bias=False, kernel_size=down.kernel_size, stride=down.stride,
                           dilation=down.dilation)
    bare.weight = down.weight
    with torch.no_grad():
        x = noise(2, 5, 6, 8)
        whole = down(x)
        shares = torch.zeros(whole.shape[-2:])
        shares[box[0]:box[1], box[2]:box[3]] = torch.rand(1, generator=torch.Generator().manual_seed(4))
        rows = shares.flatten().nonzero().flatten()
        window = find_window(Part(rows, shares.flatten()[rows]), tuple(shares.shape))
        before = noise(*whole.shape, seed=1)
        y = before.clone()
        add_conv(bare, kernel_of(down), x, y, window)
    assert window.spans == (slice(*box[:2]), slice(*box[2:]))
    torch.testing.assert_close(y, before + shares * whole)
    assert torch.equal((y != before).any(0).any(0), shares > 0)


def test_all_of_a_convolution():
    conv = torch.nn.Conv2d(3, 4, 3, bias=False)
    with torch.no_grad():
        x, y = noise(1, 3, 6, 6), torch.zeros(1, 4, 4, 4)
        add_conv(conv, kernel_of(conv), x, y, Window(None, None))
        torch.testing.assert_close(y, conv(x))
    assert kernel_of(torch.nn.Linear(2, 2)) is None


def test_windows_say_when_nothing_is_weighed():
    corner = Part(torch.tensor([0, 1, 8, 9]), None)
    assert find_window(corner, GRID) == Window((slice(0, 2), slice(0, 2)), None)
    assert find_window(Part(None, None), GRID) == Window(None, None)
    bent = find_window(Part(torch.tensor([0, 1, 8]), None), GRID)
    assert bent.weight.tolist() == [[1, 1], [1, 0]]


def prompt(base=3, texts=(2, 4), text=10, frames=1):
    """Texts of 3, 2 and 4 tokens and one of padding, over a picture parted into a left and a right half."""
    left = torch.zeros(GRID)
    left[:, :4] = 1
    masks = gather([Region(left), Region(1 - left)], GRID)
    return Prompt(masks, (0, 1), (base, *texts), text, GRID, frames, GRID)


LEFT = [row * 8 + column for row in range(6) for column in range(4)]
LAYERS = {  # tokens, further, step -> tokens of the first region's own
    "texts": (10, 0, 1, [3, 4]), "picture": (48, 0, 1, LEFT),
    "both": (58, 0, 1, [3, 4, *(10 + token for token in LEFT)]),
    "picture and more": (60, 12, 1, LEFT), "all": (70, 12, 1, [3, 4, *(10 + token for token in LEFT)]),
    "picture, filled up": (50, 0, 4, LEFT), "all, filled up": (60, 0, 4, [3, 4, *(10 + t for t in LEFT)])}


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layers_length_tells_what_it_sees(layer):
    tokens, further, step, expected = LAYERS[layer]
    first, second = sequence_parts(prompt(), tokens, further, step, CPU)
    assert first.rows.tolist() == expected and first.weight is None
    assert not set(first.rows.tolist()) & set(second.rows.tolist())
    assert int(second.rows.max()) < tokens


@pytest.mark.parametrize(("tokens", "further", "step"), [
    (1, 0, 1), (47, 0, 1), (49, 0, 1), (59, 0, 1), (48, 12, 1), (58, 12, 1), (52, 0, 4)])
def test_other_lengths_are_left_alone(tokens, further, step):
    assert sequence_parts(prompt(), tokens, further, step, CPU) == []


def test_soft_edges_weigh_the_picture_and_not_the_text():
    ramp = torch.linspace(0, 1, 8).expand(GRID)
    soft = prompt()._replace(masks=gather([Region(ramp), Region(1 - ramp)], GRID))
    first, _ = sequence_parts(soft, 58, 0, 1, CPU)
    assert first.weight[:2].tolist() == [1, 1] and first.weight[2:].max() <= 1
    torch.testing.assert_close(first.weight[2:], ramp.flatten()[first.rows[2:] - 10])


def test_a_region_without_rows_has_none_in_the_picture():
    masks = gather([Region(torch.ones(GRID)), Region(torch.ones(GRID), weight=0)], GRID)
    alone = prompt()._replace(masks=masks)
    assert [part is None for part in sequence_parts(alone, 58, 0, 1, CPU)] == [False, True]


def test_texts_follow_one_another():
    assert [part.rows.tolist() for part in text_parts((2, 3), 4, CPU)] == [[4, 5], [6, 7, 8]]
