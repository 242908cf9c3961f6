"""Runs in ComfyUI's Python: LoRAs of regions on tiny models of the host's classes, as a line of JSON."""
import contextlib
import gc
import json
import logging
import pathlib
import re
import sys
from functools import partial
from pickle import UnpicklingError

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import in_comfyui  # noqa: F401, I001
import comfy.model_management
import comfy.patcher_extension
import comfy.utils
import comfy_extras.nodes_hypertile as hypertile
import comfy_extras.nodes_model_downscale as downscale
import torch
from hosts.lora_bench import (
    FOLDER,
    STRENGTH,
    hooks,
    host,
    loaded,
    make,
    make_split,
    plain,
    put,
    render,
    touched,
    whole,
)
from hosts.regions_checks import SIZE, Bench, apart, same
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode
from tweedie_pack.nodes.regional_lora import KEY, LoraRun

APPLY_MODEL = comfy.patcher_extension.WrappersMP.APPLY_MODEL
NAMES = ("sd15", "sdxl", "sd35", "flux", "flux2", "chroma", "qwen", "lumina", "z_image", "anima")


def check_whole(name):
    """One region all over, and two of the same LoRA, against the host's loader; what vectors change."""
    bench = Bench(name)
    file, vectors = make("all.safetensors", bench), make("vectors.safetensors", bench, lambda path: True)
    before, expected = plain(bench), host(bench, file)
    found = {"moved": apart(expected, before)}
    found["one"] = apart(render(bench, [file], whole()), expected)
    found["two"] = apart(render(bench, [file] * 2, bench.masks(hard=True)), expected)
    found["soft"] = apart(render(bench, [file] * 2, [bench.masks()[0], 1 - bench.masks()[0]]), expected)
    found["latent"] = apart(render(bench, [vectors] * 2, bench.masks(hard=True), mode="latent"),
                            host(bench, vectors))
    found["vectors"] = apart(render(bench, [vectors], whole()), host(bench, vectors))
    found["off"] = same(render(bench, [file] * 2, bench.masks(), strength=0.0),
                        render(bench, ["none"] * 2, bench.masks()))
    found["late"] = same(render(bench, [file], whole(), span=(1.0, 1.0)), before)
    found["beside"] = apart(render(bench, [file], whole(), model=loaded(bench, file, 0.3)),
                            host(bench, file, loaded(bench, file, STRENGTH + 0.3)))
    found["after"], found["hooks"] = same(plain(bench), before), hooks(bench)
    gc.collect()
    found["kept"] = sum(type(one) is LoraRun for one in gc.get_objects())
    return found


def check_kinds(name):
    bench, found = Bench(name), {}
    for kind in ("tucker", "loha", "lokr", *(["split"] if name == "flux" else [])):
        file = f"{kind}.safetensors"
        file = make_split(file, bench) if kind == "split" else make(file, bench, kind=kind)
        expected = host(bench, file)
        found[kind] = [apart(render(bench, [file], whole()), expected), apart(expected, plain(bench))]
    return found


NORMS = {  # modules that are given a block's keys or values [B,H,N,D] or [B,N,H,D]: of the picture, of text
    "flux": ("double_blocks.0.img_attn.norm", "double_blocks.0.txt_attn.norm"),
    "sd35": ("joint_blocks.0.x_block.attn.ln_k", "joint_blocks.0.context_block.attn.ln_k")}


def listen(bench, paths, model, positive, negative):
    """The first tokens [N,C] that each of these modules is given in a run."""
    seen = {}

    def take(path, module, given):
        tokens = given[-1][0]
        seen.setdefault(path, (tokens.transpose(0, 1) if bench.name == "flux" and tokens.ndim == 3
                               else tokens).flatten(1).clone())

    handles = [bench.model.model.diffusion_model.get_submodule(path).register_forward_pre_hook(
        partial(take, path)) for path in paths]
    bench.run(positive, negative, model, cfg=1.0, steps=1)
    for handle in handles:
        handle.remove()
    return [seen[path] for path in paths]


def first_tokens(bench, model, positive, negative):
    """What the first block makes of the picture [N,C], and of the texts, before tokens meet each other."""
    if bench.name in NORMS:
        return listen(bench, NORMS[bench.name], model, positive, negative)
    seen, model = [], model.clone()
    model.set_model_attn2_output_patch(lambda out, extra: seen.append(out[0].clone()) or out)
    bench.run(positive, negative, model, cfg=1.0, steps=1)
    return seen[:1]


