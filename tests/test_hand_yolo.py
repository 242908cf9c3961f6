"""YOLO's answers read: the letterbox leaves no trace; boxes, masks and joints are those of ultralytics."""
import numpy as np
import pytest
import torch
from tweedie_pack.controls.hands.yolo_detector import Yolo, arrange, side_of
from tweedie_pack.controls.hands.yolo_heads import decode, draw_mask, letterbox, part

FAMILIES = [(f"{name}{task}", final) for task in ("", "-seg", "-pose") for name, final in (
    ("yolov8n", False), ("yolo11n", False), ("yolo26n", False), ("yolo26n", True))] + [("yolov9t", False)]


@pytest.mark.parametrize("size", [(480, 640), (301, 777), (90, 33), (64, 64)])
@pytest.mark.parametrize("shape", [None, (640, 640), (384, 640)])
def test_the_letterbox_shows_all_of_the_picture_and_finds_back(size, shape):
    generator = torch.Generator().manual_seed(1)
    picture = torch.nn.functional.interpolate(torch.rand(1, 3, 6, 6, generator=generator), size)[0]
    batch, frame = letterbox(picture, 640, shape)
    assert tuple(batch.shape[2:]) == shape if shape else max(batch.shape[2:]) == 640
    assert batch.shape[2] % 32 == batch.shape[3] % 32 == 0
    corners = torch.tensor([[0.0, 0], [size[1], size[0]]])
    (left, top), (right, below) = (corners * torch.tensor(frame.gain) + torch.tensor(frame.start)).tolist()
    inside = batch[0, :, round(top):round(below), round(left):round(right)]
    shown = torch.nn.functional.interpolate(inside[None], size, mode="bilinear")[0]
    assert (shown - picture).abs().mean() < 0.03
    outside = batch.sum() - inside.sum()
    assert outside == pytest.approx((batch.numel() - inside.numel()) * 114 / 255, rel=1e-3, abs=1)
    torch.testing.assert_close(frame.back(torch.tensor([[left, top], [right, below]])), corners,
                               atol=1e-3, rtol=0)


def test_both_kinds_of_answers_are_read():
    plain = torch.zeros(1, 4 + 2 + 3, 40)
    plain[0, :4, 5] = torch.tensor([50.0, 40, 20, 10])
    plain[0, :4, 6] = torch.tensor([51.0, 40, 20, 10])
    plain[0, 4:6, 5], plain[0, 4:6, 6] = torch.tensor([0.1, 0.9]), torch.tensor([0.2, 0.8])
    plain[0, 6:, 5] = 7
    rows = decode(plain, 2, 3, 0.3)
    assert rows.boxes.tolist() == [[40, 35, 60, 45]] and rows.classes.tolist() == [1]
    assert rows.scores.tolist() == pytest.approx([0.9]) and rows.extra.tolist() == [[7, 7, 7]]
    final = torch.zeros(1, 300, 6 + 3)
    final[0, 3] = torch.tensor([40.0, 35, 60, 45, 0.9, 1, 7, 7, 7])
    for column, other in zip(rows, decode(final, 2, 3, 0.3), strict=True):
        torch.testing.assert_close(column, other)
    with pytest.raises(ValueError, match=r"shape \[1, 9, 40\], not, for 5 classes"):
        decode(plain, 5, 3, 0.3)


