"""The demo's numbers are what they are said to be: model, samplers, end point, law, page."""
import math
import re

import pytest
import torch
from tweedie_pack import __main__ as command
from tweedie_pack.demo import exact, gallery, page, sampling
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


def test_demo_writes_a_page_that_stands_alone(tmp_path):
    pytest.importorskip("diffusers")
    lines = []
    report = sampling.make_report(0, 1, (2,), lines.append, variants=1, fine=8)
    path = page.write_page(tmp_path / "out", report, curve_steps=5)
    text = path.read_text(encoding="utf-8")
    images = re.findall(r'<img src="([^"]+)" alt="[^"]+"', text)
    assert images and text.count("<img") == len(images)
    assert {image for image in images} == {file.name for file in path.parent.glob("*.png")}
    assert "http" not in text and "<script" not in text
    for plugin in SCHEDULES.values():
        assert text.count(f"<h4>{plugin.label}</h4>") == 2 and any(plugin.label in line for line in lines)
    for run in report.runs:
        assert page.percent(float(run.errors[0])) in text


def test_row_of_pictures_keeps_their_order():
    row = page.to_row(torch.stack([torch.full((3, 2, 2), -1.0), torch.full((3, 2, 2), 1.0)]))
    assert row.shape == (2, 4, 3) and bool((row[:, :2] == 0).all()) and bool((row[:, 2:] == 1).all())


def test_doctor_checks_every_schedule(capsys):
    assert command.main(["doctor"]) == 0
    assert f"{len(SCHEDULES)} schedules checked, 0 failures" in capsys.readouterr().out


def test_demo_without_diffusers_says_what_to_do(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert command.main(["demo", "--out", str(tmp_path)]) == 1
    assert "pip install diffusers" in capsys.readouterr().err
