"""Hand repair in the web UIs: the passes it asks the host for, what comes of them, what it leaves behind."""
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tweedie_pack.controls.hands.prepare import MOST, Crop
from tweedie_pack.extensions_a1111 import hands_panel as panel
from webui_hands import ON, hands_script, install_controlnet, make_run, picture, through


@pytest.fixture
def door(monkeypatch):
    with hands_script(monkeypatch) as pair:
        yield pair


def same(one, other):
    return np.array_equal(np.array(one), np.array(other))


def changed(one, other):
    return (np.array(one) != np.array(other)).any(-1)


def kept_by(web):
    """All that the outer run finds where it left it."""
    return [dict(vars(web.state)) | {"job_no": 0}, dict(web.opts.data), dict(vars(web.cmd_opts)),
            dict(vars(web.total_tqdm)), dict(vars(web.notes)), torch.random.get_rng_state().tolist()]


def test_off_is_the_untouched_picture(door):
    hands, web = door
    given, p = picture(), make_run(web)
    assert through(hands, p, {}, given) is given and not web.passes and not p.comments


@pytest.mark.parametrize("mark", ["_ad_inner", "tweedie_hands_inner"])
def test_nothing_happens_in_a_pass_over_a_detail(door, mark):
    hands, web = door
    given, p = picture(), make_run(web, **{mark: True})
    assert through(hands, p, ON, given) is given and not web.passes and not p.extra_generation_params


@pytest.mark.parametrize("names, quality", [
    ({}, 0.0), ({"margin": 1.0}, 0.9), ({"gate": 0.0}, 0.9), ({"prompt": "[SKIP]"}, 0.9)], ids=str)
def test_where_nothing_is_better_the_picture_is_the_same_object(door, names, quality):
    hands, web = door
    web.quality = lambda seed: quality
    given, p = picture(), make_run(web)
    assert through(hands, p, ON | names, given) is given and not p.comments and not web.swallowed
    assert bool(web.passes) == ("gate" not in names and "prompt" not in names)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_hands_are_repaired_and_every_other_pixel_stays(door, mode):
    hands, web = door
    given, p = picture(mode=mode), make_run(web)
    before = given.copy()
    done = through(hands, p, ON, given)
    touched = changed(done, before)
    assert done.mode == mode and same(given, before) and not web.swallowed and not p.comments
    assert touched[48, 40] and touched[60, 150] and not touched[:10].any() and not touched[:, 95:105].any()


def test_a_pass_is_the_outer_run_in_small(door):
    hands, web = door
    through(hands, make_run(web), ON | {"denoise": 0.6, "steps": 3})
    [inner] = web.passes
    assert (inner.width, inner.height, inner.batch_size, inner.n_iter) == (512, 512, 4, 1)
    assert (inner.sampler_name, inner.scheduler, inner.cfg_scale, inner.steps) == ("Euler", "Karras", 6.5, 3)
    assert inner.all_seeds == [7, 8, 7 + MOST, 8 + MOST] and inner.denoising_strength == 0.6
    assert inner.prompt == ["hands <lora:x:1>"] * 4 and inner.negative_prompt == ["bad"] * 4
    assert inner.do_not_save_samples and inner.do_not_save_grid and inner.color_corrections == []
    assert inner._ad_inner and inner.tweedie_hands_inner and inner.init_images[0].size == (512, 512)
    assert inner.disable_extra_networks is False


def test_each_hand_has_its_prompt_and_networks_of_its_own_make_a_pass_of_their_own(door):
    hands, web = door
    through(hands, make_run(web), ON | {
        "prompt": "[PROMPT], a fist [SEP] open <lora:y:1>", "negative": "blurry"})
    assert [inner.prompt[0] for inner in web.passes] == ["hands <lora:x:1>, a fist",
                                                         "open <lora:y:1> <lora:x:1>"]
    assert web.passes[0].negative_prompt == ["blurry"] * 2
    assert web.activated[-1] == {"lora": ["x"]}  # the outer run's are in force again


