"""The A1111 family's panel "Tweedie Hand Repair": hands are drawn again, and kept where they score better.

Off by default. API, in alwayson_scripts:
{"Tweedie Hand Repair": {"args": [{"enabled": true, "detector": "hand_yolov8n.pt", "candidates": 4}]}},
or the values of all widgets in their order.
"""
from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import gradio as gr
import numpy as np
import torch
from modules import devices, images, processing, scripts, shared
from PIL import Image
from torch import Tensor

from ..controls.hands import detectors
from ..controls.hands.found import Hand
from ..controls.hands.repair import Outcome, repair
from ..controls.hands.strip import strip
from ..plugin import Knob
from . import axes, host, widgets
from .hands_files import check_depth, depth_names, detector_names, find_file, open_file
from .hands_inner import INNER, Painter, Stopped, check_stopped, limits_of, to_image
from .hands_panel import NETWORK, TIPS, TITLE, Panel, key_of, knobs, label_of, part_of, read
from .regions import BATCH, Batch
from .regions_prompts import base_of

log = logging.getLogger("tweedie")
AXES = "tweedie_hand_axes"  # of p: {name: value}, what the axes of this cell have set
MENUS = {"detector": detector_names, "depth_model": depth_names}


def register() -> None:
    """Read the plugins before the panel is drawn, and give the grid script our axes."""
    host.load_strangers()
    axes.register(AXES, lambda: [(name, f"Hands: {name.replace('_', ' ')}", in_menu(name))
                                 for name in knobs()])


def in_menu(name: str) -> Knob:
    """The knob as it is drawn: with the files that are there now."""
    return knobs()[name]._replace(choices=tuple(MENUS[name]())) if name in MENUS else knobs()[name]


def is_inner(p: Any) -> bool:
    return getattr(p, INNER, False) or getattr(p, "_ad_inner", False)


def number_of(p: Any) -> int:
    """The picture's, in the whole run."""
    return p.iteration * p.batch_size + p.batch_index


def texts_of(p: Any) -> tuple[str, str]:
    """The picture's prompt and negative prompt, with extra networks, without what is for regions."""
    prompt, negative = p.all_prompts[number_of(p)], p.all_negative_prompts[number_of(p)]
    regions = getattr(p, BATCH, None)
    if isinstance(regions, Batch):
        tree = regions.first[p.batch_index]
        prompt, negative = " ".join([base_of(tree), *NETWORK.findall(prompt)]), tree.negative
    return prompt, negative


def choose(panel: Panel, found: Sequence[Hand], prompt: str, negative: str) -> list[tuple[Hand, str, str]]:
    """The hands that the panel's prompt doesn't skip, with their prompts."""
    said = [(hand, part_of(panel["prompt"], number, prompt), part_of(panel["negative"], number, negative))
            for number, hand in enumerate(found)]
    return [(hand, text, other or "") for hand, text, other in said if text is not None]


def mend(p: Any, image: Image.Image, panel: Panel) -> Outcome:
    """What became of the picture; raises Stopped when the user wants no more."""
    check_stopped()
    look = open_file(panel["detector"])
    picture = torch.from_numpy(np.array(image.convert("RGB"))).movedim(-1, 0).float() / 255

    def find(picture: Tensor, tile: bool = False) -> list[Hand]:
        check_stopped()
        return detectors.detect(look, picture, tile=tile, confidence=panel["confidence"],
                                classes=panel["classes"])

    chosen = choose(panel, find(picture, tile=True), *texts_of(p))
    painter = Painter(p, panel, [(prompt, negative) for _, prompt, negative in chosen])
    return repair(picture[None], [[hand for hand, _, _ in chosen]], painter, find, panel.settings,
                  limits_of(p.sd_model), p.all_seeds[number_of(p)], panel.depth)


def paste(image: Image.Image, done: Outcome) -> Image.Image:
    """A copy with what was repaired; every other pixel keeps its bits, and its alpha."""
    out, touched = image.copy(), (done.changed[0] > 0).byte() * 255
    out.paste(to_image(done.pictures[0]), mask=Image.fromarray(touched.numpy()))
    return out


