"""Image files of any kind, brought with their landmarks to the 136x136 RGB JPEGs that the datasets hold.

Plain Pillow and NumPy: dataset builders use this without JAX or TensorFlow.
"""

import io
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageOps

from scemae_jax.faces.frame import FRAME, Placement

MAX_PIXELS = 64_000_000
"""Largest image that is decoded: 64 megapixels, about 200 MB as RGB."""

BACKGROUND = (128, 128, 128)
"""Mid-grey, close to 0 once normalised: fills padding and shows through transparent pixels."""

_FORMATS = ("JPEG", "PNG", "WEBP")
_EXIF_ORIENTATION = 0x0112

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


class DatasetError(ValueError):
    """The data cannot be used as it is; the message names the file, the row where there is one, and why."""


class UnreadableImage(DatasetError):
    """An image file that cannot be decoded: truncated, corrupt, or neither JPEG, PNG nor WebP."""


class Cut(NamedTuple):
    """The part of an image that becomes the whole 136x136 square, stretched to it where it is not square.

    As prior work prepares its datasets: EXIF orientation (annotations are of the pixels as stored) and transparency are
    ignored, and coordinates are scaled as they are, `x' = (x * zoom - left) * 136 / width`. That is off by half the
    change in the size of a pixel, 0.12 pixels for CelebA; it is kept, to be comparable.
    """

    size: tuple[int, int] | None
    """(width, height) that the image must have, in pixels; None for any."""
    box: tuple[int, int, int, int]
    """(left, top, right, bottom) of the part kept, in pixels of the zoomed image, right and bottom exclusive; black
    where it leaves the image."""
    zoom: float = 1.0
    """The image is first resized to `(int(width * zoom), int(height * zoom))`, with antialiasing."""
    zoom_filter: Image.Resampling = Image.Resampling.BILINEAR
    """Of that first resize; the part kept is stretched bilinearly."""


