"""Crops of hands drawn by tiny models of ComfyUI's own classes: sizes, seeds, and batches as alone."""
import json
import pathlib
import subprocess

import pytest
from hosts.need import need

_, PYTHON = need("COMFYUI_PATH", "COMFYUI_PYTHON")
TOKENS = {"sd15": 8, "inpaint": 8, "sdxl": 8, "sd3": 16, "sd35": 16, "flux": 16, "flux2": 16, "chroma": 16,
          "qwen": 16, "z_image": 16}


@pytest.fixture(scope="module")
def found():
    script = pathlib.Path(__file__).with_name("hands_checks.py")
    done = subprocess.run([PYTHON, script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("family", TOKENS)
def test_crops_are_drawn_alike_alone_and_in_a_batch(found, family):
    seen = found[family]
    assert seen["finite"] and seen["shapes"] == [[3, 128, 192]] * 4
    assert seen["limits"][-1] == TOKENS[family]
    assert seen["apart"] < 1e-5 < 0.05 < seen["tries"]
