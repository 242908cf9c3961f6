"""The world's captions, pictures, depth and hands are what its scenes say, and the reader sees just that."""
import re
from dataclasses import replace
from functools import partial
from random import Random

import pytest
import torch
from scipy import ndimage
from tweedie_pack.demo import hand, reader, world
from tweedie_pack.demo.world import Hand, Scene, Shape

BALL = Shape("circle", "red", "on the left", 36.0, 64.0, 22.0, 0.0)
STAR = Shape("star", "blue", "on the right", 92.0, 64.0, 22.0, 5.0)
OPEN = Hand("open", None, 1, 64.0, 64.0, 100.0, 0.0, 0.0, 0.0, 1, 1.0, 0.0)
KINDS = (world.one_shape, world.two_shapes, world.one_hand)


def picture(*subjects, background="white"):
    return world.draw(Scene(subjects, background)).image


def finger(image, start, end, radius):
    """The picture with a capsule between two points, in the hand's colour at the start."""
    grid = world.pixel_grid()
    along = end - start
    share = ((grid - start) @ along / (along @ along)).clamp(0, 1)[..., None]
    inside = (grid - start - share * along).norm(dim=-1) < radius
    x, y = start.int().tolist()
    return torch.where(inside, image[:, y, x, None, None], image)


@pytest.mark.parametrize("subjects, caption", [
    ((BALL,), "a red circle on the left, white background"),
    ((BALL, STAR), "a red circle on the left and a blue star on the right, white background"),
    ((replace(STAR, colour="orange", place="at the top"),), "an orange star at the top, white background"),
    ((OPEN,), "an open hand, white background"),
    ((replace(OPEN, glove="orange"),), "an open hand in an orange glove, white background"),
    ((replace(OPEN, pose="fist", size=55.0),), "a small fist, white background"),
])
def test_captions(subjects, caption):
    assert Scene(subjects, "white").caption == caption


