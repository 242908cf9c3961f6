"""Runs a real web UI as a subprocess with a data folder of its own and speaks to it over HTTP."""
from __future__ import annotations

import base64
import io
import json
import os
import pathlib
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

import torch
from PIL import Image

PACK = pathlib.Path(__file__).resolve().parents[2]
PROBE = PACK / "tests" / "hosts" / "probe"
FLAGS = [
    "--skip-prepare-environment", "--skip-torch-cuda-test", "--api", "--do-not-download-clip",
    "--no-hashing", "--disable-nan-check", "--skip-version-check",
]
A1111 = [*FLAGS, "--use-cpu", "all", "--precision", "full", "--no-half"]
FORGE = [*FLAGS, "--always-cpu", "--all-in-fp32"]
QUIET = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False",
         "PYTHONDONTWRITEBYTECODE": "1", "GIT_PYTHON_REFRESH": "quiet"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Refused(Exception):
    """The host's own answer to a request that failed: status and text."""


class Host:
    """A running web UI; `with Host(path, python, checkpoint, flags, extensions) as host` stops it again."""

    def __init__(self, path: str, python: str, checkpoint: str, flags: list[str],
                 extensions: list[pathlib.Path]):
        self.folder = tempfile.TemporaryDirectory(prefix="tweedie-host-")
        self.data = pathlib.Path(self.folder.name)
        for name in ("models/Stable-diffusion", "models/VAE", "extensions", "embeddings"):
            (self.data / name).mkdir(parents=True)
        for extension in extensions:
            (self.data / "extensions" / extension.name).symlink_to(extension)
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/"
        self.log = (self.data / "host.log").open("w+")
        self.process = subprocess.Popen(
            [python, "-u", "launch.py", *flags, "--port", str(port), "--server-name", "127.0.0.1",
             "--data-dir", str(self.data), "--ckpt", checkpoint],
            cwd=path, env={**os.environ, **QUIET}, stdout=self.log, stderr=subprocess.STDOUT)

    def __enter__(self) -> Host:
        return self.wait_for_start(1)

    def wait_for_start(self, number: int) -> Host:
        """Wait until the host has said `number` times that it is ready: at its start, after each reload."""
        deadline = time.monotonic() + 400
        while time.monotonic() < deadline and self.process.poll() is None:
            if self.said().count("Startup time:") >= number:
                return self
            time.sleep(0.5)
        self.__exit__()
        raise RuntimeError("the host did not start:\n" + self.last_words[-3000:])

    def __exit__(self, *_) -> None:
        self.process.kill()
        self.process.wait()
        self.last_words = (self.data / "host.log").read_text()
        self.log.close()
        self.folder.cleanup()

    def said(self) -> str:
        return self.last_words if self.log.closed else (self.data / "host.log").read_text()

    def call(self, path: str, body: dict | None = None):
        data = None if body is None else json.dumps(body).encode()
        kind = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data=data, headers=kind)
        try:
            with urllib.request.urlopen(request, timeout=600) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise Refused(f"{error.code}: {error.read().decode()}") from error

    def draw(self, mode: str, body: dict) -> tuple[list[bytes], str]:
        """The pictures' pixels, and the first one's infotext."""
        answer = self.call(f"sdapi/v1/{mode}", body)
        texts = json.loads(answer["info"])["infotexts"]
        files = (io.BytesIO(base64.b64decode(picture)) for picture in answer["images"])
        return [Image.open(file).convert("RGB").tobytes() for file in files], texts[0] if texts else ""


def picture() -> str:
    """An init picture of 64 x 64, as the API takes it."""
    file = io.BytesIO()
    Image.radial_gradient("L").resize((64, 64)).convert("RGB").save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


BASE = dict(prompt="a cat", negative_prompt="blurry", width=64, height=64, steps=3, sampler_name="Euler",
            scheduler="Automatic", cfg_scale=7, seed=1)
HIRES = dict(enable_hr=True, hr_scale=1.5, hr_upscaler="Latent", denoising_strength=1.0,
             hr_additional_modules=["Use same choices"])  # the last is Forge's, which fails without it
RUNS = {"txt2img": ("txt2img", BASE),
        "img2img": ("img2img", BASE | dict(init_images=[picture()], denoising_strength=1.0)),
        "hires": ("txt2img", BASE | HIRES)}


def panel(*values, **changes) -> dict:
    """A request's part for our panel."""
    return dict(alwayson_scripts={"Tweedie Schedules": {"args": list(values)}} | changes)


ZERO_SNR = [True, 0.7, False, "off", 0, 0, "steps"]
TOP = 4518.76


def draw(host: Host, name: str, *values, **changes) -> tuple[list[bytes], str, list[float]]:
    """Pixels, infotext, and the sigma of each of the run's model evaluations; `values` go to the panel."""
    mode, body = RUNS[name]
    host.call("probe/seen")
    pictures, text = host.draw(mode, body | panel(*values) | changes)
    return pictures, text, host.call("probe/seen")["sigmas"]


def table(host: Host) -> torch.Tensor:
    return torch.tensor(host.call("probe/table"), dtype=torch.float32)


def near(sigmas, expected) -> None:
    torch.testing.assert_close(torch.tensor(sigmas), torch.as_tensor(expected).float(), rtol=1e-4, atol=1e-5)
