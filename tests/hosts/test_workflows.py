"""Every example workflow, as it lies in its folder, in a real ComfyUI server: it paints what it says."""
import json

import pytest
import torch
from hosts.comfyhost import ROOT, server
from tweedie_pack.demo.reader import count_fingers, read
from tweedie_pack.demo.regions import LAYOUTS, look

WORKFLOWS = sorted((ROOT / "example_workflows").glob("*.json"))


@pytest.fixture(scope="module")
def host():
    with server() as running:
        yield running


def as_prompt(workflow):
    """The graph that the front end would send for a saved workflow."""
    links = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    graph = {}
    for node in workflow["nodes"]:
        values = dict(node.get("widgets_values_named") or {})
        values.pop("control_after_generate", None)
        values |= {put["name"]: links[put["link"]] for put in node["inputs"] if put["link"] is not None}
        graph[str(node["id"])] = {"class_type": node["type"], "inputs": values}
    return graph


def test_there_is_one_for_each_feature():
    used = {node["type"] for path in WORKFLOWS for node in json.loads(path.read_text())["nodes"]}
    assert used >= {"TweedieTinyLoader", "TweedieSchedule", "TweedieScheduleCurve", "TweedieZeroTerminalSNR",
                    "TweedieFlowShift", "TweedieMeasureSchedule", "TweedieSpectralGuidance",
                    "TweedieGuidanceProbe", "TweedieGuidanceChart", "TweedieRegionalPrompt",
                    "TweedieRegionOverlay", "TweedieControlBlend", "TweedieControlRule",
                    "TweedieControlProbe", "TweedieDetectHands", "TweedieHandRepair"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_it_runs_as_it_is(host, path):
    workflow = json.loads(path.read_text())
    first = {node["type"]: node for node in reversed(workflow["nodes"])}
    width, height = first["EmptyLatentImage"]["widgets_values"][:2]
    saved = host.picture(as_prompt(workflow), str(first["SaveImage"]["id"]))
    picture = torch.frombuffer(bytearray(saved), dtype=torch.uint8).view(height, width, 3)
    picture = picture.permute(2, 0, 1)[None].float() / 255
    if "TweedieRegionalPrompt" in first:
        layout = LAYOUTS["three columns"]
        seen = sorted(zip(layout.spots, look(layout, picture[0]), strict=True), key=lambda found: found[0].x)
        parts = first["TweedieRegionalPrompt"]["widgets_values"][0].split("BREAK")
        for part, (_, (one,)) in zip(parts, seen, strict=True):
            assert f"{one.colour} {one.shape}" in part
        return
    caption = first["CLIPTextEncode"]["widgets_values"][0]
    seen = read(torch.nn.functional.interpolate(picture, (128, 128), mode="area")[0])
    assert f"{seen.background} background" in caption and seen.subjects
    if "TweedieHandRepair" in first:
        assert count_fingers(picture[0]) == 5
    if "TweedieControlBlend" in first:
        (square,), (left, top) = seen.subjects, first["MaskComposite"]["widgets_values"][:2]
        side = min(node["widgets_values"][1] for node in workflow["nodes"] if node["type"] == "SolidMask")
        assert f"{square.colour} {square.shape}" in caption
        assert max(abs(square.x - left - side / 2), abs(square.y - top - side / 2)) < 3
        assert abs(square.area - side**2) < side**2 / 5