def test_random_scenes_follow_their_seed_and_the_grammar():
    def scenes(seed):
        random = Random(seed)
        return [world.random_scene(random) for _ in range(200)]
    colour, shape, where, pose = map("|".join, (world.COLOURS, world.SHAPES, world.PLACES, hand.POSES))
    thing = f"an? ({colour}) ({shape}) ({where})"
    held = f"an? (small )?({pose})( hand)?( in an? ({colour}) glove)?"
    first = scenes(3)
    assert first == scenes(3) != scenes(4)
    grammar = re.compile(f"({thing}( and {thing})?|{held}), ({colour}) background")
    assert all(grammar.fullmatch(scene.caption) for scene in first)
    assert {len(s.subjects) for s in first} == {1, 2}
    assert all(torch.equal(a, b) for a, b in zip(world.draw(first[0]), world.draw(first[0]), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_depth_is_the_subjects_and_edges_lie_where_it_ends(kind):
    random = Random(5)
    for scene in (kind(random) for _ in range(4)):
        image, depth, edges = world.draw(scene)
        assert image.shape == (3, 128, 128) and depth.shape == edges.shape == (1, 128, 128)
        assert all(t.min() >= 0 and t.max() <= 1 + 1e-6 for t in (image, depth, edges))
        plain = (image == torch.tensor(world.COLOURS[scene.background])[:, None, None]).all(0).numpy()
        near, lines = depth[0].numpy(), edges[0].numpy()
        assert (near[plain] == 0).all() and near.max() > 0.6
        rim = ~plain & ndimage.binary_dilation(plain)
        assert (lines[rim] > 0.4).all()
        assert not lines[ndimage.binary_erosion(plain, iterations=6)].any()  # 5 off a star's tip
        if isinstance(scene.subjects[0], Shape):  # a hand has folds inside too
            assert not lines[ndimage.binary_erosion(~plain, iterations=6)].any()


def test_hands_have_joints_at_the_declared_distances():
    for pose in hand.POSES:
        joints = hand.template(pose)
        assert joints.shape == (22, 3) and len(hand.RADII) == 21
        for digit, bones in enumerate((hand.THUMB, *hand.PHALANGES)):
            got = joints[4 * digit + 1:4 * digit + 5].diff(dim=0).norm(dim=1)
            torch.testing.assert_close(got, torch.tensor(bones))
        torch.testing.assert_close(joints[[5, 9, 13, 17]].norm(dim=1), torch.tensor(hand.METACARPALS))
    turned = replace(OPEN, angle=10.0, tilt=15.0, turn=-20.0).joints()
    torch.testing.assert_close(torch.pdist(turned), OPEN.size * torch.pdist(hand.template("open")))
    assert turned[21, 1] > turned[0, 1] > turned[9, 1] > turned[12, 1]  # the forearm is below


@pytest.mark.parametrize("pose", hand.POSES)
def test_left_hands_mirror_right_ones(pose):
    right = replace(OPEN, pose=pose, angle=8.0, turn=12.0, spread=1.1, bend=4.0)
    left = replace(right, angle=-8.0, turn=-12.0, side=-1)
    torch.testing.assert_close(left.joints() * torch.tensor([-1.0, 1, 1]) + torch.tensor([128.0, 0, 0]),
                               right.joints())
    a, b = (world.draw(Scene((subject,), "white")).depth for subject in (left, right))
    torch.testing.assert_close(a.flip(-1), b, atol=1e-3, rtol=0)
    thumb, little = right.joints()[[4, 20], 0]
    assert pose == "fist" or thumb < little  # palm to the viewer


def test_reader_errs_rarely_on_clean_pictures():
    rates = reader.error_rates(40, 1)
    shapes = {f"{kind}, {key}" for kind in ("one shape", "two shapes")
              for key in ("background", "colour", "shape", "place")}
    hands = {f"{kind}, {key}" for kind in ("large hand", "small hand")
             for key in ("background", "colour", "fingers")}
    assert set(rates) == shapes | hands
    assert all(share == 0 and count == 40 for share, count in (rates[key] for key in shapes))
    assert all(rates[key][0] <= 1 / 40 for key in hands)


@pytest.mark.parametrize("kind, allowed", [(world.one_shape, 0), (world.two_shapes, 0), (world.one_hand, 2)])
def test_reader_bears_blur_and_noise(kind, allowed):
    random, generator = Random(2), torch.Generator().manual_seed(2)
    wrong = 0
    for scene in (kind(random) for _ in range(24)):
        blurred = torch.from_numpy(ndimage.gaussian_filter(world.draw(scene).image.numpy(), (0, 1.5, 1.5)))
        noisy = (blurred + 0.03 * torch.randn(blurred.shape, generator=generator)).clamp(0, 1)
        wrong += not all(reader.judge(scene, noisy).values())
    assert wrong <= allowed


def test_reading_measures_the_picture():
    image = picture(BALL, STAR)
    seen = reader.read(image)
    assert seen.background == "white" and seen.brightness == pytest.approx(float(image.mean()))
    assert [(s.colour, s.shape, s.place) for s in seen.subjects] == [
        ("red", "circle", "on the left"), ("blue", "star", "on the right")]
    ball = seen.subjects[0]
    assert (ball.x, ball.y) == pytest.approx((36, 64), abs=0.1) and ball.fit > 0.98
    assert ball.area == pytest.approx(3.1416 * (0.95 * 22) ** 2, rel=0.01)
    assert reader.read(torch.zeros(3, 128, 128)) == ("black", 0, ())


@pytest.mark.parametrize("subjects, wrong", [
    ((BALL, STAR), set()),
    ((replace(BALL, colour="blue"), replace(STAR, colour="red")), {"colour"}),
    ((replace(BALL, shape="square"), STAR), {"shape"}),
    ((replace(BALL, x=92.0), replace(STAR, x=36.0)), {"colour", "shape"}),
    ((replace(BALL, x=48.0, y=36.0, radius=18.0), STAR), {"place"}),
    ((BALL, STAR, replace(STAR, x=64.0, y=18.0, radius=15.0)), {"place"}),
    ((BALL,), {"colour", "shape", "place"}),
    ((), {"colour", "shape", "place"}),
])
def test_wrong_shapes_are_judged_wrong(subjects, wrong):
    asked = Scene((BALL, STAR), "white")
    assert {key for key, right in reader.judge(asked, picture(*subjects)).items() if not right} == wrong
    assert not reader.judge(asked, picture(*subjects, background="yellow"))["background"]


def test_touching_shapes_stay_two():
    image = picture(replace(BALL, shape="square", x=46.0), replace(STAR, x=80.0))
    assert ndimage.label((image != 1).any(0).numpy())[1] == 1
    assert {(s.colour, s.shape) for s in reader.read(image).subjects} == {("red", "square"), ("blue", "star")}


@pytest.mark.parametrize("size", [100.0, 55.0])
def test_fingers_are_counted_whatever_was_asked(size):
    for pose in hand.POSES:
        shown = replace(OPEN, pose=pose, size=size)
        image = picture(shown)
        assert reader.count_fingers(image) == shown.fingers
        for asked in hand.POSES:
            verdict = reader.judge(Scene((replace(shown, pose=asked),), "white"), image)
            assert verdict == {"background": True, "fingers": asked == pose}
    joints = replace(OPEN, size=size).joints()[:, :2]
    between = (joints[4] + joints[8]) / 2  # the tips of thumb and index finger
    spread, pointing = (picture(replace(OPEN, pose=pose, size=size)) for pose in ("open", "pointing"))
    assert reader.count_fingers(finger(spread, joints[5], between, 0.04 * size)) == 6
    aside = joints[17] + size * torch.tensor([0.15, -0.4])
    assert reader.count_fingers(finger(pointing, joints[17], aside, 0.04 * size)) == 2


def test_any_picture_is_read():
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(3, 128, 128, generator=generator)
    dot, line, frame = torch.zeros(3, 3, 128, 128)
    dot[:, 60, 60], line[:, 64], frame[:, 2:-2, 2:-2] = 1, 1, 1
    for image in (noise, dot, line, frame, noise.round(), 1 - frame):
        assert reader.count_fingers(image) >= -1
        assert all(0 <= seen.fit <= 1.001 for seen in reader.read(image).subjects)


def test_a_glove_has_a_colour_and_a_ball_is_no_fist():
    asked = Scene((replace(OPEN, glove="green"),), "white")
    right = {"background": True, "fingers": True, "colour": True}
    assert reader.judge(asked, world.draw(asked).image) == right
    assert not reader.judge(asked, picture(replace(OPEN, glove="purple")))["colour"]
    assert reader.count_fingers(picture(BALL)) == reader.count_fingers(picture()) == -1


@pytest.mark.parametrize("image, message", [
    (torch.zeros(1, 3, 128, 128), r"one float picture \[3,128,128\], got torch.float32 \[1, 3, 128, 128\]"),
    (torch.zeros(3, 128, 128, dtype=torch.uint8), "got torch.uint8"),
    ([0.0], "got list"),
    (torch.full((3, 128, 128), float("nan")), "needs values in 0..1, got nan"),
    (torch.full((3, 128, 128), 2.0), "got 2 to 2; clamp"),
])
def test_reader_refuses_what_is_no_picture(image, message):
    for use in (reader.read, reader.count_fingers, partial(reader.judge, Scene((OPEN,), "white"))):
        with pytest.raises(ValueError, match=message):
            use(image)
