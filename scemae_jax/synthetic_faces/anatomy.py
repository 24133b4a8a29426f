"""Geometry of a synthetic head: 68 landmarks, a deformable 3-D surface through them, hair, neck and
shoulders.

Head coordinates: x to the image's right, y down, z towards the camera; the origin lies between the outer eye
corners, half their distance is the unit, and the vertical axis runs through the middle of the skull. A
cross-section at height y is an ellipse, ``(w sin(phi), y, zc + d cos(phi))``, whose profile follows the jaw
landmarks; bumps along z add nose, sockets, lips, cheeks and chin. Landmarks are points of that surface, so
what is painted at a landmark's place stays there under every pose.
"""

from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.interpolate import PchipInterpolator

JAW, EYES, MOUTH = slice(0, 17), (slice(36, 42), slice(42, 48)), slice(48, 68)
BROWS = (slice(17, 22), slice(22, 27))
MIRROR = np.array([
    *range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, 35, 34, 33, 32, 31, 45, 44, 43, 42, 47, 46,
    39, 38, 37, 36, 41, 40, *range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), 67, 66, 65,
])  # fmt: skip
"""``landmarks[MIRROR]`` renumbers the landmarks of a mirrored face."""

_RIGHT_HALF = np.array([  # index, x, y of the half with x >= 0 of an average neutral face
    # jaw, from the chin up
    (8, 0, 2.64), (9, 0.53, 2.53), (10, 0.90, 2.31), (11, 1.16, 2.03), (12, 1.36, 1.67), (13, 1.49, 1.26),
    (14, 1.58, 0.87), (15, 1.65, 0.47), (16, 1.68, 0.05),
    # brow
    (22, 0.37, -0.40), (23, 0.60, -0.50), (24, 0.86, -0.54), (25, 1.12, -0.49), (26, 1.34, -0.33),
    # nose
    (27, 0, 0.02), (28, 0, 0.30), (29, 0, 0.57), (30, 0, 0.83),
    (33, 0, 1.08), (34, 0.15, 1.05), (35, 0.29, 1.00),
    # eye
    (42, 0.44, 0.03), (43, 0.60, -0.115), (44, 0.83, -0.115), (45, 1, 0), (46, 0.83, 0.095), (47, 0.61, 0.10),
    # mouth, outside and inside
    (51, 0, 1.39), (52, 0.14, 1.36), (53, 0.36, 1.43), (54, 0.58, 1.55), (55, 0.39, 1.70), (56, 0.20, 1.79),
    (57, 0, 1.81), (62, 0, 1.535), (63, 0.17, 1.53), (64, 0.50, 1.55), (65, 0.17, 1.54), (66, 0, 1.545),
])  # fmt: skip


def _neutral() -> Float[np.ndarray, "68 2"]:
    points = np.zeros((68, 2))
    index = _RIGHT_HALF[:, 0].astype(int)
    points[MIRROR[index]] = _RIGHT_HALF[:, 1:] * (-1, 1)
    points[index] = _RIGHT_HALF[:, 1:]
    return points


NEUTRAL = _neutral()

# Sine of the angle at which each jaw landmark 8..16 sits: near the silhouette, rounder at the chin.
_JAW_SINE = np.array([0.5, 0.85, 0.93, 0.955, 0.97, 0.98, 0.985, 0.985, 0.985])

