"""The scoreboard's statistics, hosts' schedules, page and plot; no weights are needed."""
import pathlib
import sys
from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch
from families import TABLES
from tweedie_pack.demo import sampling
from tweedie_pack.demo.world import draw
from tweedie_pack.samplers.schedules import SCHEDULES

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
sys.path.append(str(pathlib.Path(__file__).with_name("bench")))

import scoreboard
from score import accuracy, controls, guidance, hosts, page, plot, regions, schedules, work, zero_snr
from score.result import Result, Table
from score.stats import NOTHING, Estimate, agresti_min, difference, estimate, finding, wilson

GOLDEN = {  # of ComfyUI 0.33's calculate_sigmas, 5 steps
    ("sd15_eps", "karras"): [14.6146, 4.79653, 1.2741, 0.24795, 0.0291672, 0.0],
    ("sd15_eps", "exponential"): [14.6146, 3.08898, 0.652892, 0.137996, 0.0291672, 0.0],
    ("sd15_eps", "sgm_uniform"): [14.6146, 5.09241, 2.27973, 1.16286, 0.571189, 0.0],
    ("sd15_eps", "beta"): [14.6146, 7.37184, 2.61524, 1.02733, 0.39551, 0.0],
    ("sd15_eps", "simple"): [14.6146, 5.08776, 2.27646, 1.16058, 0.569285, 0.0],
    ("sd2_v_zero_snr", "karras"): [4518.76, 909.691, 113.37, 5.77189, 0.0291672, 0.0],
    ("sd2_v_zero_snr", "exponential"): [4518.76, 227.766, 11.4804, 0.578663, 0.0291672, 0.0],
    ("sd2_v_zero_snr", "sgm_uniform"): [4518.76, 7.42099, 2.60919, 1.24396, 0.596774, 0.0],
    ("sd2_v_zero_snr", "beta"): [4518.76, 14.0481, 3.06617, 1.09196, 0.411381, 0.0],
    ("sd2_v_zero_snr", "simple"): [4518.76, 7.4107, 2.60485, 1.24137, 0.594751, 0.0],
}


@pytest.fixture
def numbers():
    return np.random.default_rng(5)


def test_intervals_are_as_theory_gives_them_and_the_same_every_time(numbers):
    values = numbers.normal(3, 2, 400)
    mean, median = estimate(values, "mean"), estimate(values, "median")
    assert mean.value == pytest.approx(values.mean()) and median.value == pytest.approx(np.median(values))
    assert mean.high - mean.low == pytest.approx(2 * 1.96 * 2 / 20, rel=0.15)
    assert median.high - median.low == pytest.approx(1.2533 * 2 * 1.96 * 2 / 20, rel=0.35)
    assert estimate(values.tolist(), "mean") == mean


def test_nineteen_intervals_in_twenty_hold_the_truth(numbers):
    held = [estimate(numbers.normal(0, 1, 48), "mean") for _ in range(200)]
    assert 0.9 <= np.mean([low <= 0 <= high for _, low, high in held]) <= 0.98


def test_a_difference_is_taken_seed_by_seed(numbers):
    seeds = numbers.normal(0, 10, 64)
    better = seeds - 0.5 + numbers.normal(0, 0.5, 64)
    assert finding(difference(better, seeds, "mean"), "lower") == "better"
    assert finding(difference(better, seeds, "median"), "lower") == "better"
    assert finding(difference(better, seeds, "mean"), "higher") == "worse"
    assert finding(difference(better, seeds, "mean"), None) == "lower"
    assert finding(difference(better, np.roll(seeds, 1), "mean"), "lower") == NOTHING


def test_nothing_found_is_said_so(numbers):
    values = numbers.normal(0, 1, 64)
    assert finding(difference(values, values, "mean"), "lower") == NOTHING == "no difference found"
    assert finding(Estimate(1.0, -0.1, 2.0), "lower") == finding(Estimate(1.0, 0.0, 2.0), "higher") == NOTHING
    assert finding(Estimate(1.0, 0.1, 2.0), "lower") == "worse"


