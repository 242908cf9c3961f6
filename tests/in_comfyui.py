"""Imported first by scripts in ComfyUI's Python: COMFYUI_PATH on a CPU, the checkout as `tweedie_pack`."""
import os
import sys

sys.path.insert(0, os.environ["COMFYUI_PATH"])
from comfy.cli_args import args

args.cpu = True
import conftest  # noqa: E402, F401
