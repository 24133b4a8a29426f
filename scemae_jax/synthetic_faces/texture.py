"""The painted surface of a head: one atlas of colours and part labels, unrolled from the head and its hair
and clothes.

The upper part of the atlas is the head, the angle phi across and the height y down; strips of hair, cloth and
plain skin lie below it. Everything is drawn with OpenCV's anti-aliased primitives at sub-pixel positions.
"""

from functools import cache

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

from scemae_jax.faces.parts import DRAWN
from scemae_jax.synthetic_faces.anatomy import BROWS, EYES, Expression, Head, Identity, smooth_curve

PARTS = DRAWN.names
"""Names of the classes in a part mask, by value."""
BACKGROUND, SKIN, BROW, EYE, NOSE, LIPS, INNER_MOUTH, HAIR, NECK, CLOTHING, GLASSES = range(len(PARTS))

PHI = 1.75  # the head strip covers |phi| <= PHI
_PER_RADIAN, _PER_UNIT, _TOP = 100.0, 56.0, -2.6
WIDTH = 352
HEAD_ROWS, HAIR_ROWS, CLOTH_ROWS, SKIN_ROWS = 340, 110, 130, 60
HAIR_TOP, CLOTH_TOP = HEAD_ROWS, HEAD_ROWS + HAIR_ROWS
SKIN_TOP = CLOTH_TOP + CLOTH_ROWS
HEIGHT = SKIN_TOP + SKIN_ROWS
EAR_WIDTH = 150  # of the strip of plain skin; the neck has the rest
_SHIFT = 4
_LEVELS = np.arange(256)[:, None, None] / 255
_TURN = np.linspace(0, 2 * np.pi, 20, endpoint=False)
_CIRCLE = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=1)
_HAIRLINE_PHI = np.array([0, 0.45, 0.8, 1.0, 1.2, 1.3, 1.42, 1.52, 1.62, 3.2])

Colour = tuple[float, float, float]