HAIR_STYLES = (
    "bald",
    "receding",
    "buzz",
    "short",
    "parted",
    "quiff",
    "fringe",
    "curly",
    "afro",
    "bob",
    "long",
    "wavy",
    "tied",
    "bun",
    "beanie",
    "scarf",
)
BEARDS = ("none", "stubble", "moustache", "goatee", "full")
CLOTHES = ("plain", "stripes", "shirt", "suit", "v_neck", "jacket")


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What stays the same in all images of one person. Lengths in head units, factors near 1."""

    width: float
    jaw: float
    chin: float
    length: float
    skull: float
    eye_size: float
    eye_spacing: float
    eye_tilt: float
    nose_length: float
    nose_width: float
    nose_height: float
    nose_hook: float
    mouth_width: float
    mouth_drop: float
    upper_lip: float
    lower_lip: float
    brow_height: float
    brow_arch: float
    brow_tilt: float
    brow_thickness: float
    cheeks: float
    age: float
    feminine: bool
    asymmetry: Float[np.ndarray, "68 2"] = field(repr=False)
    skin: tuple[float, float, float]
    hair: tuple[float, float, float]
    iris: tuple[float, float, float]
    lips: tuple[float, float, float]
    hair_style: str
    hair_volume: float
    hairline: float
    beard: str
    glasses: str
    freckles: float
    makeup: float
    seed: int


@dataclass(frozen=True, kw_only=True)
class Expression:
    """Movable parts of a face: 0 is neutral, 1 is strong; ``eye_open`` is 1 when open; ``gaze`` in iris
    radii."""

    mouth_open: float = 0.0
    smile: float = 0.0
    pucker: float = 0.0
    brow_raise: float = 0.0
    eye_open: float = 1.0
    gaze: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class Pose:
    """Head rotation in degrees (positive yaw: the nose moves to the image's right; pitch: down; roll:
    clockwise) and the similarity into the image: pixels per head unit and the pixel of the head's origin."""

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    scale: float = 1.0
    offset: tuple[float, float] = (0.0, 0.0)


_SKIN = np.array(
    [
        (250, 219, 198),
        (241, 200, 172),
        (228, 181, 146),
        (208, 156, 118),
        (176, 122, 86),
        (135, 88, 61),
        (98, 63, 45),
        (74, 48, 36),
    ],
    float,
)
_HAIR = np.array(
    [
        (24, 20, 19),
        (42, 30, 24),
        (70, 46, 31),
        (104, 70, 44),
        (152, 110, 66),
        (205, 168, 112),
        (140, 62, 32),
        (128, 124, 122),
        (206, 203, 199),
    ],
    float,
)
_IRIS = np.array([(62, 40, 26), (84, 56, 34), (112, 84, 48), (92, 116, 92), (84, 120, 158), (120, 142, 156)], float)


