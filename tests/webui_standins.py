"""Stand-ins for a web UI's denoiser, sampler and pass, for the tests of spectral guidance."""
import sys
from types import SimpleNamespace

import torch
from tweedie_pack.extensions_a1111 import host, panel, weigh

ALPHAS = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0).float()
TABLE = ((1 - ALPHAS) / ALPHAS).sqrt()
ON = {"enabled": True}
LOW = ON | {"bands": "two_band", "low": 2.0}
WEIGHED = [LOW, ON | {"bands": "equalizer", "at_1_4": 3.0, "keep_energy": False},
           ON | {"structure": "coherence"}, ON | {"structure": "structure", "probes": 8},
           LOW | {"structure": "leverage", "strength": 0.5, "time": "window"}]
ACCOMPANIED = [ON | {"apg": True}, ON | {"cfg_zero_star": True}, ON | {"rescale": 0.7},
               ON | {"interval": True}, LOW | {"apg": True, "apg_eta": 0.5, "rescale": 0.3}]


def reading(names, axes=None):
    return panel.read([names], axes)


class Guide:
    """A1111's denoiser: rows of x_out are what the model says of each prompt, then of the negative ones."""

    step, total_steps, mask, nmask = 3, 10, None, None

    def __init__(self, x_out, conds_list):
        self.x_out, self.conds_list = x_out, conds_list

    def forward(self, x, sigma, scale=7.0):
        return self.combine_denoised(self.x_out, self.conds_list, x, scale)

    def combine_denoised(self, x_out, conds_list, uncond, cond_scale):
        negative = x_out[-uncond.shape[0]:]
        out = negative.clone()
        for i, conds in enumerate(conds_list):
            for row, weight in conds:
                out[i] += (x_out[row] - negative[i]) * (weight * cond_scale)
        return out


class TimestepGuide(Guide):
    alphas = ALPHAS

    def get_pred_x0(self, x, noise, timestep):
        a = self.alphas[timestep.long()][:, None, None, None]
        return (x - (1 - a).sqrt() * noise) / a.sqrt()


SINGLE, PAIR, JOINED = [[(0, 1.0)]], [[(0, 1.0)], [(1, 1.0)]], [[(0, 1.0), (1, 0.5)]]


def estimates(conds, unconds, seed=0):
    """Rows whose guided estimate, at scale 7, is smoother than the negative one: guidance joins."""
    apart, smooth = noise(unconds, seed), noise(conds, seed + 1).cumsum(2).cumsum(3) / 8
    apart = apart.repeat(conds // unconds, 1, 1, 1) if unconds > 1 else apart
    return torch.cat([apart + (smooth - apart) / 7, apart[:unconds]])


def noise(rows, seed=0, space=(8, 12)):
    return torch.randn(rows, 4, *space, generator=torch.Generator().manual_seed(seed))


def make_pass(denoiser, **changes):
    sd_model = SimpleNamespace(alphas_cumprod=ALPHAS, parameterization="eps", is_sd1=True)
    return SimpleNamespace(sd_model=sd_model, cfg_scale=7.0, is_hr_pass=False,
                           sampler=SimpleNamespace(model_wrap_cfg=denoiser), **changes)


def run(names, denoiser, x, sigma, steps=1, **options):
    """What the denoiser gives with the panel at work, after so many steps."""
    p = make_pass(denoiser)
    with host.after_cfg(p, weigh.make_change(reading(names), p, x)):
        for _ in range(steps):
            out = denoiser.forward(x, sigma, **options)
    assert not {"forward", "combine_denoised"} & set(vars(denoiser))
    return out


class Sampler:
    def __init__(self, denoiser):
        self.model_wrap_cfg = denoiser

    def sample(self, p, x, steps=None):
        return self.model_wrap_cfg.forward(x, torch.tensor([3.0]))

    sample_img2img = sample


def forget(*names):
    """Take modules of the door that saw a stand-in for the host out again."""
    package = sys.modules["tweedie_pack.extensions_a1111"]
    for name in names:
        sys.modules.pop(f"{package.__name__}.{name}", None)
        vars(package).pop(name, None)
