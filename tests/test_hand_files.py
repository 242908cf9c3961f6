"""controls/hands/files.py: which files are detectors, and what is said of one that is missing."""
import pytest
from tweedie_pack.controls.hands.files import OWN, list_files, pick_file


def test_detectors_are_listed_by_name_and_conversions_are_not(tmp_path):
    for name in ("a/bbox/hand.pt", "a/bbox/hand.0123456789abcdef.safetensors", "a/readme.txt",
                 "a/own.safetensors", "b/hand.onnx", "b/hand_landmarker.task", "b/own.safetensors"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    folders = [tmp_path / "a", tmp_path / "b", tmp_path / "none"]
    found = list_files(folders)
    assert list(found) == ["bbox/hand.pt", "own.safetensors", "hand.onnx", "hand_landmarker.task"]
    assert found["own.safetensors"] == tmp_path / "a/own.safetensors"
    assert pick_file("hand.onnx", folders, tmp_path) == tmp_path / "b/hand.onnx"
    assert pick_file(OWN, folders, tmp_path) is None


@pytest.mark.parametrize("name", ["hand_yolov8n.pt", "../secret.pt", "other.pt"])
def test_a_missing_file_is_named_with_its_source_and_folder(tmp_path, name):
    with pytest.raises(ValueError, match="can't be opened") as raised:
        pick_file(name, [tmp_path], tmp_path)
    assert repr(name) in str(raised.value) and str(tmp_path) in str(raised.value)
    assert ("https://" in str(raised.value)) == (name == "hand_yolov8n.pt")
