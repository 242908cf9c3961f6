"""LoRA files for tiny models of ComfyUI's classes, and runs with them, by regions and by its own loader."""
import pathlib
import re
import tempfile

import comfy.sd
import comfy.utils
import folder_paths
import torch
from hosts.regions_checks import SIZE
from safetensors.torch import save_file
from tweedie_pack.nodes import regions

KEPT = tempfile.TemporaryDirectory()  # until the script ends
FOLDER = pathlib.Path(KEPT.name)
folder_paths.add_model_folder_path("loras", str(FOLDER))
VECTORS = re.compile(r"emb_layers|time_|label_emb|[ty]_embedder|adaln|vector_in|guidance_in|mod[._]"
                     r"|modulation|norm_out|distilled|llm_adapter", re.IGNORECASE)
LAYERS = torch.nn.Linear, torch.nn.Conv2d
STRENGTH = 0.7


def sees_places(path):
    return not VECTORS.search(path)


def touched(bench, keep=sees_places):
    """(path, weight) of linear layers and convolutions."""
    for path, module in bench.model.model.named_modules():
        if path.startswith("diffusion_model.") and isinstance(module, LAYERS) and keep(path):
            yield path, module.weight


def make(file, bench, keep=sees_places, seed=1, kind="lora", rank=4):
    """A file with something random for the layers that are kept, about as large as their weights."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape):
        return torch.randn(shape, generator=generator) * (0.03 / rank ** 0.5) ** 0.5

    tensors = {}
    for path, weight in touched(bench, keep):
        rows, columns, *kernel = weight.shape
        fan = weight[0].numel()
        if kind in ("lora", "dora", "sizes"):
            columns += kind == "sizes"
            new = {"lora_up.weight": noise(rows, rank, *[1] * len(kernel)),
                   "lora_down.weight": noise(rank, columns, *kernel), "alpha": torch.tensor(rank * 0.8)}
        elif kind == "tucker":
            new = {"lora_up.weight": noise(rows, rank), "lora_down.weight": noise(rank, columns)}
            if kernel:
                new = {name: value[..., None, None] for name, value in new.items()}
                new["lora_mid.weight"] = noise(rank, rank, *kernel) * 5
        elif kind == "loha":
            new = {"hada_w1_a": noise(rows, rank), "hada_w1_b": noise(rank, fan),
                   "hada_w2_a": noise(rows, rank) * 8, "hada_w2_b": noise(rank, fan) * 8}
        elif kind == "lokr":
            new = {"lokr_w1": noise(2, 2), "lokr_w2": noise(rows // 2, columns // 2, *kernel)}
        else:
            new = {"diff": noise(*weight.shape)}
        tensors |= {f"{path}.{name}": value.contiguous() for name, value in new.items()}
        if kind == "dora":
            tensors[f"{path}.dora_scale"] = torch.ones(rows, 1)
    save_file(tensors, FOLDER / file)
    return file


def make_split(file, bench):
    """For Flux as diffusers names it: each of q, k and v is a slice of one layer here."""
    generator = torch.Generator().manual_seed(4)
    names = [f"transformer_blocks.{block}.attn.{part}" for block in (0, 1) for part in (
        "to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj")]
    names += [f"single_transformer_blocks.0.attn.{part}" for part in ("to_q", "to_v")]
    save_file({f"transformer.{name}.lora_{side}.weight": 0.5 * torch.randn(shape, generator=generator)
               for name in names for side, shape in (("A", (4, 48)), ("B", (48, 4)))}, FOLDER / file)
    return file


def put(bench, files, masks, texts=None, mode="attention", strength=STRENGTH, span=(0.0, 1.0), model=None):
    """model, positive, negative, layout, report; without texts every region says what the prompt says."""
    places = {}
    for number, (file, mask) in enumerate(zip(files, masks, strict=True)):
        places[f"region{number}"] = regions.TweedieRegion.execute(
            texts[number] if texts else bench.text(1), 1.0, 0.0, 0.0, *span, mask=mask[None], lora=file,
            lora_strength=strength)[0]
    return regions.TweedieRegions.execute(model or bench.model, bench.text(1), bench.text(2), places, mode)


def render(bench, *arguments, **options):
    model, positive, negative, *_ = put(bench, *arguments, **options)
    return bench.run(positive, negative, model)


def loaded(bench, file, strength=STRENGTH):
    """The model with the host's own LoRA loader."""
    state = comfy.utils.load_torch_file(str(FOLDER / file), safe_load=True)
    return comfy.sd.load_lora_for_models(bench.model, None, state, strength, 0)[0]


def host(bench, file, model=None):
    return bench.run(bench.text(1), bench.text(2), model or loaded(bench, file))


def plain(bench):
    return bench.run(bench.text(1), bench.text(2))


def hooks(bench):
    """How many forward hooks hang on the model."""
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks)
               for module in bench.model.model.modules())


def whole():
    return [torch.ones(8 * SIZE[0], 8 * SIZE[1])]