def test_rates_have_a_width_where_all_are_right():
    assert wilson(np.array([1.0] * 9 + [0])) == pytest.approx((0.9, 0.5958, 0.9821), abs=1e-4)
    assert wilson(np.ones(10)) == pytest.approx((1.0, 0.7225, 1.0), abs=1e-4)
    same = agresti_min(np.zeros(64))
    assert same == pytest.approx((0, -1.96 / 66, 1.96 / 66), abs=1e-4)
    half = np.tile([1.0, 0.0], 40)
    assert finding(difference(np.ones(80), half, "rate"), "higher") == "better"
    assert finding(difference(np.ones(80), np.r_[np.ones(79), 0], "rate"), "higher") == NOTHING


@pytest.mark.parametrize("values", [[1.0], [1.0, float("nan")], [[1.0, 2.0]], [1.0, float("inf")]])
def test_values_that_allow_no_interval_are_refused(values):
    with pytest.raises(ValueError, match="at least 2 finite values"):
        estimate(values, "mean")


def test_pairs_need_the_same_seeds():
    with pytest.raises(ValueError, match="3 values against 2"):
        difference([1.0, 2.0, 3.0], [1.0, 2.0], "mean")


@pytest.mark.parametrize("table, name", GOLDEN)
def test_hosts_schedules_are_the_hosts(table, name):
    sigmas = hosts.HOSTS[name](5, TABLES[table])
    torch.testing.assert_close(sigmas.float(), torch.tensor(GOLDEN[table, name]), rtol=2e-5, atol=0)


def test_golden_values_cover_the_hosts():
    assert {name for _, name in GOLDEN} == hosts.HOSTS.keys()


@pytest.mark.parametrize("name, options, steps", [
    ("karras", {"use_karras_sigmas": True}, 12), ("exponential", {"use_exponential_sigmas": True}, 12),
    ("simple", {"timestep_spacing": "trailing"}, 8), ("sgm_uniform", {"timestep_spacing": "linspace"}, 9)])
def test_hosts_schedules_are_those_of_diffusers(name, options, steps):
    """Its "linspace" keeps the last time, which `sgm_uniform` leaves out; times are whole at these steps."""
    ours = hosts.HOSTS[name](steps, TABLES["sd15_eps"])
    theirs = sampling.library_sigmas(options, steps + (name == "sgm_uniform"))
    torch.testing.assert_close(ours[:steps].float(), theirs[:steps].float(), rtol=1e-4, atol=0)
    assert len(ours) == steps + 1 and ours[-1] == 0


def test_a_beta_schedule_meets_no_time_twice():
    sigmas = hosts.beta(400, TABLES["sd15_eps"])
    assert len(sigmas) < 401 and (sigmas.diff() < 0).all()


@pytest.mark.parametrize("steps", schedules.COUNTS)
@pytest.mark.parametrize("sampler", sampling.SAMPLERS)
def test_every_schedule_is_measured_from_the_same_start(sampler, steps):
    table = TABLES["sd2_v_zero_snr"]
    laid = schedules.lay(sampler, steps, table)
    assert len(laid) == 1 + len(SCHEDULES) + len(hosts.HOSTS)
    for sigmas in laid.values():
        assert len(sigmas) == steps + 1 and float(sigmas[0]) == pytest.approx(float(table[-1]), rel=1e-5)


def test_the_best_host_and_the_best_of_ours_are_found():
    exact = torch.ones(4, 4, 2, 2)
    ends = {("v", "Euler", steps): {"Recommended": exact * 1.3, "Tweedie Karras": exact * 1.1,
                                    "karras": exact * 1.2, "beta": exact * 1.4} for steps in schedules.COUNTS}
    table = schedules.tabulate("v", "Euler", ends, exact)
    assert set(table.bold) == {(name, f"{steps} steps") for name in ("karras", "Tweedie Karras")
                               for steps in schedules.COUNTS}
    assert table.compare[0] == (("Recommended", "5 steps"), ("karras", "5 steps"))
    assert page.compare(table)[0][-1] == "worse"


def make_table(**changes):
    numbers = np.random.default_rng(5)
    seeds = numbers.normal(1, 0.1, 32)
    cells = {("off", "small"): seeds, ("on", "small"): seeds - 0.25, ("off", "large"): seeds,
             ("on", "large"): seeds + numbers.normal(0, 0.1, 32), ("floor", "large"): seeds * 0}
    compare = [(("on", size), ("off", size)) for size in ("small", "large")]
    return Table("Error", "px", cells, better="lower", compare=compare,
                 bold={("on", "small")})._replace(**changes)


