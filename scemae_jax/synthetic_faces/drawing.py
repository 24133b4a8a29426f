"""From a person, an expression, a pose and a light to a picture with its landmarks and masks.

The meshes of head, ears, hair, neck and shoulders go through one z-buffer at twice the final size; colours
come from the painted atlas, light from interpolated normals, openness and a shadow map. Glasses, background
and camera follow.
"""

from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from scemae_jax.synthetic_faces import anatomy, occluders, texture
from scemae_jax.synthetic_faces.anatomy import EYES, JAW, Expression, Grid, Head, Pose

SIZE = 136
_FINE = 1.5  # supersampling
_CANVAS = round(SIZE * _FINE)
_CENTRES = ((np.arange(SIZE) + 0.5) * _FINE).astype(int)  # the fine pixels under the centres of the final ones
_EYE_DISTANCE = 100.0  # head units from the camera to the head's origin in the rasteriser's frame; see `_rasterize`
_SHADOW_SIZE = 112


@dataclass(frozen=True, kw_only=True)
class SyntheticFace:
    """One picture. Pixel centres have whole coordinates, origin at the top left.

    Attributes:
      image: RGB.
      landmarks: x, y in pixels, in the usual order (jaw 0-16 from the image's left, brows 17-26, nose 27-35,
        eyes 36-47, mouth 48-67).
      visible: false where a landmark is hidden by the head itself, hair, an occluder, or lies outside the frame.
      parts: index into `PARTS`, of what is under the occluder.
      occluder: 0, or an index into `OCCLUDERS`. Elsewhere the image equals the image without an occluder.
      subject: number of the person.
      pose, expression: what was drawn.
    """

    image: UInt8[np.ndarray, "136 136 3"]
    landmarks: Float[np.ndarray, "68 2"]
    visible: Bool[np.ndarray, " 68"]
    parts: UInt8[np.ndarray, "136 136 1"]
    occluder: UInt8[np.ndarray, "136 136 1"]
    subject: int
    pose: Pose
    expression: Expression


@dataclass(frozen=True, kw_only=True)
class Light:
    """A key light from ``direction`` (unit vector in the camera's frame), a sky above and a floor below."""

    direction: Float[np.ndarray, " 3"]
    key: Float[np.ndarray, " 3"]
    sky: Float[np.ndarray, " 3"]
    floor: Float[np.ndarray, " 3"]
    shadow: float
    gloss: float


def draw_face(
    *,
    seed: int,
    subject: int,
    frame: int,
    occluder: bool | str = False,
    pose: Pose | None = None,
    expression: Expression | None = None,
) -> SyntheticFace:
    """Draws frame ``frame`` of person ``subject``; equal arguments give equal bytes.

    Args:
      seed: of the dataset; another seed gives other people.
      subject: the person: head, face, skin, hair, beard and glasses.
      frame: everything else: pose, expression, light, clothes, background, camera.
      occluder: true for a random one, or one of ``OCCLUDERS[1:]``. The picture around it does not change.
      pose: yaw, pitch and roll instead of random ones (scale and offset are ignored).
      expression: instead of a random one.

    Raises:
      ValueError: for an unknown occluder, or a negative seed, subject or frame.
    """
    if min(seed, subject, frame) < 0:
        raise ValueError(f"seed {seed}, subject {subject} and frame {frame} must not be negative")
    if isinstance(occluder, str) and occluder not in occluders.OCCLUDERS[1:]:
        raise ValueError(f"unknown occluder {occluder!r}: choose one of {', '.join(occluders.OCCLUDERS[1:])}")
    identity = _identity(seed, subject)
    random = {name: _random(seed, subject, frame, i) for i, name in enumerate(_STREAMS)}
    head = anatomy.build_head(identity, expression or anatomy.sample_expression(random["expression"]))
    pose = anatomy.fit_to_frame(head.landmarks, pose or _sample_pose(random["pose"]), **_sample_framing(random["pose"]))
    light = _sample_light(random["light"])
    cloth = texture.Cloth(str(random["clothes"].choice(anatomy.CLOTHES)), random["clothes"])
    atlas = texture.paint(head, cloth, np.random.default_rng(identity.seed))
    surfaces = _surfaces(head, np.random.default_rng(identity.seed + 1))
    depth, at, parts, colour = _render(
        surfaces,
        atlas,
        pose,
        light,
        _sample_body(pose, random["clothes"]),
        wrapped=identity.hair_style == "scarf",
    )
    scene = _background(random["background"])
    scene.reshape(-1, 3)[at] = colour
    _draw_glasses(scene, parts, depth, head, pose, light)

    landmarks = anatomy.project(head.landmarks, pose)
    facing = head.landmark_normals @ anatomy.rotation(pose)[2]
    visible = _visible(landmarks, facing, depth, parts)
    camera = _Camera(random["camera"])
    image = camera.take(scene)
    hidden = np.zeros((SIZE, SIZE), np.uint8)
    if occluder:
        rng = random["occluder"]
        kind = occluder if isinstance(occluder, str) else str(rng.choice(occluders.OCCLUDERS[1:]))
        brightness = np.sqrt(light.key + 0.6 * light.sky)
        layer, alpha = occluders.draw(
            kind, landmarks, pose.scale, identity.skin, light.direction, brightness, _CANVAS, _FINE, rng
        )
        over = scene + alpha[..., None] * (layer - scene)
        soft = camera.soften(cv2.resize(alpha, (SIZE, SIZE), interpolation=cv2.INTER_AREA))
        mask = soft > 0.25
        image = np.where(mask[..., None], camera.take(over), image)
        hidden[mask] = occluders.OCCLUDERS.index(kind)
        x, y = np.clip(np.round(landmarks[:, :2]).astype(int), 0, SIZE - 1).T
        visible &= hidden[y, x] == 0
    return SyntheticFace(
        image=image,
        landmarks=landmarks[:, :2].astype(np.float32),
        visible=visible,
        parts=parts[_CENTRES[:, None], _CENTRES][..., None],
        occluder=hidden[..., None],
        subject=subject,
        pose=pose,
        expression=head.expression,
    )