FIRST = {"sd15": "attn2", "sdxl": "attn2", "flux": r"double_blocks.0.*qkv",
         "sd35": r"joint_blocks.0.*block.attn.qkv"}


def check_rows(name):
    """A LoRA in each half, for layers that mix no rows: the first block's are those of the host's loader."""
    bench = Bench(name)
    files = [make(f"{seed}.safetensors", bench, lambda path: re.search(FIRST[name], path), seed)
             for seed in (1, 2)]
    masks, texts = bench.masks(hard=True), [bench.text(11), bench.text(12)]
    ways = {"ours": put(bench, files, masks, texts), "left": put(bench, [files[0], "none"], masks, texts),
            "none": put(bench, ["none"] * 2, masks, texts)}
    ways |= {file: put(bench, ["none"] * 2, masks, texts, model=loaded(bench, file)) for file in files}
    seen = {way: first_tokens(bench, *made[:3]) for way, made in ways.items()}
    found, columns = {}, {"sd15": 24, "sdxl": 12, "flux": 12, "sd35": 12}[name]
    left = torch.arange(len(seen["ours"][0])) % columns < columns // 2
    kinds = [[left, ~left]]
    if len(seen["ours"]) > 1:
        token = torch.arange(len(seen["ours"][1])) // 10
        kinds.append([token == 1, token == 2])
        found["base text"] = same(*(seen[way][1][token == 0] for way in ("ours", "none")))
    for number, halves in enumerate(kinds):
        for file, half in zip(files, halves, strict=True):
            found[f"{number} {file}"] = apart(seen["ours"][number][half], seen[file][number][half])
        found[f"{number} untouched"] = same(*(seen[way][number][halves[1]] for way in ("left", "none")))
        found[f"{number} moved"] = apart(*(seen[way][number][halves[0]] for way in ("left", "none")))
    return found


def check_undone(name):
    """After an interrupt inside the model, in the second step of a run."""
    bench = Bench(name)
    before, options = plain(bench), repr(bench.model.model_options)
    model, positive, negative, *_ = put(bench, [make("all.safetensors", bench)] * 2, bench.masks())
    *_, (last, _) = touched(bench)
    seen = []

    def stop(module, given):
        seen.append(hooks(bench))
        if len(seen) > 1:
            raise comfy.model_management.InterruptProcessingException

    handle = bench.model.model.get_submodule(last).register_forward_pre_hook(stop)
    with contextlib.suppress(comfy.model_management.InterruptProcessingException):
        bench.run(positive, negative, model)
    handle.remove()
    return {"inside": seen, "hooks": hooks(bench), "plain": same(plain(bench), before),
            "options": repr(bench.model.model_options) == options}


def flops(bench, model, positive, negative):
    with FlopCounterMode(display=False) as counter:
        bench.run(positive, negative, model, steps=1)
    return counter.get_total_flops()


