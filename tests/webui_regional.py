"""Stand-ins for what of A1111 a pass with regions meets: prompts read, a UNet, its denoiser, the pass."""
import contextlib
import re
import sys
import zlib
from collections import namedtuple
from types import SimpleNamespace
from unittest.mock import MagicMock

import torch
from torch import nn
from webui_standins import ALPHAS, Guide, forget

Scheduled = namedtuple("ScheduledPromptConditioning", ["end_at_step", "cond"])


class Prompts(list):
    def __init__(self, texts, is_negative_prompt=False, width=None, height=None):
        super().__init__(texts)


def encode(text):
    """Tokens [7,6], twice as many for a long text, from its letters alone."""
    generator = torch.Generator().manual_seed(zlib.crc32(text.encode()))
    return torch.randn(14 if len(text) > 40 else 7, 6, generator=generator)


def learn(model, prompts, steps, hires_steps=None, old=False):
    """As the host reads prompts: `[a:b:2]` becomes b after step 2, and all texts are kept in `model.read`.

    A model that is `pooled` has a vector beside its tokens, as SDXL has.
    """
    def read(text):
        tokens = encode(text)
        return {"crossattn": tokens, "vector": tokens.mean(0)} if getattr(model, "pooled", False) else tokens

    def schedule(text):
        model.read.append(text)
        if edit := re.search(r"\[(.*?):(.*?):(\d+)\]", text):
            before, after = (text.replace(edit[0], edit[number]) for number in (1, 2))
            return [Scheduled(int(edit[3]), read(before)), Scheduled(steps, read(after))]
        return [Scheduled(steps, read(text))]
    return [schedule(text) for text in prompts]


def tokens_of(cond):
    return cond["crossattn"] if isinstance(cond, dict) else cond


class Several:
    """MulticondLearnedConditioning."""

    def __init__(self, shape, batch):
        self.shape, self.batch = shape, batch


class Composable:
    def __init__(self, schedules, weight=1.0):
        self.schedules, self.weight = schedules, weight


def webui_modules():
    """What of the host's `modules` a pass with regions reads."""
    parser = SimpleNamespace(SdConditioning=Prompts, get_learned_conditioning=learn,
                             MulticondLearnedConditioning=Several,
                             ComposableScheduledPromptConditioning=Composable)
    samplers = SimpleNamespace(find_sampler_config=lambda name: None)
    parts = {"prompt_parser": parser, "sd_samplers": samplers, "sd_unet": SimpleNamespace(current_unet=None)}
    return {"modules": SimpleNamespace(**parts), **{f"modules.{name}": part for name, part in parts.items()}}


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.to_q, self.to_k, self.to_v = nn.Linear(4, 8), nn.Linear(6, 8), nn.Linear(6, 8)
        self.to_out = nn.Linear(8, 4)

    def forward(self, x, context=None, **options):
        q, k, v = self.to_q(x), self.to_k(context), self.to_v(context)
        return self.to_out(nn.functional.scaled_dot_product_attention(q, k, v))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn2 = Attention()

    def forward(self, x, context):
        read = self.attn2(x.flatten(2).mT, context=context)
        return read.mT.reshape(x.shape)


class Unet(nn.Module):
    """x + attention on the latent's grid + attention on half of it: every place sees its own text alone."""

    def __init__(self, levels=2):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(Block() for _ in range(levels))
        self.calls = []

    def forward(self, x, context=None):
        self.calls.append(len(x))
        out = x
        for level, block in enumerate(self.blocks):
            small = nn.functional.interpolate(x, scale_factor=1 / 2**level, mode="area")
            read = block(small, context)
            out = out + nn.functional.interpolate(read, x.shape[-2:])
        return out


