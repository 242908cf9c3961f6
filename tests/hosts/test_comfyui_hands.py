"""Hand repair in a real ComfyUI server: frozen names, two drawn hands, full-size nets, interrupts, memory."""
import pathlib
import time

import numpy as np
import pytest
from hosts.comfyhost import node, server, txt2img
from PIL import Image
from tweedie_pack.demo.world import Hand, Scene, draw

DRAWN = "drawn hands (comes with Tweedie)"
HEIGHT, WIDTH = 256, 384
HANDS = tuple(Hand("open", None, skin, x, 128.0, 95.0, angle, 0.0, 0.0, side, 1.0, 3.0)
              for skin, x, angle, side in ((1, 100.0, -8.0, 1), (2, 285.0, 6.0, -1)))


@pytest.fixture(scope="module")
def host():
    with server() as running:
        picture = draw(Scene(HANDS, "blue"), HEIGHT, WIDTH).image
        pixels = (picture * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(running.base / "input" / "hands.png")
        painted = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        painted[70:190, 50:150] = 255
        Image.fromarray(painted).save(running.base / "input" / "mask.png")
        yield running


def graph(saved="image", count=1, tiny=True, detect=None, **changes):
    """LoadImage -> detect -> repair -> SaveImage of one of its outputs, by the tiny or the full model."""
    load = txt2img()["load"] if not tiny else node("TweedieTinyLoader", prediction="v, zero terminal SNR")
    good, bad = (dict(txt2img()[name]) for name in ("good", "bad"))
    good["inputs"] = {**good["inputs"], "text": good["inputs"]["text"].replace(
        "a red ball", "an open hand, blue background")}
    settings = {"seed": 3, "steps": 4, "cfg": 5.0, "sampler": "euler", "scheduler": "normal",
                "denoise": 0.7, "candidates": 2, "cells_per_finger": 1.0, "context": 1.4, "gate": 1.0,
                "margin": 0.0, **changes}
    slot = {"image": 0, "before_after": 3}
    return {
        "load": load, "good": good, "bad": bad, "file": node("LoadImage", image="hands.png"),
        "batch": node("RepeatImageBatch", image=["file", 0], amount=count),
        "hands": node("TweedieDetectHands", **{"image": ["batch", 0], "confidence": 0.3, "side": "auto",
                                               "tiled": True, **(detect or {})}),
        "repair": node("TweedieHandRepair", **{
            "image": ["batch", 0], "hands": ["hands", 0], "model": ["load", 0], "vae": ["load", 2],
            "positive": ["good", 0], "negative": ["bad", 0], **settings}),
        "report": node("PreviewAny", source=["repair", 2]),
        "save": node("SaveImage", images=["repair", slot[saved]], filename_prefix="t")}


def report(outputs):
    return outputs["outputs"]["report"]["text"][0]


def original(host):
    return Image.open(host.base / "input" / "hands.png").convert("RGB").tobytes()


def test_the_nodes_have_their_frozen_names(host):
    nodes = host.get("/object_info")

    def names(kind, part):
        return list(nodes[kind]["input"].get(part, {}))
    assert names("TweedieHandDetector", "required") == ["model_file"]
    assert nodes["TweedieHandDetector"]["output"] == ["HAND_DETECTOR"]
    assert names("TweedieDetectHands", "required") == ["image", "confidence", "side", "tiled"]
    assert names("TweedieDetectHands", "optional") == [
        "detector", "mask", "bounding_box", "pose_keypoint", "classes", "smallest", "largest"]
    assert nodes["TweedieDetectHands"]["output"] == ["TWEEDIE_HANDS", "MASK", "BOUNDING_BOX", "IMAGE"]
    assert names("TweedieHandPose", "required") == ["hands"]
    assert names("TweedieHandPose", "optional") == ["depth"]
    assert nodes["TweedieHandPose"]["output"] == ["IMAGE", "IMAGE"]
    assert names("TweedieHandRepair", "required") == [
        "image", "hands", "model", "vae", "positive", "negative", "seed", "steps", "cfg", "sampler",
        "scheduler", "denoise", "candidates", "cells_per_finger", "context", "gate", "margin"]
    assert names("TweedieHandRepair", "optional") == [
        "control_net", "control_strength", "control_end", "depth", "upscale_model"]
    assert nodes["TweedieHandRepair"]["output"] == ["IMAGE", "MASK", "STRING", "IMAGE"]


def test_the_packs_own_detector_finds_both_hands(host):
    asked = graph(detect={"detector": ["detector", 0]}, candidates=1)
    asked["detector"] = node("TweedieHandDetector", model_file=DRAWN)
    asked["mask"] = node("MaskToImage", mask=["hands", 1])
    asked["save"]["inputs"]["images"] = ["mask", 0]
    del asked["repair"], asked["report"]
    mask = np.frombuffer(host.picture(asked), np.uint8).reshape(HEIGHT, WIDTH, 3)[..., 0] > 127
    drawn = draw(Scene(HANDS, "blue"), HEIGHT, WIDTH).depth[0].numpy() > 0.1
    assert (mask[:, :192] & drawn[:, :192]).any() and (mask[:, 192:] & drawn[:, 192:]).any()
    assert (mask & drawn).sum() > 0.8 * mask.sum()


def test_good_hands_and_no_hands_pass_bit_for_bit(host):
    assert host.picture(graph(gate=0.0)) == original(host)
    none = graph(detect={"confidence": 1.0})
    assert host.picture(none) == original(host)
    assert "no hands in picture 1" in host.log.read_text()


def test_a_batch_is_repaired_as_its_pictures_alone(host):
    """Outside the masks nothing changes; the report has a line for each crop."""
    alone = host.run(graph())
    lines = report(alone).splitlines()
    assert len(lines) == 2 and all("128 x 128 pixels" in line for line in lines)
    both = report(host.run(graph(count=2))).splitlines()
    assert both[:2] == lines and [line.replace("picture 2", "picture 1") for line in both[2:]] == lines


def test_depth_and_strip_come_out_of_the_tiny_models_control(host):
    asked = graph("before_after", control_net=["load", 4])
    assert len(host.picture(asked)) == 2 * 264 * 4 * 256 * 3
    maps = {**asked, "pose": node("TweedieHandPose", hands=["hands", 0])}
    maps["save"] = node("SaveImage", images=["pose", 0], filename_prefix="t")
    depth = np.frombuffer(host.picture(maps), np.uint8).reshape(HEIGHT, WIDTH, 3)
    near = draw(Scene(HANDS, "blue"), HEIGHT, WIDTH).depth[0].numpy()
    assert depth[near == 0].mean() < 8 and depth[near > 0.3].mean() > 60


def test_a_painted_mask_says_where(host):
    asked = graph(detect={"mask": ["paint", 1]})
    asked["paint"] = node("LoadImageMask", image="mask.png", channel="red")
    asked["hands"]["inputs"]["mask"] = ["paint", 0]
    assert len(report(host.run(asked)).splitlines()) == 1


@pytest.mark.parametrize(("change", "reason"), [
    ({"detect": {"confidence": 2.0}}, "confidence"), ({"candidates": 0}, "candidates"),
    ({"image": ["file", 0], "count": 2}, "detect them in this image"),
], ids=["confidence", "candidates", "another image"])
def test_bad_input_is_refused_with_the_reason(host, change, reason):
    with pytest.raises(RuntimeError, match=reason):
        host.run(graph(**change))


def memory(host):
    """Resident bytes of the server."""
    return int(pathlib.Path(f"/proc/{host.process.pid}/statm").read_text().split()[1]) * 4096


def test_a_full_size_model_is_interrupted_within_a_step_and_leaves_no_memory(host):
    """Random weights: what they paint never beats the margin, so that the picture stays as it is."""
    def asked(seed, steps=1):
        full = graph(tiny=False, candidates=1, steps=steps, margin=1.0, seed=seed)
        full["paint"] = node("LoadImageMask", image="mask.png", channel="red")
        full["hands"]["inputs"]["mask"] = ["paint", 0]
        return full
    assert host.picture(asked(3)) == original(host)
    before, start = memory(host), time.time()
    assert host.picture(asked(4)) == original(host)
    whole = time.time() - start  # one step, and both ways through the VAE
    ticket = host.queue(asked(5, 60))
    time.sleep(1.5 * whole)
    host.post("/interrupt", {})
    start = time.time()
    with pytest.raises(RuntimeError, match="interrupted"):
        host.finish(ticket)
    assert time.time() - start < whole + 2
    assert host.picture(asked(6)) == original(host)
    assert memory(host) < before + 300e6
