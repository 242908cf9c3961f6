"""The regions' nodes in a real ComfyUI server: odd sizes, other nodes, interrupts, errors."""
import time

import pytest
import torch
from hosts.comfyhost import node, server, txt2img
from safetensors.torch import save_file

SIZES = [(512, 320), (520, 328)]
THREE = "a red cat BREAK a green dog BREAK a blue bird"


@pytest.fixture(scope="module")
def host():
    with server() as running:
        folder = running.base / "models" / "loras"
        folder.mkdir(exist_ok=True)
        save_file(random_lora(), folder / "random.safetensors")
        yield running


def random_lora(rank=4):
    """For the self attention of the first block of an SD1.5 of 320 channels."""
    generator = torch.Generator().manual_seed(0)
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_{}.lora_{}.weight"
    return {name.format(layer, part): torch.randn(shape, generator=generator) * 0.2
            for layer in "qkv" for part, shape in (("down", (rank, 320)), ("up", (320, rank)))}


def regional(text=THREE, clip=("load", 1), **changes):
    return node("TweedieRegionalPrompt", **{
        "model": ["load", 0], "clip": list(clip), "text": text, "negative": "", "width": 512, "height": 320,
        "mode": "attention", "layout": "columns", "ratios": "1,1,1", "base_ratio": "0.2", "feather": 0.0,
        "start_percent": 0.0, "end_percent": 1.0, **changes})


def stock(size=(64, 64), steps=1, **extra):
    graph = txt2img(steps=steps, **extra)
    graph["latent"]["inputs"] |= {"width": size[0], "height": size[1]}
    return graph


def through(ours, size=(64, 64), steps=1, **extra):
    """The stock graph with our node between loader and sampler."""
    graph = stock(size, steps, ours=ours, **extra)
    graph["sample"]["inputs"] |= {"model": ["ours", 0], "positive": ["ours", 1], "negative": ["ours", 2]}
    return graph


def test_the_nodes_have_their_frozen_names(host):
    nodes = host.get("/object_info")
    prompt = nodes["TweedieRegionalPrompt"]
    assert list(prompt["input"]["required"]) == [
        "model", "clip", "text", "negative", "width", "height", "mode", "layout", "ratios", "base_ratio",
        "feather", "start_percent", "end_percent"]
    assert prompt["input"]["required"]["mode"][1]["options"] == ["attention", "latent"]
    assert prompt["input"]["required"]["layout"][1]["options"] == ["columns", "rows"]
    assert prompt["output"] == ["MODEL", "CONDITIONING", "CONDITIONING", "IMAGE", "STRING"]
    assert nodes["TweedieRegion"]["output"] == ["TWEEDIE_REGION"]
    assert list(nodes["TweedieRegions"]["input"]["required"]) == ["model", "positive", "negative", "regions",
                                                                  "mode"]
    assert nodes["TweedieRegions"]["output"][:4] == ["MODEL", "CONDITIONING", "CONDITIONING", "IMAGE"]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
def test_three_regions_at_every_size(host, size):
    """Each mode paints a picture of its own; as many BREAKs of one text paint the untouched one's again."""
    box = {"width": size[0], "height": size[1]}
    plain = host.picture(stock(size))
    attention = host.picture(through(regional(**box), size))
    latent = host.picture(through(regional(mode="latent", **box), size))
    assert len({plain, attention, latent}) == 3
    alike = host.picture(through(regional("a red ball BREAK a red ball BREAK a red ball", **box), size))
    assert max(abs(a - b) for a, b in zip(alike, plain, strict=True)) <= 1


def test_an_interrupt_leaves_the_next_picture_untouched(host):
    plain = host.picture(stock(steps=2))
    ticket = host.queue(through(regional(), (512, 320), steps=40))
    time.sleep(20)
    host.post("/interrupt", {})
    with pytest.raises(RuntimeError, match="interrupted"):
        host.finish(ticket)
    assert host.picture(stock(steps=2)) == plain


