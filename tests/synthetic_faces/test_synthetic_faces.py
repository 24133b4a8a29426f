"""Synthetic faces: determinism, landmark geometry against plain trigonometry, landmarks against masks."""

import dataclasses
import hashlib
import subprocess
import sys

import cv2
import numpy as np
import pytest

from scemae_jax.data.datasets.synthetic_faces import SyntheticFaces, encoded_examples
from scemae_jax.synthetic_faces import OCCLUDERS, PARTS, Expression, Pose, draw_face
from scemae_jax.synthetic_faces import anatomy as geometry

PLAIN = Expression()
PART = {name: value for value, name in enumerate(PARTS)}
PEOPLE = [geometry.sample_identity(np.random.default_rng(i)) for i in range(20)]


def fields(face):
    return face.image, face.landmarks, face.visible, face.parts, face.occluder


def inside(polygon, shrink=0.0):
    """The pixels whose centres lie in a polygon, at least ``shrink`` pixels from its edge."""
    contour = polygon.astype(np.float32)
    mask = np.zeros((136, 136), bool)
    (left, top), (right, bottom) = polygon.min(0).astype(int), polygon.max(0).astype(int) + 1
    for x in range(left, right + 1):
        for y in range(top, bottom + 1):
            mask[y, x] = cv2.pointPolygonTest(contour, (float(x), float(y)), True) >= shrink
    return mask


def distance_to(mask, points):
    """From each point to the nearest pixel centre of a mask, in pixels."""
    y, x = np.nonzero(mask)
    return np.sqrt(((points[:, None] - np.stack([x, y], 1)) ** 2).sum(2).min(1))


@pytest.fixture(scope="module")
def frontal():
    return [draw_face(seed=3, subject=i, frame=0, pose=Pose(), expression=PLAIN) for i in range(16)]


def test_same_seed_same_bytes_and_another_seed_another_face():
    first, again = (draw_face(seed=5, subject=2, frame=1, occluder=True) for _ in range(2))
    for a, b in zip(fields(first), fields(again), strict=True):
        assert a.tobytes() == b.tobytes()
    for key in ({"seed": 6}, {"subject": 3}, {"frame": 2}):
        other = draw_face(**{"seed": 5, "subject": 2, "frame": 1, **key})
        assert not np.array_equal(first.image, other.image)
        assert not np.allclose(first.landmarks, other.landmarks)


def test_same_bytes_in_another_process():
    code = (
        "import hashlib; from scemae_jax.synthetic_faces.drawing import draw_face;"
        "print(hashlib.sha256(draw_face(seed=5, subject=2, frame=1).image.tobytes()).hexdigest())"
    )
    there = subprocess.check_output([sys.executable, "-c", code], text=True).strip()
    here = hashlib.sha256(draw_face(seed=5, subject=2, frame=1).image.tobytes()).hexdigest()
    assert there == here


def test_a_person_keeps_face_and_skin_between_frames():
    for subject in range(4):
        shapes = []
        for frame in range(2):
            face = draw_face(seed=1, subject=subject, frame=frame, pose=Pose(), expression=PLAIN)
            p = face.landmarks - face.landmarks.mean(0)
            shapes.append(p / np.linalg.norm(p[45] - p[36]))
        np.testing.assert_allclose(shapes[0], shapes[1], atol=1e-4)
    spans = []
    for subject in range(6):
        p = draw_face(seed=1, subject=subject, frame=0, pose=Pose(), expression=PLAIN).landmarks
        spans.append(np.ptp(p[:, 1]) / np.linalg.norm(p[45] - p[36]))
    assert np.std(spans) > 0.02  # people differ


def test_the_mirror_order_is_an_involution_and_the_neutral_face_is_symmetric():
    assert np.array_equal(geometry.MIRROR[geometry.MIRROR], np.arange(68))
    np.testing.assert_allclose(geometry.NEUTRAL[geometry.MIRROR] * (-1, 1), geometry.NEUTRAL, atol=1e-12)


def test_landmarks_are_in_the_usual_order(frontal):
    for face in frontal:
        x, y = face.landmarks.T
        assert (np.diff(x[:17]) > 0).all()  # the jaw from the image's left
        assert y[:17].argmax() in (7, 8, 9)
        assert (np.diff(x[17:27]) > 0).all()
        assert (np.diff(y[27:31]) > 0).all()
        assert (np.diff(x[31:36]) > 0).all()
        for eye in (36, 42):
            assert x[eye] == x[eye : eye + 6].min()
            assert x[eye + 3] == x[eye : eye + 6].max()
            assert y[eye + 1 : eye + 3].max() < y[eye + 4 : eye + 6].min()
        assert (np.diff(x[48:55]) > 0).all()
        assert (np.diff(x[54:60]) < 0).all()
        assert (np.diff(x[60:65]) > 0).all()
        assert y[17:27].max() < y[36:48].min() < y[30] < y[51] <= y[62] <= y[66] < y[57] < y[8]


