"""Parts from landmarks, against the exact masks of drawn faces."""

import numpy as np
import pytest

from scemae_jax.evaluation import segmentation
from scemae_jax.faces import part_polygons
from scemae_jax.faces.part_polygons import EYES, IGNORE, OTHER, PARTS, part_mask
from scemae_jax.synthetic_faces.drawing import draw_face

OF_DRAWN = np.full(256, IGNORE, np.uint8)
OF_DRAWN[:11] = [0, 1, 2, 3, 4, 5, 6, 0, 0, 0, IGNORE]
"""Hair, neck and clothing are other; glasses do not count."""


def measured(noise: float, faces: int = 60) -> np.ndarray:
    """Intersection over union of the parts; landmarks are off by `noise` times the outer eye corners' distance."""
    rng, counts = np.random.default_rng(0), np.zeros((7, 7), np.int64)
    for subject in range(faces):
        face = draw_face(seed=5, subject=subject, frame=0, occluder=False)
        d = np.linalg.norm(face.landmarks[45] - face.landmarks[36])
        found = part_mask(face.landmarks + rng.normal(scale=noise * d, size=(68, 2)), (136, 136))
        truth = np.where(found == IGNORE, IGNORE, OF_DRAWN[face.parts[..., 0]])
        counts += segmentation.confusion(np.where(found == IGNORE, 0, found), truth, len(PARTS))
    return segmentation.intersection_over_union(counts)


def test_polygons_are_the_parts_of_drawn_faces():
    exact = measured(0.0)
    assert exact.mean() > 87
    assert exact.min() > 70
    assert measured(0.04, faces=20).mean() < exact.mean() - 5  # what a mask from landmarks owes to their errors


def test_a_polygon_covers_the_pixels_whose_centres_it_holds():
    landmarks = np.full((68, 2), 10.0)
    landmarks[36:42] = [(10, 10), (14, 8), (18, 8), (22, 10), (18, 12), (14, 12)]
    landmarks[42:48] = landmarks[36:42] + (40, 0)
    mask = part_mask(landmarks, (40, 80), clearance=False)
    assert (mask[9:12, 16] == EYES).all()
    assert (mask == EYES).sum() == pytest.approx(2 * 32, abs=8)  # the area of two hexagons
    assert mask[0, 0] == OTHER


def test_what_landmarks_do_not_tell_is_ignored():
    face = draw_face(seed=5, subject=0, frame=0, occluder=False)
    with_clearance, without = (part_polygons.part_mask(face.landmarks, (136, 136), clearance=c) for c in (True, False))
    brows = face.landmarks[17:27].mean(axis=0)
    forehead = (brows - (0, 12)).astype(int)
    assert with_clearance[forehead[1], forehead[0]] == IGNORE
    assert IGNORE in with_clearance
    assert IGNORE not in without