def sample_identity(rng: np.random.Generator) -> Identity:
    """Draws a person."""

    def spread(deviation: float, mean: float = 1.0) -> float:
        return float(mean + deviation * np.clip(rng.standard_normal(), -2.2, 2.2))

    tone = rng.beta(0.9, 1.3) * (len(_SKIN) - 1)
    skin = np.array([np.interp(tone, np.arange(len(_SKIN)), _SKIN[:, c]) for c in range(3)])
    skin *= 1 + rng.normal(0, [0.02, 0.025, 0.04])
    feminine = bool(rng.random() < 0.5)
    age = float(rng.beta(1.6, 2.2))
    grey = rng.random() < max(0.0, age - 0.35) * 1.4
    dark = tone > 3.5
    hue = rng.choice([7, 8]) if grey else rng.choice(2 if dark else 7) if rng.random() < 0.93 else rng.choice(7)
    hair = _HAIR[hue] * spread(0.1)
    if feminine:
        weights = [0, 0, 1, 3, 3, 1, 4, 4, 2, 5, 7, 5, 5, 3, 1, 2]
    else:
        weights = [3, 3, 4, 9, 6, 5, 3, 3, 2, 0.5, 1, 0.7, 0.5, 0.1, 1.5, 0.2]
    weights = np.array(weights) * np.where(np.array(HAIR_STYLES) == "afro", 3.0 if dark else 0.4, 1.0)
    style = str(rng.choice(HAIR_STYLES, p=weights / weights.sum()))
    lips = skin * (0.86, 0.62, 0.62) + (18, 4, 8)
    makeup = float(feminine and rng.random() < 0.5) * rng.uniform(0.3, 1)
    lips = (1 - 0.75 * makeup) * lips + 0.75 * makeup * np.array(
        [(168, 40, 52), (190, 80, 90), (140, 50, 60), (205, 98, 92)]
    )[rng.choice(4)]
    asymmetry = np.zeros((68, 2))  # none in the jaw: the surface's profile is symmetric
    for part in (*BROWS, slice(27, 36), *EYES, MOUTH):
        asymmetry[part] = rng.normal(0, 0.015, 2)
    asymmetry[17:60] += rng.normal(0, 0.005, (43, 2))
    return Identity(
        width=spread(0.05),
        jaw=spread(0.055, 0.97 if feminine else 1.02),
        chin=spread(0.14, 0.93 if feminine else 1.06),
        length=spread(0.055, 0.98 if feminine else 1.02),
        skull=spread(0.06),
        eye_size=spread(0.10, 1.08 if feminine else 0.98),
        eye_spacing=spread(0.045),
        eye_tilt=spread(0.035, 0.01),
        nose_length=spread(0.065),
        nose_width=spread(0.13, 0.95 if tone < 3.5 else 1.15),
        nose_height=spread(0.18, 0.95),
        nose_hook=spread(0.05, 0.0),
        mouth_width=spread(0.09),
        mouth_drop=spread(0.04, 0.0),
        upper_lip=spread(0.24, 1.0 if tone < 3.5 else 1.3),
        lower_lip=spread(0.24, 1.0 if tone < 3.5 else 1.25),
        brow_height=spread(0.06, 0.03 if feminine else -0.02),
        brow_arch=spread(0.05, 0.03 if feminine else 0.0),
        brow_tilt=spread(0.05, 0.0),
        brow_thickness=float(np.clip(spread(0.28, 0.8 if feminine else 1.15), 0.4, 1.8)),
        cheeks=spread(0.35),
        age=age,
        feminine=feminine,
        asymmetry=asymmetry,
        skin=tuple(np.clip(skin, 25, 252)),
        hair=tuple(np.clip(hair, 12, 235)),
        iris=tuple(_IRIS[rng.choice(2 if dark else 6)] * spread(0.12)),
        lips=tuple(np.clip(lips, 20, 250)),
        hair_style=style,
        hair_volume=float(np.clip(spread(0.3), 0.4, 1.7)),
        hairline=spread(0.12, 0.0),
        beard="none" if feminine else str(rng.choice(BEARDS, p=[0.45, 0.2, 0.1, 0.1, 0.15])),
        glasses=str(rng.choice(("none", "thin", "thick"), p=[0.78, 0.11, 0.11])),
        freckles=float(rng.random() < 0.25) * rng.uniform(0.3, 1.0) * (tone < 4),
        makeup=makeup,
        seed=int(rng.integers(2**31)),
    )


def sample_expression(rng: np.random.Generator) -> Expression:
    """Draws an expression: a quarter near neutral, the others smiling, talking, blinking, looking aside."""
    talking = rng.random() < 0.45
    smile = rng.uniform(0.2, 1) if rng.random() < 0.4 else rng.normal(0, 0.15)
    return Expression(
        mouth_open=float(rng.beta(1.2, 2.6) if talking else 0),
        smile=float(np.clip(smile, -0.35, 1)),
        pucker=float(max(0, rng.normal(-0.1, 0.35)) if smile < 0.2 else 0),
        brow_raise=float(np.clip(rng.normal(0, 0.4), -0.8, 1)),
        eye_open=float(rng.choice([rng.uniform(0.6, 1.25), rng.uniform(0.02, 0.5)], p=[0.88, 0.12])),
        gaze=tuple(np.clip(rng.normal(0, [0.6, 0.25]), [-1.3, -0.5], [1.3, 0.5])),
    )


