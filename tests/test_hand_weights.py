"""Detectors' files: nothing in them runs, good ones are read exactly, odd ones are refused in one line."""
import hashlib
import json
import os
import pathlib
import re
import resource
import subprocess
import sys
import time
import tracemalloc

import pytest
import torch
from forged_detectors import CANARY, PLAN, Call, detector, storage, tensor
from hostile_pickles import BESIDE, FILES
from tweedie_pack.controls.hands import weights, yolo
from tweedie_pack.controls.hands.weights import WeightsError, read_weights

ROOT = pathlib.Path(__file__).resolve().parents[1]
DEEDS = ("import", "exec", "compile", "os.", "subprocess.", "socket.", "pickle.", "shutil.", "ctypes.")
ALLOWED_DEEDS = {"os.listdir", "os.scandir"}
NETS = ("yolov8n", "yolov8n-seg", "yolov8n-pose", "yolov9t", "yolov9c-seg", "yolo11n", "yolo11n-seg",
        "yolo11n-pose", "yolo26n", "yolo26n-seg", "yolo26n-pose")


class Watch:
    """Notes what Python's audit hooks say while it is on; a hook can't be taken away again."""

    def __init__(self):
        self.on, self.seen = False, []
        sys.addaudithook(self.note)

    def note(self, event, _):
        if self.on and event.startswith(DEEDS) and event not in ALLOWED_DEEDS:
            self.seen.append(event)


WATCH = Watch()


@pytest.fixture(scope="module")
def ultralytics():
    """ultralytics.nn.tasks, as the pack imports it."""
    try:
        return yolo.import_tasks()
    except WeightsError as error:
        pytest.skip(f"no ultralytics: {error}")


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """A folder where the payloads would leave `fired`, with the canary module on sys.path."""
    (tmp_path / f"{CANARY}.py").write_text("open('fired', 'w').close()\ndef fire(*args): pass\n")
    (tmp_path / "good.pt").write_bytes(detector())
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    read_weights(tmp_path / "good.pt")  # what is imported late is imported now
    return tmp_path


def refuse(path, pattern, megabytes):
    """Read a file that must be refused by a matching error, with nothing run, imported or much allocated."""
    modules, before = set(sys.modules), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    listed = set(path.parent.iterdir())
    WATCH.seen.clear()
    tracemalloc.start()
    start, WATCH.on = time.perf_counter(), True
    try:
        with pytest.raises(WeightsError) as caught:
            read_weights(path)
    finally:
        WATCH.on = False
        took, peak = time.perf_counter() - start, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    said = str(caught.value)
    assert re.search(pattern, said) and said.startswith(path.name) and said.isascii() and said.isprintable()
    assert len(said) < 600 and "; " in said
    assert set(sys.modules) == modules and not WATCH.seen and set(path.parent.iterdir()) == listed
    assert peak < megabytes << 20 and took < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2 * megabytes << 10


@pytest.mark.parametrize("name", FILES)
def test_hostile_files_are_refused_and_nothing_in_them_runs(name, trap):
    data, pattern = FILES[name]
    path = trap / f"{name}.pt"
    path.write_bytes(data)
    refuse(path, pattern, 128)


@pytest.mark.parametrize("name", BESIDE)
def test_hostile_safetensors_are_refused_too(name, trap):
    data, beside, pattern = BESIDE[name]
    path = trap / f"{name}.safetensors"
    path.write_bytes(data)
    if beside is not None:
        path.with_suffix(".json").write_bytes(beside)
    refuse(path, pattern, 64)


def test_folders_and_missing_files_are_refused(trap):
    (trap / "folder.pt").mkdir()
    refuse(trap / "folder.pt", "no file of", 8)
    refuse(trap / "hand_yolov8n.pt", r"Bingsu.*3991202eb69e.*install.py --models", 8)
    refuse(trap / "other.pt", "hand_yolov9c.pt", 8)


