"""The tiny model's loader in ComfyUI: every part equals the libraries' networks, a server's picture too."""
import json
import pathlib
import subprocess

import pytest
import torch
from hosts.need import need
from safetensors.torch import load_file, save_file
from tiny_nets import RED_BALL, decode, encode, sample, save_nets, simple_schedule, steered
from tweedie_pack.demo.sampling import sample as run
from tweedie_pack.demo.tiny import checkpoint
from tweedie_pack.demo.tiny import model as demo
from tweedie_pack.demo.tiny.words import IDS

_, PYTHON = need("COMFYUI_PATH", "COMFYUI_PYTHON")
PREDICTIONS = {"v": "v, zero terminal SNR", "epsilon": "epsilon"}
HINT_COLOUR = 0x40A0E0


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


GIVEN = {"x": normal(0, 2, 4, 16, 16), "t": torch.tensor([999.0, 37.0]), "context": normal(1, 2, 77, 128),
         "hint": torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(2)),
         "noise": normal(3, 1, 4, 16, 16)}


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    return folder, save_nets(folder)


@pytest.fixture(scope="module")
def host(nets, tmp_path_factory):
    """What ComfyUI's classes made of GIVEN, and what it said of itself."""
    folder, script = tmp_path_factory.mktemp("tensors"), pathlib.Path(__file__).with_name("tiny_checks.py")
    save_file(GIVEN, folder / "given.safetensors")
    done = subprocess.run([PYTHON, script, nets[0], folder / "given.safetensors", folder / "out.safetensors"],
                          capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return load_file(folder / "out.safetensors"), json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def server():
    from hosts.comfyhost import server
    with server() as running:
        yield running


def equal(theirs, ours):
    assert float((theirs - ours).abs().max() / ours.abs().max()) < 1e-4


@pytest.mark.parametrize("prediction", PREDICTIONS)
@torch.inference_mode()
def test_the_unet_and_its_table(nets, host, prediction):
    unet = nets[1][f"unet_{prediction}"]
    equal(host[0][f"unet_{prediction}"],
          unet(GIVEN["x"], GIVEN["t"], encoder_hidden_states=GIVEN["context"]).sample)
    signal = 1 / (1 + host[0][f"sigmas_{prediction}"] ** 2)
    torch.testing.assert_close(signal, checkpoint.alpha_bar(prediction), rtol=1e-4, atol=0)
    assert host[1][prediction] == prediction


@pytest.mark.parametrize("control", ("edges", "depth"))
@torch.inference_mode()
def test_a_controlnet_alone_and_on_the_unet(nets, host, control):
    more = steered(nets[1], control, *(GIVEN[name] for name in ("x", "t", "context", "hint")))
    for i, part in enumerate(more["down_block_additional_residuals"]):
        equal(host[0][f"{control}_output_{i}"], part)
    equal(host[0][f"{control}_middle_0"], more["mid_block_additional_residual"])
    ours = nets[1]["unet_v"](GIVEN["x"], GIVEN["t"], encoder_hidden_states=GIVEN["context"], **more).sample
    equal(host[0][f"unet_{control}"], ours)


@torch.inference_mode()
def test_the_text_encoder_and_the_vae(nets, host):
    assert host[0]["tokens"].tolist() == RED_BALL + [49407] * 73
    assert host[1]["words"] == IDS
    equal(host[0]["text"], encode(nets[1], RED_BALL))
    equal(host[0]["encoded"], nets[1]["vae"].encode(2 * GIVEN["hint"] - 1).latent_dist.mean)
    equal(host[0]["decoded"].movedim(-1, 1), decode(nets[1], GIVEN["noise"]))


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_whole_run(nets, host, prediction):
    times, sigmas = simple_schedule(host[0][f"sigmas_{prediction}"], 6)
    start = GIVEN["noise"] * (1 + sigmas[0] ** 2).sqrt()
    latent = sample(nets[1], prediction, start, times, sigmas, encode(nets[1], RED_BALL, [49406]))
    equal(host[0][f"latent_{prediction}"], latent)
    equal(host[0][f"picture_{prediction}"].movedim(-1, 1), decode(nets[1], latent))


CAPTION = "a red star on the left and a green ring on the right, white background"


def workflow(node, prediction, control):
    """Text to picture under one ControlNet, output 3 or 4 of the loader."""
    steer = node("ControlNetApplyAdvanced", positive=["good", 0], negative=["bad", 0], image=["hint", 0],
                 control_net=["load", 3 + control], strength=1.0, start_percent=0.0, end_percent=1.0)
    return {
        "load": node("TweedieTinyLoader", prediction=PREDICTIONS[prediction]),
        "good": node("CLIPTextEncode", text=CAPTION, clip=["load", 1]),
        "bad": node("CLIPTextEncode", text="", clip=["load", 1]),
        "hint": node("EmptyImage", width=128, height=128, batch_size=1, color=HINT_COLOUR), "steer": steer,
        "latent": node("EmptyLatentImage", width=128, height=128, batch_size=1),
        "sample": node("KSampler", seed=1, steps=12, cfg=3.0, sampler_name="euler", scheduler="simple",
                       denoise=1.0, model=["load", 0], positive=["steer", 0], negative=["steer", 1],
                       latent_image=["latent", 0]),
        "decode": node("VAEDecode", samples=["sample", 0], vae=["load", 2]),
        "save": node("SaveImage", images=["decode", 0], filename_prefix="t")}


@pytest.mark.parametrize("prediction, hint", [("v", "edges"), ("epsilon", "depth")])
def test_a_server_draws_the_demos_picture(server, prediction, hint):
    from hosts.comfyhost import node
    theirs = torch.frombuffer(bytearray(server.picture(workflow(node, prediction, hint == "depth"))),
                              dtype=torch.uint8).reshape(128, 128, 3)
    model = demo.load(prediction)
    colour = torch.tensor([HINT_COLOUR >> 16, HINT_COLOUR >> 8 & 255, HINT_COLOUR & 255]) / 255
    denoise = demo.guide(model, [CAPTION], 3.0, control=demo.load_control(model, hint),
                         hints=colour.reshape(1, 3, 1, 1).expand(1, 3, 128, 128))
    _, sigmas = simple_schedule(model.table.float(), 12)
    start = normal(1, 1, 4, 16, 16).double() * (1 + sigmas[0] ** 2).sqrt()  # as ComfyUI scales it
    ours = demo.decode(model, run("Euler", denoise, start, sigmas))[0].movedim(0, -1)
    assert (255 * ours - theirs).abs().max() < 2 and theirs.float().std() > 10
