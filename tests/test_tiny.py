"""The tiny model's files: names there and back, widening that changes nothing, checkpoints for hosts."""
import pytest
import torch
from safetensors.torch import load_file
from tweedie_pack.demo.tiny import checkpoint, layout

pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

from tiny_nets import load_nets, save_nets  # noqa: E402


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    return folder, save_nets(folder)


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_names_and_values_come_back(weights):
    folder, made = weights
    loaded = load_nets(folder)
    for name, kind in checkpoint.KINDS.items():
        assert same(loaded[name].state_dict(), made[name].state_dict())
        host = checkpoint.read(name, folder)
        host.pop(checkpoint.TOKEN_NAME, None)
        assert same(layout.to_host(kind, layout.to_library(kind, host)), host)
        assert all(value.dtype == torch.float16 for value in host.values())


def test_names_are_those_of_stable_diffusion(weights):
    shapes = {name: list(value.shape) for part in ("unet_v", "vae", "text", "control_edges")
              for name, value in checkpoint.read(part, weights[0]).items()}
    assert shapes["input_blocks.3.1.transformer_blocks.0.attn2.to_k.weight"] == [64, 128]
    assert shapes["output_blocks.1.2.conv.weight"] == [64, 64, 3, 3]
    assert shapes["decoder.up.0.block.0.norm1.weight"] == [64]
    assert shapes["encoder.mid.attn_1.q.weight"] == [64, 64, 1, 1]
    assert shapes["text_model.encoder.layers.1.mlp.fc2.weight"] == [128, 512]
    assert shapes["zero_convs.3.0.weight"] == shapes["middle_block_out.0.weight"] == [64, 64, 1, 1]
    assert shapes["input_hint_block.14.weight"] == [64, 32, 3, 3]


@pytest.mark.parametrize("turn, known", [(layout.to_host, "conv_in.weight"),
                                         (layout.to_library, "input_blocks.0.0.weight")])
def test_other_networks_are_refused_by_name(turn, known):
    names = layout.NAMES["unet"]
    state = dict.fromkeys(names if turn is layout.to_library else names.values(), torch.zeros(1))
    with pytest.raises(ValueError, match="unet: aaa is unknown, 1 names differ"):
        turn("unet", state | {"aaa": torch.zeros(1)})
    del state[known]
    with pytest.raises(ValueError, match=f"unet: {known} is missing"):
        turn("unet", state)


def test_the_token_embedding_never_changes():
    table = layout.token_embedding()
    assert table.shape == (49408, 128) and table.dtype == torch.float16
    assert table[0, :3].tolist() == [0.8818359375, 0.2000732421875, 0.4892578125]
    assert table[-1, -1].item() == -0.1068115234375
    assert float(table.float().std()) == pytest.approx(layout.TOKEN_STD, rel=1e-3)


@torch.inference_mode()
def test_the_wide_text_encoder_is_six_copies(weights):
    wide = transformers.CLIPTextModel(transformers.CLIPTextConfig(
        vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
        num_attention_heads=12, max_position_embeddings=77, hidden_act="quick_gelu"))
    state = layout.widen_text(checkpoint.read("text", weights[0]))
    wide.load_state_dict({name.removeprefix("text_model."): value for name, value in state.items()})
    ids = torch.tensor([[49406, 320, 736, 1069] + [49407] * 73, [49406, *range(1000, 1075), 49407]])
    ours = weights[1]["text"](input_ids=ids).last_hidden_state
    assert float((wide.eval()(input_ids=ids).last_hidden_state - ours.repeat(1, 1, 6)).abs().max()) < 1e-5


@torch.inference_mode()
def test_a_wide_context_changes_nothing(weights):
    from diffusers import UNet2DConditionModel
    ours = weights[1]["unet_v"]
    wide = UNet2DConditionModel.from_config({**ours.config, "cross_attention_dim": 768}).eval()
    state = layout.widen_context(checkpoint.read("unet_v", weights[0]))
    wide.load_state_dict(layout.to_library("unet", state))
    x, context = torch.randn(2, 4, 16, 16), torch.randn(2, 77, 128)
    run = [net(x, torch.tensor([999, 5]), encoder_hidden_states=text).sample
           for net, text in ((ours, context), (wide, context.repeat(1, 1, 6)))]
    assert float((run[0] - run[1]).abs().max()) < 1e-5


@torch.inference_mode()
def test_a_padded_hint_changes_nothing(weights):
    from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding
    state = layout.pad_hint(checkpoint.read("control_edges", weights[0]))
    theirs = layout.to_library("control", state)
    wide = ControlNetConditioningEmbedding(64)  # the widths of Stable Diffusion's ControlNets
    wide.load_state_dict({name.partition(".")[2]: value for name, value in theirs.items()
                          if name.startswith("controlnet_cond_embedding.")})
    hint = torch.rand(1, 3, 128, 128)
    ours = weights[1]["control_edges"].controlnet_cond_embedding(hint)
    assert float((wide(hint) - ours).abs().max()) < 1e-5