def test_the_payloads_do_fire_where_they_are_unpickled(trap):
    """The trap works: torch.load runs what the corpus holds."""
    for name in ("system", "canary"):
        (trap / f"{name}.pt").write_bytes(FILES[name][0])
    code = """
import os, sys, torch
sys.path.insert(0, ".")
sys.modules["ultralytics"] = None  # the payload comes before the net
for name in ("system", "canary"):
    try:
        torch.load(f"{name}.pt", weights_only=False)
    except ImportError:
        os.remove("fired")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=trap, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_honest_checkpoints_hold_besides_is_let_through(tmp_path):
    number = (Call("numpy", "dtype", ("f8", False, True)), Call("_codecs", "encode", ("x", "latin1")))
    extras = {"path": Call("pathlib", "PosixPath", ("a",)),
              "loss": Call("ultralytics.utils.loss", "v8PoseLoss"),
              "args": Call("ultralytics.yolo.utils", "IterableSimpleNamespace", (), {"imgsz": 640}, b"\x81"),
              "fitness": Call("numpy.core.multiarray", "scalar", number)}
    weight = Call("torch._utils", "_rebuild_parameter", (
        tensor((2, 2), (1, 2), held=storage()), True, Call("collections", "OrderedDict")))
    (tmp_path / "x.pt").write_bytes(detector(weight=weight, **extras))
    stored = read_weights(tmp_path / "x.pt")
    assert stored.state["weight"].tolist() == [[1, 3], [2, 4]] and stored.state["weight"].is_contiguous()
    assert (stored.task, stored.names, stored.kpt_shape) == ("detect", ("hand",), None)


def test_a_file_is_converted_once_and_again_when_the_copy_or_the_file_changed(tmp_path, monkeypatch):
    path = tmp_path / "x.pt"
    path.write_bytes(detector())
    first = read_weights(path)
    source = hashlib.sha256(path.read_bytes()).hexdigest()
    kept = tmp_path / f"x.{source[:16]}.safetensors"
    assert json.loads(kept.with_suffix(".json").read_text())["source"] == source
    assert {each.name for each in tmp_path.iterdir()} == {"x.pt", kept.name, kept.with_suffix(".json").name}

    with monkeypatch.context() as patch:
        patch.setattr(weights.archives, "Archive", None)
        again = read_weights(path)
        assert again[1:] == first[1:] and torch.equal(again.state["weight"], first.state["weight"])
        alone = read_weights(kept)
        assert alone[1:] == first[1:]
    data = bytearray(kept.read_bytes())
    data[-1] ^= 1
    kept.write_bytes(data)
    assert torch.equal(read_weights(path).state["weight"], first.state["weight"])
    assert kept.read_bytes() != data
    path.write_bytes(detector(names={0: "paw"}))
    assert read_weights(path).names == ("paw",)


def test_where_the_folder_cant_be_written_the_cache_is_used(tmp_path, monkeypatch, caplog):
    path, cache = tmp_path / "there" / "x.pt", tmp_path / "cache"
    path.parent.mkdir()
    path.write_bytes(detector())
    replace = weights.replace

    def readonly(target, data):
        if target.parent == path.parent:
            raise PermissionError(13, "no")
        replace(target, data)
    monkeypatch.setattr(weights, "replace", readonly)
    read_weights(path)
    assert [record.getMessage().count("every start") for record in caplog.records] == [1]
    read_weights(path, cache)
    assert len(caplog.records) == 1
    assert len(list(cache.iterdir())) == 2 and len(list(path.parent.iterdir())) == 1
    monkeypatch.setattr(weights.archives, "Archive", None)
    assert read_weights(path, cache).task == "detect"


def outputs(value):
    if isinstance(value, torch.Tensor):
        return [value]
    return [each for part in (value.values() if isinstance(value, dict) else value) for each in outputs(part)]


@pytest.mark.parametrize("name", NETS)
def test_real_files_give_the_outputs_of_the_librarys_own_loader(name, ultralytics, tmp_path):
    torch.manual_seed(0)
    task = {"seg": "segment", "pose": "pose"}.get(name.partition("-")[2], "detect")
    net = getattr(ultralytics, yolo.MODELS[task])(f"{name}.yaml", nc=2, verbose=False)
    net.names, net.args = {0: "hand", 1: "paw"}, {"imgsz": 640}
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    torch.save({"model": None, "ema": net.half(), "train_args": {"imgsz": 640}}, tmp_path / "x.pt")
    with torch.random.fork_rng():
        before = torch.get_rng_state()
        first = read_weights(tmp_path / "x.pt")
        ours = weights.build(read_weights(tmp_path / "x.pt"))
        assert torch.equal(torch.get_rng_state(), before)
    theirs = ultralytics.load_checkpoint(str(tmp_path / "x.pt"))[0]
    assert first[2:] == (("hand", "paw"), task, (17, 3) if task == "pose" else None)
    assert not ours.training and all(value.dtype == torch.float32 for value in ours.parameters())
    assert torch.equal(ours.stride, theirs.stride)
    picture = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        pairs = list(zip(outputs(ours(picture)), outputs(theirs(picture)), strict=True))
    assert len(pairs) > 3 and max(float((a - b).abs().max()) for a, b in pairs) == 0


def test_weights_that_dont_fit_their_plan_are_refused_before_anything_is_allocated(ultralytics, tmp_path):
    (tmp_path / "x.pt").write_bytes(detector())
    stored = read_weights(tmp_path / "x.pt")
    with pytest.raises(WeightsError, match="don't fit its plan"):
        weights.build(stored)
    wide = {**PLAN, "scales": {"n": [2.0, 2.0, 4096]}, "backbone": [[-1, 9, "C3k2", [4096, True]]] * 10}
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(WeightsError, match="don't fit its plan"):
        weights.build(stored._replace(config=wide))
    assert time.perf_counter() - start < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20
    with pytest.raises(WeightsError, match="activation"):
        weights.build(stored._replace(config={**PLAN, "activation": "1"}))


def test_without_ultralytics_building_says_what_to_install(monkeypatch):
    for name in ("ultralytics", "ultralytics.nn.tasks"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(WeightsError, match="pip install ultralytics"):
        yolo.import_tasks()


def test_importing_ultralytics_changes_nothing_and_asks_no_one(ultralytics, tmp_path):
    code = """
import sys; sys.path.insert(0, sys.argv[1])
import conftest, os, socket, cv2, torch
asked = []
deeds = "socket.getaddrinfo", "socket.connect", "subprocess.Popen", "os.system"
sys.addaudithook(lambda event, args: event in deeds and asked.append(event))
before = dict(os.environ), torch.save, cv2.getNumThreads()
from tweedie_pack.controls.hands import yolo
yolo.import_tasks()
from ultralytics.utils import AUTOINSTALL, ONLINE, SETTINGS
assert (dict(os.environ), torch.save, cv2.getNumThreads()) == before
assert not (AUTOINSTALL or ONLINE or SETTINGS["sync"]), "telemetry"
assert not asked, asked
"""
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config")}
    environment.pop("YOLO_CONFIG_DIR", None)
    done = subprocess.run([sys.executable, "-c", code, str(ROOT / "tests")], capture_output=True, text=True,
                          env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and "ltralytics" in str(path)]
