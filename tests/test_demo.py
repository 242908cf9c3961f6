"""The demo's numbers are what they are said to be: model, samplers, end point, law, page."""
import base64
import itertools
import math
import re

import pytest
import torch
from tweedie_pack import __main__ as command
from tweedie_pack.demo import exact, gallery, page, reader, sampling
from tweedie_pack.samplers.recipe import PRESETS
from tweedie_pack.samplers.schedules import SCHEDULES
from tweedie_pack.samplers.solvers import sample_2m


@pytest.fixture(scope="module")
def world():
    """Two pictures of each caption, the model around them, its table."""
    pictures, captions = gallery.paint(variants=2)
    return pictures, captions, sampling.gallery_model(pictures), sampling.stable_diffusion_table()


@pytest.fixture(scope="module")
def denoise(world):
    weights = torch.stack([gallery.only(world[1], caption) for caption in ("a red ball", "mountains")])
    return exact.guided(world[2], sampling.SCALE, weights)


def test_gallery_is_what_its_captions_say(world):
    pictures, captions, _, _ = world
    assert pictures.shape == (2 * len(gallery.PAINTERS) + 2, 3, 96, 96) and len(captions) == len(pictures)
    assert pictures.min() >= -1 and pictures.max() <= 1
    assert bool((pictures[-2] == -1).all()) and bool((pictures[-1] == 1).all())
    gaps = torch.pdist(pictures.flatten(1))
    assert gaps.min() > 5  # no two pictures alike
    assert bool((gallery.paint(variants=2)[0] == pictures).all())
    assert bool((gallery.paint(seed=8, variants=1)[0][0] != pictures[0]).any())


def test_unknown_caption_names_the_known(world):
    with pytest.raises(ValueError, match="caption is 'a cat'; give one of a sunrise, mountains"):
        gallery.only(world[1], "a cat")


def test_guidance_is_linear_in_the_estimates(world):
    _, captions, model, _ = world
    weights, x = gallery.only(captions, "a flower"), 3 * sampling.pure_noise(2, 0)
    plain, cond = model.denoise(x, 3.0), model.denoise(x, 3.0, weights)
    assert torch.allclose(exact.guided(model, 4.0, weights)(x, 3.0), plain + 4 * (cond - plain), atol=1e-10)


def test_library_euler_is_euler_over_our_sigmas(world, denoise):
    pytest.importorskip("diffusers")
    for name in ("karras", "cosine"):
        sigmas = SCHEDULES[name](6, world[3])
        start = float(sigmas[0]) * sampling.pure_noise(2, 1)
        x = start
        for sigma, then in zip(sigmas[:-1].double(), sigmas[1:].double(), strict=True):
            x = x + (then - sigma) * (x - denoise(x, float(sigma))) / sigma
        assert float((sampling.sample("Euler", denoise, start, sigmas) - x).abs().max()) < 1e-5


def test_library_2m_is_ours(world, denoise):
    pytest.importorskip("diffusers")
    sigmas = SCHEDULES["karras"](6, world[3])
    start = float(sigmas[0]) * sampling.pure_noise(2, 1)
    ours = sample_2m(lambda x, sigma: denoise(x, float(sigma[0])), start, sigmas, disable=True)
    assert float((sampling.sample("DPM-Solver++ 2M", denoise, start, sigmas) - ours).abs().max()) < 1e-5


def test_coefficients_end_where_pictures_do(world, denoise):
    pytest.importorskip("diffusers")
    _, captions, model, table = world
    weights = torch.stack([gallery.only(captions, caption) for caption in ("a red ball", "mountains")])
    turned = exact.guided(sampling.Coefficients(model), sampling.SCALE, weights)
    sigmas = SCHEDULES["karras"](6, table)
    start = float(sigmas[0]) * sampling.pure_noise(2, 1)
    picture = sampling.sample("Euler", denoise, start, sigmas)
    found = sampling.sample("Euler", turned, model.dct(start), sigmas)
    assert float((model.inverse_dct(found) - picture).abs().max()) < 1e-4
    assert sampling.relative_error(found, model.dct(start)).tolist() == pytest.approx(
        sampling.relative_error(picture, start).tolist(), rel=1e-4)


@pytest.mark.parametrize("sampler", sampling.SAMPLERS)
def test_every_schedule_is_truly_visited(world, denoise, sampler):
    pytest.importorskip("diffusers")
    ends = {}
    for name, sigmas in sampling.schedules(4, world[3], "multistep").items():
        seen = []

        def watch(x, sigma, seen=seen):
            seen.append(sigma)
            return denoise(x, sigma)
        ends[name] = sampling.sample(sampler, watch, float(sigmas[0]) * sampling.pure_noise(2, 1), sigmas)
        assert seen == pytest.approx(sigmas[:-1].tolist(), rel=1e-5)
    assert float((ends["Karras"] - ends["Cosine"]).abs().max()) > 0.1


def test_library_sigmas_start_and_end_like_ours(world):
    pytest.importorskip("diffusers")
    for options in sampling.LIBRARY.values():
        sigmas = sampling.library_sigmas(options, 8)
        assert len(sigmas) == 9 and sigmas[-1] == 0
        assert float(sigmas[0]) == pytest.approx(float(world[3][-1]), rel=1e-4)


