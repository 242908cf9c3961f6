"""Hand repair: find hands, draw them again at the size that fingers need, keep what scores better."""
from __future__ import annotations

import logging
from typing import NamedTuple

import comfy.model_management as management
import comfy.samplers
import torch
from comfy_api.latest import io
from torch import Tensor

from ..controls.hands import detectors
from ..controls.hands.found import Hand
from ..controls.hands.prepare import Settings
from ..controls.hands.repair import repair
from ..controls.hands.sketch import draw_maps, mask_of, sketch
from ..controls.hands.strip import strip
from ..plugin import read_knobs
from .hand_files import files, open_file
from .hand_inputs import box_of, given_hands
from .hand_painter import Depth, Painter, Sampling, enlarger, limits_of
from .widgets import widget

log = logging.getLogger("tweedie")
CATEGORY = "tweedie/hands"
DetectorType = io.Custom("HAND_DETECTOR")
HandsType = io.Custom("TWEEDIE_HANDS")
PoseType = io.Custom("POSE_KEYPOINT")
SIDES = {"auto": 0, "right": 1, "left": -1}


class Hands(NamedTuple):
    """Hands of each picture of a batch of this size (H, W), and the detector that looks again."""

    found: list[list[Hand]]
    size: tuple[int, int]
    look: detectors.Detector
    confidence: float


def pictures_of(image: Tensor) -> Tensor:
    """IMAGE [B,H,W,C] as [B,3,H,W] float32."""
    return image[..., :3].movedim(-1, 1).float().cpu()


def scenes_of(depth: Tensor | None, hands: Hands) -> list[Tensor | None]:
    """Each picture's own depth [H,W], if there is one."""
    if depth is None:
        return [None] * len(hands.found)
    scenes = list(pictures_of(depth).mean(1))
    if len(scenes) != len(hands.found) or tuple(scenes[0].shape) != hands.size:
        raise ValueError(f"Hand depth: it is {list(depth.shape[:3])} for pictures of "
                         f"{[len(hands.found), *hands.size]}; estimate it from the same pictures")
    return scenes


class TweedieHandDetector(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TweedieHandDetector", display_name="Tweedie Hand Detector", category=CATEGORY,
            description="Loads a detector without running anything that its file holds. YOLO files go into "
                        "models/ultralytics, MediaPipe's hand_landmarker.task into models/mediapipe.",
            search_aliases=["load yolo", "ultralytics detector", "hand_yolov8n", "mediapipe hands"],
            inputs=[io.Combo.Input("model_file", options=files(), tooltip=(
                "The first comes with the pack and knows drawn hands; for photographs take another."))],
            outputs=[DetectorType.Output(display_name="detector")])

    @classmethod
    def execute(cls, model_file) -> io.NodeOutput:
        return io.NodeOutput(open_file(model_file))


class TweedieDetectHands(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TweedieDetectHands", display_name="Tweedie Detect Hands", category=CATEGORY,
            description="Hands of a picture: found by a detector, or as other nodes found them, as mask, "
                        "boxes or pose; the detector then looks for their joints.",
            search_aliases=["hand detection", "find hands", "bbox detector", "segs"],
            inputs=[
                io.Image.Input("image"),
                DetectorType.Input("detector", optional=True, tooltip="Without one, the pack's own."),
                io.Mask.Input("mask", optional=True, tooltip="Each connected part is a hand."),
                io.BoundingBox.Input("bounding_box", optional=True, force_input=True),
                PoseType.Input("pose_keypoint", optional=True),
                io.Float.Input("confidence", default=0.3, min=0.0, max=1.0, step=0.01),
                io.Combo.Input("side", options=list(SIDES), default="auto", tooltip=(
                    "Which hands they are. Auto: as the detector says, else both are tried.")),
                io.Boolean.Input("tiled", default=True, tooltip="Look again, closer, for small hands."),
                io.String.Input("classes", default="", optional=True, advanced=True, tooltip=(
                    "Names of a detector's classes, by commas; empty for all.")),
                *(io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.001, optional=True,
                                 advanced=True, tooltip=f"{tip} share of the picture that a box covers.")
                  for name, default, tip in (("smallest", 0.0, "Least"), ("largest", 1.0, "Most"))),
            ],
            outputs=[HandsType.Output(display_name="hands"), io.Mask.Output(),
                     io.BoundingBox.Output(display_name="bounding_box"),
                     io.Image.Output(display_name="preview")])

    @classmethod
    def execute(cls, image, confidence, side, tiled, detector=None, mask=None, bounding_box=None,
                pose_keypoint=None, classes="", smallest=0.0, largest=1.0) -> io.NodeOutput:
        pictures, look = pictures_of(image), detector or open_file(files()[0])
        size = tuple(pictures.shape[2:])
        given = any(one is not None for one in (mask, bounding_box, pose_keypoint))
        found = []
        for index, picture in enumerate(pictures):
            management.throw_exception_if_processing_interrupted()
            if given:
                hands = given_hands(mask, bounding_box, pose_keypoint, size, index)
                hands = detectors.with_joints(hands, look, picture)
            else:
                hands = detectors.detect(look, picture, confidence=confidence, tile=tiled, classes=classes,
                                         smallest=smallest, largest=largest)
            found.append([hand._replace(side=SIDES[side] or hand.side) for hand in hands])
            log.info("Detect hands: %d in picture %d", len(hands), index + 1)
        hands = Hands(found, size, look, confidence)
        return io.NodeOutput(
            hands, torch.stack([mask_of(row, size) for row in found]),
            [[box_of(hand, size) for hand in row] for row in found],
            torch.stack([sketch(*pair) for pair in zip(pictures, found, strict=True)]).movedim(1, -1))


