"""Starts a real ComfyUI server (COMFYUI_PATH, COMFYUI_PYTHON) on this checkout and talks to it over HTTP.

Everything the server writes goes to a temporary base directory; the checkout is linked into its custom_nodes.
"""
import contextlib
import io
import itertools
import json
import os
import pathlib
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

from hosts.need import need

ROOT = pathlib.Path(__file__).resolve().parents[2]
PATH, PYTHON, CHECKPOINT = need("COMFYUI_PATH", "COMFYUI_PYTHON", "TWEEDIE_SD15")
SPACES = itertools.count(1)


class Server:
    def __init__(self, base: pathlib.Path, extra: tuple[str, ...] = ()):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        for folder in ("models/checkpoints", "custom_nodes", "input", "output", "temp", "user", "probe"):
            (base / folder).mkdir(parents=True)
        (base / "custom_nodes" / "tweedie").symlink_to(ROOT)
        (base / "custom_nodes" / "probe").symlink_to(ROOT / "tests" / "hosts" / "comfy_probe")
        (base / "models" / "checkpoints" / "sd15.safetensors").symlink_to(CHECKPOINT)
        self.base, self.log = base, base / "log.txt"
        command = [PYTHON, "main.py", "--cpu", "--listen", "127.0.0.1",
                   "--port", self.url.rsplit(":")[-1], "--disable-auto-launch",
                   "--base-directory", str(base), "--database-url", "sqlite:///:memory:", *extra]
        environment = os.environ | {"TWEEDIE_PROBE": str(base / "probe"), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, cwd=PATH, env=environment,
                                        start_new_session=True, stdout=self.log.open("w"),
                                        stderr=subprocess.STDOUT)

    def wait(self, seconds: float = 180) -> None:
        end = time.time() + seconds
        while True:
            with contextlib.suppress(OSError):
                self.get("/system_stats")
                return
            assert self.process.poll() is None and time.time() < end, self.log.read_text()[-3000:]
            time.sleep(0.5)

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)

    def get(self, path: str) -> dict:
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return json.load(answer)

    def post(self, path: str, body: dict) -> bytes:
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read()

    def queue(self, graph: dict) -> str:
        try:
            return json.loads(self.post("/prompt", {"prompt": graph}))["prompt_id"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(error.read().decode()) from None

    def finish(self, ticket: str, seconds: float = 300) -> dict:
        """The history entry of a queued graph; RuntimeError with the host's message where it failed."""
        end = time.time() + seconds
        while time.time() < end:
            entry = self.get(f"/history/{ticket}").get(ticket)
            if entry:
                for kind, message in entry["status"]["messages"]:
                    if kind in ("execution_error", "execution_interrupted"):
                        raise RuntimeError(message.get("exception_message", kind))
                return entry
            time.sleep(0.1)
        raise TimeoutError(self.log.read_text()[-2000:])

    def run(self, graph: dict) -> dict:
        return self.finish(self.queue(graph))

    def picture(self, graph: dict, saver: str | None = None) -> bytes:
        """The pixels of the picture from node `saver`, or of the graph's only one."""
        from PIL import Image
        outputs = self.run(graph)["outputs"]
        image = next(node["images"][0] for name, node in outputs.items()
                     if "images" in node and saver in (None, name))
        query = f"/view?filename={image['filename']}&subfolder={image['subfolder']}&type={image['type']}"
        with urllib.request.urlopen(self.url + query, timeout=60) as answer:
            return Image.open(io.BytesIO(answer.read())).convert("RGB").tobytes()

    def probe(self, name: str) -> dict:
        return json.loads((self.base / "probe" / f"{name}.json").read_text())


@contextlib.contextmanager
def server(*extra: str):
    with tempfile.TemporaryDirectory(prefix="tweedie-comfy-", ignore_cleanup_errors=True) as base:
        host = Server(pathlib.Path(base), extra)
        try:
            host.wait()
            yield host
        finally:
            host.stop()


def node(kind: str, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs}


def txt2img(scheduler="normal", sampler="euler", steps=2, model="load", size=64, seed=1, denoise=1.0,
            **extra) -> dict:
    """A stock text-to-image graph; `model` names the node whose first output is sampled, `extra` adds nodes.

    Spaces behind the prompt change no token, but keep the host from answering out of its node cache.
    """
    return {
        "load": node("CheckpointLoaderSimple", ckpt_name="sd15.safetensors"),
        "good": node("CLIPTextEncode", text="a red ball" + " " * next(SPACES), clip=["load", 1]),
        "bad": node("CLIPTextEncode", text="", clip=["load", 1]),
        "latent": node("EmptyLatentImage", width=size, height=size, batch_size=1),
        "sample": node("KSampler", seed=seed, steps=steps, cfg=7.0, sampler_name=sampler, scheduler=scheduler,
                       denoise=denoise, model=[model, 0], positive=["good", 0], negative=["bad", 0],
                       latent_image=["latent", 0]),
        "decode": node("VAEDecode", samples=["sample", 0], vae=["load", 2]),
        "save": node("SaveImage", images=["decode", 0], filename_prefix="t"),
        **extra}


def probed(name: str, model: str = "load") -> dict:
    return {"probe": node("ProbeSigmas", model=[model, 0], name=name)}
