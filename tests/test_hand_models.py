"""Exported detectors say what they are or are refused; known models come whole or not at all."""
import hashlib
import importlib.util
import pathlib
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from forged_detectors import detector
from tweedie_pack.controls.hands.exported import read_onnx
from tweedie_pack.controls.hands.known import KNOWN, missing
from tweedie_pack.controls.hands.weights import WeightsError

ROOT = pathlib.Path(__file__).resolve().parents[1]
SAID = {"task": "pose", "names": "{0: 'hand'}", "imgsz": "[640, 480]", "stride": "32", "kpt_shape": "[21, 3]"}


def message(*parts):
    """A protobuf message of (field, number or bytes)."""
    def varint(value):
        return bytes([value & 127 | 128]) + varint(value >> 7) if value > 127 else bytes([value])
    return b"".join(varint(field << 3) + varint(value) if isinstance(value, int) else
                    varint(field << 3 | 2) + varint(len(value)) + value for field, value in parts)


def onnx(said=SAID, weight=(1, 4)):
    pairs = [(14, message((1, key.encode()), (2, value.encode()))) for key, value in said.items()]
    return message((1, 8), (2, b"pytorch"), (7, message((2, b"g" * 300), (5, message(weight)))), *pairs)


def test_onnx_says_what_it_is(tmp_path):
    path = tmp_path / "x.onnx"
    path.write_bytes(onnx())
    found = read_onnx(path)
    assert found == (path.read_bytes(), (640, 480), 32, False, ("hand",), "pose", (21, 3))
    path.write_bytes(onnx({**SAID, "task": "detect", "end2end": "True"}))
    assert (read_onnx(path).end2end, read_onnx(path).kpt_shape) == (True, None)


@pytest.mark.parametrize(("data", "pattern"), [
    (onnx({}), "yolo export"), (onnx(weight=(14, 1)), "another file"),
    (onnx(weight=(13, b"x")), "another file"), (onnx()[:-3], "damaged"), (b"\x08\x08", "no ONNX graph"),
    (b"\x08\x01" + b"\xff" * 20, "damaged"), (b"\x08\xff", "by its content"),
    (onnx({**SAID, "names": "__import__('os').system('touch fired')"}), "export it again"),
    (onnx({**SAID, "names": "(" * 5000}), "export it again"),
    (onnx({**SAID, "stride": "10**9"}), "export it again"),
    (onnx({**SAID, "imgsz": "[9999999, 1]"}), "make no sense"),
    (onnx({**SAID, "kpt_shape": "[21]"}), "make no sense"),
    (onnx({**SAID, "names": "{0: '\\x1b[2J'}"}), "class names"), (detector(), "by its content it is .pt"),
])
def test_odd_onnx_is_refused(data, pattern, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.onnx"
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=pattern) as caught:
        read_onnx(path)
    assert str(caught.value).startswith("x.onnx: ") and not (tmp_path / "fired").exists()


def test_known_models_name_their_source_and_hash():
    for name, model in KNOWN.items():
        assert name == model.file == model.source.rsplit("/", 1)[1] and model.source.startswith("https://")
        assert re.fullmatch("[0-9a-f]{64}", model.sha256) and 1 << 20 < model.size < 1 << 30
        assert all(part in missing(name, "there") for part in (model.source, model.sha256, "there"))


@pytest.fixture
def install():
    spec = importlib.util.spec_from_file_location("install_of_models", ROOT / "install.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def server():
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(404 if self.path == "/gone" else 200)
            self.end_headers()
            self.wfile.write(b"hand" * 1000)

        def log_message(self, *_):
            pass
    there = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=there.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{there.server_port}"
    there.shutdown()
    there.server_close()


def test_models_are_put_in_place_only_if_they_are_the_known_ones(install, server, tmp_path):
    right = hashlib.sha256(b"hand" * 1000).hexdigest()
    target = tmp_path / "bbox" / "x.pt"
    for name, sha256, size, why in (("x", "0" * 64, 4000, "another file"), ("x", right, 3999, "another file"),
                                    ("x", right, 4001, "another file"), ("gone", right, 4000, "404")):
        assert why in install.fetch(f"{server}/{name}", target, sha256, size)
        assert list(target.parent.iterdir()) == []
    assert install.fetch(f"{server}/x", target, right, 4000) == "" and target.read_bytes() == b"hand" * 1000
    assert install.fetch(f"{server}/gone", target, right, 4000) == ""  # it is there already
    assert list(target.parent.iterdir()) == [target]


def test_models_go_to_the_hosts_folders(install, tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(install, "fetch", lambda *each: asked.append(each) or "late" * (len(asked) == 1))
    assert install.main(["--models", str(tmp_path)]) == 1
    assert [each[1:] for each in asked] == [(tmp_path / model.folder / model.file, model.sha256, model.size)
                                            for model in KNOWN.values()]
    assert capsys.readouterr().out.count("late") == 1
    assert install.main(["--models", str(tmp_path / "none")]) == 1
    assert "is no folder" in capsys.readouterr().out
