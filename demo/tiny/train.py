"""python -m tweedie_pack.demo.tiny.train FOLDER: the tiny model from nothing, stage by stage, resumable.

Stages: vae, base (v-prediction at zero terminal SNR, with the text encoder), epsilon (its sibling on the
ordinary table), edges and depth (ControlNets). Every CPU core, or the GPU, gets a process of its own.
"""
from __future__ import annotations

import argparse
import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from ...samplers.zero_snr import rescale_table
from ..sampling import stable_diffusion_table
from . import nets
from .data import paint
from .fit import Job, Plan, fit
from .layout import to_host, token_embedding
from .words import tokenize

PICTURES, CONTROLLED, DROPPED = 40_000, 10_000, 0.1


PLANS = {
    "vae": Plan(4300, 8, 6e-3, ("conv_in", "conv_out", "quant")),
    "base": Plan(2600, 64, 4e-3, ("conv_in", "conv_out", "time_embedding", "position_embedding")),
    "epsilon": Plan(600, 64, 2e-3, ("conv_in", "conv_out", "time_embedding")),
    "edges": Plan(400, 48, 3e-3, ("conv_in", "conv_out", "time_embedding")),
    "depth": Plan(400, 48, 3e-3, ("conv_in", "conv_out", "time_embedding")),
}


def train_vae(job: Job, pictures: Tensor) -> nn.Module:
    """Crops of 32 pixels, then 64, then whole pictures; absolute error, some squared error, a little KL."""
    vae = nets.new_vae().to(job.device)
    with torch.no_grad():  # begin with little noise, or the pictures drown in it
        vae.quant_conv.bias[4:] = -5
        vae.quant_conv.weight[4:] *= 0.1
    steps = PLANS["vae"].steps

    def loss(step: int, generator: torch.Generator) -> Tensor:
        size, count = (32, 8) if step < 0.7 * steps else (64, 4) if step < 0.96 * steps else (128, 2)
        count = max(1, count // job.workers)
        chosen = torch.randint(len(pictures), (count,), generator=generator).tolist()
        corners = torch.randint(129 - size, (count, 2), generator=generator).tolist()
        crops = [pictures[k, :, y:y + size, x:x + size] for k, (y, x) in zip(chosen, corners, strict=True)]
        x = (torch.stack(crops).float() / 127.5 - 1).to(job.device)
        with torch.autocast(job.device, torch.bfloat16):
            latent = vae.encode(x).latent_dist
            z = latent.mean + latent.std * torch.randn(latent.std.shape, generator=generator).to(job.device)
            y = vae.decode(z).sample.float()
        kl = 0.5 * (latent.mean**2 + latent.var - 1 - latent.logvar).float().mean()
        return (y - x).abs().mean() + 0.5 * F.mse_loss(y, x) + 5e-4 * kl

    fit(job, "vae", PLANS["vae"], vae, loss)
    return vae.eval()


@torch.no_grad()
def encode(vae: nn.Module, pictures: Tensor, job: Job) -> Tensor:
    """Means [N,4,16,16] of the latents, not yet scaled."""
    means = []
    for part in tqdm(pictures.split(32), "encode", disable=job.rank > 0, mininterval=5):
        with torch.autocast(job.device, torch.bfloat16):
            means.append(vae.encode(part.to(job.device).float() / 127.5 - 1).latent_dist.mean.float())
    return torch.cat(means)


@torch.no_grad()
def whiten(vae: nn.Module, latents: Tensor) -> Tensor:
    """Give each latent channel mean 0 and, once scaled, deviation 1, by the two 1x1 convolutions alone."""
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3)) * nets.SCALE
    moments, back = vae.quant_conv, vae.post_quant_conv
    back.bias += (back.weight * mean.view(1, -1, 1, 1)).sum((1, 2, 3))
    back.weight *= std.view(1, -1, 1, 1)
    moments.weight[:4] /= std.view(-1, 1, 1, 1)
    moments.bias[:4] = (moments.bias[:4] - mean) / std
    moments.bias[4:] -= 2 * std.log()
    return (latents - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1) * nets.SCALE


