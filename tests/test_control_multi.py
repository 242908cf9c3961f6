"""Several controls in one call: who weighs what where, masks on every grid, residuals joined and kept."""
import math

import pytest
import torch
from tweedie_pack.controls.blends import BLENDS
from tweedie_pack.controls.curves import LAYERS, Curve, Depth, read_curve
from tweedie_pack.controls.multi import (
    Batch,
    Kept,
    Reuse,
    Rule,
    Weigher,
    check_masks,
    fit_mask,
    join,
    longest,
    measure,
    pick_rows,
    places,
    progress_at,
    put_rows,
)

ODD = (185, 135)
GRIDS = [(185, 135), (93, 68), (47, 34), (24, 17)]
ORDERS = [(0, 1), (1, 0), (1, 0, 0), (1,), (0,)]


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def unet(rows=2):
    """What a UNet's net gives at three scales of a latent of 16x12."""
    return {"output": [noise(rows, 4, 16, 12), None, noise(rows, 8, 8, 6, seed=1)],
            "middle": [noise(rows, 8, 8, 6, seed=2)]}


def weigh(rule, residuals, batch=None, now=1.0):
    return Weigher(rule).weigh(residuals, now, batch or Batch(2, (0, 1), (16, 12)))


@pytest.mark.parametrize("wrong", [{"uncond": -1}, {"uncond": 10.1}, {"uncond": math.nan},
                                   {"uncond": math.inf}, {"priority": math.nan}, {"priority": -math.inf}])
def test_a_rule_out_of_range_says_what_got_do(wrong):
    with pytest.raises(ValueError, match=rf"Control rule: .*{next(iter(wrong.values()))}.*; give 0 to 10"):
        Rule(**wrong)


@pytest.mark.parametrize("masks", [
    torch.ones(4), torch.tensor(1.0), torch.ones(1, 1, 4, 4), torch.ones(0, 4, 4), torch.ones(2, 0, 4),
    torch.full((4, 4), math.nan), [[math.inf, 1.0]]], ids=lambda masks: str(torch.as_tensor(masks).shape))
def test_masks_that_are_none_say_what_got_do(masks):
    with pytest.raises(ValueError, match="^Depth: the mask (has shape|holds) .*; give "):
        check_masks(masks, "Depth")