def head_uv(phi: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Atlas coordinates of the head's surface; what lies behind the ears repeats the strip's edge."""
    folded = np.where(np.abs(phi) > PHI, np.sign(phi) * (PHI - 0.1 * (np.abs(phi) - PHI)), phi)
    return np.stack([(folded + PHI) * _PER_RADIAN, (y - _TOP) * _PER_UNIT + np.zeros_like(folded)], axis=-1)


@cache
def noise(kind: str) -> UInt8[np.ndarray, "512 512"]:
    """Fixed fields around 128 with deviation 42: ``skin``, ``soft``, ``cloud``, ``strands`` (down),
    ``curls``."""
    field = np.random.default_rng(7).standard_normal((512, 512)).astype(np.float32)

    def blurred(across: float, down: float | None = None) -> np.ndarray:
        result = cv2.GaussianBlur(field, (0, 0), across, sigmaY=down or across, borderType=cv2.BORDER_REFLECT)
        return result / result.std()

    result = {
        "skin": lambda: blurred(1.0) + 1.2 * blurred(5),
        "soft": lambda: blurred(4),
        "cloud": lambda: blurred(22),
        "strands": lambda: blurred(1.0, 18) + 0.8 * blurred(3, 30),
        "curls": lambda: blurred(2.0) - 0.5 * blurred(5),
    }[kind]()
    return np.clip(128 + 42 * (result - result.mean()) / result.std(), 0, 255).astype(np.uint8)


def crop(kind: str, rows: int, columns: int, rng: np.random.Generator) -> UInt8[np.ndarray, "rows columns"]:
    """A random piece of a noise field."""
    top, left = rng.integers(0, 512 - rows + 1), rng.integers(0, 512 - columns + 1)
    return noise(kind)[top : top + rows, left : left + columns]


def tinted(
    field: UInt8[np.ndarray, "r c"], colour: np.ndarray, contrast: np.ndarray | float
) -> UInt8[np.ndarray, "r c 3"]:
    """``colour`` times one plus ``contrast`` (of each channel) times the noise field in units of its
    deviation."""
    tone = 1 + (np.arange(256)[:, None] - 128) / 42 * np.broadcast_to(contrast, 3)
    return cv2.applyColorMap(field, np.clip(tone * colour, 0, 255).astype(np.uint8)[:, None])


class Atlas:
    """The canvas: ``colour`` and ``label`` of the whole atlas, and drawing in the head's (x, y)
    coordinates."""

    def __init__(self, head: Head):
        self.head = head
        self.colour = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        self.label = np.full((HEIGHT, WIDTH), SKIN, np.uint8)

    def fixed(self, points: Float[np.ndarray, "n 2"]) -> Int[np.ndarray, "n 2"]:
        """Atlas coordinates of points of the face, in the sub-pixel integers that OpenCV's ``shift``
        wants."""
        x, y = points[:, 0], points[:, 1]
        result = np.empty(points.shape)
        result[:, 0] = (self.head.angle(x, y) + PHI) * _PER_RADIAN
        result[:, 1] = (y - _TOP) * _PER_UNIT
        return np.rint(result * (1 << _SHIFT)).astype(np.int32)

    def fill(self, points: Float[np.ndarray, "n 2"], colour: Colour, label: int | None = None) -> None:
        """Fills a polygon."""
        polygon = [self.fixed(points)]
        cv2.fillPoly(self.colour, polygon, colour, cv2.LINE_AA, _SHIFT)
        if label is not None:
            cv2.fillPoly(self.label, polygon, label, cv2.LINE_8, _SHIFT)

    def inlay(
        self, patch: UInt8[np.ndarray, "h w 3"], outline: np.ndarray, corner: tuple[int, int], label: int
    ) -> None:
        """Sets a patch, whose top left is ``corner``, into the outline (given as `fixed` does)."""
        x, y = corner
        mask = np.zeros(patch.shape[:2], np.uint8)
        cv2.fillPoly(mask, [outline - (np.array([x, y], np.int32) << _SHIFT)], 255, cv2.LINE_AA, _SHIFT)
        region = self.colour[y : y + patch.shape[0], x : x + patch.shape[1]]
        region[:] = region + mask[..., None] / np.float32(255) * (patch.astype(np.float32) - region)
        cv2.fillPoly(self.label, [outline], label, cv2.LINE_8, _SHIFT)

    def shade(
        self,
        shapes: list[Float[np.ndarray, "n 2"]],
        colour: Colour | None,
        strength: float,
        *,
        blur: float = 0.0,
        thickness: int | None = None,
        factor: float = 0.6,
        grain: UInt8[np.ndarray, "h w"] | None = None,
    ) -> None:
        """Blends polygons, or lines of a thickness, into the atlas: with a colour, or darkened by ``factor``.

        ``grain``, of the atlas's size, makes the strength uneven.
        """
        every = self.fixed(np.concatenate(shapes))
        margin = int(2.5 * blur) + 3 + (thickness or 0)
        x0, y0 = np.maximum((every.min(0) >> _SHIFT) - margin, 0)
        x1, y1 = np.minimum((every.max(0) >> _SHIFT) + margin + 1, (WIDTH, HEAD_ROWS))
        if x1 <= x0 or y1 <= y0:
            return
        mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
        every -= np.array([x0, y0], np.int32) << _SHIFT
        fixed = np.split(every, np.cumsum([len(shape) for shape in shapes])[:-1])
        if thickness is None:
            cv2.fillPoly(mask, fixed, 255, cv2.LINE_AA, _SHIFT)
        else:
            cv2.polylines(mask, fixed, False, 255, thickness, cv2.LINE_AA, _SHIFT)
        if blur > 2:
            box = (2 * int(1.2 * blur) + 1,) * 2
            mask = cv2.blur(cv2.blur(mask, box), box)
        elif blur:
            mask = cv2.GaussianBlur(mask, (0, 0), blur)
        if grain is not None:
            mask = cv2.multiply(mask, grain[y0:y1, x0:x1], scale=1 / 160)
        region = self.colour[y0:y1, x0:x1]
        removed = strength * (1 - factor) if colour is None else strength
        kept = cv2.merge([cv2.addWeighted(mask, -removed, mask, 0, 255)] * 3)
        blended = cv2.multiply(region, kept, scale=1 / 255)
        if colour is not None:
            added = _LEVELS * (np.array(colour) * strength)
            blended = cv2.add(blended, cv2.applyColorMap(mask, np.rint(added).astype(np.uint8)))
        region[:] = blended


def hairline(identity: Identity, crown: float) -> Float[np.ndarray, " 10"]:
    """Height of the hair's edge at the angles of ``_HAIRLINE_PHI``; above the crown where there is no
    hair."""
    front, temple, side, burn = -1.42, -1.42, -1.25, -0.45
    style = identity.hair_style
    if style == "receding":
        front, temple, side = -1.95, -1.9, -1.0
    elif style == "fringe":
        front, temple, side, burn = -0.72, -0.7, -0.62, -0.2
    elif style == "beanie":
        front, temple, side, burn = -0.95, -0.93, -0.85, -0.72
    elif style == "scarf":
        front, temple, side, burn = -0.95, -0.9, -0.62, 0.1
    elif style in ("afro", "curly"):
        front, temple, side = -1.32, -1.28, -1.05
    shift = 0.0 if style in ("beanie", "scarf", "fringe") else identity.hairline
    lower = 0.15 if identity.feminine else 0.45
    edge = np.array([front, temple, side, 0.6 * side + 0.4 * burn, burn, lower, 0.0, -0.05, 0.9, 1.15])
    if style == "scarf":
        edge[5:8] = 1.5
    if style == "beanie":
        edge[5:] = -0.55
    edge[:4] = (edge[:4] + shift) * crown / -2.0
    return np.full(10, crown - 1) if style == "bald" else edge


def hairline_at(edge: Float[np.ndarray, " 10"], phi: np.ndarray) -> np.ndarray:
    """Height of the hair's edge at angle ``phi``."""
    return np.interp(np.abs(phi), _HAIRLINE_PHI, edge)


def paint(head: Head, cloth: "Cloth", rng: np.random.Generator) -> Atlas:
    """Paints the whole atlas of one face. ``rng`` belongs to the person: skin, hair and brows stay the
    same."""
    identity, expression = head.identity, head.expression
    atlas = Atlas(head)
    _paint_skin(atlas, identity, rng)
    _paint_cheeks_and_folds(atlas, identity, expression)
    _paint_beard(atlas, identity, rng)
    _paint_nose(atlas, identity)
    _paint_mouth(atlas, identity, expression)
    _paint_eyes(atlas, identity, expression)
    _paint_brows(atlas, identity, rng)
    _paint_hair(atlas, identity, cloth, rng)
    cloth.paint(atlas, rng)
    return atlas


def _paint_skin(atlas: Atlas, identity: Identity, rng: np.random.Generator) -> None:
    skin = np.array(identity.skin)
    contrast = (0.016 + 0.014 * identity.age) * np.array([0.8, 1.1, 1.2])
    atlas.colour[:HEAD_ROWS] = tinted(crop("skin", HEAD_ROWS, WIDTH, rng), skin, contrast)
    atlas.colour[SKIN_TOP:] = skin
    # The ear's patch: the shell darker inside.
    cv2.ellipse(atlas.colour, (30, SKIN_TOP + 30), (13, 19), 0, 0, 360, tuple(skin * 0.72), -1, cv2.LINE_AA)
    cv2.ellipse(atlas.colour, (28, SKIN_TOP + 34), (7, 11), 0, 0, 360, tuple(skin * 0.5), -1, cv2.LINE_AA)
    if identity.freckles:
        count = int(60 * identity.freckles)
        spots = np.stack([rng.normal(0, 0.7, count), rng.normal(0.55, 0.3, count)], 1)
        for x, y in atlas.fixed(spots):
            centre = (int(x), int(y))
            cv2.circle(
                atlas.colour,
                centre,
                int(rng.uniform(8, 20)),
                tuple(skin * (0.8, 0.68, 0.6)),
                -1,
                cv2.LINE_AA,
                4,
            )
    for x, y in atlas.fixed(np.stack([rng.uniform(-1.3, 1.3, 2), rng.uniform(-0.9, 2.2, 2)], 1)[: rng.integers(0, 3)]):
        cv2.circle(atlas.colour, (int(x), int(y)), int(rng.uniform(12, 24)), tuple(skin * 0.45), -1, cv2.LINE_AA, 4)


def _moved(points: Float[np.ndarray, "*n 2"], right: float, down: float) -> Float[np.ndarray, "*n 2"]:
    return points + np.array([right, down])


def _ellipse(centre: tuple[float, float], radii: tuple[float, float]) -> Float[np.ndarray, "20 2"]:
    return _CIRCLE * radii + centre


def _paint_cheeks_and_folds(atlas: Atlas, identity: Identity, expression: Expression) -> None:
    f, skin = atlas.head.flat, np.array(identity.skin)
    rosy = np.clip(skin * (1.06, 0.82, 0.8), 0, 255)
    w = identity.width
    cheeks = [_ellipse((sign * 0.95 * w, 0.85), (0.38, 0.3)) for sign in (-1, 1)]
    atlas.shade(cheeks, tuple(rosy), 0.3 + 0.4 * identity.makeup, blur=9)
    smile = max(0.0, expression.smile)
    folds, bags, fans = [], [], []
    for wing, corner, sign in ((f[31], f[48], -1), (f[35], f[54], 1)):
        middle = (wing + corner) / 2 + (sign * (0.16 + 0.05 * smile), 0)
        start, end = _moved(wing, sign * 0.08, -0.05), _moved(corner, sign * 0.14, 0.05)
        folds.append(smooth_curve(np.stack([start, middle, end])))
    crease = min(1.0, 0.15 + 0.5 * identity.age + 0.45 * smile)
    atlas.shade(folds, None, crease, blur=1.6, thickness=2, factor=0.62)
    for eye, sign in ((EYES[0], -1), (EYES[1], 1)):
        p = f[eye]
        inner, outer = (p[3], p[0]) if sign < 0 else (p[0], p[3])
        under = _moved(inner, 0, 0.1), _moved(p[4:6].mean(0), 0, 0.17), _moved(outer, 0, 0.13)
        bags.append(smooth_curve(np.stack(under)))
        fans += [
            np.stack([_moved(outer, sign * 0.12, 0.02 + d), _moved(outer, sign * 0.34, 2.2 * d)])
            for d in (-0.07, 0, 0.07)
        ]
    atlas.shade(bags, None, 0.2 + 0.5 * identity.age, blur=1.8, thickness=2, factor=0.68)
    if identity.age > 0.45:
        atlas.shade(fans, None, identity.age - 0.2, blur=0.7, thickness=1)
    if identity.age > 0.4 or expression.brow_raise > 0.4:
        x = np.linspace(-0.75, 0.75, 9)
        lines = [np.stack([x, y + 0.05 * np.cos(3 * x) + 0 * x], 1) for y in (-1.05, -0.9, -0.77)]
        atlas.shade(lines, None, 0.25 + 0.4 * max(0, expression.brow_raise), blur=1.0, thickness=1)


def _paint_beard(atlas: Atlas, identity: Identity, rng: np.random.Generator) -> None:
    if identity.beard == "none":
        return
    f = atlas.head.flat
    mouth = f[48:60]
    left, right = mouth[:, 0].min(), mouth[:, 0].max()
    top, bottom = mouth[:, 1].min(), mouth[:, 1].max()
    moustache = np.array(
        [
            (left - 0.14, mouth[0, 1] + 0.12),
            (left + 0.12, top - 0.1),
            (0, f[33, 1] + 0.1),
            (right - 0.12, top - 0.1),
            (right + 0.14, mouth[6, 1] + 0.12),
            (0, top + 0.06),
        ]
    )
    if identity.beard == "moustache":
        shapes = [moustache]
    elif identity.beard == "goatee":
        chin = np.array(
            [
                (left - 0.1, mouth[0, 1]),
                (left - 0.08, bottom + 0.3),
                (-0.4, f[8, 1] - 0.02),
                (0, f[8, 1]),
                (0.4, f[8, 1] - 0.02),
                (right + 0.08, bottom + 0.3),
                (right + 0.1, mouth[6, 1]),
            ]
        )
        shapes = [moustache, chin]
    else:
        edge = f[0:17] * (0.999, 1.0)
        burn = np.array([(1.5 * identity.width, 0.1), (1.38 * identity.width, 0.9)])
        inner = np.array([burn[0], burn[1], (right + 0.22, top - 0.02), (0.3, f[33, 1] + 0.12)])
        shapes = [np.concatenate([edge, inner, (inner * (-1, 1))[::-1]])]
    strength = {"stubble": 0.32, "moustache": 0.9, "goatee": 0.85, "full": 0.92}[identity.beard]
    hair = np.array(identity.hair) * 0.9
    kind = "skin" if identity.beard == "stubble" else "curls"
    atlas.shade(
        shapes,
        tuple(hair),
        strength,
        blur=3.0 if len(shapes) == 1 else 2.0,
        grain=crop(kind, HEAD_ROWS, WIDTH, rng),
    )


def _paint_nose(atlas: Atlas, identity: Identity) -> None:
    f = atlas.head.flat
    skin = np.array(identity.skin)
    wing = abs(f[35, 0])
    side = np.array(
        [
            (0.13, f[27, 1]),
            (0.16, f[28, 1]),
            (0.19, f[29, 1]),
            (wing * 0.95, f[30, 1]),
            (wing * 1.18, f[35, 1] - 0.07),
            (wing * 1.02, f[35, 1] + 0.03),
            (0.16, f[34, 1] + 0.02),
            (0, f[33, 1] + 0.02),
        ]
    )
    cv2.fillPoly(atlas.label, [atlas.fixed(np.concatenate([side, (side * (-1, 1))[::-1]]))], NOSE, cv2.LINE_8, _SHIFT)
    rosy = np.clip(skin * (1.04, 0.9, 0.88), 0, 255)
    atlas.shade([_ellipse((0, f[30, 1]), (0.22, 0.2))], tuple(rosy), 0.5, blur=4)
    nostrils, creases = [], []
    for sign, at in ((-1, f[31]), (1, f[35])):
        nostrils.append(_ellipse((at[0] * 0.56, f[33, 1] - 0.055), (wing * 0.3, 0.05)))
        offsets = np.array([(0.02, -0.24), (0.085, -0.12), (0.06, 0), (-0.05, 0.05)]) * (sign, 1)
        creases.append(smooth_curve(at + offsets))
    atlas.shade(nostrils, tuple(skin * (0.32, 0.22, 0.2)), 0.95, blur=0.8)
    atlas.shade(creases, None, 0.75, blur=1.0, thickness=2, factor=0.6)
    atlas.shade([np.stack([f[32], f[33] + (0, 0.02), f[34]])], None, 0.6, blur=1.3, thickness=2)


def _paint_mouth(atlas: Atlas, identity: Identity, expression: Expression) -> None:
    f = atlas.head.flat
    lips = np.array(identity.lips)
    upper, lower = smooth_curve(f[48:55]), smooth_curve(np.concatenate([f[54:60], f[48:49]]))
    top, low = smooth_curve(f[60:65]), smooth_curve(np.concatenate([f[64:68], f[60:61]]))
    outline = np.concatenate([upper, lower])
    atlas.shade([outline], tuple(lips), 0.25, blur=1.5)
    atlas.fill(outline, tuple(lips), LIPS)
    atlas.shade([np.concatenate([upper, top[::-1]])], None, 0.5, blur=0.8, factor=0.78)
    gloss = smooth_curve(f[[59, 58, 57, 56, 55]] * 0.55 + f[[67, 67, 66, 65, 65]] * 0.45)
    atlas.shade([gloss], tuple(np.minimum(lips * 1.25 + 15, 255)), 0.35 + 0.4 * identity.makeup, blur=1.5, thickness=2)
    gap = f[66, 1] - f[62, 1]
    if gap > 0.04:
        inner = np.concatenate([top, low])
        outline = atlas.fixed(inner)
        x0, y0 = (outline.min(0) >> _SHIFT) - 2
        x1, y1 = (outline.max(0) >> _SHIFT) + 3
        corner = np.array([x0, y0], np.int32) << _SHIFT
        patch = np.empty((y1 - y0, x1 - x0, 3), np.uint8)
        patch[:] = (58, 20, 22)
        width = f[64, 0] - f[60, 0]
        x = np.linspace(-0.46, 0.46, 9) * width
        line = np.interp(x, top[:, 0], top[:, 1])
        tooth = min(0.15, 0.75 * gap)
        teeth = np.concatenate(
            [np.stack([x, line - 0.1], 1), np.stack([x, line + tooth * (1 - (x / x[-1]) ** 4)], 1)[::-1]]
        )
        tongue = _ellipse((0, f[66, 1] + 0.03), (0.3 * width, 0.45 * gap))
        cv2.fillPoly(patch, [atlas.fixed(tongue) - corner], (150, 68, 70), cv2.LINE_AA, _SHIFT)
        patch = cv2.GaussianBlur(patch, (0, 0), 1.5)
        white = np.array((236, 230, 216)) * (0.85 - 0.2 * identity.age + 0.15)
        cv2.fillPoly(patch, [atlas.fixed(teeth) - corner], tuple(white), cv2.LINE_AA, _SHIFT)
        for xt in np.linspace(-0.32, 0.32, 7) * width:
            at = np.interp(xt, top[:, 0], top[:, 1])
            gap_line = atlas.fixed(np.array([(xt, at), (xt, at + tooth)])) - corner
            cv2.polylines(patch, [gap_line], False, tuple(white * 0.82), 1, cv2.LINE_AA, _SHIFT)
        atlas.inlay(patch, outline, (x0, y0), INNER_MOUTH)
        atlas.shade([_moved(top, 0, 0.02)], (40, 12, 14), 0.6, blur=1.0, thickness=2)
    else:
        line = smooth_curve(np.concatenate([f[60:65]]))
        atlas.shade([line], (58, 22, 24), 0.85, blur=0.7, thickness=2)
        cv2.fillPoly(atlas.label, [atlas.fixed(np.concatenate([top, low]))], INNER_MOUTH, cv2.LINE_8, _SHIFT)
    corners = [np.stack([f[48] + (-0.05, 0.0), f[60]]), np.stack([f[64], f[54] + (0.05, 0.0)])]
    atlas.shade(corners, (60, 26, 24), 0.6, blur=1.0, thickness=2)
    atlas.shade([_moved(lower, 0, 0.06)], None, 0.55, blur=2.2, thickness=3, factor=0.72)
    if expression.mouth_open < 0.1:
        atlas.shade(
            [smooth_curve(f[[50, 51, 52]] - (0, 0.03))],
            tuple(np.array(identity.skin)),
            0.3,
            blur=0.8,
            thickness=1,
        )


def _paint_eyes(atlas: Atlas, identity: Identity, expression: Expression) -> None:
    skin = np.array(identity.skin)
    pair = [atlas.head.flat[eye] for eye in EYES]
    uppers = [smooth_curve(p[:4]) for p in pair]
    lowers = [smooth_curve(p[[3, 4, 5, 0]]) for p in pair]
    arch = np.sin(np.linspace(0.15, np.pi - 0.15, len(uppers[0])))[:, None]
    creases = [upper - (0, 0.03) - (0, 0.10) * arch for upper in uppers]
    lids = [np.concatenate([upper, crease[::-1]]) for upper, crease in zip(uppers, creases, strict=True)]
    atlas.shade(lids, None, 0.35 + 0.3 * identity.makeup, blur=2.0, factor=0.66)
    atlas.shade(creases, None, 0.6, blur=0.9, thickness=1, factor=0.5)
    for p, upper, lower in zip(pair, uppers, lowers, strict=True):
        if p[4:6, 1].mean() - p[1:3, 1].mean() > 0.025:
            _paint_eyeball(atlas, identity, expression, p, upper, lower)
    lash = skin * (0.16 if identity.makeup < 0.3 else 0.08)
    weight = 0.95 if identity.feminine else 0.8
    atlas.shade(uppers, tuple(lash), weight, blur=0.6, thickness=3 if identity.makeup > 0.3 else 2)
    atlas.shade(lowers, tuple(skin * (0.6, 0.45, 0.42)), 0.5, blur=0.7, thickness=1)


def _paint_eyeball(atlas: Atlas, identity: Identity, expression: Expression, p, upper, lower) -> None:
    """What the lids leave free: the white, the iris at its gaze, pupil, the upper lid's shadow and a
    glint."""
    outline = atlas.fixed(np.concatenate([upper, lower]))
    x0, y0 = (outline.min(0) >> _SHIFT) - 2
    x1, y1 = (outline.max(0) >> _SHIFT) + 3
    corner = np.array([x0, y0], np.int32) << _SHIFT
    patch = np.empty((y1 - y0, x1 - x0, 3), np.uint8)
    patch[:] = np.array((232, 226, 222)) * (0.96 - 0.1 * identity.age)
    radius = 0.14 * (0.6 + 0.4 * abs(p[3, 0] - p[0, 0]) / 0.56)
    cx, cy = (p[0] + p[3]) / 2 + (0, -0.012) + np.array(expression.gaze) * (0.75 * radius, 0.5 * radius)
    iris = np.array(identity.iris)
    for scale, colour in ((1.0, iris * 0.45), (0.86, iris), (0.45, (14, 10, 9))):
        disc = atlas.fixed(_ellipse((cx, cy), (radius * scale, radius * scale))) - corner
        cv2.fillPoly(patch, [disc], tuple(map(float, colour)), cv2.LINE_AA, _SHIFT)
    shade = np.zeros(patch.shape[:2], np.uint8)
    cv2.polylines(shade, [atlas.fixed(upper) - corner], False, 255, 5, cv2.LINE_AA, _SHIFT)
    shade = cv2.GaussianBlur(shade, (0, 0), 1.5)[..., None] * np.float32(0.6 / 255)
    patch = (patch * (1 - shade)).astype(np.uint8)
    glint = atlas.fixed(_ellipse((cx + 0.035, cy - 0.045), (0.034, 0.034))) - corner
    cv2.fillPoly(patch, [glint], (250, 250, 250), cv2.LINE_AA, _SHIFT)
    atlas.inlay(patch, outline, (x0, y0), EYE)


def _paint_brows(atlas: Atlas, identity: Identity, rng: np.random.Generator) -> None:
    colour = np.array(identity.hair) * (0.62 if sum(identity.hair) > 300 else 0.85)
    colour = 0.85 * colour + 0.15 * np.array(identity.skin) * 0.5
    bands, strokes = [], []
    for side, brow in enumerate(BROWS):
        p = atlas.head.flat[brow]
        centre = smooth_curve(p if side else p[::-1])  # from the nose outwards
        t = np.linspace(0, 1, len(centre))
        half = 0.085 * identity.brow_thickness * np.interp(t, [0, 0.15, 0.6, 1], [0.75, 1.0, 0.8, 0.4])
        up = np.stack([0 * half, -half], axis=1)
        bands.append(np.concatenate([centre + up, (centre - up)[::-1]]))
        roots, height = rng.uniform(0, 1, 26), rng.uniform(-0.2, 1.0, 26)
        spread = np.interp(roots, t, half)
        start = np.stack(
            [np.interp(roots, t, centre[:, 0]), np.interp(roots, t, centre[:, 1]) + spread * height], axis=1
        )
        outward = 1 if side else -1
        end = start + np.stack([outward * (0.05 + 0.09 * roots), -spread * 1.1 * (1 - 0.8 * roots)], axis=1)
        strokes += list(np.stack([start, end], axis=1))
    atlas.shade(bands, tuple(colour), 0.62, blur=1.3)
    cv2.fillPoly(atlas.label, [atlas.fixed(band) for band in bands], BROW, cv2.LINE_8, _SHIFT)
    atlas.shade(strokes, tuple(colour * 0.8), 0.6, blur=0.5, thickness=1)


def _paint_hair(atlas: Atlas, identity: Identity, cloth: "Cloth", rng: np.random.Generator) -> None:
    style = identity.hair_style
    covered = style in ("beanie", "scarf")
    base = np.array(cloth.scarf if covered else identity.hair, np.float32)
    curly = style in ("afro", "curly", "wavy")
    kind = "soft" if covered else "curls" if style in ("afro", "curly") else "strands"
    contrast = 0.08 if covered else 0.24 if curly else 0.2
    rows = HEAD_ROWS + HAIR_ROWS
    field = crop(kind, rows, WIDTH, rng)
    if style == "wavy":
        down = np.arange(rows, dtype=np.float32)[:, None]
        across = np.float32(6) * np.sin(down / 9) + np.arange(WIDTH, dtype=np.float32)
        field = cv2.remap(
            field,
            across,
            np.broadcast_to(down, across.shape),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT,
        )
    hair = tinted(field, base + (0 if covered else 5), contrast)
    atlas.colour[HAIR_TOP:CLOTH_TOP] = hair[HEAD_ROWS:]
    label = CLOTHING if covered else HAIR
    if style == "scarf":  # it covers the neck too
        atlas.colour[SKIN_TOP:, EAR_WIDTH:] = base
    atlas.label[HAIR_TOP:CLOTH_TOP] = label
    edge = hairline(identity, atlas.head.crown)
    if style == "bald":
        return
    phi = np.linspace(-PHI, PHI, 121)
    ragged = {"buzz": 0.02, "beanie": 0.0, "scarf": 0.0, "fringe": 0.10}.get(style, 0.035)
    line = hairline_at(edge, phi) + ragged * rng.standard_normal(121)
    polygon = np.concatenate([head_uv(phi, line), [(WIDTH + 3, -3), (-3, -3)]])
    bottom = min(HEAD_ROWS, int(polygon[:, 1].max()) + 12)
    mask = np.zeros((bottom, WIDTH), np.uint8)
    cv2.fillPoly(mask, [np.round(polygon * (1 << _SHIFT)).astype(np.int32)], 255, cv2.LINE_AA, _SHIFT)
    atlas.label[:bottom][mask > 127] = label
    soft = {"buzz": 9, "receding": 7, "fringe": 3, "beanie": 1, "scarf": 1}.get(style, 5)
    strength = 0.7 if style == "buzz" else 1.0
    covering = cv2.convertScaleAbs(cv2.blur(mask, (soft, soft)), alpha=strength)
    kept = cv2.bitwise_not(covering)
    if style not in ("buzz", "receding"):  # a soft shadow on the skin just below
        shadow = cv2.blur(mask, (13, 13))
        kept = cv2.multiply(kept, cv2.addWeighted(shadow, -0.2, shadow, 0, 255), scale=1 / 255)
    head = cv2.multiply(atlas.colour[:bottom], cv2.merge([kept] * 3), scale=1 / 255)
    locks = cv2.multiply(hair[:bottom], cv2.merge([covering] * 3), scale=1 / 255)
    atlas.colour[:bottom] = cv2.add(head, locks)


class Cloth:
    """Clothes of one image: what they are and their colours."""

    def __init__(self, kind: str, rng: np.random.Generator):
        self.kind = kind
        hue = rng.uniform(0, 180)
        saturation, value = (
            (rng.uniform(0, 70), rng.uniform(15, 80))
            if kind in ("suit", "jacket")
            else (rng.choice([rng.uniform(0, 50), rng.uniform(60, 220)]), rng.uniform(40, 245))
        )
        self.main = _hsv(hue, saturation, value)
        self.shirt = _hsv(rng.uniform(90, 130), rng.uniform(0, 60), rng.uniform(190, 250))
        self.accent = _hsv(rng.uniform(0, 180), rng.uniform(90, 220), rng.uniform(60, 220))
        self.scarf = _hsv(rng.uniform(0, 180), rng.uniform(0, 200), rng.uniform(25, 235))

    def paint(self, atlas: Atlas, rng: np.random.Generator) -> None:
        """Fills the strip of cloth: across is the angle around the body, its middle in front, and down is
        down."""
        strip = atlas.colour[CLOTH_TOP:SKIN_TOP]
        label = atlas.label[CLOTH_TOP:SKIN_TOP]
        strip[:] = self.main
        label[:] = CLOTHING
        middle, rows = WIDTH // 2, CLOTH_ROWS
        if self.kind == "stripes":
            step = int(rng.integers(8, 22))
            if rng.random() < 0.5:
                for x in range(0, WIDTH, step):
                    cv2.rectangle(strip, (x, 0), (x + step // 2, rows), self.accent, -1)
            else:
                for y in range(0, rows, step):
                    cv2.rectangle(strip, (0, y), (WIDTH, y + step // 2), self.accent, -1)
        elif self.kind in ("shirt", "suit", "jacket"):
            if self.kind != "shirt":
                opening = np.array([(middle - 52, 0), (middle + 52, 0), (middle, 125)], np.int32)
                cv2.fillPoly(strip, [opening], self.shirt, cv2.LINE_AA)
            if self.kind == "suit":
                tie = np.array(
                    [
                        (middle - 9, 2),
                        (middle + 9, 2),
                        (middle + 6, 16),
                        (middle + 14, 100),
                        (middle, 112),
                        (middle - 14, 100),
                        (middle - 6, 16),
                    ],
                    np.int32,
                )
                cv2.fillPoly(strip, [tie], self.accent, cv2.LINE_AA)
            if self.kind == "shirt":
                cv2.line(strip, (middle, 0), (middle, rows), tuple(0.7 * c for c in self.main), 2, cv2.LINE_AA)
            dark = tuple(0.55 * c for c in self.main)
            for sign in (-1, 1):
                lapel = np.array(
                    [
                        (middle + sign * 52, 0),
                        (middle + sign * 74, 20),
                        (middle + sign * 40, 60),
                        (middle + sign * 8, 108),
                    ],
                    np.int32,
                )
                if self.kind != "shirt":
                    cv2.polylines(strip, [lapel], False, dark, 2, cv2.LINE_AA)
                collar = np.array([(middle + sign * 62, 0), (middle + sign * 4, 4), (middle + sign * 30, 26)], np.int32)
                cv2.fillPoly(
                    strip,
                    [collar],
                    self.shirt if self.kind != "shirt" else tuple(0.9 * c for c in self.main),
                    cv2.LINE_AA,
                )
                cv2.polylines(strip, [collar], True, tuple(0.7 * c for c in self.shirt), 1, cv2.LINE_AA)
        elif self.kind == "v_neck":
            opening = np.array([(middle - 70, 0), (middle + 70, 0), (middle, 78)], np.int32)
            cv2.fillPoly(strip, [opening], atlas.head.identity.skin, cv2.LINE_AA)
            cv2.fillPoly(label, [opening], NECK, cv2.LINE_8)
        folds = crop("soft", rows, WIDTH, rng)
        strip[:] = cv2.multiply(strip, cv2.merge([cv2.addWeighted(folds, 0.09, folds, 0, 116)] * 3), scale=1 / 128)


def _hsv(hue: float, saturation: float, value: float) -> tuple[int, ...]:
    pixel = np.array([[[hue, saturation, value]]], np.uint8)
    return tuple(int(c) for c in cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0])


def colours_of_parts() -> UInt8[np.ndarray, "11 3"]:
    """A distinct colour for each part, for overlays."""
    hues = np.linspace(0, 180, len(PARTS), endpoint=False)
    return np.array([(0, 0, 0)] + [_hsv(h, 170, 235) for h in hues[1:]], np.uint8)