def test_exact_end_point_does_not_depend_on_its_grid(world):
    pictures, captions, _, table = world
    small = exact.Mixture(pictures[..., ::4, ::4], exact.power_law(24, 24, sampling.STD, sampling.ALPHA))
    denoise = exact.guided(small, sampling.SCALE, gallery.only(captions, "a clear night"))
    start = float(table[-1]) * sampling.pure_noise(2, 5)[..., ::4, ::4]
    ends = [exact.solve(denoise, start, sampling.fine_grid(table, steps)) for steps in (300, 600)]
    assert float(sampling.relative_error(*ends).max()) < 1e-3


def test_brightness_follows_the_law(world):
    pytest.importorskip("diffusers")
    _, captions, model, _ = world
    noise = sampling.pure_noise(4, 2)
    noise = torch.cat([noise, -noise])  # the start's own mean cancels
    cases = sampling.compare_brightness(model, captions, noise, 20)
    found = {(case.way, case.caption): case for case in cases}
    assert len(found) == 6
    for (way, caption), case in found.items():
        goal = gallery.PLAIN[caption] if math.isnan(case.law) else case.law
        assert float(case.means.mean()) == pytest.approx(goal, abs=0.01), (way, caption)
    assert abs(found["ordinary table", "pure black"].law) < 0.6 < 0.99 < abs(
        found["rescaled to zero terminal SNR", "pure black"].law)


@pytest.fixture(scope="module")
def models():
    """The tiny model's networks with random weights."""
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    from tiny_nets import new_nets
    from tweedie_pack.demo.show import Models
    from tweedie_pack.demo.tiny.model import Tiny
    made, (ordinary, rescaled, _) = new_nets(), sampling.standard_tables().values()
    return Models(Tiny(made["vae"], made["text"], made["unet_v"], rescaled, True),
                  Tiny(made["vae"], made["text"], made["unet_epsilon"], ordinary, False),
                  {hint: made[f"control_{hint}"] for hint in ("edges", "depth")})


@pytest.fixture(scope="module")
def shown(models):
    """Sections of few steps, what was said, and for each picture the noise it began with."""
    from tweedie_pack.demo import show
    said, noises = [], []

    def watch(sampler, denoise, start, sigmas):
        noises.append(start / float(sigmas[0]))
        return sampling.sample(sampler, denoise, start, sigmas)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(show, "sample", watch)
        sections = list(show.show(models, show.Settings(steps=2, few=3, many=4, columns=2), said.append))
    return sections, said, noises


def test_sections_set_off_against_on_from_the_same_noise(shown):
    from tweedie_pack.demo import spectral
    sections, said, noises = shown
    presets = len(spectral.choose())
    states = [[row.state for row in section.rows] for section in sections]
    assert states == [["", "", ""], ["off", "on", "on"], ["off", "on", "on", "on"],
                      ["", "off", "off", "on", "on", "on"], ["off"] + presets * ["on"],
                      ["off", "on", "on"], ["", "off", "on"], ["", "off", "on"]]
    ends = list(itertools.accumulate((1, 3, 4, 6, 1 + presets, 3, 2, 2)))
    assert len(noises) == len(said) == ends[-1]
    calibrated = (noises[2], noises[5])  # these alone have channel means of their own
    for part in (noises[first:last] for first, last in itertools.pairwise(ends)):
        for noise in part:
            own = any(noise is other for other in calibrated)
            off = (noise - part[0]).std((2, 3)) if own else noise - part[0]
            assert float(off.abs().max()) < 1e-5
            assert not own or float((noise - part[0]).abs().max()) > 1e-3


def test_sections_are_whole_and_rows_differ(shown):
    for section in shown[0]:
        assert section.title and section.text and len(section.captions) in (0, 2)
        for row in section.rows:
            width = 192 if section.title == "Regional prompting" else 128
            assert row.pictures.shape == (2, 3, 128, width) and len(row.notes) == 2
            assert 0 <= float(row.pictures.min()) < float(row.pictures.max()) <= 1
        for first, second in itertools.combinations(section.rows, 2):
            assert float((first.pictures - second.pictures).abs().max()) > 1e-3, section.title
    assert shown[0][0].rows[0].notes[0] == "a red circle on the left, white background"
    assert list(shown[0][3].curves) == [row.label for row in shown[0][3].rows[1:]]


