"""(captions of a base and its regions, masks) -> Denoise: the tiny model guided by regions, in two ways.

In its attention: one call of the model, in which every token reads the text of its region. In its latents: a
call for each text, whose estimates of x0 are blended by the masks.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from ...controls.attention import TINY, divide, route
from ...controls.cross import token_grid
from ...controls.regions import MaskSet
from .model import Denoise, Tiny, embed, predict

Size = tuple[int, int]  # rows and columns of the latent


def shares_on(masks: MaskSet, grid: Size, full: Size) -> Tensor:
    """[1+R,h,w], the base first, on a grid of a latent of the `full` size."""
    return masks.on(grid, full, tuple(range(len(masks.regions))), torch.device("cpu"))


def embed_texts(model: Tiny, captions: Sequence[Sequence[str]], masks: MaskSet) -> list[Tensor]:
    """The base's and each region's texts, then the empty one: [B,77,C] each."""
    if len(captions) != 1 + len(masks.regions):
        raise ValueError(f"Regions: captions are for {len(captions)} texts, masks for {len(masks.regions)} "
                         "regions; give the base's captions and those of each region")
    return [embed(model, part) for part in (*captions, [""] * len(captions[0]))]


def reader(masks: MaskSet, full: Size) -> Callable[..., Tensor]:
    """A processor of `diffusers`: queries [B,N,C] read texts [B,(1+R)L,C] that lie side by side."""
    def read(attention: nn.Module, hidden_states: Tensor, encoder_hidden_states: Tensor,
             attention_mask: None = None) -> Tensor:
        def heads(x: Tensor) -> Tensor:
            return x.unflatten(2, (attention.heads, -1)).transpose(1, 2)  # [B,H,N,D]

        q = heads(attention.to_q(hidden_states))
        texts = [heads(project(encoder_hidden_states)).chunk(1 + len(masks.regions), 2)
                 for project in (attention.to_k, attention.to_v)]
        parts = divide(shares_on(masks, token_grid(q.shape[2], full), full).flatten(1))
        lanes = ((part, k, v, None) for part, k, v in zip(parts, *texts, strict=True) if part is not None)
        out = route(scaled_dot_product_attention, q, lanes, 2, 2)
        return attention.to_out[0](out.transpose(1, 2).flatten(2))

    return read


@contextmanager
def crossing(unet: nn.Module, processor: Callable[..., Tensor]) -> Iterator[None]:
    """The UNet with this processor in its cross attention; behind it with those that it had."""
    before = unet.attn_processors
    unet.set_attn_processor({name: processor if ".attn2." in name else old for name, old in before.items()})
    try:
        yield
    finally:
        unet.set_attn_processor(before)


def guide_attention(model: Tiny, captions: Sequence[Sequence[str]], masks: MaskSet, scale: float) -> Denoise:
    """captions [1+R][B], the base's first; all pictures share the masks. One text costs as much as many."""
    *texts, empty = embed_texts(model, captions, masks)
    both = torch.cat([torch.cat(texts, 1), empty.repeat(1, len(texts), 1)])

    def denoise(x: Tensor, sigma: float) -> Tensor:
        with crossing(model.unet, reader(masks, tuple(x.shape[-2:]))):
            cond, uncond = predict(model, x.repeat(2, 1, 1, 1), sigma, both).chunk(2)
        return uncond + scale * (cond - uncond)

    return denoise


def guide_latents(model: Tiny, captions: Sequence[Sequence[str]], masks: MaskSet, scale: float) -> Denoise:
    """The same by a call for each text that owns something, and one without text."""
    *texts, empty = embed_texts(model, captions, masks)

    def denoise(x: Tensor, sigma: float) -> Tensor:
        size = tuple(x.shape[-2:])
        owners = [(share, text) for share, text in zip(shares_on(masks, size, size), texts, strict=True)
                  if share.max() > TINY]
        context = torch.cat([*(text for _, text in owners), empty])
        *conds, uncond = predict(model, x.repeat(len(owners) + 1, 1, 1, 1), sigma, context).split(len(x))
        cond = sum(share * found for (share, _), found in zip(owners, conds, strict=True))
        return uncond + scale * (cond - uncond)

    return denoise
