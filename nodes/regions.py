"""Regional prompting: what is said where, in one prompt text or as one node a region.

Attention mode routes each place of the picture to its own texts within the model's own calls; latent mode
runs the model once a region and blends the results, which every model can.
"""
from __future__ import annotations

from dataclasses import replace

import folder_paths
import torch
from comfy_api.latest import io
from torch import Tensor

from ..controls.grammar import Tree, parse
from ..controls.masks import box_mask
from ..controls.preview import draw_layout
from ..controls.regions import MaskSet, Region, check_region, gather
from ..samplers.sheet import load_font
from .adapters import Lora, read_loras
from .families import find_family
from .latent_regions import mask_entries
from .places import Place, canvas, first_box, one_text
from .regional import KEY, Plan, add_regions, with_scales
from .regional_lora import add_loras, carry_loras

CATEGORY = "tweedie/regions"
MODES = ["attention", "latent"]
RegionType = io.Custom("TWEEDIE_REGION")
NO_FAMILY = ("mode attention is not there for this model ({}), so latent mode was used: the model runs once "
             "a region")
NO_LORA = "none"
TRIMMED = ("t5xxl_min_length", "t5xxl_min_padding")  # region texts keep their true length


def encode(clip, text: str) -> list:
    if clip is None:
        raise ValueError("Regional prompt: there is no text encoder, as the checkpoint has none; connect a "
                         "CLIP loader")
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def encode_regions(clip, texts: list[str]) -> tuple[list, ...]:
    """A CONDITIONING for each text, without the T5 padding that the model's own prompt has."""
    bare = clip.clone()
    for option in TRIMMED:
        bare.set_tokenizer_option(option, 0)
    encoded = {text: one_text(encode(bare, text), f"Region {text[:40]!r}") for text in dict.fromkeys(texts)}
    return tuple(encoded[text] for text in texts)


def carry(conditioning: list, plan: Plan) -> list:
    """The conditioning, each entry carrying the plan; a region without a text of its own has the entry's."""
    def own(text, values):
        return replace(plan, texts=tuple(given or [[text, values]] for given in plan.texts))

    return [[text, {**values, KEY: own(text, values)}] for text, values in conditioning]


def apply(model, positive: list, negative: list, masks: MaskSet, texts: tuple[list, ...],
          negatives: tuple[list | None, ...] | None, mode: str, isolation: float = 0.0,
          loras: tuple[Lora | None, ...] = ()) -> tuple:
    """Model, positive, negative with regions, and what to tell the user about how.

    negatives: of the regions, None for the prompt's; or None altogether, where the negative is left as it is.
    """
    family, loras = find_family(model), loras or (None,) * len(texts)
    told = [f"region {number}: {lora.tell()}" for number, lora in enumerate(loras, 1) if lora is not None]
    model = add_loras(model) if told else model
    if mode == "attention" and family is not None:
        positive = carry(positive, Plan(masks, texts, isolation, loras))
        if negatives is not None:
            negative = carry(negative, Plan(masks, negatives, isolation, loras))
        said = "\n".join([f"mode attention, {family.name}", *told])
        return add_regions(model, masks), positive, negative, said
    said = "mode latent" if mode == "latent" else NO_FAMILY.format(type(model.model).__name__)
    positive = mask_entries(positive, masks, carry_loras(texts, loras))
    if negatives is not None:
        whole = tuple(own or negative for own in negatives)
        negative = mask_entries(negative, masks, carry_loras(whole, loras))
    return with_scales(model, masks), positive, negative, "\n".join([said, *told])


def picture_of(masks: MaskSet, names: list[str]) -> Tensor:
    """The layout as IMAGE [1,H,W,3]."""
    return draw_layout(masks.shares(tuple(range(len(names)))), names, load_font)[None]


def tell(tree: Tree, said: str) -> str:
    stands_in = "" if tree.base is not None else ", where no region acts"
    lines = [said, f"base{stands_in}: {tree.base or tree.whole}"]
    for number, cell in enumerate(tree.cells, 1):
        x0, y0, x1, y1 = (f"{100 * value:.0f}" for value in cell.box)
        lines.append(f"region {number}, {x0} to {x1} % across, {y0} to {y1} % down: {cell.text}")
    lines += [f"{note.source}, character {note.at + 1}: {note.text}" for note in tree.notes]
    return "\n".join(lines)


class TweedieRegionalPrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TweedieRegionalPrompt", display_name="Tweedie Regional Prompt", category=CATEGORY,
            description="One prompt that says what goes where: regions parted by BREAK, ADDCOL and ADDROW, "
                        "with ADDBASE for the whole picture and ADDCOMM for what all regions share.",
            search_aliases=["regional prompter", "attention couple", "latent couple", "BREAK", "ADDCOL"],
            inputs=[
                io.Model.Input("model"), io.Clip.Input("clip"),
                io.String.Input("text", multiline=True, dynamic_prompts=True),
                io.String.Input("negative", multiline=True, dynamic_prompts=True),
                io.Int.Input("width", default=512, min=16, max=16384, step=8),
                io.Int.Input("height", default=512, min=16, max=16384, step=8),
                io.Combo.Input("mode", options=MODES, default="attention", tooltip=(
                    "attention: within the model's own calls, at almost no cost. latent: the model runs once "
                    "a region.")),
                io.Combo.Input("layout", options=["columns", "rows"], default="columns"),
                io.String.Input("ratios", default="1,1", tooltip=(
                    "Sizes of the regions: 1,2,1. Two levels: 1,2,1;2,4,6, where the first number of each "
                    "part is the row's height (columns) or the column's width (rows).")),
                io.String.Input("base_ratio", default="0.2", tooltip=(
                    "Share of the base prompt (ADDBASE) in each region, 0 to 1; one number, or several.")),
                io.Float.Input("feather", default=0.0, min=0.0, max=1.0, step=0.01, tooltip=(
                    "Width of the soft edge between regions, as a share of the region's own size.")),
                io.Float.Input("start_percent", default=0.0, min=0.0, max=1.0, step=0.01),
                io.Float.Input("end_percent", default=1.0, min=0.0, max=1.0, step=0.01, tooltip=(
                    "Outside start and end the base prompt, or where there is none the whole text, acts "
                    "alone.")),
                isolation_input(),
            ],
            outputs=outputs())

    @classmethod
    def execute(cls, model, clip, text, negative, width, height, mode, layout, ratios, base_ratio, feather,
                start_percent, end_percent, isolation=0.0) -> io.NodeOutput:
        """A prompt without regions is the host's own, untouched."""
        tree = parse(text, negative, layout=layout, ratios=ratios, base_ratio=base_ratio)
        size = height, width
        regions = [Region(box_mask(cell.box, size), base_ratio=cell.base_ratio, start=start_percent,
                          end=end_percent) for cell in tree.cells]
        masks = gather(regions, size, [feather] * len(regions))
        if tree.base is None and [cell.text for cell in tree.cells] == [tree.whole]:
            said = "one prompt, no regions"
            positive, against = encode(clip, tree.whole), encode(clip, negative)
        else:
            own = [cell.negative for cell in tree.cells]
            model, positive, against, said = apply(
                model, encode(clip, tree.base or tree.whole), encode(clip, tree.negative), masks,
                encode_regions(clip, [cell.text for cell in tree.cells]),
                encode_regions(clip, own) if set(own) != {tree.negative} else None, mode, isolation)
        return io.NodeOutput(model, positive, against, picture_of(masks, [cell.text for cell in tree.cells]),
                             tell(tree, said))


def outputs() -> list[io.Output]:
    return [io.Model.Output(), io.Conditioning.Output("positive"), io.Conditioning.Output("negative"),
            io.Image.Output("layout"), io.String.Output("report")]


def isolation_input() -> io.Input:
    return io.Float.Input(
        "isolation", default=0.0, min=0.0, max=1.0, step=0.01, optional=True, advanced=True, tooltip=(
            "Share of the run, from its start, in which a region's part of the picture does not see the "
            "others' (transformer models, mode attention). Strict, but much of it makes separate pictures."))