class TweedieHandPose(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TweedieHandPose", display_name="Tweedie Hand Pose", category=CATEGORY,
            description="A five-finger hand fitted to the joints of each hand, drawn as depth and as "
                        "OpenPose map for ControlNets. No model of a body is needed.",
            search_aliases=["hand depth", "hand refiner", "meshgraphormer", "openpose hand"],
            inputs=[HandsType.Input("hands"),
                    io.Image.Input("depth", optional=True, tooltip=(
                        "Depth of the whole picture, near being white: hands are set into it. Without it the "
                        "background is black, which most depth ControlNets take for far away."))],
            outputs=[io.Image.Output(display_name="depth"), io.Image.Output(display_name="pose")])

    @classmethod
    def execute(cls, hands, depth=None) -> io.NodeOutput:
        scenes = scenes_of(depth, hands)
        maps = [draw_maps(row, hands.size, scene) for row, scene in zip(hands.found, scenes, strict=True)]
        bare = sum(hand.joints is None for row in hands.found for hand in row)
        if bare:
            log.warning("Hand pose: %d hands have no joints and are left out; detectors that find joints are "
                        "MediaPipe and YOLO pose models", bare)
        return io.NodeOutput(*(torch.stack(drawn).movedim(1, -1) for drawn in zip(*maps, strict=True)))


class TweedieHandRepair(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        knobs = {knob.name: widget(knob) for knob in read_knobs(Settings)}
        return io.Schema(
            node_id="TweedieHandRepair", display_name="Tweedie Hand Repair", category=CATEGORY,
            description="Draws hands again, several tries in one batch, at the size that fingers need, and "
                        "pastes the best one if it scores better than the original. Good hands are not "
                        "touched, and no pixel outside the mask changes.",
            search_aliases=["detailer", "adetailer", "fix hands", "hand refiner", "inpaint hands"],
            inputs=[
                io.Image.Input("image"), HandsType.Input("hands"), io.Model.Input("model"),
                io.Vae.Input("vae"),
                io.Conditioning.Input("positive", tooltip="Say what the hand does, as in: an open hand. "
                                                          "Areas, masks and controls are left out."),
                io.Conditioning.Input("negative"),
                io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True),
                io.Int.Input("steps", default=20, min=1, max=1000),
                io.Float.Input("cfg", default=7.0, min=0.0, max=100.0, step=0.1),
                io.Combo.Input("sampler", options=comfy.samplers.KSampler.SAMPLERS, default="dpmpp_2m"),
                io.Combo.Input("scheduler", options=comfy.samplers.KSampler.SCHEDULERS, default="karras"),
                io.Float.Input("denoise", default=0.7, min=0.01, max=1.0, step=0.01, tooltip=(
                    "A finger that is too many goes from about 0.6 on.")),
                *knobs.values(),
                io.ControlNet.Input("control_net", optional=True, tooltip=(
                    "A depth ControlNet: it is given the fitted five-finger hand.")),
                io.Float.Input("control_strength", default=0.55, min=0.0, max=10.0, step=0.05, optional=True),
                io.Float.Input("control_end", default=0.75, min=0.0, max=1.0, step=0.01, optional=True),
                io.Image.Input("depth", optional=True, tooltip="The image's own, the hand's goes into it."),
                io.UpscaleModel.Input("upscale_model", optional=True, tooltip="Enlarges small hands first."),
            ],
            outputs=[io.Image.Output(), io.Mask.Output(display_name="changed"),
                     io.String.Output(display_name="report"), io.Image.Output(display_name="before_after")])

    @classmethod
    def execute(cls, image, hands, model, vae, positive, negative, seed, steps, cfg, sampler, scheduler,
                denoise, control_net=None, control_strength=0.55, control_end=0.75, depth=None,
                upscale_model=None, **settings) -> io.NodeOutput:
        if tuple(image.shape[:3]) != (len(hands.found), *hands.size):
            raise ValueError(f"Hand repair: the image is {list(image.shape[:3])}, its hands were found in "
                             f"{[len(hands.found), *hands.size]}; detect them in this image")
        control = None
        if control_net is not None and control_strength > 0:
            control = Depth(control_net, control_strength, control_end)
        painter = Painter(model, vae, positive, negative, Sampling(steps, cfg, sampler, scheduler, denoise),
                          control)

        def find(crop: Tensor) -> list[Hand]:
            management.throw_exception_if_processing_interrupted()
            return detectors.detect(hands.look, crop, confidence=hands.confidence, tile=False)

        done = repair(pictures_of(image), hands.found, painter, find, Settings(**settings),
                      limits_of(model, vae), seed, control is not None, scenes_of(depth, hands),
                      enlarger(upscale_model) if upscale_model is not None else None)
        out = image.clone()  # what isn't repaired keeps its bits, and its alpha
        for row, picture, changed in zip(out, done.pictures, done.changed > 0, strict=True):
            row[..., :3][changed] = picture.movedim(0, -1)[changed].to(out)
        return io.NodeOutput(out, done.changed, done.report, strip(done.records).movedim(0, -1)[None])


NODES = [TweedieHandDetector, TweedieDetectHands, TweedieHandPose, TweedieHandRepair]