@pytest.mark.parametrize("size", [(500, 300), (123, 400)])
def test_a_mask_loses_the_letterbox_and_ends_at_its_box(size):
    centre, radius = (0.4 * size[1], 0.5 * size[0]), 0.3 * min(size)
    _, frame = letterbox(torch.zeros(3, *size), 320)
    height, width = letterbox(torch.zeros(3, *size), 320)[0].shape[2:]
    y, x = torch.meshgrid(*((torch.arange(side // 4) + 0.5) * 4 for side in (height, width)), indexing="ij")
    at = frame.back(torch.stack([x, y], -1))
    prototypes = torch.zeros(32, *at.shape[:2])
    prototypes[3] = radius - (at - torch.tensor(centre)).norm(dim=-1)
    rows, columns = torch.meshgrid(*(torch.arange(side) + 0.5 for side in size), indexing="ij")
    disc = (columns - centre[0]) ** 2 + (rows - centre[1]) ** 2 < radius ** 2
    disc[:, : round(centre[0])] = False
    box = (round(centre[0]), 0.0, float(size[1]), float(size[0]))
    mask = draw_mask(torch.eye(32)[3], prototypes, box, frame, 4.0)
    assert (mask & disc).sum() / (mask | disc).sum() > 0.98 and not mask[:, : round(centre[0])].any()


@pytest.fixture(scope="module")
def ultralytics(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("YOLO_CONFIG_DIR", str(tmp_path_factory.mktemp("yolo")))
        return pytest.importorskip("ultralytics", reason="ultralytics isn't installed")


def random_net(ultralytics, name, final):
    """A net of two classes with random weights, whose scores have no ties and whose masks are smooth."""
    from ultralytics.nn.tasks import DetectionModel, PoseModel, SegmentationModel
    kind, extra = {"-seg": (SegmentationModel, {}), "pose": (PoseModel, {"data_kpt_shape": (21, 3)})}.get(
        name[-4:], (DetectionModel, {}))
    torch.manual_seed(0)
    net = kind(f"{name}.yaml", nc=2, verbose=False, **extra).eval()
    net.end2end = final
    scores = torch.rand(1, 2, 9000, generator=torch.Generator().manual_seed(3))

    def answer(batch):
        out = net(batch)
        found, prototypes = part(out)
        if prototypes is not None:  # random weights leave most masks empty
            rough = torch.rand(1, 32, 3, 4, generator=torch.Generator().manual_seed(4)) - 0.5
            prototypes.copy_(torch.nn.functional.interpolate(rough, prototypes.shape[2:], mode="bicubic"))
        found[(0, slice(None), slice(2, 4)) if final else (0, slice(2, 4))] += 60  # no box is a speck
        if final:
            found[0, :, 4] += torch.linspace(0.01, 0, found.shape[1])
        else:
            found[:, 4:6] = scores[..., : found.shape[2]]
        return out
    return answer


@pytest.mark.parametrize(("name", "final"), FAMILIES)
def test_boxes_masks_and_joints_are_those_of_ultralytics(ultralytics, name, final):
    from ultralytics.utils import nms, ops
    size = (301, 477)
    net, pose = random_net(ultralytics, name, final), name.endswith("pose")
    picture = torch.nn.functional.interpolate(torch.rand(1, 3, 9, 9), size, mode="bilinear")[0]
    batch, _ = letterbox(picture, 320)
    with torch.no_grad():
        found, prototypes = part(net(batch))
    scores = found[0, :, 4] if final else found[0, 4:6].amax(0)
    least = float(scores.sort(descending=True)[0][60])
    wanted, = nms.non_max_suppression(found, least, 0.7, nc=2, end2end=final)
    boxes = ops.scale_boxes(batch.shape[2:], wanted[:, :4].clone(), size)
    there = (boxes[:, 2:] > boxes[:, :2]).all(1)
    wanted, boxes = wanted[there], boxes[there]
    hands = Yolo(net, ("a", "b"), (21, 3) if pose else None, 320)(picture, least)
    torch.testing.assert_close(torch.tensor([one.box for one in hands]), boxes, atol=0.5, rtol=0)
    assert [one.label for one in hands] == ["ab"[int(which)] for which in wanted[:, 5]] and len(hands) > 5
    if prototypes is not None:
        masks = ops.process_mask_native(prototypes[0], wanted[:, 6:], boxes, size).bool()
        ours = torch.stack([one.mask for one in hands])
        assert masks.any(-1).any(-1).sum() > 5 and (ours & masks).sum() / (ours | masks).sum() > 0.98
    if pose:
        joints = torch.stack([one.joints for one in hands])
        expected = ops.scale_coords(batch.shape[2:], wanted[:, 6:].reshape(-1, 21, 3).clone(), size)
        joints = torch.stack([joints[..., 0].clamp(0, size[1]), joints[..., 1].clamp(0, size[0])], -1)
        torch.testing.assert_close(joints, expected[..., :2], atol=0.5, rtol=0)
        torch.testing.assert_close(torch.stack([one.sure for one in hands]), expected[..., 2])


def test_keypoints_that_are_no_hands_are_left_out_and_labels_tell_sides():
    answer = torch.zeros(1, 4 + 1 + 17 * 3, 40)
    answer[0, :5, 0] = torch.tensor([50.0, 50, 20, 20, 0.9])
    found, = Yolo(lambda batch: answer, ("person",), (17, 3), 96)(torch.zeros(3, 96, 96))
    assert found.joints is None and found.box == (40, 40, 60, 60)
    assert [side_of(name) for name in ("left_hand", "Right hand", "bright", "hand")] == [-1, 1, 0, 0]
    assert [len(each.shape) for each in arrange([np.zeros((1, 32, 4, 4)), np.zeros((1, 5, 9))])] == [3, 4]