def encoded(vae: nn.Module, pictures: Tensor, job: Job) -> Tensor:
    """Latents [N,4,16,16] of unit deviation, each process encodes its share; the VAE is whitened to match."""
    path = job.folder / "latents.pt"
    if not path.exists():
        torch.save(encode(vae, pictures.chunk(job.workers)[job.rank], job), f"{path}.{job.rank}")
    meet(job)
    if job.rank == 0 and not path.exists():
        parts = [torch.load(f"{path}.{rank}", weights_only=True) for rank in range(job.workers)]
        latents = whiten(vae, torch.cat(parts))
        torch.save({"vae": vae.state_dict(), "latents": latents.half().cpu()}, path)
    meet(job)
    saved = torch.load(path, weights_only=True)
    vae.load_state_dict(saved["vae"])
    return saved["latents"]


def meet(job: Job) -> None:
    """Wait for the other processes."""
    if job.workers > 1:
        dist.barrier()


class Batch(NamedTuple):
    """alpha z + sigma n of latents z [B,4,16,16] at steps t [B], their captions' ids, which were chosen."""

    chosen: Tensor
    ids: Tensor
    t: Tensor
    alpha: Tensor
    sigma: Tensor
    z: Tensor
    noise: Tensor

    @property
    def noisy(self) -> Tensor:
        return self.alpha * self.z + self.sigma * self.noise


def batches(latents: Tensor, ids: Tensor, zero_snr: bool, job: Job) -> Callable[..., Batch]:
    """(batch size, generator) -> Batch; one in ten captions is empty, and the steps are spread evenly."""
    table = stable_diffusion_table()
    sigmas = rescale_table(table) if zero_snr else table
    alphas = (1 + sigmas**2).rsqrt()
    empty = tokenize([""])

    def draw(count: int, generator: torch.Generator) -> Batch:
        chosen = torch.randint(len(latents), (count,), generator=generator)
        t = ((torch.arange(count) + torch.rand(count, generator=generator)) / count * len(sigmas)).long()
        dropped = torch.rand(count, 1, generator=generator) < DROPPED
        z = latents[chosen].float()
        noise = torch.randn(z.shape, generator=generator)
        alpha, sigma = (x[t].float().view(-1, 1, 1, 1) for x in (alphas, alphas * sigmas))
        return Batch(*(x.to(job.device) for x in (
            chosen, torch.where(dropped, empty, ids[chosen]), t, alpha, sigma, z, noise)))

    return draw