def test_a_hint_encoder_that_is_too_wide_is_refused(weights):
    state = checkpoint.read("control_edges", weights[0])
    name = "input_hint_block.4"
    state |= {f"{name}.weight": torch.zeros(64, 16, 3, 3), f"{name}.bias": torch.zeros(64)}
    with pytest.raises(ValueError, match=r"input_hint_block.4 is \[64, 16, 3, 3\], wider than hosts can"):
        layout.pad_hint(state)


@pytest.mark.parametrize("prediction", ["v", "epsilon"])
def test_a_written_checkpoint_reads_back(weights, tmp_path, prediction):
    yaml = pytest.importorskip("yaml")
    path = checkpoint.write(tmp_path, prediction, weights[0])
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        f"tweedie_tiny_{prediction}.{end}" for end in ("safetensors", "yaml")]
    state = load_file(path)
    assert path.stat().st_mode & 0o044 == path.with_suffix(".yaml").stat().st_mode & 0o044
    assert state["cond_stage_model.transformer.text_model.final_layer_norm.weight"].shape == (768,)
    assert ("v_pred" in state) == ("ztsnr" in state) == (prediction == "v")
    signal = state["alphas_cumprod"]
    assert float(signal[-1]) == pytest.approx(4.897345e-08 if prediction == "v" else 0.0046602, rel=1e-4)
    params = yaml.safe_load(path.with_suffix(".yaml").read_text("utf-8"))["model"]["params"]
    assert params["parameterization"] == {"v": "v", "epsilon": "eps"}[prediction]
    unet = params["unet_config"]["params"]
    assert (unet["context_dim"], unet["num_heads"]) == (768, 4)
    assert state["model.diffusion_model.input_blocks.0.0.weight"].shape[0] == unet["model_channels"]
    assert params["first_stage_config"]["params"]["ddconfig"] == checkpoint.VAE_SIZES


def test_what_can_t_be_read_or_written_is_said(weights, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere is no folder"):
        checkpoint.write(tmp_path / "nowhere", "v", weights=weights[0])
    with pytest.raises(FileNotFoundError, match=r"vae\.safetensors is missing; install the pack again"):
        checkpoint.read("vae", tmp_path)
    with pytest.raises(ValueError, match="there is no 'unet'; take one of vae, text, unet_v"):
        checkpoint.read("unet", tmp_path)
    with pytest.raises(ValueError, match="prediction is 'x0'; take v or epsilon"):
        checkpoint.state("x0")
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = checkpoint.replace(tmp_path / "a", b"old")

    def fail(*names):
        raise OSError("disk full")
    monkeypatch.setattr(checkpoint.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.replace(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_captions_become_tokens_and_other_words_are_refused():
    from tweedie_pack.demo.tiny.words import tokenize
    ids = tokenize(["a red circle, black background", ""])
    assert ids.shape == (2, 77)
    assert ids[0, :8].tolist() == [49406, 320, 736, 7117, 267, 1449, 5994, 49407]
    assert ids[1].tolist() == [49406] + [49407] * 76
    with pytest.raises(ValueError, match=r"cat, dog in 'a dog, a cat' is not among this world's words"):
        tokenize(["a dog, a cat"])
    with pytest.raises(ValueError, match="76 words, at most 75 fit"):
        tokenize(["red " * 76])


def test_training_resumes_where_it_stopped(tmp_path, monkeypatch):
    from tweedie_pack.demo.tiny import fit
    monkeypatch.setattr(fit, "SAVE_EVERY", 3)

    def train(name, stop=None):
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Conv2d(2, 4, 3), torch.nn.Conv2d(4, 2, 3))

        def loss(step, generator):
            if step == stop:
                raise KeyboardInterrupt
            return net(torch.randn(2, 2, 8, 8, generator=generator)).square().mean()
        fit.fit(fit.Job(tmp_path, "cpu", 0, 1), name, fit.Plan(8, 2, 0.01, ("0.weight",)), net, loss)
        return net.state_dict()
    whole = train("whole")
    with pytest.raises(KeyboardInterrupt):
        train("halves", stop=5)
    assert torch.load(tmp_path / "halves.pt", weights_only=True)["step"] == 3
    assert same(train("halves"), whole)


def test_the_shipped_model_paints_what_it_is_asked():
    from tweedie_pack.demo.reader import judge
    from tweedie_pack.demo.sampling import sample
    from tweedie_pack.demo.tiny.model import decode, guide, load
    from tweedie_pack.demo.world import Scene, Shape
    from tweedie_pack.samplers.recommend import recommended
    model = load("v")
    scene = Scene((Shape("ring", "blue", "on the left", 36, 64, 28, 0),), "yellow")
    sigmas = recommended(10, model.table, "multistep")
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    denoise = guide(model, [scene.caption], 4.0)
    picture = decode(model, sample("DPM-Solver++ 2M", denoise, sigmas[0] * noise, sigmas))
    assert all(judge(scene, picture[0]).values())
    assert not judge(Scene(scene.subjects, "red"), picture[0])["background"]