class RowsGuide(Guide):
    """A1111's denoiser as it calls the model: prompts of the pictures in turn, then their negatives.

    together: in one call, or a picture's worth at a time. skips: the negatives are left out. mark: how many
    tokens stand before the texts of `marks`, to be taken off.
    """

    together, skips, mark, step = True, False, 0, 0

    def __init__(self, unet):
        self.unet, self.marks = unet, []

    def update_inner_model(self):
        self.unet.calls.append("refiner")

    def model(self, x, context):
        self.marks += context[:, 0, 0].tolist()
        return self.unet(x, context=context[:, self.mark:])

    def forward(self, x, sigma, uncond, cond, cond_scale=7.0, **options):
        def now(schedules):
            return tokens_of(next(part.cond for part in schedules if self.step <= part.end_at_step))

        prompts = [now(prompt.schedules) for picture in cond.batch for prompt in picture]
        counts = [len(picture) for picture in cond.batch]
        longest = max(map(len, prompts))
        texts = torch.stack([torch.cat([text, text[-1:].expand(longest - len(text), -1)])
                             for text in prompts])
        negative = torch.stack([now(schedules) for schedules in uncond])
        x_in = torch.cat([x[i:i + 1] for i, count in enumerate(counts) for _ in range(count)] + [x])
        if self.skips:
            x_in = x_in[:-len(x)]
        groups = [texts] if self.skips else [torch.cat([texts, negative])] if (
            texts.shape[1] == negative.shape[1]) else [texts, negative]
        size = len(x_in) if self.together and len(groups) == 1 else len(x)
        parts = [part for group in groups for part in group.split(size)]
        rows = x_in.split([len(part) for part in parts])
        out = torch.cat([self.model(*pair) for pair in zip(rows, parts, strict=True)])
        starts = [sum(counts[:i]) for i in range(len(counts))]
        lists = [[(start + n, prompt.weight) for n, prompt in enumerate(picture)]
                 for start, picture in zip(starts, cond.batch, strict=True)]
        if self.skips:
            out = torch.cat([out, out[starts]])
        self.step += 1
        return self.combine_denoised(out, lists, negative, 1.0 if self.skips else cond_scale)


class RegionalPass(SimpleNamespace):
    """p of a web UI with a small model, as far as `process_batch`; `through` runs a script over it."""

    def comment(self, text):
        self.comments.append(text)

    def get_conds_with_caching(self, function, prompts, steps, caches, networks, hires_steps=None):
        assert caches == [[None, None]] and networks is self.extra_network_data
        return function(self.sd_model, prompts, steps, hires_steps)


def make_regional(prompts, negatives=None, levels=2, **changes):
    negatives = negatives or ["dull"] * len(prompts)
    unet = Unet(levels)
    sd_model = SimpleNamespace(alphas_cumprod=ALPHAS, parameterization="eps", is_sd1=True, read=[],
                               model=SimpleNamespace(diffusion_model=unet))
    given = dict(sd_model=sd_model, cfg_scale=7.0, is_hr_pass=False, enable_hr=False, iteration=0,
                 batch_size=len(prompts), width=96, height=64, steps=4, firstpass_steps=4, prompts=prompts,
                 negative_prompts=negatives, all_prompts=list(prompts), all_negative_prompts=list(negatives),
                 extra_network_data={}, extra_generation_params={}, comments=[])
    p = RegionalPass(**given | changes)
    p.sampler = RegionalSampler(RowsGuide(unet))
    return p


class RegionalSampler:
    mark = 0

    def __init__(self, guide):
        self.model_wrap_cfg = guide

    def read(self, p, texts, sign):
        """The host's schedules, marked as sd-webui-controlnet does."""
        head = torch.full((self.mark, 6), 1024.0 * sign)
        return [[part._replace(cond=torch.cat([head, tokens_of(part.cond)])) for part in schedule]
                for schedule in learn(p.sd_model, texts, 4)]

    def sample(self, p, x, steps=None):
        """One step of the denoiser for each sigma of the pass, the last one's estimate."""
        schedules = self.read(p, p.prompts, 1)
        cond = Several((len(schedules),), [[Composable(schedule)] for schedule in schedules])
        uncond = self.read(p, p.negative_prompts, -1)
        with torch.no_grad():
            for sigma in getattr(p, "sigmas", [3.0]):
                out = self.model_wrap_cfg.forward(x, torch.full((len(x),), sigma), uncond=uncond, cond=cond)
        return out

    sample_img2img = sample


@contextlib.contextmanager
def regional_script(monkeypatch):
    """The regional panel's module, with stand-ins for gradio and the host."""
    for name, value in webui_modules().items():
        monkeypatch.setitem(sys.modules, name, value)
    modules = sys.modules["modules"]
    modules.scripts = SimpleNamespace(Script=object, AlwaysVisible=object(), scripts_data=[])
    modules.script_callbacks = MagicMock()
    monkeypatch.setitem(sys.modules, "gradio", MagicMock(Error=type("Error", (Exception,), {})))
    from tweedie_pack.extensions_a1111 import regions
    yield regions
    forget("regions", "axes", "widgets")
