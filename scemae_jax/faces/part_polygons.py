"""Part masks drawn from 68 landmarks: what landmarks alone can say of where the parts are.

They serve to measure parsers on faces that have landmarks and no masks, and as a rival: parts by way of landmarks.
Lengths are in units of d, the distance between the outer corners of the eyes.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

PARTS = ("other", "skin", "brows", "eyes", "nose", "lips", "inner_mouth")
"""Names of the classes in the masks, by value."""
OTHER, SKIN, BROWS, EYES, NOSE, LIPS, INNER_MOUTH = range(len(PARTS))
IGNORE = 255
_SHIFT = 5
"""Bits behind the point of a polygon's coordinates."""
_FINER = 8
"""Pixels that a pixel's side is divided into while polygons are drawn."""


def part_mask(
    landmarks: Float[np.ndarray, "68 2"], size: tuple[int, int], *, clearance: bool = True
) -> UInt8[np.ndarray, "h w"]:
    """The parts as polygons through the landmarks.

    Args:
      landmarks: (x, y) in pixels, (0, 0) the centre of the top left one.
      size: (height, width) of the mask in pixels.
      clearance: ignore (255) what landmarks do not tell: forehead, ears, hair at the temples, and the borders of the
        skin. False fills that up: skin inside the hull of all landmarks, other outside.

    Returns:
      Values of `PARTS`, or 255.
    """
    p = landmarks.astype(np.float64)
    across = p[45] - p[36]
    d = float(np.hypot(*across))
    right = across / max(d, 1e-9)
    down = np.array([-right[1], right[0]])

    def filled(*polygons: np.ndarray) -> Bool[np.ndarray, "h w"]:
        return _drawn(size, lambda mask, points: cv2.fillPoly(mask, points, 1, cv2.LINE_8, _SHIFT), *polygons)

    skin_outline = np.concatenate([p[:17], p[26:16:-1]])
    hull = cv2.convexHull(p.astype(np.float32))[:, 0]
    if clearance:
        parts_apart = 0.03 * d
        mask = np.full(size, IGNORE, np.uint8)
        temples = _beside(size, p[0:5], p[12:17], distance=0.35 * d)
        brows = p[17:27]
        forehead = filled(np.concatenate([p[:1], brows, p[16:17], p[16:17] - 1.5 * d * down, p[:1] - 1.5 * d * down]))
        mask[(_distance(~filled(hull)) > 0.16 * d) & ~temples & ~forehead] = OTHER
        mask[_distance(filled(skin_outline)) > 0.04 * d] = SKIN
    else:
        parts_apart = 0.0
        mask = np.where(filled(hull), SKIN, OTHER).astype(np.uint8)

    beside_tip = [p[30] + 0.65 * (p[k] - p[30]) + sign * 0.036 * d * right for k, sign in ((31, -1), (35, 1))]
    nose = np.stack(
        [
            p[27] - 0.06 * d * right, beside_tip[0], p[31] - 0.06 * d * right, p[32], p[33], p[34],
            p[35] + 0.06 * d * right, beside_tip[1], p[27] + 0.06 * d * right,
        ]
    )  # fmt: skip
    brows = [np.concatenate([b - 0.02 * d * down, b[::-1] + 0.05 * d * down]) for b in (p[17:22], p[22:27])]
    drawn = {
        NOSE: filled(nose),
        BROWS: filled(*brows),
        EYES: filled(p[36:42], p[42:48]),
        LIPS: filled(p[48:60]),
        INNER_MOUTH: filled(p[60:68]),
    }
    if parts_apart:
        every = np.any(list(drawn.values()), axis=0)
        near = (_distance(~every) <= parts_apart) & (mask == SKIN)
        mask[near] = IGNORE
    for value, where in drawn.items():
        mask[where] = value
    return mask


def _drawn(size: tuple[int, int], draw: Callable, *lines: np.ndarray) -> Bool[np.ndarray, "h w"]:
    """Pixels of which at least half is covered: OpenCV draws a polygon's border too, so it draws finer pixels."""
    fine = np.zeros((_FINER * size[0], _FINER * size[1]), np.uint8)
    for points in lines:
        draw(fine, [np.round((_FINER * (points + 0.5) - 0.5) * 2**_SHIFT).astype(np.int32)])
    return fine.reshape(size[0], _FINER, size[1], _FINER).mean(axis=(1, 3)) >= 0.5


def _beside(size: tuple[int, int], *lines: np.ndarray, distance: float) -> Bool[np.ndarray, "h w"]:
    """Where one of the lines is at most so far."""
    near = np.zeros(size, np.uint8)
    for points in lines:
        thickness = max(1, round(2 * distance))
        cv2.polylines(near, [np.round(points * 2**_SHIFT).astype(np.int32)], False, 1, thickness, cv2.LINE_8, _SHIFT)
    return near > 0


def _distance(where: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """Of each pixel that is there, to the nearest one that is not."""
    return cv2.distanceTransform(where.astype(np.uint8), cv2.DIST_L2, 5)
