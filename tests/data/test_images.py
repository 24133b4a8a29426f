"""One image file, brought with its landmarks to the square: held to planted marks, Pillow, and damaged files."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from scemae_jax.data import images
from scemae_jax.data.images import BACKGROUND, Cut, DatasetError, UnreadableImage, prepare_face
from scemae_jax.faces.frame import FRAME

NO_LANDMARKS = np.zeros((0, 2))


def encode(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return file.getvalue()


def plain(colour=(200, 60, 20), size=(20, 20)):
    return Image.new("RGB", size, colour)


def noise(side):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8))


def prepare(content, landmarks=NO_LANDMARKS):
    jpeg, moved = prepare_face(io.BytesIO(content), np.asarray(landmarks, float), name="face.jpg")
    return np.asarray(Image.open(io.BytesIO(jpeg))), moved


def blob(size, mark, spread):
    """An image that is bright around `mark`, where pixel (x, y) has its centre at (x, y)."""
    y, x = np.mgrid[: size[1], : size[0]]
    bright = 255 * np.exp(-((x - mark[0]) ** 2 + (y - mark[1]) ** 2) / (2 * spread**2))
    return Image.fromarray(np.stack([bright] * 3, -1).astype(np.uint8))


def centre_of_light(image):
    """(x, y) of what is brighter than the mid-grey padding."""
    weight = np.clip(image[..., 0].astype(float) - 160, 0, None)
    rows, columns = np.mgrid[: len(image), : len(image)]
    return np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()


@pytest.mark.parametrize(
    ("size", "exif_orientation", "kind"),
    [
        ((300, 200), 1, "PNG"),  # landscape
        ((90, 260), 1, "WEBP"),  # portrait, enlarged in one direction
        ((1700, 1300), 1, "JPEG"),  # large enough for the decoder to shrink it
        ((40, 40), 1, "PNG"),
        ((240, 160), 3, "JPEG"),
        ((240, 160), 6, "JPEG"),
        ((240, 160), 7, "JPEG"),
    ],
)
def test_landmarks_stay_on_what_they_mark(size, exif_orientation, kind):
    width, height = size
    mark = np.array([0.7 * width, 0.3 * height])
    upright = blob(size, mark, max(size) / 40)
    # EXIF says how to turn the stored image upright: what is stored is turned the other way.
    undo = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE}
    stored = upright.transpose(undo[exif_orientation]) if exif_orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = exif_orientation
    image, moved = prepare(encode(stored, kind, exif=exif, quality=95), [mark, [np.nan, np.nan]])

    assert image.shape == (FRAME.image_size, FRAME.image_size, 3)
    np.testing.assert_allclose(moved[0], centre_of_light(image), atol=0.1)
    assert np.isnan(moved[1]).all()
    assert moved.dtype == np.float32


def test_a_mark_is_where_its_landmark_says_and_leads_back():
    image, moved = prepare(encode(blob((1000, 1000), (700, 500), 20)), [[700, 500]])
    found = centre_of_light(image)
    np.testing.assert_allclose(moved, [[94.768, 67.568]], atol=1e-3)  # 700.5 * 0.136 - 0.5, 500.5 * 0.136 - 0.5
    np.testing.assert_allclose(moved[0], found, atol=0.1)
    np.testing.assert_allclose(FRAME.place((1000, 1000)).from_square(found), [700, 500], atol=0.5)


def test_padding_keeps_the_whole_image_centred():
    outermost = [[-0.5, -0.5], [271.5, 135.5]]  # the outer edges of the corner pixels
    image, moved = prepare(encode(plain((250, 250, 250), size=(272, 136))), outermost)
    np.testing.assert_allclose(moved, [[-0.5, 33.5], [135.5, 101.5]])
    assert (np.abs(image[:33].astype(int) - BACKGROUND) < 4).all()
    assert (np.abs(image[103:].astype(int) - BACKGROUND) < 4).all()
    assert (image[36:100] > 246).all()


def test_a_prepared_jpeg_is_kept_bit_for_bit():
    content = encode(noise(FRAME.image_size), "JPEG", quality=80)
    assert prepare_face(io.BytesIO(content), NO_LANDMARKS, name="a")[0] == content
    grey = encode(noise(FRAME.image_size).convert("L"), "JPEG")
    assert prepare_face(io.BytesIO(grey), NO_LANDMARKS, name="a")[0] != grey


def png_header(width, height):
    """A PNG file that announces a size and holds nothing."""
    ihdr = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = struct.pack(">I", 13) + ihdr + struct.pack(">I", zlib.crc32(ihdr)) + struct.pack(">I", 99) + b"IDAT"
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(8001, 8000), (12000, 8000), (100000, 100000)])
def test_a_decompression_bomb_is_refused_by_its_header(size):
    with pytest.raises(DatasetError, match=r"face\.jpg: too large .* 64 megapixels") as refused:
        prepare(png_header(*size))
    assert not isinstance(refused.value, UnreadableImage)  # an error, not skipped


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "WEBP"]), st.data())
def test_damaged_files_raise_nothing_but_dataset_errors(kind, data):
    content = bytearray(encode(noise(24), kind))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(1, len(content)))]
    try:
        image, _ = prepare(bytes(content))
    except DatasetError:
        return
    assert image.shape == (FRAME.image_size, FRAME.image_size, 3)


@pytest.mark.parametrize(("landmark", "is_allowed"), [((-39, 79), True), ((41, 20), True), ((5, 81), False)])
def test_landmarks_may_lie_outside_but_not_far(landmark, is_allowed):
    content = encode(plain(size=(40, 40)))
    if is_allowed:
        expected = (np.array([landmark]) + 0.5) * 3.4 - 0.5
        np.testing.assert_allclose(prepare(content, [landmark])[1], expected, rtol=1e-6)
    else:
        with pytest.raises(DatasetError, match=r"landmark 0 is at \(5, 81\).*40x40"):
            prepare(content, [landmark])


def test_a_cut_drops_transparency_and_keeps_grey(tmp_path):
    """Prior work takes the colours under transparent pixels; grey images are grey in all three channels."""
    level = np.full((100, 100), 77, np.uint8)
    cut = Cut(size=(100, 100), box=(0, 0, 100, 100))
    for image in (Image.fromarray(level), Image.merge("LA", [Image.fromarray(level), Image.new("L", (100, 100), 0)])):
        file = io.BytesIO()
        image.save(file, "PNG")
        jpeg, _ = prepare_face(file, np.zeros((0, 2)), name="face.png", cut=cut)
        assert (np.asarray(Image.open(io.BytesIO(jpeg))) == 77).all()


def test_a_zoom_that_needs_too_much_memory_is_refused(monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 1_000_000)
    file = io.BytesIO()
    Image.new("RGB", (500, 400)).save(file, "PNG")
    cut = Cut(size=None, box=(0, 0, 100, 100), zoom=3)
    with pytest.raises(DatasetError, match=r"face\.png: 500x400 pixels would become 1500x1200"):
        prepare_face(file, np.zeros((0, 2)), name="face.png", cut=cut)
