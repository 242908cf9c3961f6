"""Regional prompts in the real UNets, sampling functions and model patchers of Forge, reForge and Neo.

FORGE_PATH, REFORGE_PATH and NEO_PATH are checkouts; weights are random, and these files' imports stand-ins.
"""
import contextlib
import copy
import sys
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch
from hosts.test_forge_spectral import FOUND, forge, give, load, reforge
from torch import nn
from tweedie_pack.controls.cross import token_grid
from tweedie_pack.controls.masks import box_mask, shrink
from tweedie_pack.extensions_a1111 import scope
from webui_regional import encode, learn, make_regional, regional_script
from webui_standins import TABLE, noise

SCALE, SIZE = 5.0, (16, 24)
ON = {"enabled": True}
HALVES = [(0, 0, 0.5, 1), (0.5, 0, 1, 1)]
SHAPE = dict(in_channels=4, model_channels=32, out_channels=4, num_res_blocks=[1, 1], channel_mult=[1, 2],
             num_heads=4, use_spatial_transformer=True, transformer_depth=[1, 2], transformer_depth_middle=1,
             transformer_depth_output=[1, 1, 1, 1], context_dim=6)


class Operations:
    """torch's own layers, for reForge's, which only keep weights unset."""

    Linear, LayerNorm, GroupNorm, Conv2d = nn.Linear, nn.LayerNorm, nn.GroupNorm, nn.Conv2d

    @staticmethod
    def conv_nd(dims, *arguments, **options):
        return nn.Conv2d(*arguments, **options)


def forge_unet(monkeypatch, root):
    give(monkeypatch, "diffusers.configuration_utils",
         SimpleNamespace(ConfigMixin=object, register_to_config=lambda function: function))
    memory = sys.modules["backend.memory_management"]
    for name in ("xformers_enabled", "xformers_enabled_vae", "sage_enabled", "flash_enabled", "is_nvidia"):
        setattr(memory, name, lambda: False)
    memory.force_upcast_attention_dtype = lambda: None
    operations = sys.modules["backend.operations"]
    operations.scaled_dot_product_attention = nn.functional.scaled_dot_product_attention
    give(monkeypatch, "backend.misc.sub_quadratic_attention", MagicMock())
    load(monkeypatch, "backend.attention", root / "backend/attention.py")
    unet = load(monkeypatch, "backend.nn.unet", root / "backend/nn/unet.py")
    return unet.IntegratedUNet2DConditionModel(**SHAPE)


def reforge_unet(monkeypatch, root):
    folder = root / "ldm_patched/ldm/modules"
    for name in ("modules.args_parser", "ldm.util", "ldm.modules.sub_quadratic_attention"):
        give(monkeypatch, f"ldm_patched.{name}", MagicMock(exists=lambda value: value is not None))
    give(monkeypatch, "ldm_patched.modules.ops", SimpleNamespace(
        disable_weight_init=Operations, cleanup_cache=None))
    management = sys.modules["ldm_patched.modules.model_management"]
    for name in ("xformers", "sage_attention", "sage_attention3", "flash_attention"):
        setattr(management, f"{name}_enabled", lambda: False)
    for name in ("diffusionmodules.util", "attention", "diffusionmodules.openaimodel"):
        load(monkeypatch, f"ldm_patched.ldm.modules.{name}", folder / f"{name.replace('.', '/')}.py")
    unet = sys.modules["ldm_patched.ldm.modules.diffusionmodules.openaimodel"]
    return unet.UNetModel(image_size=32, legacy=False, **SHAPE)


class Model:
    """The host's model around its UNet: what it says is the estimate. keeper: where the sigmas are."""

    def __init__(self, unet, keeper):
        self.diffusion_model = unet
        setattr(self, keeper, SimpleNamespace(sigmas=TABLE))

    def memory_required(self, *arguments, **options):
        return 1

    def apply_model(self, x, t, c_crossattn=None, control=None, transformer_options=None, **options):
        return self.diffusion_model(x, t, context=c_crossattn, transformer_options=transformer_options or {},
                                    **options)


