"""MediaPipe's two interfaces, played by stand-ins with the names and the sides of 0.10.21 and of 1.2.2."""
import pathlib
import sys
from types import SimpleNamespace

import pytest
import torch
from tweedie_pack.controls.hands.detectors import detect, open_detector, with_joints
from tweedie_pack.controls.hands.found import Hand

OPENED = []  # confidences with which a net was opened, and closings
BOX = (0.25, 0.25, 0.5, 0.75)  # of the whole picture, where the stand-in's hand is


def landmarks(image):
    """21 of them around the bright pixels; None where there are none."""
    rows, columns = (image[..., 0] > 128).nonzero()
    if not len(rows):
        return None
    low, high = (columns.min(), rows.min()), (columns.max() + 1, rows.max() + 1)
    return [SimpleNamespace(x=(low[0] + (high[0] - low[0]) * (number % 2)) / image.shape[1],
                            y=(low[1] + (high[1] - low[1]) * number / 20) / image.shape[0])
            for number in range(21)]


class Solutions:
    """`mp.solutions.hands.Hands`: protobufs, None for no hand, the sides of a mirrored picture."""

    def __init__(self, static_image_mode, max_num_hands, model_complexity, min_detection_confidence):
        assert static_image_mode
        OPENED.append(min_detection_confidence)

    def process(self, image):
        assert image.dtype == "uint8" and image.flags["C_CONTIGUOUS"]
        found = landmarks(image)
        if found is None:
            return SimpleNamespace(multi_hand_landmarks=None, multi_handedness=None)
        side = SimpleNamespace(classification=[SimpleNamespace(label="Left", score=0.8, index=0)])
        return SimpleNamespace(multi_hand_landmarks=[SimpleNamespace(landmark=found)],
                               multi_handedness=[side])

    def close(self):
        OPENED.append("closed")


class Landmarker:
    """`mp.tasks.vision.HandLandmarker`: lists, the sides of the subject."""

    @classmethod
    def create_from_options(cls, options):
        if pathlib.Path(options.base_options.model_asset_path).read_bytes() != b"task":
            raise RuntimeError("Unable to open zip archive.")
        OPENED.append(options.min_hand_detection_confidence)
        return cls()

    def detect(self, image):
        found = landmarks(image.data)
        side = [SimpleNamespace(category_name="Right", score=0.8)]
        return SimpleNamespace(hand_landmarks=[found] if found else [], handedness=[side] if found else [])

    def close(self):
        OPENED.append("closed")


def install(patch, kind):
    """A stand-in for the module `mediapipe`."""
    if kind == "solutions":
        module = SimpleNamespace(__version__="0.10.21", solutions=SimpleNamespace(
            hands=SimpleNamespace(Hands=Solutions)))
    else:
        def options(base_options, num_hands, min_hand_detection_confidence, min_hand_presence_confidence):
            return SimpleNamespace(**locals())
        module = SimpleNamespace(
            __version__="1.2.2", Image=lambda image_format, data: SimpleNamespace(data=data),
            ImageFormat=SimpleNamespace(SRGB=1), tasks=SimpleNamespace(
                BaseOptions=lambda model_asset_path: SimpleNamespace(model_asset_path=model_asset_path),
                vision=SimpleNamespace(HandLandmarker=Landmarker, HandLandmarkerOptions=options)))
    patch.setitem(sys.modules, "mediapipe", module)
    OPENED.clear()


@pytest.fixture
def task(tmp_path):
    path = tmp_path / "hand_landmarker.task"
    path.write_bytes(b"task")
    return path


def scene(size=(120, 160)):
    picture = torch.zeros(3, *size)
    picture[:, round(BOX[1] * size[0]):round(BOX[3] * size[0]),
            round(BOX[0] * size[1]):round(BOX[2] * size[1])] = 1
    return picture


@pytest.mark.parametrize("kind", ["solutions", "tasks"])
def test_both_interfaces_find_the_same_hand(monkeypatch, task, kind):
    install(monkeypatch, kind)
    look = open_detector("mediapipe", task if kind == "tasks" else None)
    hand, = detect(look, scene(), confidence=0.4)
    assert hand.side == 1 and hand.joints[0].tolist() == [40, 30] and hand.joints[19].tolist()[0] == 80
    assert hand.box == pytest.approx((34, 24, 86, 96)) and hand.sure.shape == (21,)
    assert hand.confidence == pytest.approx(0.8)
    assert detect(look, torch.zeros(3, 120, 160), confidence=0.4) == [] and OPENED == [0.4]
    look(scene(), 0.6)
    assert OPENED == [0.4, "closed", 0.6]
    look.free()
    assert OPENED[-1] == "closed" and look(scene(), 0.6)


@pytest.mark.parametrize("kind", ["solutions", "tasks"])
def test_a_given_box_is_read_in_a_crop_of_its_own(monkeypatch, task, kind):
    install(monkeypatch, kind)
    look = open_detector("mediapipe", task if kind == "tasks" else None)
    given = [Hand((38.0, 28.0, 82.0, 92.0)), Hand((130.0, 5.0, 150.0, 20.0), label="empty")]
    first, second = with_joints(given, look, scene())
    assert first.box == given[0].box and first.side == 1
    torch.testing.assert_close(first.joints[[0, 19]], torch.tensor([[40.0, 30], [80, 87]]))
    assert second == given[1]


def test_what_is_missing_or_broken_is_never_an_empty_picture(monkeypatch, tmp_path, task):
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    with pytest.raises(ValueError, match="pip install mediapipe"):
        open_detector("mediapipe")
    install(monkeypatch, "tasks")
    with pytest.raises(ValueError, match="1.2.2 brings none, so download https://"):
        open_detector("mediapipe")
    task.write_bytes(b"none")
    with pytest.raises(ValueError, match="Unable to open zip archive"):
        open_detector("mediapipe", task)(scene(), 0.4)
    task.write_bytes(b"task")

    def fail(self, image):
        raise RuntimeError("graph failed")
    monkeypatch.setattr(Landmarker, "detect", fail)
    with pytest.raises(RuntimeError, match="graph failed"):
        detect(open_detector("mediapipe", task), scene())
