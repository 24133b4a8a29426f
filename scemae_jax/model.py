"""A trained model: weights, sizes and normalisation, and the features it gives."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, get_args

import cv2
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num, UInt8

from scemae_jax.data.images import BACKGROUND
from scemae_jax.faces.frame import FRAME, Frame, Placement
from scemae_jax.models import carb
from scemae_jax.models.architecture import Architecture
from scemae_jax.models.heads import Head, Which, find
from scemae_jax.models.parsing import ParsingNetwork, PartParser
from scemae_jax.ops.correspondence import predict_matches
from scemae_jax.ops.cover_and_stride import cover_and_stride

CHUNK = 32
"""Images that go through the network at a time."""


def bind(module: nn.Module, params: Any) -> nn.Module:
    return module.bind({"params": params})


@functools.partial(jax.jit, static_argnames=("architecture", "stride", "which", "projected_weight"))
def _dense_features(
    params: Any, images: Array, *, architecture: Architecture, stride: int, which: Which, projected_weight: float
) -> Array:
    backbone = architecture.backbone
    side, window = backbone.side, backbone.frame.window
    encoder = bind(backbone.build(), params["encoder"])

    def window_features(windows: Array) -> Array:
        if which == "backbone":
            chosen = encoder(windows)[:, 1:]
        elif which == "clustered":
            chosen = carb.approximate(bind(architecture.build_carb(), params).select(windows))
        else:
            tokens, projected = bind(architecture.build_carb(), params).features(windows)
            both = [tokens, projected_weight * projected]
            chosen = projected if which == "projected" else jnp.concatenate(both, axis=-1)
        return chosen.reshape(windows.shape[0], side, side, -1).astype(jnp.float32)

    return cover_and_stride(
        window_features,
        backbone.normalise(images),
        window=window,
        stride=stride,
        patch_size=backbone.variant.patch_size,
    )


@functools.partial(jax.jit, static_argnames="network")
def _part_probabilities(params: Any, images: Array, *, network: ParsingNetwork) -> Array:
    if jnp.issubdtype(images.dtype, jnp.integer):
        images = images.astype(jnp.float32) / 255
    return network.of_squares(params, images)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """A backbone, its projector once refined, its heads, its parser, and its MAE decoder where kept.

    Its methods take and give arrays of NumPy; `device_features` and `dense_features` serve further computation.
    """

    architecture: Architecture
    params: dict[str, Any]
    """`encoder`, `projector` (absent before stage 2) and `decoder` (absent from exported models)."""
    heads: dict[str, Head] = dataclasses.field(default_factory=dict)
    """By name: that of a landmark head is the number of its landmarks, "5" say."""
    parser: PartParser | None = None
    """Gives every pixel its part."""
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Where it came from: config hash, images seen, data; free-form, for people."""

    @property
    def frame(self) -> Frame:
        """Sizes of the images that it sees."""
        return self.architecture.backbone.frame

    @property
    def refined(self) -> bool:
        """Whether stage 2 has trained a projector."""
        return "projector" in self.params

    def features(
        self,
        images: Num[Array | np.ndarray, "b h w 3"],
        stride: int = 8,
        which: Which = "projected",
        projected_weight: float = 1.0,
    ) -> Float[np.ndarray, "b 96/stride 96/stride c"]:
        """Features of the centre window of the images, one for every `stride` pixels, by cover-and-stride.

        The shapes are those of most models, of images of 136x136 and windows of 96x96: `Model.frame`.

        Args:
          images: uint8, or floats in [0, 1]; those of another size are brought to it as `as_square_images` does.
          stride: a divisor of the patch size.
          which: "backbone" (after the last norm), "projected", "both" concatenated in that order, or "clustered": the
            backbone's features after CARB's split, where each inattentive patch has those of its cluster's centre
            and the later layers see the kept tokens only (method steps 1 to 4, for the paper's ablation).
          projected_weight: factor of the projected features in "both". At 1 a patch's projected features have unit
            length (where the projector normalises), the backbone's about the square root of their number.

        Raises:
          ValueError: the images have another form or range, `which` is unknown, the stride does not divide the patch
            size, or the model lacks what `which` needs: a projector (it is not refined), or CARB.
        """
        return np.asarray(self.device_features(images, stride, which, projected_weight))

    def device_features(
        self,
        images: Num[Array | np.ndarray, "b h w 3"],
        stride: int = 8,
        which: Which = "projected",
        projected_weight: float = 1.0,
    ) -> Float[Array, "b 96/stride 96/stride c"]:
        """`features`, left on the device."""
        if which not in get_args(Which):
            raise ValueError(f"which is {which!r}: choose {', '.join(map(repr, get_args(Which)))}")
        if which in ("projected", "both") and not self.refined:
            raise ValueError(f"which={which!r} needs a projector, and this model has none (stage 2 did not run)")
        placement(images, self.frame)  # raises for images of another form before any are computed
        if not len(images):
            one = jax.ShapeDtypeStruct((1, self.frame.image_size, self.frame.image_size, 3), jnp.uint8)
            shape = jax.eval_shape(lambda images: self.dense_features(images, stride, which), one).shape
            return jnp.zeros((0, *shape[1:]))
        dense = functools.partial(
            self.dense_features, stride=stride, which=which, projected_weight=projected_weight
        )  # fmt: skip
        return jnp.concatenate(list(self._of_chunks(dense, images)))

    def _of_chunks(
        self, function: Callable[[Array], Array], images: Num[Array | np.ndarray, "b h w 3"]
    ) -> Iterator[Array]:
        """What a function gives of the images' squares, `CHUNK` at a time, or all if they are fewer."""
        for start in range(0, len(images), CHUNK):
            chunk = as_square_images(images[start : start + CHUNK], self.frame)
            missing = CHUNK - len(chunk) if len(images) > CHUNK else 0
            padded = jnp.pad(chunk, ((0, missing), (0, 0), (0, 0), (0, 0)))
            yield function(padded)[: len(chunk)]

    def dense_features(
        self, images: Num[Array, "b 136 136 3"], stride: int, which: Which, projected_weight: float = 1.0
    ) -> Float[Array, "b 96/stride 96/stride c"]:
        """`device_features` without its checks and chunks, to be traced into another computation."""
        weights = {name: self.params[name] for name in ("encoder", "projector") if name in self.params}
        return _dense_features(
            weights, images, architecture=self.architecture, stride=stride, which=which,
            projected_weight=projected_weight,
        )  # fmt: skip

    def match(
        self,
        image: Num[np.ndarray, "h w 3"],
        points: Float[np.ndarray, "l 2"],
        other: Num[np.ndarray, "h w 3"],
        stride: int = 4,
    ) -> Float[np.ndarray, "l 2"]:
        """Where the `points` (x, y) of an image are in another image of the same size.

        Both in pixels of the images, (0, 0) the centre of the top left one. The answer is the pixel of the other's
        centre window whose projected feature (of a model that is not refined: the backbone's) is most alike (cosine
        similarity).

        Raises:
          ValueError: the images differ in size; or as `features`.
        """
        if np.shape(image) != np.shape(other):
            raise ValueError(f"the images have shapes {np.shape(image)} and {np.shape(other)}: resize one to the other")
        images, frame = np.stack([image, other]), self.frame
        placed = placement(images, frame)
        first, second = self.device_features(images, stride, "projected" if self.refined else "backbone")
        queries = frame.to_window(placed.to_square(np.asarray(points)))
        found = np.asarray(predict_matches(first, second, jnp.asarray(queries), frame.window))
        return placed.from_square(frame.from_window(found))

    def with_head(self, head: Head, name: str = "") -> Model:
        """This model with one more head; without a name it has that of the number of its landmarks."""
        return dataclasses.replace(self, heads={**self.heads, name or str(head.network.num_landmarks): head})

    def detect(
        self, images: Num[Array | np.ndarray, "b h w 3"], num_landmarks: int | None = None, *, head: str = ""
    ) -> Float[np.ndarray, "b l 2"]:
        """Landmarks (x, y) in pixels of the images given, (0, 0) the centre of the top left one.

        Args:
          images: faces cut as the training ones, of any size; uint8, or floats in [0, 1].
          num_landmarks: which head, where the model has several: the one that has this number for a name.
          head: its name, instead.

        Raises:
          ValueError: the model has no such head, or several and none was named; or as `features`.
        """
        name = head or ("" if num_landmarks is None else str(num_landmarks))
        if not name and len(self.heads) == 1:
            (name,) = self.heads
        if name not in self.heads:
            raise ValueError(
                f"{f'no head is called {name!r}' if name else 'no head is named'}: this model detects "
                f"{', '.join(self.heads) or 'no landmarks'}; fit_detector adds a head"
            )
        placed, chosen, points = placement(images, self.frame), self.heads[name], []
        for start in range(0, len(images), CHUNK):
            features = self.device_features(images[start : start + CHUNK], *chosen.reads)
            points.append(np.asarray(find(chosen.network, chosen.params, features)))
        normalised = np.concatenate([np.zeros((0, chosen.network.num_landmarks, 2), np.float32), *points])
        return placed.from_square(self.frame.denormalise(normalised))

    @property
    def part_names(self) -> tuple[str, ...]:
        """Names of the values that `parse` gives; raises ValueError if the model has no parser."""
        return self._own_parser().parts.names

    def parse(self, images: Num[Array | np.ndarray, "b h w 3"]) -> UInt8[np.ndarray, "b h w"]:
        """The part of every pixel: an index of `part_names`.

        Args:
          images: faces cut as the training ones, of any size; uint8, or floats in [0, 1].

        Raises:
          ValueError: the model has no parser; or as `features`.
        """
        self._own_parser()
        placed = placement(images, self.frame)
        if placed.size == (placed.square, placed.square):
            found = [np.asarray(chunk) for chunk in self._of_chunks(self.square_parts, images)]
            return np.concatenate([np.zeros((0, *np.shape(images)[1:3]), np.uint8), *found])
        found = [most_probable(maps, placed) for maps in self._part_maps(images)]
        return np.stack(found) if found else np.zeros(np.shape(images)[:3], np.uint8)

    def parse_probabilities(self, images: Num[Array | np.ndarray, "b h w 3"]) -> Float[np.ndarray, "b h w k"]:
        """Of every pixel, the probability of each of `part_names`; `parse` takes a fraction of the memory.

        Arguments and errors are those of `parse`.
        """
        placed, count = placement(images, self.frame), len(self.part_names)
        found = [np.stack(list(in_own_size(maps, placed)), axis=-1) for maps in self._part_maps(images)]
        return np.stack(found) if found else np.zeros((*np.shape(images)[:3], count), np.float32)

    def square_part_probabilities(self, images: Num[Array, "b 136 136 3"]) -> Float[Array, "b 136 136 k"]:
        """`parse_probabilities` of squares, without checks and chunks, to be traced into another computation."""
        parser = self._own_parser()
        return _part_probabilities(parser.params, images, network=parser.network(self.architecture.backbone))

    def square_parts(self, images: Num[Array, "b 136 136 3"]) -> UInt8[Array, "b 136 136"]:
        """`parse` of squares, as `square_part_probabilities`."""
        return self.square_part_probabilities(images).argmax(axis=-1).astype(jnp.uint8)

    def _part_maps(self, images: Num[Array | np.ndarray, "b h w 3"]) -> Iterator[Float[np.ndarray, "136 136 k"]]:
        """Of each image in its square."""
        for chunk in self._of_chunks(self.square_part_probabilities, images):
            yield from np.asarray(chunk)

    def _own_parser(self) -> PartParser:
        if self.parser is None:
            raise ValueError(
                "this model has no parser: scemae_jax.fit_parser trains one from images with masks, and a run of "
                "configs/spcl/faces.py exports a model with one"
            )
        return self.parser


