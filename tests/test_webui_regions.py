"""Regional prompts as A1111 calls the model, on a small UNet whose places see their own text alone."""
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from tweedie_pack.controls.masks import box_mask, shrink
from tweedie_pack.extensions_a1111 import host, scope
from webui_regional import encode, make_regional, regional_script
from webui_standins import ALPHAS, TABLE, noise

ON = {"enabled": True}
HALVES = [(0, 0, 0.5, 1), (0.5, 0, 1, 1)]
SIZE, CANVAS = (8, 12), (64, 96)


@pytest.fixture
def regions(monkeypatch):
    with regional_script(monkeypatch) as module:
        yield module


def through(regions, p, names, x=None):
    """A run as the host makes it: hooks, which may not raise, then the pass."""
    script = regions.TweedieRegionalPrompt()
    args = names if isinstance(names, tuple) else (names,)
    script.process(p, *args)
    script.process_batch(p, *args, batch_number=0)
    for _ in range(2):  # Forge calls it twice before a hires pass
        script.process_before_every_sampling(p, *args)
    return p.sampler.sample(p, noise(len(p.prompts), 1) if x is None else x)


def shares(boxes, grid, full, base_ratio=0.0):
    """[1+R,H,W] of disjoint boxes on a token grid."""
    masks = torch.stack([shrink(box_mask(box, CANVAS)[None], grid, full)[0] for box in boxes])
    masks = masks * (1 - base_ratio)
    return torch.cat([(1 - masks.sum(0))[None], masks])


def blended(p, x, texts, boxes, base_ratio=0.0):
    """By definition: each text's attention output on each grid, blended by shares; the base's comes first."""
    unet, out = p.sd_model.model.diffusion_model, x
    for level, block in enumerate(unet.blocks):
        small = nn.functional.interpolate(x, scale_factor=1 / 2**level, mode="area")
        weights = shares(boxes, tuple(small.shape[-2:]), tuple(x.shape[-2:]), base_ratio)
        read = sum(weight * block(small, encode(text)[None].expand(len(x), -1, -1))
                   for weight, text in zip(weights, texts, strict=True))
        out = out + nn.functional.interpolate(read, x.shape[-2:])
    return out


def plain(p, x, text):
    return p.sd_model.model.diffusion_model(x, context=encode(text)[None].expand(len(x), -1, -1))


def guided(cond, uncond, scale=7.0):
    return uncond + scale * (cond - uncond)


def nothing_left(p):
    guide, unet = p.sampler.model_wrap_cfg, p.sd_model.model.diffusion_model
    assert vars(p.sampler).keys() == {"model_wrap_cfg"}
    assert not {"forward", "combine_denoised", "update_inner_model"} & vars(guide).keys()
    assert not any("forward" in vars(module) or module._forward_pre_hooks for module in unet.modules())


@pytest.mark.parametrize("together", [True, False])
def test_each_place_reads_its_own_text(regions, together):
    p, x = make_regional(["sky BREAK sea"]), noise(1, 1)
    p.sampler.model_wrap_cfg.together = together
    got = through(regions, p, ON)
    with torch.no_grad():
        expected = guided(blended(p, x, ["sky, sea", "sky", "sea"], HALVES), plain(p, x, "dull"))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert p.prompts == ["sky, sea"] and p.all_prompts == ["sky BREAK sea"]
    assert p.extra_generation_params == {"Tweedie regions": True, "Tweedie regions mode": "attention",
                                         "Tweedie regions layout": "columns", "Tweedie regions ratios": "1,1"}
    nothing_left(p)


