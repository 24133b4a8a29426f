"""What a dataset has of its faces is read as it was drawn; what it lacks is an error that names it."""

import numpy as np
import pytest

from scemae_jax.data import sources
from scemae_jax.data.images import DatasetError
from scemae_jax.data.record import Faces
from scemae_jax.synthetic_faces.drawing import draw_face

EVERYTHING = ("landmarks", "visible", "parts", "occluder", "subject")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Six training faces, half of them with an occluder."""
    with pytest.MonkeyPatch.context() as fewer:
        for split, count in (("train", 6), ("validation", 1), ("test", 1)):
            fewer.setitem(sources.SyntheticFaces.builder_configs["occluded"].images, split, count)
        builder = sources.dataset_builder(
            "synthetic_faces", data_dir=tmp_path_factory.mktemp("data"), variant="occluded"
        )
        sources.prepare(builder, "")
    return builder


def test_all_that_is_asked_for_is_read_as_it_was_drawn(drawn):
    faces = sources.read_faces(drawn, ["train"], fields=EVERYTHING)
    assert len(faces) == 6
    assert faces.parts is not None
    assert faces.occluder is not None
    assert faces.visible is not None
    covered = faces.occluder.any(axis=(1, 2))
    assert 0 < covered.sum() < 6
    for index in range(6):
        options = [draw_face(seed=0, subject=i // 5, frame=i % 5, occluder=bool(covered[index])) for i in range(6)]
        (same,) = [face for face in options if np.array_equal(face.landmarks, faces.landmarks[index])]
        np.testing.assert_array_equal(faces.parts[index], same.parts[..., 0])
        np.testing.assert_array_equal(faces.occluder[index], same.occluder[..., 0])
        np.testing.assert_array_equal(faces.visible[index], same.visible)
        assert faces.subjects[index] == same.subject


def test_what_is_not_asked_for_is_not_read(drawn):
    faces = sources.read_faces(drawn, ["train"], limit=3, fields=("parts",))
    assert faces.images.shape == (3, 136, 136, 3)
    assert faces.parts is not None
    assert faces.parts.shape == (3, 136, 136)
    assert (faces.landmarks, faces.subjects, faces.visible, faces.occluder, faces.domains) == (None,) * 5
    assert (faces.points.shape, faces.people.tolist(), len(faces.annotated())) == ((3, 0, 2), [0, 1, 2], 0)


def test_a_field_that_the_dataset_lacks_is_an_error(drawn):
    message = (
        r"synthetic_faces/occluded/1\.0\.0 has no field 'domain'; it has: landmarks, occluder, parts, subject, visible"
    )
    with pytest.raises(DatasetError, match=message):
        sources.read_faces(drawn, ["train"], fields=("landmarks", "domain"))


def test_all_that_is_known_goes_with_the_faces_taken():
    landmarks = np.arange(24, dtype=np.float32).reshape(4, 3, 2)
    landmarks[1, 2] = np.nan
    faces = Faces(
        images=np.zeros((4, 8, 8, 3), np.uint8),
        landmarks=landmarks,
        subjects=np.arange(4),
        parts=np.arange(4, dtype=np.uint8)[:, None, None] * np.ones((4, 8, 8), np.uint8),
        domains=np.array([0, 1, 0, 1]),
    )
    known = faces.annotated()
    assert known.parts is not None
    assert known.domains is not None
    np.testing.assert_array_equal(known.subjects, [0, 2, 3])
    np.testing.assert_array_equal(known.parts[:, 0, 0], [0, 2, 3])
    np.testing.assert_array_equal(known.domains, [0, 0, 1])
    assert known.visible is None
