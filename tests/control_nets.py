"""Control nets in miniature, made as the hosts make theirs: a hint's encoder, and residuals in lists."""
import torch
from torch import nn

CHANNELS = 8


class Encoder(nn.Module):
    """Features [B,C,H/2,W/2] of a hint [B,3,H,W]; `rows` says how many each call had."""

    def __init__(self):
        super().__init__()
        self.convolution, self.rows = nn.Conv2d(3, CHANNELS, 3, 2, 1), []

    def forward(self, hint, emb, context):
        self.rows.append(len(hint))
        return self.convolution(hint)


class ControlNet(nn.Module):
    """x [B,4,h,w], hint [B,3,2h,2w], timesteps [B], context [B,L,4] -> residuals, one of them repeated."""

    def __init__(self):
        super().__init__()
        self.input_hint_block = Encoder()
        self.time_embed, self.read = nn.Linear(1, CHANNELS), nn.Linear(4, CHANNELS)
        self.first, self.down = nn.Conv2d(4, CHANNELS, 3, 1, 1), nn.Conv2d(CHANNELS, CHANNELS, 3, 2, 1)
        self.rows = []

    def forward(self, x, hint, timesteps, context, y=None, control_type=(), scale=1.0):
        self.rows.append(len(x))
        self.latest = emb = self.time_embed(timesteps[:, None])
        if control_type:
            guided = self.union_controlnet_merge(hint[None], control_type, emb, context)
        else:
            guided = self.input_hint_block(hint, emb, context)
        h = self.first(x) * scale + guided + (emb + self.read(context).mean(1))[..., None, None]
        deep = self.down(h.sin())
        return {"middle": [deep.cos()], "output": [h, deep, deep, None]}


class Heir(ControlNet):
    """Relies on the class that it comes from, as some nets do."""

    def forward(self, **options):
        return super().forward(**options)


class Mix(nn.Module):
    """Tokens [B,K,C] -> [B,K,C], each told of all."""

    def __init__(self):
        super().__init__()
        self.own, self.all = nn.Linear(CHANNELS, CHANNELS), nn.Linear(CHANNELS, CHANNELS)

    def forward(self, tokens):
        return torch.tanh(self.own(tokens) + self.all(tokens.mean(1, keepdim=True)))


class Union(ControlNet):
    """A net of three types: the hint's mean and its type's embedding say what to add to its features."""

    def __init__(self):
        super().__init__()
        self.task_embedding = nn.Parameter(torch.randn(3, CHANNELS))
        self.transformer_layes, self.spatial_ch_projs = Mix(), nn.Linear(CHANNELS, CHANNELS)

    def union_controlnet_merge(self, hint, control_type, emb, context):
        features = self.input_hint_block(hint[0], emb, context)
        token = features.mean((2, 3)) + self.task_embedding[control_type[0]]
        return features + self.spatial_ch_projs(self.transformer_layes(token[:, None])[:, 0])[..., None, None]


def new_net(kind=ControlNet, seed=0):
    torch.manual_seed(seed)
    return kind().eval().requires_grad_(False)