def test_without_asymmetry_a_frontal_face_mirrors_onto_itself():
    for identity in PEOPLE[:5]:
        identity = dataclasses.replace(identity, asymmetry=np.zeros((68, 2)))
        points = geometry.build_head(identity, Expression(smile=0.7, mouth_open=0.4)).landmarks
        np.testing.assert_allclose(points[geometry.MIRROR] * (-1, 1, 1), points, atol=1e-9)


@pytest.mark.parametrize("angles", [(0, 0, 0), (35, 0, 0), (0, 18, 0), (0, 0, 20), (-50, 12, -15)])
def test_projection_is_roll_after_pitch_after_yaw(angles):
    yaw, pitch, roll = np.radians(angles)
    points = geometry.build_head(PEOPLE[0], PLAIN).landmarks
    pose = Pose(yaw=angles[0], pitch=angles[1], roll=angles[2], scale=21.0, offset=(60.0, 50.0))
    expected = []
    for x, y, z in points:  # one axis after the other, by hand
        x, z = x * np.cos(yaw) + z * np.sin(yaw), z * np.cos(yaw) - x * np.sin(yaw)
        y, z = y * np.cos(pitch) + z * np.sin(pitch), z * np.cos(pitch) - y * np.sin(pitch)
        x, y = x * np.cos(roll) - y * np.sin(roll), y * np.cos(roll) + x * np.sin(roll)
        expected.append((60 + 21 * x, 50 + 21 * y, z))
    np.testing.assert_allclose(geometry.project(points, pose), expected, atol=1e-9)


def test_yaw_moves_the_nose_tip_against_the_jaw_by_its_depth():
    points = geometry.build_head(PEOPLE[1], PLAIN).landmarks
    tip, corners = points[30], points[[0, 16]].mean(0)
    assert tip[2] - corners[2] > 1.5  # the nose is well in front of the ears
    for yaw in (-40, 25):
        face = draw_face(seed=0, subject=0, frame=0, pose=Pose(yaw=yaw), expression=PLAIN)
        head = geometry.build_head(geometry.sample_identity(_identity_stream(0, 0)), PLAIN).landmarks
        depth, aside = head[30, 2] - head[[0, 16], 2].mean(), head[30, 0] - head[[0, 16], 0].mean()
        moved = face.landmarks[30, 0] - face.landmarks[[0, 16], 0].mean()
        expected = face.pose.scale * (depth * np.sin(np.radians(yaw)) + aside * np.cos(np.radians(yaw)))
        assert moved == pytest.approx(expected, abs=1e-3)


def _identity_stream(seed, subject):
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, subject))))


def test_the_frame_holds_the_face_as_asked():
    faces = [draw_face(seed=9, subject=i, frame=0) for i in range(12)]
    for face in faces:
        low, high = face.landmarks.min(0), face.landmarks.max(0)
        assert 0.45 * 136 - 1e-2 <= (high - low).max() <= 0.60 * 136 + 1e-2
        assert np.abs((low + high) / 2 - 67.5).max() <= 8.01
    assert np.std([face.landmarks[30, 0] for face in faces]) > 3  # the place alone does not give it away


def test_open_eyes_cover_the_eye_part(frontal):
    checked = 0
    for face in frontal:
        for eye in (slice(36, 42), slice(42, 48)):
            outline = face.landmarks[eye]
            core = inside(outline, shrink=0.6)
            labels = face.parts[..., 0][core]
            free = labels != PART["glasses"]
            if free.sum() >= 3 and face.visible[eye].all():
                checked += 1
                assert (labels[free] == PART["eyes"]).mean() > 0.95
    assert checked >= 16


@pytest.mark.parametrize("angles", [(0, 0, 0), (30, 5, 12), (-35, -8, -10)])
def test_landmarks_lie_on_the_edges_of_their_parts(angles):
    """Half a pixel is what labels at whole pixels allow on average; a part tapers to a point at the mouth's corners."""
    yaw, pitch, roll = angles
    lips, brows, nose = [], [], []
    near_brow = slice(17, 22) if yaw > 0 else slice(22, 27)
    for subject in range(12):
        pose = Pose(yaw=yaw, pitch=pitch, roll=roll)
        face = draw_face(seed=3, subject=subject, frame=0, pose=pose, expression=PLAIN)
        parts, p, seen = face.parts[..., 0], face.landmarks, face.visible
        mouth = np.isin(parts, (PART["lips"], PART["inner_mouth"]))
        edge = mouth ^ cv2.erode(mouth.astype(np.uint8), np.ones((3, 3))).astype(bool)
        lips.append(np.where(seen[48:60], distance_to(edge, p[48:60]), 0))
        brow = np.isin(parts, (PART["brows"], PART["glasses"]))
        brows.append(np.where(seen[near_brow], distance_to(brow, p[near_brow]), 0))
        nose.append(np.where(seen[28:36], distance_to(parts == PART["nose"], p[28:36]), 0))
    corners = np.isin(np.arange(48, 60), (48, 54))
    assert np.max(np.array(lips)[:, ~corners]) < 1.3
    assert np.max(np.array(lips)[:, corners]) < 2.0
    for distances in (lips, brows, nose):
        assert np.mean(distances) < 0.6
    assert np.max(brows) < 1.7
    assert np.max(nose) < 1.7