@pytest.mark.parametrize("names, prompt, boxes, base", [
    ({"ratios": "1,3"}, "a ADDCOL b", [(0, 0, 0.25, 1), (0.25, 0, 1, 1)], 0),
    ({"layout": "rows"}, "a BREAK b", [(0, 0, 1, 0.5), (0, 0.5, 1, 1)], 0),
    ({"base_ratio": "0.4"}, "all ADDBASE a BREAK b", HALVES, 0.4),
    ({"flip_prompts": True}, "b AND a", HALVES, 0),
    ({"preset": "two rows"}, "a BREAK b", [(0, 0, 1, 0.5), (0, 0.5, 1, 1)], 0),
    ({"layout": "boxes", "shapes": "0 0 .5 1\n.5 0 1 .5"}, "a BREAK b", [HALVES[0], (0.5, 0, 1, 0.5)], 0),
    ({"layout": "boxes", "shapes": "0 0 48 64\n48 0 96 32"}, "a BREAK b", [HALVES[0], (0.5, 0, 1, 0.5)], 0),
    ({"layout": "grid", "shapes": "2 1"}, "a ADDROW b", HALVES, 0),
], ids=str)
def test_layouts_and_base(regions, names, prompt, boxes, base):
    p, x = make_regional([prompt]), noise(1, 1)
    got = through(regions, p, ON | names)
    texts = [p.prompts[0], "a", "b"]
    with torch.no_grad():
        expected = guided(blended(p, x, texts, boxes, base), plain(p, x, "dull"))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", ["attention", "latent"])
@pytest.mark.parametrize("mark", [0, 1])
def test_texts_with_pooled_vectors_are_read_as_others_are(regions, mode, mark):
    passes = [make_regional(["sky BREAK sea"], ["dull BREAK grey"]) for _ in range(2)]
    passes[1].sd_model.pooled = True
    for p in passes:
        p.sampler.model_wrap_cfg.mark = p.sampler.mark = mark
    plain, pooled = (through(regions, p, ON | {"mode": mode}) for p in passes)
    assert torch.equal(plain, pooled)


@pytest.mark.parametrize("mode", ["attention", "latent"])
def test_every_picture_of_a_batch_has_its_own_texts(regions, mode):
    third = "three, a text that takes more than one chunk" if mode == "attention" else "three"
    prompts = ["sky BREAK sea", "a cat", f"q ADDBASE one BREAK two BREAK {third}", "x ADDBASE sky BREAK sea"]
    names, x = ON | {"mode": mode, "ratios": "1,1,1"}, noise(4, 1)
    both = through(regions, make_regional(prompts), names, x)
    for number, prompt in enumerate(prompts):
        alone = through(regions, make_regional([prompt]), names, x[number:number + 1])
        torch.testing.assert_close(both[number:number + 1], alone, atol=1e-5, rtol=1e-5)
    lone = make_regional(["a cat"])
    assert torch.equal(through(regions, lone, names, x[1:2]), lone.sampler.sample(lone, x[1:2]))


@pytest.mark.parametrize("mode", ["attention", "latent"])
@pytest.mark.parametrize("together", [True, False])
def test_a_region_has_its_own_negative(regions, mode, together):
    p, x = make_regional(["sky BREAK sea"], ["grey BREAK dry"], levels=1), noise(1, 1)
    p.sampler.model_wrap_cfg.together = together
    got = through(regions, p, ON | {"mode": mode})
    with torch.no_grad():
        expected = guided(blended(p, x, ["sky, sea", "sky", "sea"], HALVES),
                          blended(p, x, ["grey, dry", "grey", "dry"], HALVES))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert p.negative_prompts == ["grey, dry"]
    assert sum(p.sd_model.model.diffusion_model.calls) == {"attention": 2, "latent": 5}[mode]


@pytest.mark.parametrize("names", [{}, {"base_ratio": "0.3"}, {"feather": 0.5}], ids=str)
def test_latent_mode_blends_as_attention_does_where_the_net_is_linear_in_it(regions, names):
    prompt = "all ADDBASE sky BREAK sea"
    passes = [make_regional([prompt], ["dull BREAK grey"], levels=1) for _ in range(2)]
    attention, latent = (through(regions, p, ON | names | {"mode": mode})
                         for p, mode in zip(passes, ("attention", "latent"), strict=True))
    torch.testing.assert_close(attention, latent, atol=1e-5, rtol=1e-5)
    nothing_left(passes[1])