def train_base(job: Job, latents: Tensor, ids: Tensor) -> nn.ModuleDict:
    """The v-prediction model at zero terminal SNR (Lin et al. 2023), and its text encoder."""
    text = nets.new_text_encoder()
    text.get_input_embeddings().weight.data.copy_(token_embedding())
    text.get_input_embeddings().requires_grad_(False)
    model = nn.ModuleDict({"text": text, "unet": nets.new_unet()}).to(job.device)
    draw = batches(latents, ids, True, job)

    def loss(_: int, generator: torch.Generator) -> Tensor:
        b = draw(PLANS["base"].batch // job.workers, generator)
        with torch.autocast(job.device, torch.bfloat16):
            v = model["unet"](b.noisy, b.t, model["text"](b.ids).last_hidden_state).sample
        return F.mse_loss(v.float(), b.alpha * b.noise - b.sigma * b.z)

    fit(job, "base", PLANS["base"], model, loss)
    return model.eval().requires_grad_(False)


def train_epsilon(job: Job, base: nn.ModuleDict, latents: Tensor, ids: Tensor) -> nn.Module:
    """Epsilon-prediction on the ordinary table, begun from the v-prediction model."""
    unet = nets.new_unet().to(job.device)
    unet.load_state_dict(base["unet"].state_dict())
    draw = batches(latents, ids, False, job)

    def loss(_: int, generator: torch.Generator) -> Tensor:
        b = draw(PLANS["epsilon"].batch // job.workers, generator)
        with torch.autocast(job.device, torch.bfloat16):
            epsilon = unet(b.noisy, b.t, base["text"](b.ids).last_hidden_state).sample
        return F.mse_loss(epsilon.float(), b.noise)

    fit(job, "epsilon", PLANS["epsilon"], unet, loss)
    return unet.eval()


def train_control(job: Job, kind: str, base: nn.ModuleDict, latents: Tensor, ids: Tensor) -> nn.Module:
    """A ControlNet (Zhang et al. 2023) for pictures of `kind`, on the v-prediction model."""
    hints, _ = paint(job.folder, kind, CONTROLLED, job.workers)
    control = nets.new_controlnet(base["unet"]).requires_grad_(True).to(job.device)
    draw = batches(latents[:CONTROLLED], ids, True, job)

    def loss(_: int, generator: torch.Generator) -> Tensor:
        b = draw(PLANS[kind].batch // job.workers, generator)
        hint = (hints[b.chosen.cpu()].float() / 255).expand(-1, 3, -1, -1).to(job.device)
        with torch.autocast(job.device, torch.bfloat16):
            context = base["text"](b.ids).last_hidden_state
            down, mid = control(b.noisy, b.t, context, hint, return_dict=False)
            v = base["unet"](b.noisy, b.t, context, down_block_additional_residuals=down,
                             mid_block_additional_residual=mid).sample
        return F.mse_loss(v.float(), b.alpha * b.noise - b.sigma * b.z)

    fit(job, kind, PLANS[kind], control, loss)
    return control.eval()


def publish(name: str, kind: str, module: nn.Module) -> None:
    """Weights as float16 in Stable Diffusion's layout, beside this file."""
    path = pathlib.Path(__file__).parent / "weights" / f"{name}.safetensors"
    path.parent.mkdir(exist_ok=True)
    state = {key: value for key, value in module.state_dict().items() if "token_embedding" not in key}
    save_file({key: value.half().cpu().contiguous() for key, value in to_host(kind, state).items()}, path)
    path.chmod(0o644)


def work(rank: int, folder: pathlib.Path, device: str, workers: int) -> None:
    """All stages, in one of `workers` processes that share their gradients."""
    job = Job(folder, device, rank, workers)
    torch.manual_seed(0)
    if device == "cpu":
        torch.set_num_threads(1)  # two processes of one thread beat one of two, most of all on a busy machine
    if workers > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder.resolve()}/meeting", rank=rank,
                                world_size=workers)
    pictures, captions = paint(folder, "image", PICTURES, workers)
    ids, vae = tokenize(captions), train_vae(job, pictures)
    latents = encoded(vae, pictures, job)
    base = train_base(job, latents, ids)
    trained = {"vae": ("vae", vae), "text": ("text", base["text"]), "unet_v": ("unet", base["unet"]),
               "unet_epsilon": ("unet", train_epsilon(job, base, latents, ids))}
    for hint in ("edges", "depth"):
        trained[f"control_{hint}"] = ("control", train_control(job, hint, base, latents, ids))
    if rank == 0:
        for name, (kind, module) in trained.items():
            publish(name, kind, module)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path, help="for pictures and checkpoints to resume from, 5 GB")
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    (chosen.folder / "meeting").unlink(missing_ok=True)
    if torch.cuda.is_available():
        work(0, chosen.folder, "cuda", 1)
        return
    workers = os.cpu_count() or 1
    for which, count in (("image", PICTURES), ("edges", CONTROLLED), ("depth", CONTROLLED)):
        paint(chosen.folder, which, count, workers)
    mp.spawn(work, (chosen.folder, "cpu", workers), nprocs=workers)


if __name__ == "__main__":
    main()