def placement(images: Num[Array | np.ndarray, "b h w 3"], frame: Frame) -> Placement:
    """Where images of this size lie in the frame's square.

    Raises:
      ValueError: not a batch of RGB images, or not uint8 or floats.
    """
    shape, dtype = np.shape(images), np.asarray(images[:0]).dtype
    if len(shape) != 4 or shape[-1] != 3 or 0 in shape[1:]:
        raise ValueError(f"images have the shape {shape}: a batch of RGB images [B, height, width, 3] is needed")
    if dtype != np.uint8 and not np.issubdtype(dtype, np.floating):
        raise ValueError(f"images are of type {dtype}: uint8, or floats in [0, 1], are needed")
    return frame.place((shape[2], shape[1]))


@functools.partial(jax.jit, static_argnames="placed")
def _on_squares(images: Array, *, placed: Placement) -> Array:
    largest = 255.0 if images.dtype == jnp.uint8 else 1.0
    (width, height), (left, top) = placed.scaled, placed.padding
    square = jnp.broadcast_to(jnp.array(BACKGROUND, jnp.float32) / 255, (placed.square, placed.square, 3))

    def one(image: Array) -> Array:
        small = jax.image.resize(image.astype(jnp.float32) / largest, (height, width, 3), "linear")
        return square.at[top : top + height, left : left + width].set(jnp.clip(small, 0, 1))

    return jax.lax.map(one, images)  # one at a time: as floats, many photographs would fill the memory


