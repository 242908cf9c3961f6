"""The tiny model under several controls: one is `guide` under it, two are their sum."""
import pathlib
import sys

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
sys.path.append(str(pathlib.Path(__file__).with_name("bench")))

from score import blends
from tiny_nets import new_nets
from tweedie_pack.controls.blends import BLENDS
from tweedie_pack.controls.curves import Curve
from tweedie_pack.controls.multi import Reuse, Rule
from tweedie_pack.demo.sampling import SAMPLERS, sample, standard_tables
from tweedie_pack.demo.tiny.controlled import Control, guide_controls
from tweedie_pack.demo.tiny.model import Tiny, guide
from tweedie_pack.samplers.recommend import recommended

SUM = BLENDS["sum"].run
CAPTIONS = ["a red circle in the middle, white background", "an open hand, blue background"]
SIGMAS = (4000.0, 1.0, 0.1)


@pytest.fixture(scope="module")
def nets():
    return new_nets()


@pytest.fixture(scope="module")
def tiny(nets):
    return Tiny(nets["vae"], nets["text"], nets["unet_v"], list(standard_tables().values())[1], True)


def noise(*shape, seed=3):
    return torch.randn(2, *(shape or (4, 16, 16)), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def edges(nets):
    return Control(nets["control_edges"], noise(1, 128, 128, seed=1).sigmoid())


@pytest.fixture(scope="module")
def depth(nets):
    return Control(nets["control_depth"], noise(1, 128, 128, seed=2).sigmoid())


def same(first, second, sigmas=SIGMAS):
    """Both say the same about noise at these sigmas."""
    for sigma in sigmas:
        torch.testing.assert_close(first(sigma * noise(), sigma), second(sigma * noise(), sigma),
                                   atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("scale", [5.0, 1.0])
@pytest.mark.parametrize("policy", BLENDS)
def test_one_control_is_guidance_under_it_by_every_policy(tiny, edges, policy, scale):
    blended = guide_controls(tiny, CAPTIONS, scale, [edges], BLENDS[policy].run)
    same(blended, guide(tiny, CAPTIONS, scale, control=edges.net, hints=edges.hints), SIGMAS[1:])


def test_two_controls_are_the_sum_of_their_residuals_times_strength(tiny, edges, depth):
    def both(noisy, t, context, hints, return_dict):
        (down, middle), (more, deep) = (
            one.net(noisy, t, context, one.hints.repeat(2, 3, 1, 1), return_dict=False)
            for one in (edges, depth))
        return [a + 0.5 * b for a, b in zip(down, more, strict=True)], middle + 0.5 * deep

    blended = guide_controls(tiny, CAPTIONS, 5.0, [edges, depth._replace(strength=0.5)], SUM)
    same(blended, guide(tiny, CAPTIONS, 5.0, control=both, hints=edges.hints))


def test_at_strength_0_and_outside_its_curve_a_control_is_not_there(tiny, edges, depth):
    plain = guide(tiny, CAPTIONS, 5.0)
    under = guide(tiny, CAPTIONS, 5.0, control=edges.net, hints=edges.hints)
    early = Rule(Curve(((0, 1), (0.5, 1), (0.5, 0))))
    with depth.net.conv_in.register_forward_hook(lambda *_: pytest.fail("was called")):
        same(guide_controls(tiny, CAPTIONS, 5.0, [edges, depth._replace(strength=0.0)], SUM), under)
    blended = guide_controls(tiny, CAPTIONS, 5.0, [edges._replace(rule=early)], SUM)
    same(blended, under, [4000.0, 3.0])
    with edges.net.conv_in.register_forward_hook(lambda *_: pytest.fail("was called")):
        same(blended, plain, [0.3, 0.1])
    x = 3.0 * noise()
    assert not torch.allclose(under(x, 3.0), plain(x, 3.0), atol=0.01)


def test_the_higher_priority_speaks_first(tiny, edges, depth):
    seen = []

    def watch(residuals, weights):
        seen.append(residuals[0])
        return SUM(residuals, weights)

    first = depth._replace(rule=Rule(priority=1.0))
    guide_controls(tiny, CAPTIONS, 5.0, [edges, first], watch)(noise(), 1.0)
    guide_controls(tiny, CAPTIONS, 5.0, [depth, edges], watch)(noise(), 1.0)
    assert len(seen) == 10 and all(torch.equal(*pair) for pair in zip(seen[:5], seen[5:], strict=True))


@pytest.mark.parametrize("reuse, calls", [
    (Reuse(), 8), (Reuse("interval", interval=3), 4), (Reuse("threshold", threshold=0.0), 8),
    (Reuse("threshold", threshold=1e6), 2)])
def test_residuals_stand_in_but_for_the_first_and_last_step_of_each_run(tiny, edges, reuse, calls):
    sampler, sigmas = next(iter(SAMPLERS)), recommended(8, tiny.table, "first_order")
    seen, denoise = [], guide_controls(tiny, CAPTIONS, 5.0, [edges], SUM, reuse, sigmas)
    with edges.net.conv_in.register_forward_hook(lambda *_: seen.append(1)):
        ends = [sample(sampler, denoise, sigmas[0] * noise(), sigmas) for _ in range(2)]
    assert len(seen) == 2 * calls and torch.equal(*ends)


def test_reuse_without_the_runs_sigmas_is_refused(tiny, edges):
    with pytest.raises(ValueError, match="reuse is by interval, but there are no sigmas; give the run's"):
        guide_controls(tiny, CAPTIONS, 5.0, [edges], SUM, Reuse("interval"))


def test_controls_that_contradict_have_scenes_of_one_caption():
    agree, differ, strange = (blends.draft(case, range(4)) for case in (blends.AGREE, blends.DIFFER,
                                                                         blends.STRANGE))
    assert agree.captions == differ.captions == strange.captions
    for number in range(4):
        shapes = [blends.silhouette(case.depths[number]) for case in (agree, differ, strange)]
        mine = blends.silhouette(agree.edges[number])
        first, second, third = (blends.overlap(mine, other) for other in shapes)
        assert first == 1 and 0.2 < second < 1 and third < 1


def test_every_policy_is_compared_with_the_sum_and_the_sum_with_one_control():
    cells = {(line, "1"): [] for line in blends.LINES}
    pairs = blends.against(cells)
    assert len(pairs) == len(BLENDS) - 1 + 2 and {ours for ours, _ in pairs} == {
        (line, "1") for line in blends.POLICIES}


def test_blending_gives_a_whole_result(monkeypatch):
    """With values that say which cell they are of."""
    monkeypatch.setattr(blends, "share", lambda job, tasks, what: [job(*task) for task in tasks])
    monkeypatch.setattr(blends, "run", lambda line, case, strength, seeds: [
        (strength, -strength, strength * len(line), 0.0)] * len(seeds))
    monkeypatch.setattr(blends, "run_reuse", lambda seeds: {
        line: [(1.0, 100 / reuse.interval, 0.0)] * len(seeds) for line, reuse in blends.REUSES.items()})
    monkeypatch.setattr(blends, "run_cosines", lambda case, seeds: [tuple(range(9))] * len(seeds))
    agree, differ, chroma, _, _, calls, _, cosines, places = blends.measure(3).tables
    assert agree.lines == list(blends.LINES) and agree.cells["Sum", "strength 1.5"] == [1.5] * 3
    assert differ.cells["Cap", "depth's scene, strength 2"] == [-2] * 3
    assert chroma.cells["Sum", "contradicting, 2"] == [6] * 3
    assert calls.cells["every 4", blends.ONE] == [25] * 3
    assert cosines.cells["unrelated", "middle"] == [4] * 3
    assert places.cells["agreeing", "below 0.25"] == [8] * 3