def test_a_skipped_hand_is_left(door):
    hands, web = door
    before = picture()
    touched = changed(through(hands, make_run(web), ON | {"prompt": "[SKIP] [SEP] a fist"}, before), before)
    assert not touched[48, 40] and touched[60, 150]
    assert [inner.prompt[0] for inner in web.passes] == ["a fist <lora:x:1>"]


def test_the_soft_mask_opens_place_by_place(door):
    hands, web = door
    through(hands, make_run(web), ON)
    [inner] = web.passes
    shares = [float(mask.mean()) for mask in inner.opened]
    assert len(shares) == 4 and shares == sorted(shares) and 0 < shares[0] < shares[-1] < 1
    assert inner.opened[0].shape == (4, 1, 64, 64) and set(inner.opened[1].unique().tolist()) == {0, 1}
    assert inner.final == 1 and not web.conditioned


@pytest.mark.usefixtures("door")
@pytest.mark.parametrize("progress, opened", [(0.0, [0, 0, 1]), (0.6, [0, 1, 1]), (1.5, [0, 1, 1])])
def test_what_the_mask_leaves_out_never_opens(progress, opened):
    """Nor where a sampler takes more steps than the host counts."""
    from tweedie_pack.extensions_a1111.hands_inner import Redraw
    redraw = Redraw([])
    redraw.masks = torch.tensor([0.0, 0.5, 1.0])
    assert redraw.opened(progress).tolist() == opened


def test_inpainting_models_see_the_mask(door):
    hands, web = door
    web.inpaints = True
    through(hands, make_run(web), ON)
    [(pictures, masks)] = web.conditioned
    assert pictures.shape == (4, 3, 512, 512) and pictures.min() >= -1 and pictures.min() < -0.5
    assert masks.shape == (4, 1, 512, 512) and set(masks.unique().tolist()) == {0, 1}


@pytest.mark.usefixtures("door")
def test_frames_of_a_video_model_get_the_mask_too():
    from tweedie_pack.extensions_a1111.hands_inner import Redraw
    crop = SimpleNamespace(mask=torch.ones(64, 64), picture=torch.zeros(3, 64, 64), seed=1)
    p = SimpleNamespace(init_latent=torch.zeros(1, 16, 1, 8, 8), is_using_inpainting_conditioning=False)
    Redraw([crop]).process_batch(p)
    assert p.nmask.shape == (1, 1, 1, 8, 8) and p.mask.max() == 0


def test_the_outer_run_finds_everything_as_it_left_it(door):
    hands, web = door
    p, before = make_run(web), kept_by(web)
    cached = list(p.cached_c)
    through(hands, p, ON)
    assert web.passes and kept_by(web)[1:] == before[1:]
    assert web.state.job_count == 2 and web.state.job_no == 2  # a pass, done
    assert web.state.textinfo == "the user's" and not web.history and not web.ticks
    assert p.cached_c == cached and web.merged[-1] == 0.3
    assert web.passes[0].cached_c is not type(web.passes[0]).cached_c
    assert not {"sample", "init"} & vars(p).keys()


@pytest.mark.parametrize("flag", ["interrupted", "skipped", "stopping_generation"])
@pytest.mark.parametrize("at", [None, 1])
def test_who_stops_gets_the_picture_as_it_was(door, flag, at):
    hands, web = door
    if at is None:
        setattr(web.state, flag, True)
    else:
        web.at_step = lambda step: setattr(web.state, flag, True) if step == at else None
    given, p, before = picture(), make_run(web), kept_by(web)
    assert through(hands, p, ON | {"prompt": "a [SEP] b <lora:y:1>"}, given) is given
    assert p.comments == ["Tweedie Hand Repair: stopped; the picture is as it was"]
    assert len(web.passes) == (at is not None)  # the second one does not begin
    if at is not None and flag != "stopping_generation":
        assert len(web.passes[0].opened) == 1  # the step that was running
    setattr(web.state, flag, False)
    assert web.state.job_count == web.state.job_no == (1 if at is None else 2)
    assert kept_by(web)[1:] == before[1:]