class TweedieRegion(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TweedieRegion", display_name="Tweedie Region", category=CATEGORY,
            description="A part of the picture with its own prompt, for Tweedie Regions. Without a mask and "
                        "a box it is the whole picture.",
            search_aliases=["regional prompt", "mask conditioning", "area"],
            inputs=[
                io.Conditioning.Input("conditioning"),
                io.Conditioning.Input("negative", optional=True, tooltip=(
                    "A negative prompt of its own. In mode attention it costs no extra model call.")),
                io.Mask.Input("mask", optional=True),
                io.BoundingBox.Input("box", optional=True, force_input=True, tooltip="In pixels."),
                io.Float.Input("weight", default=1.0, min=0.0, max=100.0, step=0.05, tooltip=(
                    "Against other regions where they overlap; 0 takes the region out.")),
                io.Float.Input("feather", default=0.0, min=0.0, max=1.0, step=0.01, tooltip=(
                    "Width of the soft edge, as a share of the region's own size.")),
                io.Float.Input("cfg", default=0.0, min=0.0, max=100.0, step=0.1, tooltip=(
                    "Guidance scale inside; 0 takes the sampler's. It needs a negative pass.")),
                io.Float.Input("start_percent", default=0.0, min=0.0, max=1.0, step=0.01),
                io.Float.Input("end_percent", default=1.0, min=0.0, max=1.0, step=0.01),
                io.Combo.Input("lora", options=[NO_LORA, *folder_paths.get_filename_list("loras")],
                               default=NO_LORA, optional=True, advanced=True,
                               tooltip="A LoRA that acts inside this region alone, in the same model call."),
                io.Float.Input("lora_strength", default=1.0, min=-10.0, max=10.0, step=0.05, optional=True,
                               advanced=True),
            ],
            outputs=[RegionType.Output(display_name="region")])

    @classmethod
    def execute(cls, conditioning, weight, feather, cfg, start_percent, end_percent, negative=None, mask=None,
                box=None, lora=NO_LORA, lora_strength=1.0) -> io.NodeOutput:
        texts = one_text(conditioning, "Region")
        negatives = None if negative is None else one_text(negative, "Region, negative")
        region = Region(torch.ones(1, 1) if mask is None else mask, weight, 0.0, start_percent, end_percent,
                        cfg or None)
        check_region(region, "Region")
        return io.NodeOutput(Place(region, mask is None, first_box(box), texts, negatives, feather,
                                   None if lora == NO_LORA or lora_strength == 0 else (lora, lora_strength)))


class TweedieRegions(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TweedieRegions", display_name="Tweedie Regions", category=CATEGORY,
            description="Puts regions into a model's prompts. What no region covers is the base prompt's.",
            search_aliases=["regional prompt", "attention couple", "latent couple"],
            inputs=[
                io.Model.Input("model"), io.Conditioning.Input("positive"), io.Conditioning.Input("negative"),
                io.Autogrow.Input("regions", template=io.Autogrow.TemplatePrefix(
                    RegionType.Input("region"), prefix="region", min=1, max=32)),
                io.Combo.Input("mode", options=MODES, default="attention"),
                io.Int.Input("width", default=0, min=0, max=16384, step=8, optional=True, advanced=True,
                             tooltip="The picture's size, for boxes; 0 takes that of the largest mask."),
                io.Int.Input("height", default=0, min=0, max=16384, step=8, optional=True, advanced=True),
                isolation_input(),
            ],
            outputs=outputs())

    @classmethod
    def execute(cls, model, positive, negative, regions, mode, width=0, height=0,
                isolation=0.0) -> io.NodeOutput:
        places = list(regions.values())
        size = canvas(places, width, height)
        masks = gather([place.draw(size) for place in places], size, [place.feather for place in places])
        texts = tuple(place.texts for place in places)
        negatives = tuple(place.negatives for place in places)
        own = any(place.negatives is not None or place.lora is not None for place in places)
        model, positive, negative, said = apply(
            model, positive, negative, masks, texts, negatives if own else None, mode, isolation,
            read_loras(model, [place.lora for place in places]))
        names = ["" for _ in places]
        return io.NodeOutput(model, positive, negative, picture_of(masks, names), said)


NODES = [TweedieRegionalPrompt, TweedieRegion, TweedieRegions]