def test_masks_are_a_batch_and_1_everywhere_is_no_mask():
    assert check_masks(torch.ones(2, 4, 4), "Depth") is None and check_masks([[7.0, 1.0]], "Depth") is None
    assert torch.equal(check_masks([[0, 1], [-3, 0.5]], "Depth"), torch.tensor([[[0, 1], [0, 0.5]]]))
    pair = torch.stack([torch.ones(3, 5), torch.zeros(3, 5)])
    assert torch.equal(check_masks(pair.half(), "Depth"), pair)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_masks_fit_the_grids_of_a_unet_and_of_video(grid):
    masks = torch.stack([torch.ones(740, 540), torch.zeros(740, 540)])
    masks[1, :, 270:] = 1
    fitted = fit_mask(masks, torch.zeros(2, 4, *grid), ODD)
    assert fitted.shape == (2, 1, *grid)
    torch.testing.assert_close(fitted[0], torch.ones(1, *grid))
    assert float(fitted[1, ..., : grid[1] // 2 - 1].abs().max()) == 0 <= float(fitted.min())
    torch.testing.assert_close(fitted[1, ..., -(grid[1] // 2) + 1 :].mean(), torch.tensor(1.0))
    video = fit_mask(masks, torch.zeros(2, 4, 5, *grid), ODD)
    assert video.shape == (2, 1, 1, *grid) and torch.equal(video[:, 0], fitted)


@pytest.mark.parametrize("cells", [1, 2, 4, 8])
def test_area_filtering_keeps_means(cells):
    mask = (noise(2, 64, 48) > 1).float()
    fitted = fit_mask(mask, torch.zeros(1, 4, 32 // cells, 24 // cells), (32, 24))
    torch.testing.assert_close(fitted.mean((1, 2, 3)), mask.mean((1, 2)))


@pytest.mark.parametrize(("full", "grid"), [
    (ODD, (93, 68)), ((64, 48), (32, 24)), (ODD, ODD), (ODD, (47, 34))])
@pytest.mark.parametrize("frames", [1, 3])
def test_masks_fit_tokens_row_by_row(full, grid, frames):
    masks = noise(2, 370, 270).sigmoid()
    tokens = torch.zeros(1, frames * grid[0] * grid[1], 8)
    fitted = fit_mask(masks, tokens, full)
    assert fitted.shape == (2, tokens.shape[1], 1)
    expected = fit_mask(masks, torch.zeros(1, 4, *grid), full)[:, 0]
    for frame in fitted.unflatten(1, (frames, *grid)).unbind(1):
        assert torch.equal(frame[..., 0], expected)


@pytest.mark.parametrize("count", [1, 100, 93 * 68 + 1])
def test_tokens_that_are_no_grid_say_what_got_do(count):
    with pytest.raises(ValueError, match=rf"Control mask: {count} tokens .* 185x135 latent.*; take it away"):
        fit_mask(torch.ones(1, 8, 8), torch.zeros(1, count, 8), ODD)


@pytest.mark.parametrize("to_sigma", [lambda at: 14.6 * (1 - at) ** 3 + 0.03, lambda at: 1 - at])
def test_progress_is_where_a_host_would_have_that_sigma(to_sigma):
    for progress in (0, 0.123456, 0.5, 0.98):
        assert progress_at(to_sigma(progress), to_sigma) == pytest.approx(progress, abs=2e-6)
    assert progress_at(1e9, to_sigma) == 0 and progress_at(0.0, to_sigma) == progress_at(-1, to_sigma) == 1


@pytest.mark.parametrize("curve", [Curve(), read_curve("lines", "x"), read_curve("0:1", "x")])
def test_a_neutral_rule_hands_on_the_very_tensors(curve):
    residuals, rule = unet(), Rule(curve=curve)
    weighed = weigh(rule, residuals, now=curve(0.5))
    assert weighed.keys() == {("output", 0), ("output", 2), ("middle", 0)}
    for (key, index), (tensor, weight) in weighed.items():
        assert tensor is residuals[key][index] and weight == 1
    positive = weigh(Rule(uncond=0.3), residuals, Batch(2, (0,), (16, 12)))
    assert positive["middle", 0][0] is residuals["middle"][0]


@pytest.mark.parametrize("each", [1, 2, 3])
@pytest.mark.parametrize("kinds", ORDERS, ids=str)
@pytest.mark.parametrize("uncond", [0.0, 0.25, 2.0])
def test_the_negative_prompts_rows_have_their_own_factor(uncond, kinds, each):
    batch = Batch(each * len(kinds), kinds, (16, 12))
    residuals = {"input": [noise(batch.rows, 6, 8)], "middle": [noise(batch.rows, 4, 16, 12)]}
    weighed = weigh(Rule(uncond=uncond), residuals, batch, 0.5)
    factors = torch.tensor([0.5 * (uncond if kind else 1) for kind in kinds for _ in range(each)])
    for (key, index), (tensor, _) in weighed.items():
        whole = residuals[key][index]
        assert torch.equal(tensor, whole * factors.reshape(-1, *[1] * (whole.ndim - 1)))


@pytest.mark.parametrize(("each", "order"), [(1, [0, 0]), (2, [0, 1, 0, 1]), (3, [0, 1, 0, 0, 1, 0])])
def test_masks_of_a_batch_go_to_its_pictures_in_every_chunk(each, order):
    masks = torch.zeros(2, 16, 12)
    masks[0, :8], masks[1, 8:] = 1, 0.5
    batch = Batch(2 * each, (1, 0), (16, 12))
    residuals = {"output": [noise(batch.rows, 4, 16, 12)], "input": [noise(batch.rows, 48, 8)]}
    weighed = weigh(Rule(mask=masks, uncond=0.5), residuals, batch)
    sides = torch.tensor([0.5] * each + [1.0] * each)
    expected = residuals["output"][0] * masks[order][:, None] * sides[:, None, None, None]
    assert torch.equal(weighed["output", 0][0], expected)
    tokens = masks[order, ::2, ::2].flatten(1)[..., None] * sides[:, None, None]
    torch.testing.assert_close(weighed["input", 0], (residuals["input"][0] * tokens, tokens))


def test_half_precision_stays_and_masks_are_fitted_once():
    weigher, batch = Weigher(Rule(mask=torch.eye(16)[None], uncond=0.5)), Batch(2, (0, 1), (16, 16))
    residuals = {"output": [noise(2, 4, 16, 16).half(), noise(2, 4, 16, 16, seed=1).bfloat16()]}
    weighed = weigher.weigh(residuals, 0.7, batch)
    assert [weighed["output", index][0].dtype for index in (0, 1)] == [torch.float16, torch.bfloat16]
    assert weigher.masks_of(residuals["output"][0], batch) is weigher.masks_of(residuals["output"][1], batch)
    assert len(weigher.fitted) == 1
    weigher.weigh({"output": [noise(2, 4, 8, 8)]}, 0.7, batch)
    assert len(weigher.fitted) == 2


def test_repeated_tensors_are_weighed_once_and_stay_one(monkeypatch):
    seen, apply = [], Weigher.apply
    monkeypatch.setattr(Weigher, "apply", lambda *given: seen.append(given[1]) or apply(*given))
    first, second = noise(2, 48, 8), noise(2, 48, 8, seed=1)
    weighed = weigh(Rule(layers=Depth(Curve(((0, 0.5), (1, 2))))), {"input": [first, first, second, first]})
    assert weighed["input", 0][0] is weighed["input", 1][0] is weighed["input", 3][0]
    assert len(seen) == 2 and torch.equal(weighed["input", 0][0], first * 0.5)
    assert torch.equal(weighed["input", 2][0], second * 2)
    neutral = weigh(Rule(), {"input": (first, first, second)})
    assert neutral["input", 1][0] is first


def test_places_go_from_the_picture_to_the_deepest():
    picture, tokens = torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 8)
    order = [place[:2] for place in places({"middle": [picture], "output": [picture, None, picture]})]
    assert order == [("output", 0), ("output", 2), ("middle", 0)]
    adapter = {"input": [None, picture, None, picture], "middle": [None]}  # a UNet takes them from the end
    assert [place[:2] for place in places(adapter)] == [("input", 3), ("input", 1)]
    order = [place[:2] for place in places({"output": (tokens,), "input": (tokens, None, tokens)})]
    assert order == [("input", 0), ("input", 2), ("output", 0)]
    assert not list(places({})) and not list(places({"input": None, "middle": [None]}))


def test_soft_layers_by_depth():
    weights = weigh(Rule(layers=LAYERS["soft"]), unet())
    assert [weights[place][1] for place in (("output", 0), ("output", 2), ("middle", 0))] == pytest.approx(
        [0.825**2, 0.825, 1])
    adapter = {"input": [noise(2, 4, 8, 6), None, noise(2, 4, 16, 12)]}
    weights = weigh(Rule(layers=LAYERS["soft"]), adapter)
    assert [weights["input", index][1] for index in (0, 2)] == pytest.approx([1, 0.825])


def test_join_keeps_lists_and_what_acts_alone():
    first = unet()
    second = {"output": [None, None, noise(2, 8, 8, 6, seed=5), None, None], "input": [None] * 3}
    parts = [weigh(Rule(), first), weigh(Rule(), second)]
    joined = join(parts, BLENDS["sum"], longest([first, second]))
    assert {key: len(listed) for key, listed in joined.items()} == {"input": 3, "output": 5, "middle": 1}
    assert joined["output"][0] is first["output"][0] and joined["middle"][0] is first["middle"][0]
    assert torch.equal(joined["output"][2], first["output"][2] + second["output"][2])
    assert [index for index, one in enumerate(joined["output"]) if one is None] == [1, 3, 4]
    assert joined["input"] == [None] * 3
    assert join([], BLENDS["sum"], longest([])) == {"input": [], "output": [], "middle": []}
    assert longest([{"input": None}, first]) == {"input": 0, "output": 3, "middle": 1}


def test_the_same_tensors_are_joined_once_with_their_weights_in_order():
    calls = []

    def policy(residuals, weights):
        calls.append(weights)
        return residuals[0] + residuals[1]
    first, second, third = (noise(2, 48, 8, seed=seed) for seed in range(3))
    residuals = [{"input": [first] * 3}, {"input": [second, second, third]}]
    parts = [weigh(Rule(), one, now=now) for one, now in zip(residuals, (0.5, 0.25), strict=True)]
    joined = join(parts, policy, longest(residuals))["input"]
    assert calls == [[0.5, 0.25]] * 2 and joined[0] is joined[1] is not joined[2]
    assert torch.equal(joined[2], first * 0.5 + third * 0.25)


def test_rows_are_picked_and_put_back():
    rows, whole = torch.tensor([1, 3]), noise(4, 6, 8)
    picked = pick_rows(whole, rows, 4)
    assert torch.equal(picked, whole[[1, 3]])
    for other in (torch.tensor(4.0), noise(1, 6, 8), None, "text", [1, 2, 3, 4], {"a": whole}):
        assert pick_rows(other, rows, 4) is other
    back = put_rows({"input": [picked, None, picked], "middle": []}, rows, 4)
    assert back["input"][0] is back["input"][2] and back["input"][1] is None and back["middle"] == []
    assert torch.equal(back["input"][0][rows], picked) and not back["input"][0][[0, 2]].any()
    half = put_rows({"input": [picked.half()]}, rows, 4)["input"][0]
    assert half.dtype == torch.float16 and half.shape == whole.shape


def allowed(reuse, last=9, change=0.0):
    x = torch.ones(1, 4, 8, 8)
    kept = Kept(2, x, {}, None)
    return [step for step in range(last + 1) if reuse.allows(kept, step, last, x * (1 + change))]


def test_earlier_residuals_stand_in_where_reuse_allows():
    assert allowed(Reuse()) == []
    assert allowed(Reuse("interval", 2)) == [1, 2, 3] and allowed(Reuse("interval", 4)) == [1, 2, 3, 4, 5]
    assert allowed(Reuse("interval", 10), last=4) == [1, 2, 3]  # never the first and the last
    assert allowed(Reuse("threshold", threshold=0.1), change=0.09) == list(range(1, 9))
    assert allowed(Reuse("threshold", threshold=0.1), change=0.11) == []
    assert allowed(Reuse("interval", 10), last=0) == allowed(Reuse("interval", 10), last=1) == []
    zero = torch.zeros(1, 4, 8, 8)
    assert Reuse("threshold").allows(Kept(1, zero, {}, None), 2, 9, zero)
    assert not Reuse("threshold").allows(Kept(1, zero, {}, None), 2, 9, zero + 1)


def test_measure_is_the_energy_of_one_row():
    tensor = torch.stack([torch.ones(6, 8), torch.full((6, 8), 2.0)])
    part = weigh(Rule(), {"input": [tensor, tensor, tensor[:1].half()]})
    for row, energies in ((0, [48, 48, 48]), (1, [192, 192, 48])):
        assert [float(measure(part, row)["input", index]) for index in range(3)] == energies
    assert measure({}, 0) == {}