def test_notes_are_measured_in_the_pictures(shown):
    from tweedie_pack.demo import regions
    _, tones, guided, schedules, fingers, shared, edges, _ = shown[0]
    for row in (*tones.rows, *guided.rows):
        for goal, picture, note in zip((0, 1), row.pictures, row.notes, strict=True):
            frame = picture.clone()
            frame[:, 8:-8, 8:-8] = math.nan
            assert note == f"{float(frame.nanmean()):.2f}, asked {goal}"
    for row in schedules.rows[1:]:
        for best, picture, note in zip(schedules.rows[0].pictures, row.pictures, row.notes, strict=True):
            assert note == sampling.percent(float(torch.nn.functional.mse_loss(picture, best)) ** 0.5)
    assert all(re.fullmatch(r"overlap \d+\.\d %", note) for row in edges.rows[1:] for note in row.notes)
    for row in fingers.rows:
        seen = [reader.count_fingers(picture) for picture in row.pictures]
        assert row.notes == [f"{'no hand' if found < 0 else found}, asked 5" for found in seen]
        assert row.detail == f"{seen.count(5)} of 2 right"
    layout, scenes = regions.LAYOUTS[regions.SHOWN], regions.draft_row(0, 2)
    for row in shared.rows:
        assert (row.notes, row.detail) == regions.judge_all(layout, scenes, row.pictures)


def test_overlap_is_whole_for_what_was_drawn(models):
    from tweedie_pack.demo import show
    drawn = [show.draw(scene) for scene in show.control_scenes(0, 8)]
    pictures, depth = (torch.stack(part) for part in list(zip(*drawn, strict=True))[:2])
    assert float(show.overlap(pictures, depth).min()) > 0.93
    assert float(show.overlap(pictures, depth.roll(1, 0)).max()) < 0.9
    assert not bool(show.overlap(torch.ones_like(pictures), depth).any())


def test_a_control_that_adds_nothing_is_the_plain_guidance(models):
    from tweedie_pack.demo import show
    from tweedie_pack.demo.tiny import nets
    captions, x = [show.SHAPES[0]], show.pure_noise(1, 0)
    fresh = nets.new_controlnet(models.v.unet)
    hints = torch.rand(1, 1, 128, 128)
    for sigma in (4000.0, 0.3):
        plain = show.guide(models.v, captions, 5.0)(sigma * x, sigma)
        neutral, random = (show.guide(models.v, captions, 5.0, 0.0, control, hints)(sigma * x, sigma)
                           for control in (fresh, models.controls["edges"]))
        assert torch.equal(neutral, plain) and not torch.allclose(random, plain)


def test_presets_are_named_drawn_and_recorded_over_the_run(shown):
    from tweedie_pack.demo import spectral
    section = shown[0][4]
    labels = [row.label for row in section.rows[1:]]
    assert set(labels) <= set(PRESETS) and len(set(labels)) == len(labels) == min(3, len(PRESETS))
    assert len(section.drawings) == 1 + bool(spectral.gains()) and labels[0] in list(section.drawings)[-1]
    for drawing in section.drawings.values():
        assert drawing.ndim == 3 and drawing.shape[2] == 3 and 0 <= drawing.min() < drawing.max() == 1


def test_captions_are_of_the_world(models):
    from tweedie_pack.demo import show
    from tweedie_pack.demo.tiny.words import tokenize
    for captions in (show.SHAPES, show.PAIRS, show.HANDS, show.PLAIN, show.MIXED):
        assert len(tokenize(captions)) == len(set(captions)) == show.Settings().columns


def test_demo_writes_a_page_that_stands_alone(shown, tmp_path):
    sections, lines = shown[0], []
    report = sampling.make_report(0, 1, (2,), lines.append, variants=1, fine=8)
    path = page.write_page(tmp_path / "out", sections, report, {"Seed": "0 & <1>"}, curve_steps=5)
    text = path.read_text(encoding="utf-8")
    images = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="[^"]+"', text)
    written = sorted(file.read_bytes() for file in path.parent.glob("*.png"))
    assert sorted(base64.b64decode(image) for image in images) == written
    rows = sum(len(section.rows) for section in sections)
    drawings = sum(len(section.drawings) for section in sections)
    assert len(images) == 2 * rows + drawings + len(gallery.PAINTERS) + 1 + 3
    rest = re.sub(r"base64,[^\"]+", "", text)
    assert rest.count("<img") == rest.count("src=") == len(images) and "url(" not in rest
    assert "http" not in rest and "<script" not in rest and "0 &amp; &lt;1&gt;" in rest
    assert set(re.findall(r'href="#(\w+)"', rest)) == set(re.findall(r'<section id="(\w+)"', rest))
    for section in sections:
        assert f"<h2>{section.title}</h2>" in rest
        for row in section.rows:
            assert row.label in rest and all(note in rest for note in row.notes)
    for run in report.runs:
        assert sampling.percent(float(run.errors.median())) in rest
        assert any(run.schedule in line for line in lines)


def test_doctor_checks_every_schedule(capsys):
    assert command.main(["doctor"]) == 0
    assert f"{len(SCHEDULES)} schedules checked, 0 failures" in capsys.readouterr().out


def test_demo_without_its_libraries_says_what_to_do(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert command.main(["demo", "--out", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "pip install diffusers transformers" in error


def test_demo_without_weights_says_which(models, monkeypatch, capsys, tmp_path):
    from tweedie_pack.demo.tiny import checkpoint, model
    monkeypatch.setattr(model, "read", lambda name: checkpoint.read(name, tmp_path))
    threads = torch.get_num_threads()
    assert command.main(["demo", "--out", str(tmp_path)]) == 1
    torch.set_num_threads(threads)
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and ".safetensors is missing" in error and not list(tmp_path.iterdir())