def flat_landmarks(identity: Identity, expression: Expression) -> Float[np.ndarray, "68 2"]:
    """x and y of the landmarks of a face seen from the front, in head units."""
    p = NEUTRAL.copy()
    side = np.sign(p[:, 0])

    # Identity: whole face, jaw taper, then part by part about its own centre.
    lower = np.clip((p[JAW, 1] - 0.3) / 2.0, 0, 1)
    p[JAW, 0] *= 1 + (identity.jaw - 1) * lower
    chin = np.exp(-((p[JAW, 0] / 0.8) ** 2)) * (np.abs(p[JAW, 0]) > 0)
    p[JAW, 0] *= 1 + 0.6 * (identity.chin - 1) * chin
    for eye in EYES:
        centre = p[eye].mean(0)
        local = (p[eye] - centre) * identity.eye_size
        local[:, 1] += -identity.eye_tilt * local[:, 0] * side[eye] / 0.28 * 0.6
        p[eye] = centre * (identity.eye_spacing, 1) + local
    for brow in BROWS:
        outward = (np.abs(p[brow, 0]) - 0.86) / 0.5
        arch = 1 - outward**2
        p[brow, 1] += -identity.brow_height - identity.brow_arch * arch - identity.brow_tilt * outward
    p[27:36, 1] *= identity.nose_length
    p[31:36, 0] *= identity.nose_width
    p[31:36, 1] += identity.nose_hook
    middle = 1.545
    p[MOUTH, 0] *= identity.mouth_width
    index = np.arange(48, 68)
    upper = np.isin(index, (49, 50, 51, 52, 53, 61, 62, 63))
    corners, inner = np.isin(index, (48, 54, 60, 64)), index >= 60
    lip = np.where(upper, identity.upper_lip, identity.lower_lip)
    p[MOUTH, 1] = middle + (p[MOUTH, 1] - middle) * np.where(inner, 1, lip) + identity.mouth_drop
    p[28:, 1] += (p[28:, 1] > 0.2) * 0.5 * (identity.length - 1) * p[28:, 1]
    p[JAW, 1] *= identity.length
    p += identity.asymmetry

    # Expression.
    smile, opened = expression.smile, expression.mouth_open
    for brow in BROWS:
        inward = 1 - (np.abs(p[brow, 0]) - 0.37) / 0.97
        raised = expression.brow_raise
        p[brow, 1] -= 0.13 * raised if raised > 0 else 0.14 * raised * inward
        p[brow, 0] *= 1 - (0.05 * max(0, -raised)) * inward
    for eye in EYES:
        outer, inner_corner = (p[eye][0], p[eye][3])
        lower_lid = p[eye][4:6]
        along = (p[eye, 0] - outer[0]) / (inner_corner[0] - outer[0])
        line = outer[1] + along * (inner_corner[1] - outer[1])
        closed = line + (lower_lid[:, 1].mean() - line.mean()) * 4 * along * (1 - along) * 0.7
        squint = 0.3 * max(0, smile)
        lids = np.array([0, 1, 1, 0, -1, -1])
        amount = np.where(lids > 0, expression.eye_open * (1 - 0.4 * squint), 1 - squint)
        p[eye, 1] = np.where(lids == 0, p[eye, 1], closed + (p[eye, 1] - closed) * amount)
    x = np.abs(p[MOUTH, 0]) / (0.58 * identity.mouth_width)
    s = side[MOUTH]
    p[MOUTH, 0] += s * x * 0.13 * smile - s * x * 0.16 * expression.pucker
    p[MOUTH, 1] += -0.16 * smile * x**2 + 0.03 * smile
    p[MOUTH, 1] += np.where(upper, -1, 1) * 0.03 * expression.pucker * (1 - x)
    drop = 0.62 * opened
    arc = np.sqrt(np.clip(1 - (x * np.where(inner, 1.1, 1.0)) ** 2, 0, 1))
    below = ~upper & ~corners
    p[MOUTH, 1] += np.where(below, drop * (0.35 + 0.65 * arc), 0)
    p[MOUTH, 1] += np.where(upper, -0.10 * opened * arc, 0)
    p[MOUTH, 1] += np.where(corners, 0.25 * drop, 0)
    p[MOUTH, 0] -= s * x * 0.12 * opened
    # Teeth show in a wide smile: the lips part a little.
    p[MOUTH, 1] += np.where(inner & below, 0.13 * max(0, smile - 0.3) * arc, 0)
    p[MOUTH, 1] += np.where(~inner & below, 0.09 * max(0, smile - 0.3) * arc, 0)
    p[31:36, 0] *= 1 + 0.1 * max(0, smile)
    p[31:36, 1] -= 0.03 * max(0, smile)
    p[JAW, 1] += 0.8 * drop * np.clip((p[JAW, 1] - 0.9) / 1.6, 0, 1)
    p[:, 0] *= identity.width
    return p