_STREAMS = ("expression", "pose", "light", "clothes", "background", "camera", "occluder")


def _random(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


@lru_cache(maxsize=16)
def _identity(seed: int, subject: int) -> anatomy.Identity:
    return anatomy.sample_identity(_random(seed, subject))


def _sample_pose(rng: np.random.Generator) -> Pose:
    yaw, pitch, roll = np.clip(rng.normal(0, [26, 9, 8]), [-62, -22, -24], [62, 22, 24])
    return Pose(yaw=float(yaw), pitch=float(pitch), roll=float(roll))


def _sample_body(pose: Pose, rng: np.random.Generator) -> Float[np.ndarray, "3 3"]:
    """How neck and shoulders are turned: a part of the head's turn."""
    yaw = 0.35 * pose.yaw + float(np.clip(rng.normal(0, 12), -30, 30))
    return anatomy.rotation(Pose(yaw=yaw, pitch=0.1 * pose.pitch, roll=0.2 * pose.roll))


def _sample_framing(rng: np.random.Generator) -> dict:
    shift = np.clip(rng.normal(0, 3.0, 2), -8, 8)
    return {
        "size": SIZE,
        "fraction": float(rng.uniform(0.45, 0.60)),
        "shift": (float(shift[0]), float(shift[1])),
    }


def _sample_light(rng: np.random.Generator) -> Light:
    azimuth, height = np.radians(np.clip(rng.normal(0, 42), -85, 85)), np.radians(rng.uniform(5, 60))
    direction = np.array([np.sin(azimuth) * np.cos(height), -np.sin(height), np.cos(azimuth) * np.cos(height)])
    hard = rng.beta(1.6, 1.6)
    level = rng.uniform(0.8, 1.35)
    warm = rng.normal(0, 0.13)
    key = np.array([1 + warm, 1.0, 1 - 1.3 * warm]) * (0.40 + 0.80 * hard) * level
    tint = rng.normal(0, 0.07, 3) if rng.random() < 0.8 else rng.normal(0, 0.25, 3)
    ambient = (1 + tint) * (0.80 - 0.55 * hard) * level
    return Light(
        direction=direction,
        key=key.clip(0.02),
        sky=(ambient * 1.1).clip(0.02),
        floor=(ambient * rng.uniform(0.45, 0.9)).clip(0.02),
        shadow=float(0.35 + 0.6 * hard),
        gloss=float(rng.uniform(0.05, 0.5)),
    )


# --- Meshes


@cache
def _columns() -> np.ndarray:
    t = np.linspace(-1, 1, 51)
    front = texture.PHI * (0.6 * t + 0.4 * t**3)
    rear = np.linspace(texture.PHI, np.pi, 6)[1:]
    return np.concatenate([-rear[::-1], front, rear])


_HAIR_SHAPE = {  # thickness on top, at the sides, at the back
    "bald": (0, 0, 0),
    "receding": (0.03, 0.10, 0.12),
    "buzz": (0.03, 0.03, 0.03),
    "short": (0.20, 0.09, 0.12),
    "parted": (0.27, 0.13, 0.16),
    "quiff": (0.42, 0.08, 0.12),
    "fringe": (0.24, 0.17, 0.2),
    "curly": (0.45, 0.33, 0.4),
    "afro": (0.75, 0.62, 0.8),
    "bob": (0.27, 0.22, 0.3),
    "long": (0.2, 0.16, 0.3),
    "wavy": (0.3, 0.25, 0.35),
    "tied": (0.09, 0.05, 0.08),
    "bun": (0.12, 0.06, 0.1),
    "beanie": (0.24, 0.12, 0.15),
    "scarf": (0.2, 0.16, 0.3),
}
_CURTAINS = {  # opening angle, lowest y, flare below the skull
    "bob": (1.12, 2.1, 0.06),
    "long": (1.12, 4.2, 0.03),
    "wavy": (1.05, 3.6, 0.14),
    "curly": (1.25, 1.3, 0.1),
    "scarf": (1.0, 3.4, 0.05),
    "afro": (1.35, 1.2, 0.05),
}


def _smoothstep(t: np.ndarray) -> np.ndarray:
    t = np.clip(t, 0, 1)
    return t * t * (3 - 2 * t)


class _Surfaces(NamedTuple):
    """``head`` and ``hanging`` hair turn with the head; all but the hanging hair is closed."""

    head: list[Grid]
    body: list[Grid]
    hanging: list[Grid]


def _surfaces(head: Head, rng: np.random.Generator) -> _Surfaces:
    identity = head.identity
    parts = [_head_surface(head, rng), _ear_surface(head, -1), _ear_surface(head, 1)]
    if identity.hair_style == "bun":
        parts.append(_ball((0, head.crown - 0.15, -0.9), (0.65, 0.55, 0.65)))
    if identity.hair_style == "tied" and identity.feminine:
        parts.append(_ball((0, -0.9, -2.2), (0.6, 0.75, 0.5)))
    short = identity.hair_style == "curly" and not identity.feminine
    hangs = identity.hair_style in _CURTAINS and not short
    body = [_neck_surface(identity.feminine), _torso_surface(identity.feminine)]
    return _Surfaces(parts, body, [_curtain_surface(head, rng)] if hangs else [])


def _head_surface(head: Head, rng: np.random.Generator) -> Grid:
    identity = head.identity
    top, bottom = head.crown, head.bottom
    brow, mouth = -0.75, min(2.2, bottom - 0.35)
    rows = np.concatenate(
        [
            top + (brow - top) * np.linspace(0, 1, 10, endpoint=False) ** 2,
            np.linspace(brow, mouth, 44, endpoint=False),
            bottom - (bottom - mouth) * np.linspace(1, 0, 9) ** 2,
        ]
    )
    phi, y = np.meshgrid(_columns(), rows)
    width, centre, front, back = head.profile(y)
    sine, cosine = np.sin(phi), np.cos(phi)
    x = width * sine
    z = centre + np.where(cosine > 0, front, back) * cosine
    near = np.abs(_columns()) < 1.57
    relief = np.zeros_like(x, np.float32)
    relief[:, near] = head.relief(x[:, near], y[:, near]) * anatomy._front_fade(cosine[:, near])
    z = z + relief
    hollow = cv2.GaussianBlur(relief, (0, 0), 3.0) - relief
    openness = np.clip(1 - 2.6 * np.maximum(hollow, 0) - 0.35 * _smoothstep((y - bottom + 0.35) / 0.5), 0.3, 1)
    points = np.stack([x, y, z], axis=2)

    above, aside, behind = (t * identity.hair_volume for t in _HAIR_SHAPE[identity.hair_style])
    edge = texture.hairline_at(texture.hairline(identity, head.crown), phi)
    abrupt = identity.hair_style in ("fringe", "afro", "curly", "beanie", "scarf", "bob")
    inside = _smoothstep((edge - y) / (0.3 if abrupt else 0.7) + 0.05)
    up = _smoothstep((-0.6 - y) / 1.1)
    thick = above * up + (1 - up) * (aside + (behind - aside) * _smoothstep(-cosine))
    if identity.hair_style == "quiff":
        thick = thick + 0.3 * identity.hair_volume * _smoothstep(cosine) * up
    if identity.hair_style == "parted":
        thick = thick * (1 - 0.55 * np.exp(-(((phi - 0.45) / 0.16) ** 2)))
    lumps = {"curly": 0.28, "afro": 0.10, "wavy": 0.15}.get(identity.hair_style, 0.07)
    thick = thick * (
        1 + lumps * cv2.resize((texture.crop("skin", 24, 24, rng) - np.float32(128)) / 42, phi.shape[::-1])
    )
    outward = np.stack([x, y + 0.3, z], axis=2)
    outward /= np.linalg.norm(outward, axis=2, keepdims=True) + 1e-6
    points = points + (thick * inside)[..., None] * outward
    return anatomy.grid(points, texture.head_uv(phi, y), openness)


def _ball(centre: tuple[float, float, float], radii: tuple[float, float, float]) -> Grid:
    """An ellipsoid of hair."""
    phi, t = np.meshgrid(np.linspace(-np.pi, np.pi, 17), np.linspace(0, np.pi, 9))
    unit = np.stack([np.sin(phi) * np.sin(t), -np.cos(t), np.cos(phi) * np.sin(t)], axis=2)
    uv = np.stack([(phi + np.pi) * 50, texture.HAIR_TOP + 8 + 29 * t], axis=2)
    return anatomy.grid(np.array(centre) + unit * np.array(radii), uv)


@cache
def _ear(sign: int) -> Grid:
    """The ear at the image's left (-1) or right (1), for a head of no width."""
    phi, t = np.meshgrid(np.linspace(-np.pi, np.pi, 13), np.linspace(0, np.pi, 9))
    unit = np.stack([np.sin(phi) * np.sin(t), -np.cos(t), np.cos(phi) * np.sin(t)], axis=2)
    local = unit * np.array([0.10, 0.57, 0.33]) / (1 + 0.12 * np.cos(t))[..., None]
    angle = np.radians(28) * sign
    x = local[..., 0] * np.cos(angle) - local[..., 2] * np.sin(angle)
    z = local[..., 0] * np.sin(angle) * 0.6 + local[..., 2] * np.cos(angle)
    points = np.stack([x + sign * 0.09, local[..., 1] + 0.42, z - 0.12], axis=2)
    # The patch with the painted shell faces outwards; the ear's back is plain skin.
    u = np.where(unit[..., 0] * sign > -0.2, np.clip(30 + 24 * unit[..., 2], 4, 56), 120)
    v = texture.SKIN_TOP + 30 + 24 * unit[..., 1]
    return anatomy.grid(points, np.stack([u, v], axis=2), 0.85 + 0.15 * unit[..., 2])


def _ear_surface(head: Head, sign: int) -> Grid:
    aside = sign * head.profile(np.array(0.4))[0]
    ear = _ear(sign)
    return ear._replace(points=ear.points + np.array([aside, 0, 0], np.float32))


def _curtain_surface(head: Head, rng: np.random.Generator) -> Grid:
    identity = head.identity
    opening, low, flare = _CURTAINS[identity.hair_style]
    opening = opening + 0.08 * float(rng.standard_normal())
    s, t = np.meshgrid(np.linspace(0, 1, 33), np.linspace(0, 1, 18))
    start = head.crown * 0.92
    ragged = 0.05 * low * rng.standard_normal(33)
    y = start + (low * (1 + ragged / 3) - start) * t
    parted = opening - 0.55 * _smoothstep((-0.5 - y) / 0.9)
    phi = parted + (2 * np.pi - 2 * parted) * s
    above, aside, behind = (v * identity.hair_volume for v in _HAIR_SHAPE[identity.hair_style])
    width, _, front, back = head.profile(np.minimum(y, 0.0))
    swell = aside + flare * np.maximum(y, 0) + 0.05 * np.sin(3 * y + 9 * phi) * (identity.hair_style != "scarf")
    inward = 0.25 * _smoothstep((y - low + 0.9) / 0.9) if identity.hair_style == "bob" else 0.0
    edge = 1 - 0.10 * np.exp(-((s / 0.06) ** 2)) - 0.10 * np.exp(-(((1 - s) / 0.06) ** 2))
    thin = above * _smoothstep((-0.6 - y) / 1.1) * 0.6
    x = (width + swell + thin - inward) * np.sin(phi) * edge
    z = np.where(np.cos(phi) > 0, front * 0.92 + swell, back + behind) * np.cos(phi) * edge
    y = y - thin
    u = np.clip(4 + 2 * (texture.WIDTH - 8) * np.minimum(s, 1 - s), 2, texture.WIDTH - 3)
    v = texture.HAIR_TOP + 4 + (texture.HAIR_ROWS - 8) * t
    shade = 0.72 + 0.28 * np.clip(np.sin(phi) ** 2 + 0.4, 0, 1) * (1 - 0.25 * t)
    return anatomy.grid(np.stack([x, y, z], axis=2), np.stack([u, v], axis=2), shade)


@cache
def _neck_surface(feminine: bool) -> Grid:
    phi, t = np.meshgrid(np.linspace(-np.pi, np.pi, 25), np.linspace(0, 1, 9))
    radius = (0.98 if feminine else 1.16) * (1 - 0.08 * np.sin(np.pi * t) + 0.35 * _smoothstep((t - 0.75) / 0.35))
    y = 1.0 + 3.0 * t
    points = np.stack([radius * np.sin(phi), y, -0.35 - 0.25 * t + 0.95 * radius * np.cos(phi)], axis=2)
    uv = np.stack([250 + 25 * phi, texture.SKIN_TOP + 5 + 50 * t], axis=2)
    return anatomy.grid(points, uv, 0.62 + 0.38 * _smoothstep(t * 1.3))


@cache
def _torso_surface(feminine: bool) -> Grid:
    rows = np.linspace(0, 1, 12)
    phi, t = np.meshgrid(np.linspace(-np.pi, np.pi, 33), rows)
    knots = [0, 0.12, 0.25, 0.45, 0.7, 1.0]
    broad = 0.88 if feminine else 1.05
    y = np.interp(t, knots, [3.05, 3.12, 3.45, 3.9, 4.7, 7.0])
    width = np.interp(t, knots, np.array([1.15, 1.45, 2.4, 3.4, 3.9, 4.0])) * broad
    depth = np.interp(t, knots, [1.05, 1.2, 1.4, 1.6, 1.7, 1.8])
    collar = np.cos(phi) * 0.28 * (1 - _smoothstep(t / 0.3))  # the neckline is lower in front
    points = np.stack([width * np.sin(phi), y + collar, -0.6 + depth * np.cos(phi)], axis=2)
    u = texture.WIDTH / 2 + np.clip(phi, -1.75, 1.75) * 98
    v = texture.CLOTH_TOP + 2 + (texture.CLOTH_ROWS - 5) * t
    return anatomy.grid(points, np.stack([u, v], axis=2), 0.75 + 0.25 * _smoothstep(t * 2))


# --- Rendering

_SETTINGS = cv2.TriangleRasterizeSettings()
_SETTINGS.setCullingMode(cv2.RASTERIZE_CULLING_NONE)
_SETTINGS.setShadingType(cv2.RASTERIZE_SHADING_SHADED)


def _homogeneous(points: Float[np.ndarray, "v 3"], size: int) -> Float[np.ndarray, "v 1 3"]:
    """OpenCV's rasteriser divides by depth; multiplying by it beforehand makes the projection parallel.

    ``points``: x, y in pixels of the raster (edges at whole numbers) and z in head units, nearer is larger.
    """
    result = np.empty((len(points), 1, 3), np.float32)
    depth = _EYE_DISTANCE - points[:, 2]
    result[:, 0, 0] = (points[:, 0] * (2 / size) - 1) * depth
    result[:, 0, 1] = (1 - points[:, 1] * (2 / size)) * depth
    result[:, 0, 2] = -depth
    return result


_PROJECTION = (np.eye(4, dtype=np.float32), np.pi / 2, 1.0, 4 * _EYE_DISTANCE, _SETTINGS)
_SHEET = 256


@cache
def _places(rows: int, columns: int) -> Float[np.ndarray, "v 1 3"]:
    """Where in the sheet each of its points lies: the values that the rasteriser interpolates."""
    row, column = np.mgrid[:rows, :columns].astype(np.float32) / _SHEET
    return np.stack([column, row, 0 * row], axis=2).reshape(-1, 1, 3)


def _render(
    surfaces: _Surfaces,
    atlas: texture.Atlas,
    pose: Pose,
    light: Light,
    body_turn: np.ndarray,
    wrapped: bool,
):
    """Returns depth (head units, nearer is larger) and part labels on the fine canvas, and the flat indices and
    lit colours of the pixels covered."""
    matrix = anatomy.rotation(pose)
    nape = np.array([0, 1.5, -0.7])
    shapes = tuple(surface.shape for group in surfaces for surface in group)
    shift = (matrix - body_turn) @ nape
    sheet = anatomy.stack(
        [anatomy.turn(surface, matrix) for surface in surfaces.head]
        + [anatomy.turn(surface, body_turn, shift) for surface in surfaces.body]
        + [anatomy.turn(surface, matrix) for surface in surfaces.hanging]
    )
    points = sheet.points.reshape(-1, 3)
    scale, offset = pose.scale * _FINE, (np.array(pose.offset) + 0.5) * _FINE
    screen = points * np.array([scale, scale, 1], np.float32) + np.array([*offset, 0], np.float32)
    depth = np.full((_CANVAS, _CANVAS), 2 * _EYE_DISTANCE, np.float32)
    place = np.zeros((_CANVAS, _CANVAS, 3), np.float32)
    faces = anatomy.faces(shapes)
    closed = sum(surface.shape[0] for surface in (*surfaces.head, *surfaces.body))
    turned = sheet.normals[..., 2] < -0.3  # hidden, where the surface is closed
    turned[closed:] = False
    turned = turned.ravel()
    faces = faces[~turned[faces[:, 0, 0]]]
    cv2.triangleRasterize(_homogeneous(screen, _CANVAS), faces, _places(*sheet.shape), place, depth, *_PROJECTION)
    z = _EYE_DISTANCE - depth
    column, row, _ = cv2.split(place * np.float32(_SHEET))
    uv = cv2.remap(sheet.uv, column, row, cv2.INTER_LINEAR)
    surface = np.concatenate([sheet.normals, sheet.open[..., None]], axis=2)
    surface = cv2.remap(surface, column, row, cv2.INTER_LINEAR)
    u, v = cv2.split(uv)
    colour = cv2.remap(atlas.colour, u, v, cv2.INTER_LINEAR)
    parts = cv2.remap(atlas.label, u, v, cv2.INTER_NEAREST)
    neck = (v > texture.SKIN_TOP) & (u > texture.EAR_WIDTH)
    parts[neck] = texture.CLOTHING if wrapped else texture.NECK
    covered = z > -_EYE_DISTANCE
    parts[~covered] = texture.BACKGROUND
    lit = _shadow(points, shapes, z, light, scale, offset)
    at = np.flatnonzero(covered)
    colour = _illuminate(
        colour.reshape(-1, 3)[at], surface.reshape(-1, 4)[at], parts.ravel()[at], lit.ravel()[at], light
    )
    return z, at, parts, colour


def _shadow(points, shapes, z, light: Light, scale: float, offset: np.ndarray) -> Float[np.ndarray, "s s"]:
    """1 where the key light arrives, 0 in cast shadow, soft between: a shadow map at half resolution."""
    forward = light.direction
    side = np.array([-forward[2], 0, forward[0]]) / np.hypot(forward[0], forward[2])
    basis = np.stack([side, np.cross(forward, side), forward]).astype(np.float32)
    reach = np.float32(_SHADOW_SIZE / 9.0)
    seen = points @ basis.T
    seen[:, :2] = seen[:, :2] * reach + _SHADOW_SIZE / 2
    nearest = np.full((_SHADOW_SIZE, _SHADOW_SIZE), 2 * _EYE_DISTANCE, np.float32)
    cv2.triangleRasterizeDepth(_homogeneous(seen, _SHADOW_SIZE), anatomy.faces(shapes, 2), nearest, *_PROJECTION)
    z = z[::2, ::2]
    ticks = (np.arange(0, _CANVAS, 2, dtype=np.float32) + 0.5)[:, None]
    x, y = (
        (ticks.T - np.float32(offset[0])) / np.float32(scale),
        (ticks - np.float32(offset[1])) / np.float32(scale),
    )
    lx, ly, lz = (basis[i, 0] * x + basis[i, 1] * y + basis[i, 2] * z for i in range(3))
    centre = np.float32(_SHADOW_SIZE / 2 - 0.5)
    blocker = _EYE_DISTANCE - cv2.remap(nearest, lx * reach + centre, ly * reach + centre, cv2.INTER_LINEAR)
    lit = np.clip(1 - (blocker - lz - np.float32(0.12)) * np.float32(6), 0, 1)
    return cv2.resize(cv2.GaussianBlur(lit, (0, 0), 0.9), (_CANVAS, _CANVAS), interpolation=cv2.INTER_LINEAR)


#                    bg  skin  brow  eye  nose  lips  mouth hair  neck  cloth glasses
_GLOSS = np.array([0.0, 0.55, 0.10, 0.5, 0.75, 0.75, 0.2, 0.45, 0.35, 0.05, 0.0], np.float32)
_SOFTNESS = np.array([0, 0.30, 0.25, 0.4, 0.30, 0.30, 0.3, 0.25, 0.3, 0.1, 0], np.float32)


def _illuminate(colour, surface, parts, lit, light: Light) -> Float[np.ndarray, "n 3"]:
    """Wrapped diffuse light, a soft highlight, sky and floor; computed on squared (about linear) colours."""
    nx, ny, nz, openness = surface.T.copy()
    half = light.direction + np.array([0, 0, 1])
    half /= np.linalg.norm(half)
    (lx, ly, lz), (hx, hy, hz) = light.direction.astype(np.float32), half.astype(np.float32)
    soft = _SOFTNESS[parts]
    diffuse = np.maximum(nx * lx + ny * ly + nz * lz + soft, 0) / (1 + soft)
    diffuse *= 1 - np.float32(light.shadow) * (1 - lit)
    shine = np.maximum(nx * hx + ny * hy + nz * hz, 0)
    for _ in range(4):  # to the 16th power
        shine *= shine
    shine *= _GLOSS[parts] * lit * np.float32(light.gloss * 0.3)
    up = (1 - ny) * np.float32(0.5)
    sky, floor, key = (c.astype(np.float32)[:, None] for c in (light.sky, light.floor, light.key))
    result = colour.T * np.float32(1 / 255)
    result *= result
    result *= (floor + (sky - floor) * up) * openness + key * diffuse
    result += shine * key
    np.minimum(result, 1, out=result)
    return np.sqrt(result, out=result).T * np.float32(255)


def _visible(
    landmarks: Float[np.ndarray, "68 3"],
    facing: Float[np.ndarray, " 68"],
    depth: Float[np.ndarray, "s s"],
    parts: UInt8[np.ndarray, "s s"],
) -> Bool[np.ndarray, " 68"]:
    """In the frame, not turned away (``facing`` is the normal's z) and not behind the nearest surface.

    The jaw's landmarks lie on the silhouette of a frontal face, so they may be turned away a little. A brow under
    a fringe is hidden; a jaw under sideburns is not.
    """
    inside = ((landmarks[:, :2] >= 0) & (landmarks[:, :2] <= SIZE - 1)).all(1)
    turned = facing > np.where(np.arange(68) < JAW.stop, -0.2, 0.0)
    farthest = cv2.erode(depth, np.ones((3, 3)))
    x, y = np.clip(np.floor((landmarks[:, :2] + 0.5) * _FINE).astype(int), 0, _CANVAS - 1).T
    under_hair = np.isin(parts[y, x], (texture.HAIR, texture.CLOTHING))
    under_hair[JAW] = False
    return inside & turned & (landmarks[:, 2] > farthest[y, x] - 0.1) & ~under_hair


def _draw_glasses(scene, parts, depth, head: Head, pose: Pose, light: Light) -> None:
    identity = head.identity
    if identity.glasses == "none":
        return
    rng = np.random.default_rng(identity.seed + 2)
    rim = np.array([(25, 22, 22), (70, 45, 28), (140, 120, 70), (90, 92, 98)])[rng.choice(4)] * 0.9
    rim = np.clip(rim * (light.key + light.sky).clip(0.3, 1.3), 0, 255)
    squareness, radius_x, radius_y = rng.uniform(2.0, 4.0), rng.uniform(0.40, 0.48), rng.uniform(0.26, 0.38)
    thickness = 2 if identity.glasses == "thin" else 4
    t = np.linspace(0, 2 * np.pi, 33)
    loop = (
        np.sign(np.cos(t)) * np.abs(np.cos(t)) ** (2 / squareness),
        np.sign(np.sin(t)) * np.abs(np.sin(t)) ** (2 / squareness),
    )
    lines, lenses = [], []
    rows = []
    for eye, sign in ((EYES[0], -1), (EYES[1], 1)):
        cx, cy = head.flat[eye].mean(0)
        cx, cy = cx * 1.03, cy + 0.05
        x, y = cx + radius_x * loop[0], cy + radius_y * loop[1]
        z = 2.12 - 0.22 * (np.abs(x) / 1.0) ** 2
        lenses.append(np.stack([x, y, z], 1))
        lines.append(lenses[-1])
        hinge = np.array([cx + sign * radius_x, cy - 0.08, 2.12 - 0.22 * (abs(cx) + radius_x) ** 2])
        ear = np.array([sign * (head.profile(np.array(0.0))[0] + 0.1), 0.02, 0.15])
        lines.append(hinge + np.linspace(0, 1, 16)[:, None] * (ear - hinge))
        rows.append((cx - sign * radius_x, cy))
    x = np.linspace(rows[0][0], rows[1][0], 9)
    lines.append(np.stack([x, rows[0][1] - 0.06 - 0.04 * np.cos(x / x[-1] * 1.5), np.full(9, 2.14)], 1))
    canvas = np.zeros((_CANVAS, _CANVAS), np.uint8)
    ghost = np.zeros((_CANVAS, _CANVAS), np.uint8)
    for line in lines:
        seen = anatomy.project(line, pose)
        place = (seen[:, :2] + 0.5) * _FINE - 0.5
        x, y = np.clip(np.round(place).astype(int), 0, _CANVAS - 1).T
        shown = seen[:, 2] > depth[y, x] - 0.05
        fixed = np.round(place * 16).astype(np.int32)
        pieces = [fixed[i : i + 2] for i in range(len(fixed) - 1) if shown[i] and shown[i + 1]]
        cv2.polylines(canvas, pieces, False, 255, thickness, cv2.LINE_AA, 4)
    for lens in lenses:
        place = (anatomy.project(lens, pose)[:, :2] + 0.5) * _FINE - 0.5
        cv2.fillPoly(ghost, [np.round(place * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    glint = cv2.GaussianBlur(ghost, (0, 0), 3) * np.float32(rng.uniform(0.0, 0.16) / 255)
    scene += glint[..., None] * (np.float32(235) * light.sky.clip(0.3, 1).astype(np.float32) - scene)
    alpha = canvas[..., None] * np.float32(1 / 255)
    scene += alpha * (rim.astype(np.float32) - scene)
    parts[canvas > 127] = texture.GLASSES


# --- Background and camera


def _background(rng: np.random.Generator) -> Float[np.ndarray, "s s 3"]:
    """A wall, a room, lights, shelves, foliage: drawn at half resolution, out of focus by a random amount."""
    kind = rng.choice(
        ["gradient", "shapes", "lights", "shelf", "cloud", "blinds", "dark", "letters"],
        p=[0.16, 0.2, 0.1, 0.12, 0.16, 0.08, 0.1, 0.08],
    )
    level = rng.uniform(40, 220) if kind != "dark" else rng.uniform(5, 40)
    base = np.clip(level * (1 + rng.normal(0, rng.choice([0.06, 0.25]), 3)), 0, 255)
    other = np.clip(base * rng.uniform(0.45, 1.35) + rng.normal(0, 18, 3), 0, 255)
    ramp = np.linspace(-1, 1, SIZE, dtype=np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    t = np.clip(0.5 + 0.5 * (np.cos(angle) * ramp[None] + np.sin(angle) * ramp[:, None]), 0, 1)[..., None]
    image = (np.float32(base) + np.float32(other - base) * t).astype(np.uint8)

    def colour(spread: float = 60) -> tuple[float, ...]:
        chroma = spread * (0.8 if rng.random() < 0.2 else 0.2)
        return tuple(float(c) for c in np.clip(base + rng.normal(0, chroma, 3) + rng.normal(0, spread), 0, 255))

    blur = float(rng.uniform(0, 3.0))
    if kind == "shapes":
        for _ in range(int(rng.integers(3, 12))):
            corner, extent = rng.integers(-40, SIZE, 2), rng.integers(10, 110, 2)
            if rng.random() < 0.6:
                cv2.rectangle(image, tuple(map(int, corner)), tuple(map(int, corner + extent)), colour(), -1)
            else:
                triangle = rng.integers(-30, SIZE + 30, (3, 2)).astype(np.int32)
                cv2.fillPoly(image, [triangle], colour(), cv2.LINE_AA)
    elif kind in ("lights", "dark"):
        for _ in range(int(rng.integers(6, 30)) if kind == "lights" or rng.random() < 0.4 else 0):
            centre = tuple(int(c) for c in rng.integers(0, SIZE, 2))
            cv2.circle(image, centre, int(rng.integers(1, 9)), colour(110), -1, cv2.LINE_AA)
        blur = float(rng.uniform(0.3, 2.0))
    elif kind == "shelf":
        x = -5
        rows = [0, *sorted(rng.integers(20, SIZE, 2)), SIZE]
        for top, bottom in pairwise(rows):
            x = -5
            while x < SIZE:
                step = int(rng.integers(4, 14))
                cv2.rectangle(
                    image,
                    (x, int(top) + int(rng.integers(0, 8))),
                    (x + step - 1, int(bottom) - 3),
                    colour(75),
                    -1,
                )
                x += step
    elif kind == "blinds":
        step, slant = int(rng.integers(5, 14)), int(rng.integers(-20, 20))
        upright = rng.random() < 0.5
        stripe = colour(50)
        for at in range(-20, SIZE + 20, step):
            ends = ((at, 0), (at + slant, SIZE)) if upright else ((0, at), (SIZE, at + slant))
            cv2.line(image, *ends, stripe, max(1, step // 2), cv2.LINE_AA)
    elif kind == "letters":
        for _ in range(int(rng.integers(2, 7))):
            word = "".join(chr(c) for c in rng.integers(65, 91, int(rng.integers(2, 6))))
            at = (int(rng.integers(-20, 100)), int(rng.integers(10, SIZE)))
            cv2.putText(
                image,
                word,
                at,
                cv2.FONT_HERSHEY_DUPLEX,
                float(rng.uniform(0.4, 1.4)),
                colour(90),
                2,
                cv2.LINE_AA,
            )
    if blur > 0.25:
        image = cv2.GaussianBlur(image, (0, 0), blur)
    strength = rng.uniform(0, 0.04) if kind != "cloud" else rng.uniform(0.08, 0.3)
    field = texture.crop("cloud" if kind == "cloud" else "soft", SIZE, SIZE, rng)
    image = cv2.multiply(image, texture.tinted(field, np.full(3, 128.0), strength), scale=1 / 128)
    return cv2.resize(image, (_CANVAS, _CANVAS), interpolation=cv2.INTER_LINEAR).astype(np.float32)


class _Camera:
    """Focus, exposure, noise and JPEG of one image; the same for every scene it takes."""

    def __init__(self, rng: np.random.Generator):
        self.blur = float(rng.choice([0.0, rng.uniform(0.35, 1.1)], p=[0.45, 0.55]))
        self.gain = rng.normal(1, 0.08) * (1 + rng.normal(0, 0.03, 3))
        self.contrast = float(rng.uniform(0.8, 1.15))
        self.saturation = float(rng.choice([rng.uniform(0.6, 1.25), 0.0], p=[0.97, 0.03]))
        level = rng.gamma(1.5, 2.0)
        grain = rng.standard_normal((SIZE, SIZE, 1), dtype=np.float32)
        blotches = rng.standard_normal((SIZE // 2, SIZE // 2, 3), dtype=np.float32)  # chroma is coarser
        self.noise = np.float32(level) * (grain + np.float32(0.6) * cv2.resize(blotches, (SIZE, SIZE)))
        self.quality = int(rng.integers(45, 98))

    def soften(self, image: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(image, (0, 0), self.blur) if self.blur else image

    def take(self, scene: Float[np.ndarray, "s s 3"]) -> UInt8[np.ndarray, "136 136 3"]:
        image = self.soften(cv2.resize(scene, (SIZE, SIZE), interpolation=cv2.INTER_AREA))
        grey = image @ np.array([0.3, 0.59, 0.11], np.float32)
        image = grey[..., None] + np.float32(self.saturation) * (image - grey[..., None])
        image = (image * self.gain.astype(np.float32) - 118) * np.float32(self.contrast) + 118 + self.noise
        image = np.clip(image, 0, 255).astype(np.uint8)
        code = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, self.quality])[1]
        decoded = cv2.imdecode(code, cv2.IMREAD_COLOR)
        assert decoded is not None  # it was encoded just now
        return np.ascontiguousarray(decoded[..., ::-1])