def test_beside_a_lora_and_a_region_built_by_hand(host):
    """A stock LoRA loader in front; a region from a stock mask, without and with a LoRA of its own."""
    lora = node("LoraLoader", model=["load", 0], clip=["load", 1], lora_name="random.safetensors",
                strength_model=1.0, strength_clip=1.0)
    found = [host.picture(through(regional())),
             host.picture(through(regional(model=["lora", 0], clip=("lora", 1)), lora=lora))]
    parts = {"mask": node("SolidMask", value=1.0, width=64, height=64),
             "half": node("MaskComposite", destination=["mask", 0], source=["none", 0], x=32, y=0,
                          operation="multiply"),
             "none": node("SolidMask", value=0.0, width=64, height=64)}
    for own in ("none", "random.safetensors"):
        region = node("TweedieRegion", conditioning=["good", 0], mask=["half", 0], weight=1.0, feather=0.1,
                      cfg=9.0, start_percent=0.0, end_percent=1.0, lora=own, lora_strength=1.0)
        joined = node("TweedieRegions", model=["load", 0], positive=["bad", 0], negative=["bad", 0],
                      mode="attention", **{"regions.region0": ["region", 0]})
        found.append(host.picture(through(joined, region=region, **parts)))
    assert len(set(found)) == 4


def test_beside_a_stock_controlnet_on_the_tiny_model(host):
    loader = {"load": node("TweedieTinyLoader", prediction="epsilon")}
    hint = {"hint": node("EmptyImage", width=128, height=128, batch_size=1, color=0),
            "control": node("ControlNetApplyAdvanced", positive=["ours", 1], negative=["ours", 2],
                            control_net=["load", 3], image=["hint", 0], strength=1.0, start_percent=0.0,
                            end_percent=1.0)}
    text = "a red circle on the left BREAK a blue star on the right"
    ours = regional(text, width=128, height=128, ratios="1,1")
    free = through(ours, (128, 128), steps=2, **loader)
    tied = through(ours, (128, 128), steps=2, **loader, **hint)
    tied["sample"]["inputs"] |= {"positive": ["control", 0], "negative": ["control", 1]}
    for graph in (free, tied):
        graph["good"]["inputs"]["text"] = "a red circle" + graph["good"]["inputs"]["text"][10:]
    assert host.picture(free) != host.picture(tied)


@pytest.mark.parametrize(("change", "reason"), [
    ({"start_percent": 0.8, "end_percent": 0.2}, "swap them"),
    ({"feather": 2.0}, "feather"),
    ({"mode": "telepathy"}, "mode"),
    ({"width": 0}, "width"),
])
def test_bad_input_is_refused_with_the_reason(host, change, reason):
    with pytest.raises(RuntimeError, match=reason):
        host.run(through(regional(**change)))


@pytest.mark.parametrize("text", ["", "BREAK BREAK BREAK", "(((BREAK:9e99)", "ADDBASE ADDCOMM AND <lora:x:1>",
                                  "\u202e ADDCOL \x00 ADDROW 猫"])
def test_hostile_text_still_paints(host, text):
    assert host.picture(through(regional(text, ratios="0,0;;1e999,-3,x")))


def test_a_mask_without_anything_in_it_is_refused(host):
    empty = node("SolidMask", value=0.0, width=64, height=64)
    region = node("TweedieRegion", conditioning=["good", 0], mask=["none", 0], weight=1.0, feather=0.0,
                  cfg=0.0, start_percent=0.0, end_percent=1.0)
    joined = node("TweedieRegions", model=["load", 0], positive=["good", 0], negative=["bad", 0],
                  mode="attention", **{"regions.region0": ["region", 0]})
    with pytest.raises(RuntimeError, match="mask is empty"):
        host.run(through(joined, region=region, none=empty))


@pytest.mark.parametrize("mode", ["attention", "latent"])
def test_the_layout_is_laid_over_the_picture(host, mode):
    def look(opacity):
        graph = through(regional(mode=mode), over=node(
            "TweedieRegionOverlay", image=["decode", 0], positive=["ours", 1], opacity=opacity))
        graph["save"]["inputs"]["images"] = ["over", 0]
        return host.picture(graph)

    plain = host.picture(through(regional(mode=mode)))
    assert look(0.0) == plain != look(0.5)
