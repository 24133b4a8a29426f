"""Draws a sheet of synthetic faces, with their landmarks or parts on request."""

import argparse
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from scemae_jax.synthetic_faces.drawing import SyntheticFace, draw_face
from scemae_jax.synthetic_faces.texture import colours_of_parts


def picture(face: SyntheticFace, *, zoom: int, landmarks: bool, parts: bool) -> UInt8[np.ndarray, "h w 3"]:
    """One face, enlarged; landmarks green where visible and red where hidden, parts as a tint."""
    image = face.image
    if parts:
        tint = colours_of_parts()[face.parts[..., 0]]
        tint[face.occluder[..., 0] > 0] = 255
        image = cv2.addWeighted(image, 0.45, tint, 0.55, 0)
    image = cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC if zoom > 1 else cv2.INTER_AREA)
    if landmarks:
        for (x, y), visible in zip((face.landmarks + 0.5) * zoom - 0.5, face.visible, strict=True):
            at, colour = (
                (round(16 * float(x)), round(16 * float(y))),
                (60, 255, 60) if visible else (255, 60, 60),
            )
            cv2.circle(image, at, 10 * zoom, colour, -1, cv2.LINE_AA, 4)
    return image


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scemae_jax.synthetic_faces", description=__doc__)
    parser.add_argument("--sheet", type=Path, required=True, metavar="OUT.png", help="where to write the sheet")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--zoom", type=int, default=1, help="enlarge each face this many times")
    parser.add_argument("--landmarks", action="store_true", help="draw the 68 landmarks, hidden ones in red")
    parser.add_argument("--parts", action="store_true", help="tint the parts")
    parser.add_argument("--occluders", action="store_true", help="put something in front of every second face")
    args = parser.parse_args()
    rows = []
    for row in range(args.rows):
        faces = [
            draw_face(seed=args.seed, subject=subject, frame=0, occluder=args.occluders and subject % 2 == 0)
            for subject in range(row * args.columns, (row + 1) * args.columns)
        ]
        options = {"zoom": args.zoom, "landmarks": args.landmarks, "parts": args.parts}
        rows.append(np.hstack([picture(face, **options) for face in faces]))
    sheet = np.vstack(rows)[..., ::-1]
    if not cv2.imwrite(str(args.sheet), sheet):
        parser.error(f"cannot write {args.sheet}: is it a .png or .jpg in an existing folder?")


if __name__ == "__main__":
    main()