def test_a_table_shows_intervals_gaps_and_the_best():
    head, _, off, on, floor = page.write_values(make_table()).splitlines()
    assert head == "| px | small | large |"
    assert off.startswith("| off | ") and "[" in off
    assert on.startswith("| on | **0.7") and on.count("**") == 2
    assert floor == "| floor | - | 0.000 [0.000, 0.000] |"


def test_a_comparison_prints_a_null_result_as_one():
    small, large = page.write_comparisons(make_table()).splitlines()[2:]
    assert small.startswith("| on | off | small | -0.250 [-0.250, -0.250] (-2")
    assert small.endswith("| **better** |")
    assert large.startswith("| on | off | large | ") and large.endswith("| no difference found |")
    summary = page.summarise(Result("", [make_table()]))
    assert summary == "**Summary.** Of 2 comparisons: better in 1, no difference found in 1."


def test_rates_are_printed_in_per_cent():
    cells = {("hand", "the model"): [True] * 30 + [False] * 10, ("hand", "clean"): [True] * 40}
    table = Table("", "%", cells, "rate", "higher", [(("hand", "the model"), ("hand", "clean"))], places=1)
    assert page.write_values(table).splitlines()[-1] == "| hand | 75.0 [59.8, 85.8] | 100.0 [91.2, 100.0] |"
    line = page.write_comparisons(table).splitlines()[-1]
    assert line.startswith("| the model | clean | hand | -25.0 [-3") and line.endswith("| **worse** |")


@pytest.mark.parametrize("change", [{}, {"kind": "median", "log": True}])
def test_a_plot_shows_every_cell(change):
    image = np.asarray(plot.draw_result(Result("", [make_table(**change)] * 3)))
    assert image.shape[1:] == (2 * plot.WIDTH, 3)
    for color in plot.COLORS[:2]:
        wanted = [int(color[i:i + 2], 16) for i in (1, 3, 5)]
        assert (np.abs(image.astype(int) - wanted).max(-1) < 8).sum() > 100


def test_a_row_measured_again_leaves_the_others_as_they_are(tmp_path, monkeypatch):
    rows = {"first": lambda seeds: Result("About the first.", [make_table()]),
            "second row": lambda seeds: Result(f"With {seeds}.", [make_table()], ["A note."])}
    monkeypatch.setattr(scoreboard, "ROWS", rows)
    out = tmp_path / "board.md"
    scoreboard.main(["--out", str(out), "--seeds", "9", "--rows", "second row"])
    scoreboard.main(["--out", str(out), "--seeds", "8", "--rows", "first"])
    text = out.read_text("utf-8")
    parts = ("## first\n\nAbout the first.", "## second row\n\nWith 9.", "A note.")
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    assert (tmp_path / "pictures" / "scoreboard_second_row.png").exists()
    scoreboard.main(["--out", str(out), "--seeds", "9", "--rows", "second row"])
    assert page.read_sections(out.read_text("utf-8")).keys() == rows.keys()
    assert page.read_sections(text)["first"] == page.read_sections(out.read_text("utf-8"))["first"]


def test_too_few_seeds_are_refused(capsys):
    with pytest.raises(SystemExit):
        scoreboard.main(["--seeds", "3"])
    assert "an interval over fewer than 8 says nothing" in capsys.readouterr().err


def test_seeds_are_cut_and_drawn_the_same_way_everywhere():
    assert [len(part) for part in work.batches(80)] == [32, 32, 16]
    assert torch.equal(work.noise(range(40))[35], work.noise([35])[0])


@pytest.mark.parametrize("kind", controls.KINDS)
def test_chance_is_another_scene_of_the_same_caption(kind):
    scene = controls.KINDS[kind](Random(3))
    other = controls.again(scene, Random(4))
    assert other.caption == scene.caption and other != scene
    mine, theirs = draw(scene), draw(other)
    assert 0.05 < controls.overlap(controls.silhouette(mine), controls.silhouette(theirs)) < 0.95
    assert controls.overlap(controls.subject(mine.image), controls.silhouette(mine)) > 0.95


def test_black_and_white_hold_the_same_shapes():
    for seed in range(20):
        black, white = (zero_snr.draft(seed, background) for background in zero_snr.TARGETS)
        assert black.subjects == white.subjects and black.background != white.background
        assert black.subjects[0].colour not in zero_snr.TARGETS