def test_latent_mode_runs_no_more_than_it_must(regions):
    p = make_regional(["sky BREAK sea"])
    through(regions, p, ON | {"mode": "latent"})
    assert p.sd_model.model.diffusion_model.calls == [3]  # two regions that cover all, and the negative
    p = make_regional(["x ADDBASE sky BREAK sea"])
    through(regions, p, ON | {"mode": "latent"})
    assert p.sd_model.model.diffusion_model.calls == [4]
    p = make_regional(["a BREAK b BREAK c BREAK d"])
    through(regions, p, ON | {"mode": "latent", "ratios": "1,3,7,2"})
    assert p.sd_model.model.diffusion_model.calls == [5]


@pytest.mark.parametrize("mode", ["attention", "latent"])
def test_regions_of_one_text_are_that_texts_picture(regions, mode):
    p, x = make_regional(["sky ADDBASE sky BREAK sky BREAK sky"]), noise(1, 1)
    got = through(regions, p, ON | {"mode": mode, "feather": 0.3, "ratios": "1,1,1"})
    with torch.no_grad():
        torch.testing.assert_close(got, guided(plain(p, x, "sky"), plain(p, x, "dull")), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", ["attention", "latent"])
def test_prompt_editing_follows_the_steps(regions, mode):
    p = make_regional(["[sky:fog:1] BREAK sea"], sigmas=[9.0, 5.0, 3.0])
    late = through(regions, p, ON | {"mode": mode})
    p = make_regional(["[sky:fog:1] BREAK sea"], sigmas=[9.0, 5.0])
    early = through(regions, p, ON | {"mode": mode})
    for got, word in ((late, "fog"), (early, "sky")):
        alone = through(regions, make_regional([f"{word} BREAK sea"]), ON | {"mode": mode})
        torch.testing.assert_close(got, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", ["attention", "latent"])
def test_outside_its_time_the_base_acts_alone(regions, mode):
    for sigma, acts in ((14.0, False), (3.0, True), (0.1, False)):
        p, x = make_regional(["x ADDBASE sky BREAK sea"], sigmas=[sigma]), noise(1, 1)
        got = through(regions, p, ON | {"mode": mode, "start_percent": 0.2, "end_percent": 0.8})
        with torch.no_grad():
            same = torch.allclose(got, guided(plain(p, x, "x"), plain(p, x, "dull")), atol=1e-5)
        assert same != acts


@pytest.mark.parametrize("mode", ["attention", "latent"])
def test_where_the_negative_is_left_out_the_prompt_acts(regions, mode):
    p, x = make_regional(["sky BREAK sea"] * 2, levels=1), noise(2, 1)
    p.sampler.model_wrap_cfg.skips = True
    got = through(regions, p, ON | {"mode": mode})
    with torch.no_grad():
        torch.testing.assert_close(got, blended(p, x, ["", "sky", "sea"], HALVES), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", ["attention", "latent"])
def test_hires_has_its_own_prompts_and_size(regions, mode):
    networks = {}
    p = make_regional(["sky BREAK sea"], levels=1, enable_hr=True, hr_prompts=["fog BREAK ice"],
                      hr_negative_prompts=["n"], hr_prompt="fog BREAK ice", hr_upscale_to_x=192,
                      hr_upscale_to_y=128, hr_second_pass_steps=0, hr_sampler_name=None, sampler_name="Euler",
                      hr_extra_network_data=networks, extra_network_data=networks)
    through(regions, p, ON | {"mode": mode})
    assert p.hr_prompts == ["fog, ice"] and p.hr_prompt == "fog BREAK ice"
    p.is_hr_pass, p.prompts, p.negative_prompts = True, p.hr_prompts, p.hr_negative_prompts
    x = noise(1, 1, (16, 24))
    regions.TweedieRegionalPrompt().process_before_every_sampling(p, ON)
    with torch.no_grad():
        expected = guided(blended(p, x, ["", "fog", "ice"], HALVES), plain(p, x, "n"))
    torch.testing.assert_close(p.sampler.sample(p, x), expected, atol=1e-5, rtol=1e-5)
    nothing_left(p)


@pytest.mark.parametrize("mode", ["attention", "latent"])
def test_a_pass_that_fails_leaves_nothing(regions, mode):
    p = make_regional(["sky BREAK sea"])
    p.sampler.model_wrap_cfg.model = lambda x, context: p.sd_model.model.diffusion_model(x, context[..., :5])
    with pytest.raises(RuntimeError):
        through(regions, p, ON | {"mode": mode})
    nothing_left(p)


def test_what_another_extension_added_to_an_attention_is_added_to_ours(regions):
    """IP-Adapter's way: an instance's forward, which needs all rows and tokens at once."""
    p, x = make_regional(["sky BREAK sea"], levels=1), noise(1, 1)
    module = p.sd_model.model.diffusion_model.blocks[0].attn2
    more = torch.randn(2, 96, 4, generator=torch.Generator().manual_seed(3))
    own = type(module).forward
    with scope.patched(module, forward=lambda x, context=None: own(module, x, context) + more):
        got = through(regions, p, ON)
        assert "forward" in vars(module)
    lift = more.mT.reshape(2, 4, *SIZE)
    with torch.no_grad():
        cond = blended(p, x, ["", "sky", "sea"], HALVES) + lift[:1]
        expected = guided(cond, plain(p, x, "dull") + lift[1:])
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", ["attention", "latent"])
def test_a_mark_before_every_prompt_is_kept(regions, mode):
    """sd-webui-controlnet puts a token of one value before prompts, and takes it off in the model."""
    def sample(mark):
        p = make_regional(["sky BREAK sea"], ["dull BREAK grey"], levels=1)
        guide = p.sampler.model_wrap_cfg
        guide.mark = p.sampler.mark = mark
        return through(regions, p, ON | {"mode": mode}), guide.marks

    plain, _ = sample(0)
    got, marks = sample(1)
    assert torch.equal(got, plain)
    assert marks == {"attention": [1024, -1024], "latent": [1024, 1024, -1024, -1024, -1024]}[mode]


def test_the_refiner_is_hooked_and_reads_the_texts_anew(regions):
    p = make_regional(["sky BREAK sea"], sigmas=[9.0, 5.0])
    refined = make_regional(["sky BREAK sea"])
    refined.sd_model.model.diffusion_model.load_state_dict(
        {name: value + 0.1 for name, value in p.sd_model.model.diffusion_model.state_dict().items()})
    guide, first = p.sampler.model_wrap_cfg, p.sd_model
    original = type(guide).forward

    class Switching(type(guide)):
        def forward(self, *arguments, **options):
            if self.step == 1:
                p.sd_model, self.unet = refined.sd_model, refined.sd_model.model.diffusion_model
                self.update_inner_model()
            return original(self, *arguments, **options)
    guide.__class__ = Switching
    got = through(regions, p, ON)
    with torch.no_grad():
        x = noise(1, 1)
        expected = guided(blended(p, x, ["", "sky", "sea"], HALVES), plain(p, x, "dull"))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert refined.sd_model.read.count("sky") == 1
    nothing_left(p)
    p.sd_model = first
    nothing_left(p)


def test_a_call_of_the_model_outside_a_step_is_left_alone(regions):
    p, x = make_regional(["sky BREAK sea"]), noise(1, 1)
    expected = plain(p, x, "sky")
    regions.TweedieRegionalPrompt().process_batch(p, ON)
    with regions.one_pass(getattr(p, regions.BATCH), p, x, None, False):
        assert torch.equal(plain(p, x, "sky"), expected)


def test_timesteps_are_turned_into_sigmas():
    steps = torch.tensor([1, 500, 999])
    torch.testing.assert_close(host.true_sigma(SimpleNamespace(alphas=ALPHAS), steps), TABLE[steps])
    assert host.true_sigma(SimpleNamespace(), steps) is steps