@dataclass(frozen=True)
class Head:
    """The surface of one face in one expression. ``flat`` are the landmarks as seen from the front."""

    identity: Identity
    expression: Expression
    flat: Float[np.ndarray, "68 2"]
    crown: float
    bottom: float
    table: Float[np.ndarray, "n 5"] = field(repr=False)
    blobs: Float[np.ndarray, "m 5"] = field(repr=False)

    def profile(self, y: Float[np.ndarray, "..."]) -> tuple[np.ndarray, ...]:
        """Half width, centre, front depth and back depth of the cross-sections at ``y``."""
        return tuple(np.interp(y, self.table[:, 0], column) for column in self.table[:, 1:].T)

    def angle(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The angle phi of the point of the front half at (x, y)."""
        width = np.interp(y, self.table[:, 0], self.table[:, 1])
        return np.arcsin(np.minimum(np.maximum(x / np.maximum(width, 1e-3), -1), 1))

    def relief(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """What nose, sockets, lips, cheeks and chin add to z."""
        x, y = x.astype(np.float32), y.astype(np.float32)
        cx, cy, sx, sy, amplitude = self.blobs.astype(np.float32).T.reshape(5, -1, *[1] * x.ndim)
        bumps = np.exp(-(((x - cx) / sx) ** 2) - ((y - cy) / sy) ** 2)
        height = np.tensordot(amplitude.ravel(), bumps, axes=1)
        identity, f = self.identity, self.flat
        top, tip, base = f[27, 1], f[30, 1], f[33, 1]
        long = tip - top
        ys = [
            top - 0.3,
            top - 0.08,
            top + 0.35 * long,
            top + 0.7 * long,
            tip,
            tip + 0.35 * (base - tip),
            base,
            base + 0.1,
        ]
        ridge = np.interp(y, ys, np.array([0, 0.12, 0.27, 0.43, 0.58, 0.54, 0.14, 0]) * identity.nose_height)
        half = np.interp(y, [top, tip, base], [0.17, 0.2, 0.22]) * (0.4 + 0.6 * identity.nose_width)
        return height + ridge * np.exp(-((x / half) ** 2))

    def lift(self, points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 3"]:
        """The points of the surface's front at the given (x, y)."""
        x, y = points[:, 0], points[:, 1]
        _, centre, front, _ = self.profile(y)
        cosine = np.cos(self.angle(x, y))
        z = centre + front * cosine + self.relief(x, y) * _front_fade(cosine)
        return np.stack([x, y, z], axis=1)

    @cached_property
    def landmarks(self) -> Float[np.ndarray, "68 3"]:
        """The landmarks in head coordinates."""
        return self.lift(self.flat)

    @property
    def landmark_normals(self) -> Float[np.ndarray, "68 3"]:
        """Unit normals of the surface at the landmarks, in head coordinates."""
        step = 0.02
        steps = np.array([(step, 0), (-step, 0), (0, -step)])[:, None]
        right, left, above = self.lift((self.flat + steps).reshape(-1, 2)).reshape(3, 68, 3)
        normals = np.cross(right - left, self.landmarks - above)
        return normals / np.linalg.norm(normals, axis=1, keepdims=True)


def _front_fade(cosine: np.ndarray) -> np.ndarray:
    t = np.clip(cosine / 0.35, 0, 1)
    return t * t * (3 - 2 * t)


@cache
def _spline(points: int, samples: int, closed: bool) -> Float[np.ndarray, "n points"]:
    """Catmull-Rom: the matrix that turns control points into a smooth curve through them."""
    segments = points if closed else points - 1
    rows = []
    for segment in range(segments):
        for t in np.linspace(0, 1, samples, endpoint=False):
            weights = 0.5 * np.array(
                [-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3]
            )
            row = np.zeros(points)
            for step, weight in zip(range(-1, 3), weights, strict=True):
                at = segment + step
                if closed or 0 <= at < points:
                    row[at % points] += weight
                else:  # continue the end segment straight
                    end, inward = (0, 1) if at < 0 else (points - 1, -1)
                    row[end] += 2 * weight
                    row[end + inward] -= weight
            rows.append(row)
    if not closed:
        rows.append(np.eye(points)[-1])
    return np.array(rows)


def smooth_curve(points: Float[np.ndarray, "n 2"], *, closed: bool = False, samples: int = 5) -> np.ndarray:
    """A dense smooth curve through the points."""
    return _spline(len(points), samples, closed) @ points


def _average_profile() -> Float[np.ndarray, "n 4"]:
    """Height y, and z of the face's front (without relief), of the cross-section's centre and of the head's
    back."""
    y = np.linspace(-1.2, NEUTRAL[8, 1], 200)
    face = (
        [-1.2, -0.9, -0.45, 0.0, 0.5, 1.07, 1.5, 1.95, 2.3, 2.52, 2.64],
        [2.0, 2.06, 2.06, 1.93, 1.98, 2.02, 2.02, 1.96, 2.0, 1.93, 1.66],
    )
    centre = [-1.2, -0.5, 0, 1.0, 1.69, 2.29, 2.64], [0, 0, 0, 0.1, 0.4, 0.9, 1.3]
    back = [-1.2, -1.0, 0, 0.7, 1.4, 2.2, 2.64], [-2.05, -2.05, -2.0, -1.7, -1.0, 0.1, 1.1]
    return np.stack([y, *(PchipInterpolator(*knots)(y) for knots in (face, centre, back))], axis=1)


_PROFILE = _average_profile()


def build_head(identity: Identity, expression: Expression) -> Head:
    """The surface through the landmarks of a person with an expression."""
    f = flat_landmarks(identity, expression)
    jaw_y, jaw_x = f[8:17, 1], np.abs(f[8:17, 0])
    crown = -2.1 * identity.skull
    broad = jaw_x[-1] / _JAW_SINE[-1] * 1.0
    # Widths are interpolated squared: an ellipse closes like a square root at the crown and at the chin.
    t = np.array([0.0, 0.12, 0.3, 0.5, 0.75])
    skull_y = crown * (1 - t)
    skull_w = 1.03 * broad * (1 - (1 - t) ** 2.4) ** (1 / 2.1)
    knots_y = np.concatenate([skull_y, jaw_y[::-1]])
    knots_w = np.concatenate([skull_w, (jaw_x / _JAW_SINE)[::-1]])
    y, squared = smooth_curve(np.stack([knots_y, knots_w**2], axis=1), samples=8).T
    width = np.sqrt(np.maximum(squared, 0))
    bottom = jaw_y[0]
    # Below the nose the profile stretches with the length of the face and the open mouth.
    usual = np.where(y < 1, y, 1 + (y - 1) * (NEUTRAL[8, 1] - 1) / (bottom - 1))
    face, centre, back = (np.interp(usual, _PROFILE[:, 0], column) for column in _PROFILE[:, 1:].T)
    rise = np.where(y < 0, np.sqrt(np.maximum(1 - np.clip(y / crown, 0, 1) ** 2.6, 0)), 1)
    table = np.stack([y, width, centre, (face - centre) * rise, (centre - back) * rise], axis=1)
    return Head(identity, expression, f, crown, bottom, table, _blobs(identity, expression, f))


def _blobs(identity: Identity, expression: Expression, f: Float[np.ndarray, "68 2"]) -> Float[np.ndarray, "m 5"]:
    """Gaussian bumps (centre x, centre y, radius x, radius y, height)."""
    smile, age = max(0.0, expression.smile), identity.age
    rows = []
    for sign, eye, brow in ((-1, EYES[0], BROWS[0]), (1, EYES[1], BROWS[1])):
        ex, ey = f[eye].mean(0)
        bx, by = f[brow].mean(0)
        wing = f[31] if sign < 0 else f[35]
        corner = f[48] if sign < 0 else f[54]
        rows += [
            (ex * 0.93, ey - 0.08, 0.42, 0.25, -0.27),  # socket
            (ex, ey, 0.27, 0.17, 0.16 * identity.eye_size),  # eyeball under the lids
            (bx, by + 0.05, 0.5, 0.13, 0.05 + 0.05 * (not identity.feminine)),  # brow ridge
            (wing[0] * 0.83, wing[1] - 0.1, 0.12 * identity.nose_width, 0.12, 0.24),  # wing of the nose
            (
                sign * 1.0 * identity.width,
                0.72 - 0.06 * smile,
                0.42,
                0.36,
                0.08 * identity.cheeks + 0.1 * smile,
            ),
            (sign * 1.08 * identity.width, 1.55, 0.32, 0.38, -0.07 * (2 - identity.cheeks)),  # hollow
            (
                (wing[0] + corner[0]) / 2 + sign * 0.12,
                (wing[1] + corner[1]) / 2,
                0.09,
                0.26,
                -0.05 * (0.3 + age + smile),
            ),
        ]
    upper, lower = f[51, 1], f[57, 1]
    inner_top, inner_low = f[62, 1], f[66, 1]
    half = abs(f[54, 0] - f[48, 0]) / 2
    gap = max(0.0, inner_low - inner_top)
    rows += [
        (0, f[30, 1] + 0.03, 0.17 * (0.5 + 0.5 * identity.nose_width), 0.15, 0.12),  # tip
        (0, (upper + inner_top) / 2, 0.75 * half, 0.6 * (inner_top - upper) + 0.03, 0.13),
        (0, (lower + inner_low) / 2, 0.68 * half, 0.6 * (lower - inner_low) + 0.03, 0.15),
        (0, (inner_top + inner_low) / 2, 0.9 * half, 0.035 + 0.45 * gap, -0.10 - 0.25 * min(gap, 0.4)),
        (0, lower + 0.16, 0.45, 0.11, -0.13),  # fold above the chin
        (0, (lower + f[8, 1]) / 2 + 0.13, 0.32 * identity.chin, 0.24, 0.16),
        (0, (f[33, 1] + upper) / 2, 0.07, 0.17, -0.04),  # philtrum
    ]
    return np.array(rows, float)


def rotation(pose: Pose) -> Float[np.ndarray, "3 3"]:
    """Roll after pitch after yaw, for column vectors (x right, y down, z towards the camera)."""
    yaw, pitch, roll = np.radians([pose.yaw, pose.pitch, pose.roll])
    about_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(pitch), np.sin(pitch)], [0, -np.sin(pitch), np.cos(pitch)]])
    about_z = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    return about_z @ about_x @ about_y