def save(p: Any, image: Image.Image, suffix: str) -> None:
    """Beside the picture, under its own name, with its infotext; not where the host saves none."""
    if p.save_samples():
        index = p.batch_index
        text = processing.create_infotext(p, p.prompts, p.seeds, p.subseeds, index=index,
                                          all_negative_prompts=p.negative_prompts)
        images.save_image(image, p.outpath_samples, "", p.seeds[index], p.prompts[index],
                          shared.opts.samples_format, info=text, p=p, suffix=suffix)


def hand_over(p: Any) -> None:
    """Let the run hand over the given pictures as they are: neither resized, nor encoded, nor drawn."""
    pictures = [images.flatten(picture, shared.opts.img2img_background_color) for picture in p.init_images]
    if len({picture.size for picture in pictures}) > 1 or len(pictures) not in (1, p.batch_size):
        sizes = ", ".join(f"{picture.width} x {picture.height}" for picture in pictures)
        raise ValueError(f"{TITLE}: only_repair got pictures of {sizes} for a batch of {p.batch_size}; give "
                         "one, or a batch of one size")
    p.width, p.height = pictures[0].size

    def sample(**kwargs: Any):
        given = torch.stack([torch.from_numpy(np.array(picture)).movedim(-1, 0) for picture in pictures])
        values = (given + 0.5) / 127.5 - 1  # the host rounds down
        return processing.DecodedSamples(values.repeat(p.batch_size // len(pictures), 1, 1, 1))
    p.init, p.sample = lambda *texts_and_seeds: None, sample


def refuse(p: Any, error: ValueError) -> None:
    """Have the run raise it where the user sees it: hooks are swallowed."""
    def sample(**kwargs: Any):
        raise error
    p.sample = sample


def tell(p: Any, text: str, exc_info: bool = False) -> None:
    log.warning("%s: %s", TITLE, text, exc_info=exc_info)
    p.comment(f"{TITLE}: {text}")


class TweedieHandRepair(scripts.Script):
    def title(self) -> str:
        return TITLE

    def show(self, is_img2img: bool):
        return scripts.AlwaysVisible

    def ui(self, is_img2img: bool) -> list:
        controls: dict[str, gr.components.Component] = {}
        with gr.Accordion(TITLE, open=False, elem_id=self.elem_id("panel")):
            for name in knobs():
                more = {"info": TIPS[name]} if name in TIPS else {}
                more |= {"visible": False} if name == "only_repair" and not is_img2img else {}
                more |= {"elem_id": self.elem_id(name)}
                controls[name] = widgets.draw(in_menu(name), label_of(name), **more)
        self.infotext_fields = [(controls[name], widgets.from_infotext(knob, key_of(name)))
                                for name, knob in knobs().items()]
        self.paste_field_names = [key_of(name) for name in knobs()]
        return list(controls.values())

    def process(self, p, *values) -> None:
        for name in knobs():  # a grid's cells share one dict
            p.extra_generation_params.pop(key_of(name), None)
        if is_inner(p):
            return
        try:
            panel = read(values, getattr(p, AXES, None))
            if panel["enabled"]:
                find_file(panel["detector"])
                check_depth(p, panel["depth_model"])
                if panel["only_repair"] and getattr(p, "init_images", None):
                    hand_over(p)
        except ValueError as error:
            refuse(p, error)
        else:
            p.extra_generation_params.update(panel.infotext())

    def postprocess_image(self, p, done, *values) -> None:
        panel = read(values, getattr(p, AXES, None))
        if not panel["enabled"] or is_inner(p):
            return
        try:
            with torch.inference_mode(False), torch.no_grad():  # Forge's mode can't be fitted in
                outcome = mend(p, done.image, panel)
        except Stopped:
            tell(p, "stopped; the picture is as it was")
        except (ValueError, RuntimeError, OSError, ImportError, devices.NansException) as error:
            tell(p, f"{error}; the picture is as it was", exc_info=not isinstance(error, ValueError))
        else:
            self.finish(p, done, panel, outcome)

    def finish(self, p, done, panel: Panel, outcome: Outcome) -> None:
        if panel["save_strip"] and any(record.tries for record in outcome.records):
            save(p, to_image(strip(outcome.records)), "-hands")
        if bool(outcome.changed.any()):
            if panel["save_before"]:
                save(p, done.image, "-before-hands")
            done.image = paste(done.image, outcome)
