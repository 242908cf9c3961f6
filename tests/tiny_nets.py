"""The tiny model's networks with random weights, saved as the pack ships them, and what they draw."""
import torch
from safetensors.torch import save_file
from tweedie_pack.demo.tiny import checkpoint, layout, nets

TOKENS = "embeddings.token_embedding.weight"
RED_BALL = [49406, 320, 736, 1069]  # "a red ball" in CLIP's tokens, from the start token on


@torch.no_grad()
def fill(net, seed):
    """Nothing is left at 0 or 1, so that a lost or swapped weight shows; rounded to float16."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in net.named_parameters():
        spread = value[0].numel() ** -0.5 if value.ndim > 1 else 0.2
        one = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        value.copy_((one + spread * torch.randn(value.shape, generator=generator)).half())
    return net.eval()


def new_nets():
    """Name of the file -> network."""
    unet = fill(nets.new_unet(), 1)
    text = fill(nets.new_text_encoder(), 4)
    text.load_state_dict({TOKENS: layout.token_embedding()}, strict=False)
    return {"unet_v": unet, "unet_epsilon": fill(nets.new_unet(), 2), "vae": fill(nets.new_vae(), 3),
            "text": text, "control_edges": fill(nets.new_controlnet(unet), 5),
            "control_depth": fill(nets.new_controlnet(unet), 6)}


def load_nets(folder=checkpoint.WEIGHTS):
    """The networks with the weights of a folder, by default the shipped ones."""
    made = new_nets()
    for name, net in made.items():
        state = checkpoint.read(name, folder)
        tokens = {TOKENS: state.pop(checkpoint.TOKEN_NAME)} if name == "text" else {}
        net.load_state_dict(layout.to_library(checkpoint.KINDS[name], state) | tokens)
    return made


def save_nets(folder):
    made = new_nets()
    for name, net in made.items():
        state = {key: value.half() for key, value in net.state_dict().items() if key != TOKENS}
        whole = layout.to_host(checkpoint.KINDS[name], state)
        save_file({key: value.contiguous() for key, value in whole.items()}, folder / f"{name}.safetensors")
    return made


@torch.inference_mode()
def encode(made, *prompts):
    """[B,77,128]; a prompt is its tokens from the start token on."""
    ids = torch.tensor([[*prompt, *[49407] * (77 - len(prompt))] for prompt in prompts])
    return made["text"](input_ids=ids).last_hidden_state


def steered(made, control, x, t, context, hint):
    """What a ControlNet adds to the UNet, as the UNet's arguments."""
    down, middle = made[f"control_{control}"](x, t, encoder_hidden_states=context, controlnet_cond=hint,
                                              return_dict=False)
    return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}


@torch.inference_mode()
def sample(made, prediction, start, times, sigmas, context, control=None, hint=None, scale=3.0):
    """Euler from `start`, already noise at sigmas[0], over sigmas [n+1]; context [good, bad] -> latent."""
    unet, z = made[f"unet_{prediction}"], start
    for t, sigma, then in zip(times, sigmas, sigmas[1:], strict=False):
        keep = 1 / (sigma**2 + 1)
        x = (z * keep.sqrt()).repeat(2, 1, 1, 1)
        more = steered(made, control, x, t, context, hint.repeat(2, 1, 1, 1)) if control else {}
        out = unet(x, t, encoder_hidden_states=context, **more).sample
        good, bad = (z * keep - out * sigma * keep.sqrt() if prediction == "v" else z - out * sigma).chunk(2)
        z = z + (z - bad - scale * (good - bad)) / sigma * (then - sigma)
    return z / made["vae"].config.scaling_factor


@torch.inference_mode()
def decode(made, latent):
    """[B,3,8H,8W] from 0 to 1."""
    return (made["vae"].decode(latent).sample / 2 + 0.5).clamp(0, 1)


def simple_schedule(table, steps):
    """The hosts' "simple": times [n] and sigmas [n+1] that lie on the table."""
    times = [len(table) - 1 - int(i * len(table) / steps) for i in range(steps)]
    return times, torch.cat([table[times], table.new_zeros(1)])