def test_a_shape_has_a_verdict_on_colour_and_shape_together():
    scene = accuracy.KINDS["one shape"][0](Random(0))
    right = accuracy.verdicts(scene, draw(scene).image)
    assert right["colour and shape"] == (right["colour"] and right["shape"])
    hand = accuracy.KINDS["large hand"][0](Random(0))
    assert "colour and shape" not in accuracy.verdicts(hand, draw(hand).image)


@pytest.mark.parametrize("filter, knobs", [(guidance.fresca, {"cutoff": 0.625}), (guidance.fdg, {})])
def test_filters_of_other_papers_are_neutral_at_equal_gains_and_tell_layout_from_texture(filter, knobs):
    delta = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(filter(delta, low=1.0, high=1.0, **knobs), delta, rtol=0, atol=1e-5)
    flat, checked = torch.ones(1, 4, 16, 16), (-1.0) ** torch.arange(16).expand(1, 4, 16, 16)
    torch.testing.assert_close(filter(flat, low=2.0, high=5.0, **knobs), 2 * flat, rtol=0, atol=1e-5)
    inner = (..., slice(4, -4), slice(4, -4))  # a pyramid mirrors what it sees at borders
    torch.testing.assert_close(filter(checked, low=2.0, high=5.0, **knobs)[inner], 5 * checked[inner],
                               rtol=0, atol=1e-4)


def test_every_way_of_guiding_is_compared_with_the_plain_one():
    cells = {(line, "small hand"): [] for line in (*guidance.LINES, guidance.FLOOR)}
    pairs = guidance.against_plain(cells)
    assert len(pairs) == len(guidance.LINES) - 1
    assert {baseline for _, baseline in pairs} == {(guidance.PLAIN, "small hand")}
    assert guidance.GROUPS.keys() == guidance.KINDS.keys()


def test_every_region_is_measured_on_clean_pictures_too():
    for kind, layouts in regions.KINDS.items():
        parts = regions.draft_all(kind, range(6))
        assert sorted(seed for _, _, part in parts for seed in part) == list(range(6))
        assert [layout for layout, _, _ in parts] == list(layouts)
        assert regions.run(regions.CLEAN, kind, range(6)) == [(True, 100, 0)] * 6


def test_another_subject_changes_its_region_alone():
    [(_, scenes, _)] = regions.draft_all(regions.EXAMPLE, range(8))
    for scene in scenes:
        other = regions.alter(scene, Random(0))
        (first, *rest), (second, *others) = scene.subjects, other.subjects
        assert rest == others and first.shape != second.shape
        assert second.colour not in {scene.background, *(one.colour for one in scene.subjects)}
        assert (first.x, first.y) == (second.x, second.y)


def test_regions_give_a_whole_result(monkeypatch):
    """With pictures that are clean, but for the plain prompt, which paints the first subject everywhere."""
    def paint(way, layout, scenes, seeds):
        if way.guide is None:
            scenes = [replace(scene, subjects=tuple(
                replace(scene.subjects[0], x=spot.x, y=spot.y) for spot in layout.spots)) for scene in scenes]
        return torch.stack([draw(scene, layout.height, layout.width).image for scene in scenes])
    monkeypatch.setattr(regions, "paint", paint)
    monkeypatch.setattr(regions, "share", lambda job, tasks, what: [job(*task) for task in tasks])
    whole, single, leaked, change = regions.measure(2).tables
    assert sum(whole.cells[regions.PLAIN, "three rows"]) == 0
    assert set(single.cells[regions.PLAIN, "four quarters"]) == {25}
    assert set(leaked.cells[regions.PLAIN, "four quarters"]) == {75}
    assert set(whole.cells[regions.ATTENTION, "three rows"]) == {True}
    assert {line for line, _ in whole.cells} == {*regions.WAYS, regions.CLEAN}
    further = [cell for cell in whole.cells if cell[0] not in (*regions.MAIN, regions.CLEAN)]
    assert {kind for _, kind in further} == {regions.EXAMPLE, regions.HARD}
    assert (further[0], (regions.ATTENTION, further[0][1])) in whole.compare
    assert max(change.cells[regions.ATTENTION, regions.EXAMPLE]) == 0
    assert min(change.cells[regions.PLAIN, regions.EXAMPLE]) > 0.5
