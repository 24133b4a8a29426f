"""Things in front of a face: drawn flat at the face's place, rounded by shading their distance to the
edge."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import Float, UInt8

OCCLUDERS = ("none", "hand", "mask", "microphone", "sunglasses")
"""Names of the values of an occluder mask."""

_SHIFT = 4


class _Layer:
    """A transparent picture that solids are added to; points are in pixels of the final image."""

    def __init__(
        self,
        canvas: int,
        zoom: float,
        light_direction: Float[np.ndarray, " 3"],
        brightness: Float[np.ndarray, " 3"],
        skin: Float[np.ndarray, " 3"],
    ):
        self.colour = np.zeros((canvas, canvas, 3), np.float32)
        self.alpha = np.zeros((canvas, canvas), np.float32)
        self.zoom, self.direction, self.brightness, self.skin = zoom, light_direction, brightness, skin

    def outline(self, points: Float[np.ndarray, "n 2"]) -> UInt8[np.ndarray, "c c"]:
        mask = np.zeros(self.alpha.shape, np.uint8)
        fixed = np.rint(((points + 0.5) * self.zoom - 0.5) * (1 << _SHIFT)).astype(np.int32)
        cv2.fillPoly(mask, [fixed], 255, cv2.LINE_AA, _SHIFT)
        return mask

    def capsule(self, start: np.ndarray, end: np.ndarray, width: float) -> UInt8[np.ndarray, "c c"]:
        """A thick line with round ends; width in pixels of the final image."""
        mask = np.zeros(self.alpha.shape, np.uint8)
        ends = np.rint(((np.stack([start, end]) + 0.5) * self.zoom - 0.5) * (1 << _SHIFT)).astype(int)
        cv2.line(mask, ends[0].tolist(), ends[1].tolist(), 255, max(1, round(width * self.zoom)), cv2.LINE_AA, _SHIFT)
        return mask

    def add(self, mask: UInt8[np.ndarray, "c c"], colour: np.ndarray, *, radius: float) -> None:
        """Adds a solid whose edge is rounded over ``radius`` pixels; ``colour`` is one colour or a picture of
        them."""
        radius = radius * self.zoom
        inside = cv2.distanceTransform((mask > 127).astype(np.uint8), cv2.DIST_L2, 3)
        t = np.minimum(inside / radius, 1)
        height = cv2.GaussianBlur(radius * np.sqrt(1 - (1 - t) ** 2), (0, 0), 1.2)
        gx, gy = (
            cv2.Sobel(height, cv2.CV_32F, 1, 0, scale=1 / 8),
            cv2.Sobel(height, cv2.CV_32F, 0, 1, scale=1 / 8),
        )
        x, y, z = self.direction.astype(np.float32)
        facing = (z - gx * x - gy * y) / np.sqrt(1 + gx * gx + gy * gy)
        shade = (np.float32(0.45) + np.float32(0.65) * np.maximum(facing, 0))[..., None]
        alpha = mask[..., None] * np.float32(1 / 255)
        lit = np.clip(colour * shade * self.brightness.astype(np.float32), 0, 255)
        self.colour += alpha * (lit - self.colour)
        self.alpha = np.maximum(self.alpha, alpha[..., 0])


def draw(
    kind: str,
    landmarks: Float[np.ndarray, "68 3"],
    scale: float,
    skin: tuple[float, float, float],
    light_direction: Float[np.ndarray, " 3"],
    brightness: Float[np.ndarray, " 3"],
    canvas: int,
    zoom: float,
    rng: np.random.Generator,
) -> tuple[Float[np.ndarray, "c c 3"], Float[np.ndarray, "c c"]]:
    """Draws one of ``OCCLUDERS[1:]`` over the projected landmarks.

    Args:
      landmarks: x, y in pixels of the final image, z in head units.
      scale: pixels per head unit (half the distance between the outer eye corners).
      skin: colour of the hand.
      brightness: of the light, by channel.
      canvas, zoom: side of the drawing in its own pixels, and how many of them make one of the final image.

    Returns:
      The colours (0 to 255) and how opaque they are (0 to 1).
    """
    layer = _Layer(canvas, zoom, light_direction, brightness, np.array(skin))
    _DRAW[kind](layer, landmarks[:, :2], scale, rng)
    return layer.colour, layer.alpha


def _unit(degrees: float) -> Float[np.ndarray, " 2"]:
    """The direction ``degrees`` clockwise from up."""
    return np.array([np.sin(np.radians(degrees)), -np.cos(np.radians(degrees))])


def _hand(layer: _Layer, p: Float[np.ndarray, "68 2"], scale: float, rng: np.random.Generator) -> None:
    target = p[[57, 8, 4, 12, 33, 36, 45, 2, 14]][rng.integers(9)] + rng.normal(0, 0.15 * scale, 2)
    tilt = float(np.clip(rng.normal(0, 45), -100, 100))
    along, size = _unit(tilt), scale * rng.uniform(0.85, 1.1)
    across = np.array([-along[1], along[0]])
    palm = target - along * size * rng.uniform(0.2, 1.2)
    mirror = rng.choice([-1, 1])
    skin = layer.skin * rng.uniform(0.9, 1.05)
    layer.add(
        layer.capsule(palm - along * 5 * size, palm - along * 1.2 * size, 1.05 * size),
        skin,
        radius=0.5 * size,
    )
    corners = [(-0.62, 0.55), (0.62, 0.6), (0.66, -0.4), (0.42, -1.25), (-0.42, -1.25), (-0.68, -0.3)]
    shape = np.array([palm + size * (mirror * a * across + b * along) for a, b in corners])
    mask = layer.outline(shape)
    radius = round(0.12 * size * layer.zoom) * 2 + 1
    layer.add(cv2.GaussianBlur(mask, (radius, radius), 0), skin, radius=0.35 * size)
    bend = rng.uniform(0.45, 1.0)
    for a, length, spread in ((-0.50, 0.95, -9), (-0.17, 1.18, -3), (0.16, 1.25, 2), (0.48, 1.08, 8)):
        root = palm + size * (mirror * a * across + 0.45 * along)
        finger = _unit(tilt + mirror * (spread + rng.normal(0, 3)))
        layer.add(layer.capsule(root, root + finger * size * length * bend, 0.31 * size), skin, radius=0.16 * size)
    root = palm + size * (mirror * 0.5 * across - 0.5 * along)
    thumb = _unit(tilt + mirror * rng.uniform(25, 55))
    layer.add(layer.capsule(root, root + thumb * size * 1.05, 0.36 * size), skin * 1.02, radius=0.18 * size)


def _mask(layer: _Layer, p: Float[np.ndarray, "68 2"], scale: float, rng: np.random.Generator) -> None:
    colour = np.array([(235, 238, 240), (150, 195, 220), (35, 36, 40), (180, 110, 120), (90, 120, 90)])[rng.choice(5)]
    centre = p[[31, 35, 48, 54]].mean(0)
    rim = np.concatenate([p[2:15], 0.55 * p[[2, 14]] + 0.45 * p[[31, 35]], p[28:29] * 0.5 + p[29:30] * 0.5])
    rim[:13] = centre + (rim[:13] - centre) * 1.04
    hull = cv2.convexHull(rim.astype(np.float32))[:, 0].astype(float)
    for side, ear in ((2, 0), (14, 16)):
        for end in (p[side], p[side + (2 if side < 8 else -2)]):
            layer.add(layer.capsule(end, p[ear], 0.07 * scale), colour, radius=0.05 * scale)
    picture = np.broadcast_to(np.float32(colour), layer.colour.shape).copy()
    for t in (0.3, 0.5, 0.7):
        line = np.stack([a * (1 - t) + b * t for a, b in ((p[2], p[6]), (p[29], p[8]), (p[14], p[10]))])
        fixed = np.rint(((line + 0.5) * layer.zoom - 0.5) * (1 << _SHIFT)).astype(np.int32)
        cv2.polylines(picture, [fixed], False, tuple(float(c) for c in colour * 0.8), 1, cv2.LINE_AA, _SHIFT)
    layer.add(layer.outline(hull), picture, radius=0.9 * scale)


def _microphone(layer: _Layer, p: Float[np.ndarray, "68 2"], scale: float, rng: np.random.Generator) -> None:
    tilt = 180 + rng.uniform(-55, 55)
    head = p[57] + _unit(tilt) * scale * rng.uniform(0.0, 0.7) + rng.normal(0, 0.1 * scale, 2)
    along, size = _unit(tilt), scale * rng.uniform(0.36, 0.52)
    dark = np.array([(28, 28, 32), (60, 62, 68), (120, 120, 124), (40, 50, 110)])[rng.choice(4)]
    layer.add(
        layer.capsule(head + along * size, head + along * 9 * size, 0.95 * size),
        dark * 0.8,
        radius=0.45 * size,
    )
    layer.add(layer.capsule(head, head, 2 * size), dark, radius=size)
    ys, xs = np.mgrid[: layer.alpha.shape[0], : layer.alpha.shape[1]].astype(np.float32)
    weave = 1 + 0.25 * np.sin(1.7 * xs) * np.sin(1.7 * ys)
    layer.add(layer.capsule(head, head + along * 0.25 * size, 2 * size), dark * weave[..., None], radius=size)


def _sunglasses(layer: _Layer, p: Float[np.ndarray, "68 2"], scale: float, rng: np.random.Generator) -> None:
    tint = np.array([(18, 18, 22), (40, 26, 18), (20, 30, 48), (30, 34, 26)])[rng.choice(4)].astype(np.float32)
    rim = np.array([(22, 20, 20), (90, 70, 40), (160, 160, 165), (120, 30, 40)])[rng.choice(4)].astype(np.float32)
    power, tall, wide = rng.uniform(2.0, 3.6), rng.uniform(0.32, 0.46), rng.uniform(1.55, 1.85)
    t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    x = np.sign(np.cos(t)) * np.abs(np.cos(t)) ** (2 / power)
    y = np.sign(np.sin(t)) * np.abs(np.sin(t)) ** (2 / power)
    level = p[45] - p[36]
    down = np.array([-level[1], level[0]]) / np.linalg.norm(level) * scale
    lenses = []
    for outer, inner in ((36, 39), (45, 42)):
        half = (p[outer] - p[inner]) / 2 * wide
        centre = (p[outer] + p[inner]) / 2 + 0.06 * down
        lenses.append(centre + x[:, None] * half + y[:, None] * tall * down)
    for lens, ear in zip(lenses, (0, 16), strict=True):
        hinge = lens[0] - 0.1 * down
        if np.linalg.norm(hinge - p[27]) < np.linalg.norm(p[ear] - p[27]):  # the near side's arm shows
            layer.add(layer.capsule(hinge, p[ear] - 0.05 * down, 0.12 * scale), rim, radius=0.08 * scale)
    layer.add(layer.capsule(lenses[0][20], lenses[1][20], 0.11 * scale), rim, radius=0.06 * scale)
    ramp = np.linspace(0, 1, layer.alpha.shape[0], dtype=np.float32)[:, None, None]
    sky = tint + rng.uniform(10, 70) * (1 - ramp)
    for lens in lenses:
        middle = lens.mean(0)
        layer.add(layer.outline(middle + (lens - middle) * 1.08), rim, radius=0.1 * scale)
        layer.add(
            layer.outline(middle + (lens - middle) * 0.95),
            np.broadcast_to(sky, layer.colour.shape),
            radius=1.2 * scale,
        )


_DRAW: dict[str, Callable] = {
    "hand": _hand,
    "mask": _mask,
    "microphone": _microphone,
    "sunglasses": _sunglasses,
}