def as_square_images(images: Num[Array | np.ndarray, "b h w 3"], frame: Frame = FRAME) -> Num[Array, "b s s 3"]:
    """Checks images, and brings those of another size to the frame's as the data are: scaled to fit, padded with grey.

    Images of that size stay as they are; others become floats in [0, 1].

    Raises:
      ValueError: not a batch of RGB images, not uint8 or floats, or floats outside [0, 1].
    """
    placed = placement(images, frame)
    images = jnp.asarray(images)
    if images.dtype != np.uint8 and not ((images >= -1e-3) & (images <= 1 + 1e-3)).all():
        low, high = np.asarray(images).min(), np.asarray(images).max()  # on a CPU those of XLA pass over NaN
        raise ValueError(f"float images range from {low:.3g} to {high:.3g}: scale them to [0, 1], or pass uint8")
    return images if placed.size == (frame.image_size, frame.image_size) else _on_squares(images, placed=placed)


def in_own_size(maps: Float[np.ndarray, "s s k"], placed: Placement) -> Iterator[Float[np.ndarray, "h w"]]:
    """Maps of a square, one by one, in the size of the image that lies in it: bilinear, without the padding."""
    (width, height), (left, top) = placed.scaled, placed.padding
    for part in np.moveaxis(maps[top : top + height, left : left + width], -1, 0):
        # OpenCV takes its threads and vectors to it: a photograph has a hundred times the square's pixels.
        yield part if placed.size == placed.scaled else cv2.resize(np.ascontiguousarray(part), placed.size)


def most_probable(maps: Float[np.ndarray, "s s k"], placed: Placement) -> UInt8[np.ndarray, "h w"]:
    """The number of the map that is the largest at each pixel of the image; of equal ones the first."""
    own = in_own_size(maps, placed)
    best = next(own).copy()
    chosen = np.zeros(best.shape, np.uint8)
    for number, part in enumerate(own, start=1):  # of a photograph, all at once would fill the memory
        chosen[part > best] = number
        np.maximum(best, part, out=best)
    return chosen


match = Model.match
"""`scemae_jax.match(model, image, points, other)`."""