def project(points: Float[np.ndarray, "n 3"], pose: Pose) -> Float[np.ndarray, "n 3"]:
    """Weak perspective: rotates, scales and shifts. Returns x, y in pixels and z in head units (larger is
    nearer)."""
    turned = points @ rotation(pose).T
    return np.concatenate([turned[:, :2] * pose.scale + pose.offset, turned[:, 2:]], axis=1)


def fit_to_frame(
    landmarks: Float[np.ndarray, "68 3"],
    pose: Pose,
    *,
    size: int,
    fraction: float,
    shift: tuple[float, float],
) -> Pose:
    """The same rotation, with the landmarks' bounding box at the frame's centre plus ``shift`` pixels and its
    longer side ``fraction`` of the frame. Pixel centres have whole coordinates, so the frame's centre is
    ``(size - 1) / 2``."""
    seen = (landmarks @ rotation(pose).T)[:, :2]
    low, high = seen.min(0), seen.max(0)
    scale = fraction * size / (high - low).max()
    offset = (size - 1) / 2 + np.array(shift) - scale * (low + high) / 2
    return Pose(yaw=pose.yaw, pitch=pose.pitch, roll=pose.roll, scale=float(scale), offset=tuple(offset))


class Grid(NamedTuple):
    """A surface over a grid: position, texture coordinate (pixels of the atlas), unit normal, openness to the
    sky."""

    points: Float[np.ndarray, "r c 3"]
    uv: Float[np.ndarray, "r c 2"]
    normals: Float[np.ndarray, "r c 3"]
    open: Float[np.ndarray, "r c"]

    @property
    def shape(self) -> tuple[int, int]:
        return self.open.shape