class Pooled(dict):
    def advanced_indexing(self, rows):
        return {name: value[rows] for name, value in self.items()}


def pile(conds):
    return torch.stack(conds) if isinstance(conds[0], torch.Tensor) else Pooled(
        {name: torch.stack([cond[name] for cond in conds]) for name in conds[0]})


def ask(p, x):
    """What the host's denoiser hands its sampling function: p's texts as they are, and the noise."""
    cond, uncond = (pile([learn(p.sd_model, [text], 4)[0][0].cond for text in texts])
                    for texts in (p.prompts, p.negative_prompts))
    sigma = torch.full((len(x),), 3.0)
    params = SimpleNamespace(x=x, sigma=sigma, text_cond=cond, text_uncond=uncond, image_cond=None)
    denoiser = SimpleNamespace(inner_model=SimpleNamespace(inner_model=p.sd_model), p=p)
    return denoiser, params, SCALE, [[(number, 1.0)] for number in range(len(x))]


class Engine(SimpleNamespace):
    """regions: the panel's module; sample: the host's; net: its UNet; pass_of(prompts): p there."""

    def run(self, p, names, x=None):
        """One step's guided estimate under the panel."""
        self.regions.TweedieRegionalPrompt().process_batch(p, names)
        x, objects = noise(len(p.prompts), 1, SIZE) if x is None else x, p.sd_model.forge_objects
        before, waiting = objects.unet, getattr(p, self.regions.BATCH)
        with torch.inference_mode(), contextlib.ExitStack() as stack:
            if waiting:
                stack.enter_context(self.regions.one_pass(waiting, p, x, None, False))
            stack.enter_context(scope.patched(objects, unet=objects.unet.clone()))  # as one after us does
            out = self.sample(*ask(p, x))
            out = out if isinstance(out, torch.Tensor) else out[0]
        assert objects.unet is before and vars(p.sampler.model_wrap_cfg).keys() == {"step"}
        return out.clone()


class Denoiser:
    def __init__(self):
        self.step = 0

    def update_inner_model(self):
        pass


@pytest.fixture(params=FOUND)
def engine(request, monkeypatch):
    root, is_reforge = FOUND[request.param], request.param == "REFORGE"
    (reforge if is_reforge else forge)(monkeypatch, root)
    net = (reforge_unet if is_reforge else forge_unet)(monkeypatch, root)
    torch.manual_seed(0)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.15)
    if is_reforge:
        sampler, patcher = (load(monkeypatch, f"modules_forge.{name}", root / f"modules_forge/{name}.py")
                            for name in ("forge_sampler", "unet_patcher"))
        sample = sampler.forge_sample
    else:
        give(monkeypatch, "backend.modules.k_model", MagicMock())
        patcher = load(monkeypatch, "backend.patcher.unet", root / "backend/patcher/unet.py")
        sample = sys.modules["backend.sampling.sampling_function"].sampling_function

    def pass_of(prompts, negatives=None, net=net):
        p = make_regional(prompts, negatives, seeds=[0])
        model = Model(net, "model_sampling" if is_reforge else "predictor")
        unet = patcher.UnetPatcher(model, load_device="cpu", offload_device="cpu")
        p.sd_model.forge_objects, p.sd_model.is_inpaint = SimpleNamespace(unet=unet), False
        p.sampler.model_wrap_cfg = Denoiser()
        return p

    with regional_script(monkeypatch) as regions:
        yield Engine(regions=regions, pass_of=pass_of, net=net, sample=sample)


def plain(engine, x, text):
    with torch.no_grad():
        return engine.net(x, torch.full((len(x),), 3.0), context=encode(text)[None].expand(len(x), -1, -1),
                          transformer_options={})


