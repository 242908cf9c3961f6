"""Add what the pack needs and the host lacks; run by the A1111 web UIs and by ComfyUI-Manager at install.

Standard library only. A package that is there, in any version, is left alone, and torch, numpy and opencv
are never installed or moved: with those pinned to what is there, pip either adds the missing package or says
why not.

`install.py --models [folder]` fetches the hand models of controls/hands/known.py into a models folder, by
default the host's; each is put in place only once its SHA-256 is right.
"""
import hashlib
import http.client
import importlib.metadata
import importlib.util
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent
# import name -> package
NEEDED = {"scipy": "scipy", "safetensors": "safetensors", "PIL": "Pillow", "tqdm": "tqdm"}
FIXED = ("torch", "torchvision", "torchaudio", "numpy", "opencv-python", "opencv-contrib-python",
         "opencv-python-headless", "opencv-contrib-python-headless", "xformers")


def missing() -> list[str]:
    return [package for module, package in NEEDED.items() if importlib.util.find_spec(module) is None]


def installed_versions() -> list[str]:
    """`name==version` for everything fixed that is there, as pip constraints."""
    lines = []
    for name in FIXED:
        try:
            lines.append(f"{name}=={importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return lines


def skipped_by_host() -> bool:
    """A1111's --skip-install, where its launcher runs this file."""
    try:
        import launch
    except ImportError:
        return False
    return bool(getattr(getattr(launch, "args", None), "skip_install", False))


def fetch(source: str, target: pathlib.Path, sha256: str, size: int) -> str:
    """Bring a file of known size and SHA-256 to its place; return why not, "" if it is there."""
    if target.is_file() and hashlib.sha256(target.read_bytes()).hexdigest() == sha256:
        return ""
    passing = target.with_name(target.name + ".part")
    found, left = hashlib.sha256(), size
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(source, timeout=30) as answer, passing.open("wb") as file:
            while block := answer.read(min(1 << 20, left + 1)):
                left -= len(block)
                if left < 0:
                    break
                found.update(block)
                file.write(block)
        if left or found.hexdigest() != sha256:
            return f"what came is another file ({size - left} bytes, SHA-256 {found.hexdigest()})"
        os.replace(passing, target)
    except (OSError, http.client.HTTPException) as error:
        return str(error)
    finally:
        passing.unlink(missing_ok=True)
    return ""


def fetch_models(folder: pathlib.Path) -> int:
    """Fetch every known hand model into a host's models folder; the number of those that didn't come."""
    if not folder.is_dir():
        print(f"Tweedie: {folder} is no folder; name your host's models folder: install.py --models <folder>")
        return 1
    failed = 0
    for model in runpy.run_path(str(ROOT / "controls" / "hands" / "known.py"))["KNOWN"].values():
        target = folder / model.folder / model.file
        why = fetch(model.source, target, model.sha256, model.size)
        print(f"Tweedie: {model.file} from {model.source}: {why or f'in {target}'}")
        failed += bool(why)
    return failed


def main(arguments: list[str] | tuple[()] = ()) -> int:
    if "--models" in arguments[:1]:
        return fetch_models(pathlib.Path(*arguments[1:2] or [ROOT.parents[1] / "models"]))
    packages = missing()
    if not packages or skipped_by_host():
        return 0
    print(f"Tweedie: adding {', '.join(packages)}")
    with tempfile.TemporaryDirectory() as folder:
        constraints = pathlib.Path(folder, "constraints.txt")
        constraints.write_text("\n".join(installed_versions()), "utf-8")
        code = subprocess.call(
            [sys.executable, "-m", "pip", "install", "--constraint", str(constraints), *packages])
    if code:
        print(f"Tweedie: pip could not add {', '.join(packages)} without moving torch, numpy or opencv; "
              f"add them by hand in {sys.executable}'s environment")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