def grid(
    points: Float[np.ndarray, "r c 3"],
    uv: Float[np.ndarray, "r c 2"],
    openness: Float[np.ndarray, "r c"] | float = 1.0,
) -> Grid:
    """A surface whose columns run anticlockwise seen from above and whose rows run down, so normals point
    outwards."""
    p = points.astype(np.float32)
    across, down = np.empty_like(p), np.empty_like(p)
    across[:, 1:-1], across[:, 0], across[:, -1] = (
        p[:, 2:] - p[:, :-2],
        p[:, 1] - p[:, 0],
        p[:, -1] - p[:, -2],
    )
    down[1:-1], down[0], down[-1] = p[2:] - p[:-2], p[1] - p[0], p[-1] - p[-2]
    ax, ay, az = np.moveaxis(across, 2, 0)
    dx, dy, dz = np.moveaxis(down, 2, 0)
    normal = np.stack([ay * dz - az * dy, az * dx - ax * dz, ax * dy - ay * dx], axis=2)
    normal /= np.sqrt((normal**2).sum(2, keepdims=True)) + 1e-9
    openness = np.broadcast_to(np.float32(openness), points.shape[:2])
    return Grid(p, uv.astype(np.float32), normal, openness)


def turn(surface: Grid, matrix: Float[np.ndarray, "3 3"], shift: Float[np.ndarray, " 3"] | float = 0.0) -> Grid:
    """The surface rotated by ``matrix`` and then shifted."""
    matrix = matrix.astype(np.float32)
    points = surface.points @ matrix.T + np.float32(shift)
    return surface._replace(points=points, normals=surface.normals @ matrix.T)