def defined(engine, x, texts, base_ratio=0.0):
    """By definition: every cross attention's outputs for all texts, blended by shares of its grid."""
    def blend(module):
        own = type(module).forward

        def forward(given, context=None, **options):
            grid = token_grid(given.shape[1], SIZE)
            masks = torch.stack([shrink(box_mask(box, (64, 96))[None], grid, SIZE)[0] for box in HALVES])
            shares = torch.cat([1 - (1 - base_ratio) * masks.sum(0)[None], (1 - base_ratio) * masks])
            return sum(share.reshape(-1, 1) * own(module, given, context=encode(text)[None])
                       for share, text in zip(shares, texts, strict=True))
        return forward

    with contextlib.ExitStack() as stack:
        for name, module in engine.net.named_modules():
            if name.endswith("attn2"):
                stack.enter_context(scope.patched(module, forward=blend(module)))
        return plain(engine, x, texts[0])


def guided(cond, uncond):
    return uncond + SCALE * (cond - uncond)


def near(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_attention_is_the_definition_in_the_hosts_own_unet(engine):
    x = noise(1, 1, SIZE)
    uncond = plain(engine, x, "dull")
    p = engine.pass_of(["sky BREAK sea"])
    near(engine.run(p, ON), guided(defined(engine, x, ["", "sky", "sea"]), uncond))
    p = engine.pass_of(["all ADDBASE sky BREAK sea"])
    near(engine.run(p, ON | {"base_ratio": "0.3"}),
         guided(defined(engine, x, ["all", "sky", "sea"], 0.3), uncond))
    p = engine.pass_of(["sky BREAK sea"], ["grey BREAK dry"])
    uncond = defined(engine, x, ["", "grey", "dry"])
    near(engine.run(p, ON), guided(defined(engine, x, ["", "sky", "sea"]), uncond))


def test_the_projected_texts_are_kept_and_follow_the_steps(engine):
    """The second step projects the model's own text alone; another text at a later step is projected anew."""
    p, x, lengths, got = engine.pass_of(["[sky:fog:1] BREAK sea"]), noise(1, 1, SIZE), [], []
    layer = next(module for name, module in engine.net.named_modules() if name.endswith("attn2.to_k"))
    layer.register_forward_pre_hook(lambda module, inputs: lengths.append(inputs[0].shape[1]))
    engine.regions.TweedieRegionalPrompt().process_batch(p, ON)
    with torch.inference_mode(), engine.regions.one_pass(getattr(p, engine.regions.BATCH), p, x, None, False):
        for step in range(4):
            p.sampler.model_wrap_cfg.step = step
            out = engine.sample(*ask(p, x))
            got.append((out if isinstance(out, torch.Tensor) else out[0]).clone())
    assert lengths == [21, 7, 21, 7]
    for number, word in enumerate(("sky", "sky", "fog", "fog")):
        near(got[number], guided(defined(engine, x, ["", word, "sea"]), plain(engine, x, "dull")))


def test_latent_mode_is_the_hosts_blend_of_predictions_by_shares(engine):
    x = noise(1, 1, SIZE)
    shares = torch.stack([box_mask(box, SIZE) for box in HALVES])
    preds = {text: plain(engine, x, text) for text in ("sky", "sea", "all", "dull", "grey", "dry")}
    two = sum(share * preds[text] for share, text in zip(shares, ("sky", "sea"), strict=True))
    against = sum(share * preds[text] for share, text in zip(shares, ("grey", "dry"), strict=True))
    latent = ON | {"mode": "latent"}
    near(engine.run(engine.pass_of(["sky BREAK sea"]), latent), guided(two, preds["dull"]))
    near(engine.run(engine.pass_of(["all ADDBASE sky BREAK sea"]), latent | {"base_ratio": "0.3"}),
         guided(0.3 * preds["all"] + 0.7 * two, preds["dull"]))
    near(engine.run(engine.pass_of(["sky BREAK sea"], ["grey BREAK dry"]), latent), guided(two, against))


@pytest.mark.parametrize("mode", ["attention", "latent"])
def test_a_batch_is_its_single_runs(engine, mode):
    prompts = ["sky BREAK sea", "a cat", "one BREAK two BREAK three", "x ADDBASE sky BREAK sea"]
    negatives = ["dull", "dull", "grey BREAK dry BREAK cold", "dull"]
    x, names = noise(4, 1, SIZE), ON | {"mode": mode, "ratios": "1,1,1"}
    both = engine.run(engine.pass_of(prompts, negatives), names, x)
    for number, texts in enumerate(zip(prompts, negatives, strict=True)):
        near(both[number:number + 1],
             engine.run(engine.pass_of(*([text] for text in texts)), names, x[number:number + 1]))


@pytest.mark.parametrize("mode", ["attention", "latent"])
def test_regions_of_one_text_and_regions_out_of_time_are_the_plain_estimate(engine, mode):
    x = noise(1, 1, SIZE)
    expected = guided(plain(engine, x, "sky"), plain(engine, x, "dull"))
    p = engine.pass_of(["sky ADDBASE sky BREAK sky"])
    near(engine.run(p, ON | {"mode": mode, "feather": 0.2}), expected)
    p = engine.pass_of(["sky ADDBASE sea BREAK fog"])
    near(engine.run(p, ON | {"mode": mode, "start_percent": 0.9}), expected)
    untouched = engine.run(engine.pass_of(["sky"]), {})
    assert torch.equal(engine.run(engine.pass_of(["sky"]), ON | {"mode": mode}), untouched)


def test_what_another_extension_replaced_is_added(engine):
    """IP-Adapter's way: it replaces a block's attention by its own, which is plain attention and more."""
    p, x = engine.pass_of(["sky BREAK sea"]), noise(1, 1, SIZE)
    kernel = engine.regions.host.attention_kernel(p.sd_model.forge_objects.unet)
    p.sd_model.forge_objects.unet.set_model_attn2_replace(
        lambda q, k, v, options: kernel(q, k, v, options["n_heads"]) + 0.5, "middle", 0)
    last = engine.net.middle_block[1].transformer_blocks[0].attn2.to_out
    own = type(last).forward
    with scope.patched(last, forward=lambda out: own(last, out + 0.5)):
        expected = guided(defined(engine, x, ["", "sky", "sea"]), plain(engine, x, "dull"))
    near(engine.run(p, ON), expected)


class Stream(nn.Module):
    """A transformer: no blocks to patch, its text is read as a whole, or the vector beside it."""

    def forward(self, x, t, context=None, transformer_options=None, y=0):
        said = context.mean((1, 2)) if isinstance(y, int) else y.std(1)
        return x + said.reshape(-1, *[1] * (x.ndim - 1))


@pytest.mark.parametrize("shape", [(1, 4, *SIZE), (1, 4, 1, *SIZE)], ids=["picture", "video's picture"])
def test_models_that_are_no_unet_run_in_latent_mode_and_say_so(engine, caplog, shape):
    p, x = engine.pass_of(["sky BREAK sea"], net=Stream()), noise(1, 1, SIZE).reshape(shape)
    shares = torch.stack([box_mask(box, SIZE) for box in HALVES])
    cond = x + sum(share * encode(text).mean() for share, text in zip(shares, ("sky", "sea"), strict=True))
    near(engine.run(p, ON, x), guided(cond, x + encode("dull").mean()))
    p = engine.pass_of(["sky BREAK sea"], net=Stream())
    p.sd_model.pooled = True
    left, right, against = (encode(text).mean(0).std() for text in ("sky", "sea", "dull"))
    near(engine.run(p, ON, x), guided(x + shares[0] * left + shares[1] * right, x + against))
    assert p.extra_generation_params["Tweedie regions mode"] == "latent"
    assert "latent mode was used" in caplog.text


def test_the_hosts_clones_take_our_hooks_as_they_are(engine):
    """A deep copy of a bound method would copy the run, its masks and its texts with it."""
    p, x = engine.pass_of(["sky BREAK sea"]), noise(1, 1, SIZE)
    engine.regions.TweedieRegionalPrompt().process_batch(p, ON)
    with engine.regions.one_pass(getattr(p, engine.regions.BATCH), p, x, None, False):
        options = p.sd_model.forge_objects.unet.model_options["transformer_options"]
        hooks = [*options["patches"]["attn2_patch"], *options["patches_replace"]["attn2"].values()]
        assert all(one is two for one, two in zip(hooks, copy.deepcopy(hooks), strict=True))