def prepare_face(
    source: BinaryIO, landmarks: Float[np.ndarray, "L 2"], *, name: str, cut: Cut | None = None
) -> tuple[bytes, Float[np.ndarray, "L 2"]]:
    """Brings one image file and its landmarks to 136x136.

    The image is turned upright (EXIF), scaled (bilinear with antialiasing, as prior work) until its longer side is
    136, and centred on a mid-grey square: padding loses nothing that a centre crop would. Or it is cut, as `Cut` says.
    Landmarks follow, as `Placement` or `Cut` says.
    16-bit grey is scaled to 8 bits; transparency shows mid-grey where nothing is cut.
    A JPEG that is 136x136, RGB and upright already is returned byte for byte.

    Args:
      source: the image file, open for binary reading and seekable.
      landmarks: (x, y) in pixels of the upright (with `cut`: of the stored), uncut image, (0, 0) the centre of the
        top left one; NaN where not annotated.
      name: what errors call this image (its file, and the row of its annotation).
      cut: the part of the image to keep; None keeps all of it, and its aspect.

    Returns:
      The JPEG file (quality 95, colour at full resolution) and the landmarks in its pixels, float32.

    Raises:
      UnreadableImage: the image cannot be decoded.
      DatasetError: it has more than 64 megapixels (read from its header, before decoding), also after `cut.zoom`, or
        another size than `cut` says, or a landmark lies further outside it than its own width or height.
    """
    try:
        image = Image.open(source, formats=_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DatasetError(_too_large(name, str(error))) from error
    except Exception as error:  # Pillow's parsers raise OSError, SyntaxError, struct.error and others
        raise UnreadableImage(f"{name}: cannot be read as JPEG, PNG or WebP; replace or remove it") from error
    if image.width * image.height > MAX_PIXELS:
        raise DatasetError(_too_large(name, f"{image.width}x{image.height} pixels"))

    try:
        orientation = 1 if cut else image.getexif().get(_EXIF_ORIENTATION, 1)
        width, height = (image.height, image.width) if orientation in (5, 6, 7, 8) else image.size
        is_prepared = image.format == "JPEG" and image.mode == "RGB" and orientation not in range(2, 9)
        is_prepared = is_prepared and cut is None and image.size == (FRAME.image_size, FRAME.image_size)
        # Lets the JPEG decoder itself shrink by 2, 4 or 8, to no less than twice the size asked for.
        if cut is None:
            image.draft(None, (2 * FRAME.image_size, 2 * FRAME.image_size))
        image.load()
        upright = _eight_bit(image if cut else ImageOps.exif_transpose(image))
    except Exception as error:  # as above, for the decoders
        raise UnreadableImage(f"{name}: cannot be decoded ({error}); replace or remove it") from error

    if cut is not None and cut.size not in (None, (width, height)):
        raise DatasetError(f"{name}: is {width}x{height} pixels; expected {cut.size[0]}x{cut.size[1]}")
    _check_inside(landmarks, width, height, name)
    if is_prepared:
        source.seek(0)
        return source.read(), landmarks.astype(np.float32)

    if cut is not None:
        left, top, right, bottom = cut.box
        zoomed = _zoomed(upright.convert("RGB"), cut, name)
        small = zoomed.crop(cut.box).resize((FRAME.image_size, FRAME.image_size), Image.Resampling.BILINEAR)
        scale = np.divide(FRAME.image_size, (right - left, bottom - top))
        return _encode(small), ((landmarks * cut.zoom - (left, top)) * scale).astype(np.float32)
    placement = FRAME.place((width, height))
    small = upright.resize(placement.scaled, Image.Resampling.BILINEAR)
    return _encode(small, placement.padding), placement.to_square(landmarks)


def open_upright(path: Path) -> Image.Image:
    """An image file of any size as RGB, turned upright (EXIF), mid-grey where it is transparent.

    Raises:
      UnreadableImage: it cannot be decoded.
      DatasetError: it has more than 64 megapixels.
    """
    try:
        with Image.open(path, formats=_FORMATS) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise DatasetError(_too_large(str(path), f"{opened.width}x{opened.height} pixels"))
            image = _eight_bit(ImageOps.exif_transpose(opened))
    except DatasetError:
        raise
    except Exception as error:  # Pillow's parsers raise OSError, SyntaxError, struct.error and others
        raise UnreadableImage(f"{path}: cannot be read as JPEG, PNG or WebP; replace or remove it") from error
    if image.mode == "RGB":
        return image
    canvas = Image.new("RGB", image.size, BACKGROUND)
    canvas.paste(image, (0, 0), image)
    return canvas


def on_square(image: Image.Image, placed: Placement) -> Image.Image:
    """An RGB image scaled to where it lies in the square, bilinear with antialiasing, mid-grey around it."""
    canvas = Image.new("RGB", (placed.square, placed.square), BACKGROUND)
    canvas.paste(image.resize(placed.scaled, Image.Resampling.BILINEAR), placed.padding)
    return canvas


def fit(
    image: Image.Image,
    size: tuple[int, int],
    around: int | tuple[int, int, int] = BACKGROUND,
    resampling: Image.Resampling = Image.Resampling.BILINEAR,
) -> Image.Image:
    """An image scaled until it fits into `size`, (height, width), and centred, with the colour `around` it."""
    height, width = size
    zoom = min(width / image.width, height / image.height)
    scaled = (max(1, round(image.width * zoom)), max(1, round(image.height * zoom)))
    canvas = Image.new(image.mode, (width, height), around)
    canvas.paste(image.resize(scaled, resampling), ((width - scaled[0]) // 2, (height - scaled[1]) // 2))
    return canvas


def encoded(image: Image.Image, form: str) -> io.BytesIO:
    """An image as a file of the form "JPEG" (quality 95, colour at full resolution) or "PNG"."""
    target = io.BytesIO()
    options = {"quality": 95, "subsampling": 0} if form == "JPEG" else {}
    image.save(target, format=form, **options)
    target.seek(0)
    return target


def in_threads(function: Callable[[_Task], _Result], tasks: Iterable[_Task]) -> Iterator[_Result]:
    """Yields `function(task)` in the order of the tasks, computed on all cores and only a little ahead.

    Threads suffice: Pillow releases the interpreter lock while it decodes, resizes and encodes.
    """
    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        ahead = deque()
        for task in tasks:
            ahead.append(pool.submit(function, task))
            if len(ahead) > 4 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _zoomed(image: Image.Image, cut: Cut, name: str) -> Image.Image:
    width, height = int(image.width * cut.zoom), int(image.height * cut.zoom)
    if not 0 < width * height <= MAX_PIXELS:
        raise DatasetError(
            f"{name}: {image.width}x{image.height} pixels would become {width}x{height}; is the box of the face right?"
        )
    return image if cut.zoom == 1 else image.resize((width, height), cut.zoom_filter)


def _encode(image: Image.Image, offset: tuple[int, int] = (0, 0)) -> bytes:
    """A JPEG of the image on a mid-grey square, which shows through where it is transparent."""
    canvas = Image.new("RGB", (FRAME.image_size, FRAME.image_size), BACKGROUND)
    canvas.paste(image, offset, image if image.mode == "RGBA" else None)
    jpeg = io.BytesIO()
    canvas.save(jpeg, format="JPEG", quality=95, subsampling=0)
    return jpeg.getvalue()


def _too_large(name: str, size: str) -> str:
    limit = f"at most {MAX_PIXELS // 10**6} megapixels"
    return f"{name}: too large to decode safely ({size}; {limit}); shrink it first"


def _eight_bit(image: Image.Image) -> Image.Image:
    """RGB, or RGBA where the image has transparency."""
    if image.mode.startswith(("I", "F")):  # 16-bit grey, which Pillow would clip at 255 instead of scaling
        grey = np.asarray(image, dtype=np.float32) / 257
        return Image.fromarray(np.clip(np.rint(grey), 0, 255).astype(np.uint8)).convert("RGB")
    is_transparent = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    return image.convert("RGBA" if is_transparent else "RGB")


def _check_inside(landmarks: Float[np.ndarray, "L 2"], width: int, height: int, name: str) -> None:
    """A face may reach over the border; a landmark a whole image away is a mistake, such as another scale."""
    size = np.array([width, height])
    far = ((landmarks < -size) | (landmarks > 2 * size)).any(axis=1)  # False for NaN
    if far.any():
        index = int(np.argmax(far))
        x, y = landmarks[index]
        raise DatasetError(
            f"{name}: landmark {index} is at ({x:g}, {y:g}), too far outside the {width}x{height} image; "
            "coordinates are pixels of the image file as it is displayed, origin at the top left"
        )
