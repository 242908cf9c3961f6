"""The web UI door's own parts, on stand-ins: scope, table, prediction, guidance. No web UI is imported."""
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from tweedie_pack.extensions_a1111 import host, scope
from tweedie_pack.samplers import zero_snr


def alphas(start=0.00085, end=0.012):
    return (1 - torch.linspace(start**0.5, end**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0).float()


class Keeper(nn.Module):
    prediction_type = "v_prediction"

    def __init__(self):
        super().__init__()
        a = alphas()
        self.register_buffer("sigmas", ((1 - a) / a).sqrt())
        self.register_buffer("log_sigmas", self.sigmas.log())


class Guide:
    def forward(self, x, sigma):
        return self.combine_denoised(torch.cat([2 * x, x]), [[(0, 1.0)]], x[:1], 7.0)

    def combine_denoised(self, x_out, conds_list, uncond, cond_scale):
        return x_out[1:] + cond_scale * (x_out[:1] - x_out[1:])


def a1111_model(prediction, **flags):
    return SimpleNamespace(alphas_cumprod=alphas(), parameterization=prediction, **flags)


def forge_model():
    model = SimpleNamespace(predictor=Keeper())
    return SimpleNamespace(forge_objects=SimpleNamespace(unet=SimpleNamespace(model=model)))


def test_patched_puts_back_what_was_there_and_deletes_what_was_not():
    guide = Guide()
    guide.note = "own"
    with pytest.raises(RuntimeError), scope.patched(guide, forward="patched", note="patched", fresh=1):
        assert (guide.forward, guide.note, guide.fresh) == ("patched", "patched", 1)
        raise RuntimeError
    assert vars(guide) == {"note": "own"}


def test_patched_keeps_a_modules_buffers_themselves():
    keeper = Keeper()
    sigmas = keeper.sigmas
    with scope.patched(keeper, sigmas=torch.ones(3)):
        assert keeper.sigmas.tolist() == [1, 1, 1]
    assert keeper.sigmas is sigmas


class Sampler:
    def sample(self, p, x, steps=None):
        return "sampled"

    def sample_img2img(self, p, x, noise, steps=None):
        raise RuntimeError("out of memory")


def test_only_the_next_pass_is_enclosed_and_only_once():
    calls, sampler = [], Sampler()

    @scope.contextmanager
    def note(p, x, steps, partial):
        calls.append((p, x, steps, partial))
        yield

    scope.enclose_next_pass(sampler, note)
    scope.enclose_next_pass(sampler, note)
    assert sampler.sample("p", "x", steps=4) == "sampled"
    assert calls == [("p", "x", 4, False)] and not vars(sampler)
    scope.enclose_next_pass(sampler, note)
    with pytest.raises(RuntimeError, match="out of memory"):
        sampler.sample_img2img("p", "x", "noise")
    assert calls[1:] == [("p", "x", None, True)] and not vars(sampler)


def test_a_refused_pass_leaves_no_encoded_prompt_to_the_next():
    """sd-webui-controlnet has marked them by then."""
    @scope.contextmanager
    def refuse(p, x, steps, partial):
        raise ValueError("no such policy")
        yield

    shared, sampler = ["the prompt", "marked"], Sampler()
    p = SimpleNamespace(cached_c=shared, cached_hr_c=[None, None])
    scope.enclose_next_pass(sampler, refuse)
    with pytest.raises(ValueError, match="no such policy"):
        sampler.sample(p, "x")
    assert shared == [None, None] and not vars(sampler)


@pytest.mark.parametrize("model", [a1111_model("v"), forge_model()])
def test_the_table_is_rescaled_where_the_host_keeps_it_and_put_back(model):
    before = host.model_table(model)
    assert host.prediction(model) == "v"
    (owner, values), = host.zero_snr_changes(model)
    with scope.patched(owner, **values):
        torch.testing.assert_close(host.model_table(model)[-1], torch.tensor(4518.76), rtol=1e-5, atol=0)
        assert host.zero_snr_changes(model) == []
    assert torch.equal(host.model_table(model), before)


@pytest.mark.parametrize("family, expected", [("epsilon", "epsilon"), ("v_prediction", "v"), ("edm", "edm")])
def test_prediction_is_read_from_the_keeper(family, expected):
    model = forge_model()
    model.forge_objects.unet.model.predictor.prediction_type = family
    assert host.prediction(model) == expected


def test_prediction_of_a_flow_table_is_flow():
    model = forge_model()
    model.forge_objects.unet.model.predictor.sigmas = torch.linspace(0.001, 1, 1000)
    assert host.prediction(model) == "flow"


def test_before_a_model_is_loaded_the_table_says_so():
    with pytest.raises(ValueError, match="make a picture first"):
        host.model_table(SimpleNamespace())


@pytest.mark.parametrize("flags, prediction, side", [
    ({"is_sd1": True}, "v", 64), ({"is_sd2": True}, "v", 96), ({"is_sd2": True}, "eps", 64), ({}, "v", 128)])
def test_reference_size(flags, prediction, side):
    assert host.reference_size(a1111_model(prediction, **flags)) == side**2


def test_cfg_is_changed_between_forward_and_combine():
    guide, x, sigma = Guide(), torch.randn(1, 4, 8, 8), torch.tensor([3.0])
    plain = guide.forward(x, sigma)
    with host.after_combine(guide, lambda step: zero_snr.rescale_cfg(*step[:4], phi=0.7)):
        changed = guide.forward(x, sigma)
    torch.testing.assert_close(changed, zero_snr.rescale_cfg(x, sigma, plain, 2 * x, 0.7))
    assert not torch.equal(changed, plain) and torch.equal(guide.forward(x, sigma), plain)