def test_an_open_mouth_shows_its_inside_and_a_closed_one_does_not():
    wide, shut = (
        draw_face(seed=0, subject=7, frame=0, pose=Pose(), expression=Expression(mouth_open=amount))
        for amount in (0.9, 0.0)
    )
    assert (wide.parts == PART["inner_mouth"]).sum() > 40 > (shut.parts == PART["inner_mouth"]).sum()
    core = inside(wide.landmarks[60:68], shrink=0.7)
    assert (wide.parts[..., 0][core] == PART["inner_mouth"]).mean() > 0.95


def test_the_far_side_hides_under_yaw():
    for yaw in (50, -50):
        hidden = np.zeros(68)
        for subject in range(8):
            face = draw_face(seed=2, subject=subject, frame=0, pose=Pose(yaw=yaw), expression=PLAIN)
            hidden += ~face.visible
        image_right, image_left = hidden[12:17].sum(), hidden[0:5].sum()
        far, near = (image_right, image_left) if yaw > 0 else (image_left, image_right)
        assert far > 25  # of 40
        assert far > 1.5 * near
        assert hidden[30] == 0
    frontal = [draw_face(seed=2, subject=s, frame=0, pose=Pose(), expression=PLAIN) for s in range(8)]
    assert np.mean([face.visible[27:68].mean() for face in frontal]) > 0.97


@pytest.mark.parametrize("kind", OCCLUDERS[1:])
def test_an_occluder_changes_only_what_its_mask_covers(kind):
    for subject in range(5):
        clean = draw_face(seed=8, subject=subject, frame=0)
        covered = draw_face(seed=8, subject=subject, frame=0, occluder=kind)
        mask = covered.occluder[..., 0] > 0
        assert set(np.unique(covered.occluder)) == {0, OCCLUDERS.index(kind)}
        assert np.array_equal(covered.image[~mask], clean.image[~mask])
        assert (covered.image[mask] != clean.image[mask]).any(1).mean() > 0.9
        assert np.array_equal(covered.landmarks, clean.landmarks)
        assert np.array_equal(covered.parts, clean.parts)
        x, y = np.clip(np.round(covered.landmarks).astype(int), 0, 135).T
        assert np.array_equal(covered.visible, clean.visible & ~mask[y, x])
        assert covered.visible.sum() < clean.visible.sum()


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"'banana'.*microphone"):
        draw_face(seed=0, subject=0, frame=0, occluder="banana")
    with pytest.raises(ValueError, match="subject -1"):
        draw_face(seed=0, subject=-1, frame=0)


def test_tfds_round_trip(data_dir):
    builder = SyntheticFaces(config="tiny", data_dir=data_dir, file_format="array_record")
    sources = {split: builder.as_data_source(split=split) for split in ("train", "validation", "test")}
    assert [len(source) for source in sources.values()] == [120, 20, 40]
    subjects = {split: {int(e["subject"]) for e in source} for split, source in sources.items()}
    assert [len(people) for people in subjects.values()] == [24, 4, 8]
    assert len(set.union(*subjects.values())) == 24 + 4 + 8  # nobody is in two splits
    for example in list(sources["train"])[:10]:
        assert example["image"].shape == (136, 136, 3)
        frames = [draw_face(seed=0, subject=int(example["subject"]), frame=frame) for frame in range(5)]
        match = [np.array_equal(example["landmarks"], face.landmarks) for face in frames]
        assert sum(match) == 1
        face = frames[match.index(True)]
        for name in ("visible", "parts", "occluder"):
            assert np.array_equal(example[name], getattr(face, name))
        assert np.abs(example["image"].astype(int) - face.image).mean() < 4  # JPEG at quality 95


def test_the_occluded_configuration_occludes_about_half():
    config = SyntheticFaces.builder_configs["occluded"]
    examples = encoded_examples(range(60), "train", config.seed, config.frames, config.occluded)
    masks = [cv2.imdecode(np.frombuffer(e["occluder"].read(), np.uint8), cv2.IMREAD_UNCHANGED) for _, e in examples]
    assert 18 <= sum(mask.any() for mask in masks) <= 42
    assert len({mask.max() for mask in masks}) == len(OCCLUDERS)