def check_cost(name):
    """What a LoRA in each of four regions costs, beside one all over."""
    bench, size = Bench(name), (8 * SIZE[0], 8 * SIZE[1])
    file, masks = make("all.safetensors", bench), []
    for number in range(4):
        mask = torch.zeros(size)
        mask[(number // 2) * size[0] // 2:][:size[0] // 2, (number % 2) * size[1] // 2:][:, :size[1] // 2] = 1
        masks.append(mask)

    def extra(masks):
        texts = [bench.text(1)] * len(masks)
        model, positive, negative, *_ = put(bench, [file] * len(masks), masks, texts)
        routed = model.clone()
        routed.remove_wrappers_with_key(APPLY_MODEL, KEY)
        bench.run(positive, negative, routed, steps=1)  # shares of the picture are made once
        return flops(bench, model, positive, negative) - flops(bench, routed, positive, negative)

    return extra(masks) / extra(whole())


class Lines(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


def error(call):
    try:
        call()
    except (ValueError, FileNotFoundError, RuntimeError, UnpicklingError) as found:
        return f"{type(found).__name__}: {found}"


def check_files(name):
    """What is said of files that are missing, of another model, unsafe or only partly of use."""
    bench = Bench(name)
    torch.save({"a": logging.getLogger}, FOLDER / "unsafe.pt")
    save_file({"lora_unet_nothing.lora_up.weight": torch.ones(4, 4)}, FOLDER / "foreign.safetensors")
    parts = {}
    for kind, layer in (("lora", "attn1.to_q"), ("dora", "attn1.to_k"), ("diff", "attn2.to_q"),
                        ("sizes", "attn1.to_v")):
        file = make(f"{kind}.safetensors", bench, lambda path, layer=layer: path.endswith(layer), kind=kind)
        parts |= comfy.utils.load_torch_file(str(FOLDER / file))
    save_file(parts, FOLDER / "parts.safetensors")
    found = {file: error(lambda file=file: put(bench, [file], whole())) for file in (
        "missing.safetensors", "../../etc/passwd", "unsafe.pt", "foreign.safetensors", "diff.safetensors")}
    found["report"] = put(bench, ["parts.safetensors"], whole())[4]
    found["latent"] = put(bench, ["parts.safetensors"], whole(), mode="latent")[4]
    return found


def check_patches(name):
    """Beside nodes that change sizes inside the model, with batches, part of the time."""
    bench, found = Bench(name), {}
    file = make("all.safetensors", bench)
    shrink = downscale.PatchModelAddDownscale.execute
    deep = {"block_number": 2, "downscale_factor": 1.5, "start_percent": 0.0, "end_percent": 1.0,
            "downscale_after_skip": True, "downscale_method": "bilinear", "upscale_method": "bilinear"}
    found["shrunk"] = apart(render(bench, [file], whole(), model=shrink(bench.model, **deep)[0]),
                            host(bench, file, shrink(loaded(bench, file), **deep)[0]))
    heard = Lines()
    logging.getLogger("tweedie").addHandler(heard)
    tiles = hypertile.HyperTile.execute(bench.model, 64, 2, 0, False)[0]
    found["tiled"] = bool(torch.isfinite(render(bench, [file], whole(), model=tiles)).all())
    logging.getLogger("tweedie").removeHandler(heard)
    found["heard"] = heard.lines[:]
    heard.lines.clear()
    logging.getLogger("tweedie").addHandler(heard)
    compiled = bench.model.clone()  # as TorchCompileModel marks it
    compiled.add_wrapper_with_key(APPLY_MODEL, "torch.compile", lambda executor, *given, **options: executor(
        *given, **options))
    found["compiled"] = apart(render(bench, [file], whole(), model=compiled), plain(bench)), heard.lines[:]
    logging.getLogger("tweedie").removeHandler(heard)
    model, positive, negative, *_ = put(bench, [file, "none"], bench.masks())
    one, three = bench.run(positive, negative, model), bench.run(positive, negative, model, batch=3)
    found["batch"] = apart(three[2:], one)
    early = render(bench, [file], whole(), span=(0.0, 0.5))
    found["early"] = [apart(early, plain(bench)), apart(early, host(bench, file))]
    return found


def check_references(name):
    """Reference pictures behind the picture, more tokens than all text has, keep as they are."""
    bench, found = Bench(name), {}
    for layer, reader, picture in (("img_in", "double_blocks.0.img_norm1", slice(0, 96)),
                                   ("single_blocks.0.linear1", "single_blocks.0.norm", slice(20, 116))):
        file, seen = make(f"{layer}.safetensors", bench, lambda path, layer=layer: path.endswith(layer)), {}
        for way, which, model in (("ours", file, None), ("none", "none", None),
                                  ("host", "none", loaded(bench, file))):
            model, positive, negative, *_ = put(bench, [which], whole(), model=model)
            positive[0][1]["reference_latents"] = [torch.ones(1, 16, 20, 24)]
            seen[way], = listen(bench, [reader], model, positive, negative)
        found[layer] = apart(seen["ours"][picture], seen["host"][picture])
        found[f"{layer} behind"] = same(seen["ours"][picture.stop:], seen["none"][picture.stop:])
        found[f"{layer} tokens"] = len(seen["ours"]) - picture.stop
    return found


CHECKS = {function.__name__.removeprefix("check_"): function for function in (
    check_whole, check_kinds, check_rows, check_undone, check_cost, check_files, check_patches,
    check_references)}

if __name__ == "__main__":
    with torch.inference_mode():
        json.dump({name: CHECKS[sys.argv[1]](name) for name in sys.argv[2:] or NAMES}, sys.stdout)
        print()
