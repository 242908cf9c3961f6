"""Add what the pack needs and the host lacks; run by the A1111 web UIs and by ComfyUI-Manager at install.

Standard library only. A package that is there, in any version, is left alone, and torch, numpy and opencv
are never installed or moved: with those pinned to what is there, pip either adds the missing package or says
why not.
"""
import importlib.metadata
import importlib.util
import pathlib
import subprocess
import sys
import tempfile

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


def main() -> int:
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
    sys.exit(main())