@pytest.mark.parametrize("error", [RuntimeError("no memory"), ValueError("bad"), OSError("gone")], ids=str)
def test_what_fails_is_told_in_one_line_and_leaves_nothing(door, error, caplog):
    hands, web = door

    def fail(step):
        raise error
    web.at_step, given, p, before = fail, picture(), make_run(web), kept_by(web)
    with caplog.at_level(logging.WARNING, "tweedie"):
        assert through(hands, p, ON, given) is given
    assert p.comments == [f"Tweedie Hand Repair: {error}; the picture is as it was"]
    assert len(caplog.records) == 1
    assert kept_by(web) == [before[0] | {"textinfo": "the user's"}, *before[1:]]


def test_a_host_that_draws_nothing_is_told(door):
    hands, web = door
    web.process_images = web.modules
    hands.processing.process_images = lambda inner: None
    p = make_run(web)
    through(hands, p, ON)
    assert "the host drew nothing; its log says why" in p.comments[0]


def test_options_that_were_never_set_are_unset_again(door):
    _, web = door
    from tweedie_pack.extensions_a1111.hands_inner import options
    with options(new=1, samples_format="jpg"):
        assert web.opts.data == {"samples_format": "jpg", "new": 1}
    assert web.opts.data == {"samples_format": "png"}


def test_units_of_the_outer_run_are_out_of_the_model_meanwhile(door, monkeypatch):
    hands, web = door
    script = install_controlnet(monkeypatch)
    p = make_run(web, script, script_args=["unit"])
    script.process(p, "unit")
    seen = []
    web.at_step = lambda step: seen.append(script.latest_network)
    through(hands, p, ON)
    assert set(seen) == {None} and script.latest_network is not None and script.units == [("unit",)] * 2


@pytest.mark.parametrize("fails", [False, True])
def test_the_fitted_depth_goes_to_a_controlnet_of_its_own(door, monkeypatch, fails):
    _, web = door
    own = install_controlnet(monkeypatch)
    p = make_run(web, own)
    names = ON | {"depth_model": "depth_a", "depth_strength": 0.4, "depth_end": 0.6}
    from tweedie_pack.extensions_a1111.hands_inner import Painter
    left, right = torch.zeros(64, 64), torch.ones(64, 64)
    crops = [Crop(torch.zeros(3, 64, 64), torch.ones(64, 64), depth, seed, 0, 0, seed)
             for seed, depth in enumerate((left, right, left))]

    def fail(step):
        if fails:
            raise RuntimeError("out of memory")
    web.at_step = fail
    painter = Painter(p, panel.read([names]), [("a", "b")])
    if fails:
        with pytest.raises(RuntimeError, match="out of memory"):
            painter(crops)
    else:
        assert len(painter(crops)) == 3
        assert [inner.all_seeds for inner in web.passes] == [[0, 2], [1]]
    fresh = type(own).made[1:]
    assert len(fresh) == (1 if fails else 2) and not own.units
    assert all(script.latest_network is None for script in fresh)
    [[unit]] = fresh[0].units
    assert (unit["model"], unit["module"], unit["weight"]) == ("depth_a", "none", 0.4)
    assert unit["guidance_end"] == 0.6
    assert unit["image"].shape == (64, 64, 3) and unit["image"].dtype == np.uint8


def test_small_memory_draws_one_crop_at_a_time_and_large_crops_fewer(door, monkeypatch):
    hands, web = door
    p = make_run(web)
    through(hands, p, ON)
    web.cmd_opts.medvram = True
    through(hands, p, ON)
    assert [inner.batch_size for inner in web.passes] == [4, 1, 1, 1, 1]
    del web.cmd_opts.medvram
    web.passes.clear()
    through(hands, p, ON | {"cells_per_finger": 6, "candidates": 4})
    assert [(inner.width, inner.batch_size) for inner in web.passes] == [(768, 3), (768, 3), (768, 2)]


def test_regions_are_not_read_as_the_hands_prompt(door, monkeypatch):
    hands, web = door
    tree = SimpleNamespace(negative="dull")
    monkeypatch.setattr(hands, "base_of", lambda tree: "a beach")
    batch = hands.Batch(None, [None, tree], [])
    through(hands, make_run(web, **{hands.BATCH: batch}), ON)
    assert web.passes[0].prompt[0] == "a beach <lora:x:1>" and web.passes[0].negative_prompt[0] == "dull"