def stack(grids: list[Grid]) -> Grid:
    """Several grids below one another in one sheet, padded on the right; `faces` joins only what belongs
    together."""
    columns = max(g.shape[1] for g in grids)
    sheet = [np.zeros((sum(g.shape[0] for g in grids), columns, *part.shape[2:]), np.float32) for part in grids[0]]
    top = 0
    for g in grids:
        for target, part in zip(sheet, g, strict=True):
            target[top : top + g.shape[0], : g.shape[1]] = part
        top += g.shape[0]
    return Grid(*sheet)


@cache
def faces(shapes: tuple[tuple[int, int], ...], step: int = 1) -> Int[np.ndarray, "f 1 3"]:
    """Triangles of the stacked grids of these shapes, as indices into the sheet's points in row order; every
    ``step``-th row and column only."""
    width, top, result = max(columns for _, columns in shapes), 0, []
    for rows, columns in shapes:
        r = np.unique([*range(0, rows, step), rows - 1])
        c = np.unique([*range(0, columns, step), columns - 1])
        i = (top + r)[:, None] * width + c
        a, b, c, d = i[:-1, :-1].ravel(), i[:-1, 1:].ravel(), i[1:, :-1].ravel(), i[1:, 1:].ravel()
        result += [np.stack([a, c, b], 1), np.stack([b, c, d], 1)]
        top += rows
    return np.concatenate(result).astype(np.int32)[:, None]
