"""A trained model: weights, sizes and normalisation, and the features it gives."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal, cast, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from scemae_jax.data.images import BACKGROUND
from scemae_jax.faces.frame import FRAME, Frame, Placement
from scemae_jax.models import carb, heads, mae, vit
from scemae_jax.ops.correspondence import predict_matches
from scemae_jax.ops.cover_and_stride import cover_and_stride
from scemae_jax.ops.density_peaks import Density

Which = Literal["backbone", "projected", "both", "clustered"]
CHUNK = 32
"""Images that go through the network at a time."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """All that is needed to build the networks and feed them; hashable, and plain enough for JSON."""

    encoder: str
    """Variant, such as "S/8"."""
    projection: int
    projector_hidden: bool
    projector_normalise: bool
    split_layer: int
    attentive_fraction: float
    num_clusters: int
    density: Density
    decoder_width: int
    decoder_depth: int
    decoder_heads: int
    mask_ratio: float
    normalise_target: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    dtype: str = "float32"
    positions: vit.Positions = "sincos"
    """Position codes of the encoder; the decoder's are always sin-cos."""
    frame: Frame = FRAME
    """Sizes of the images, and of the window that is looked at."""

    @functools.cached_property
    def variant(self) -> vit.Variant:
        return vit.variant(self.encoder)

    @property
    def side(self) -> int:
        """Patches along a side of the window."""
        return self.frame.window // self.variant.patch_size

    def normalise(self, images: Num[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        """Standardises images: uint8, or floats in [0, 1]."""
        if jnp.issubdtype(images.dtype, jnp.integer):
            images = images.astype(jnp.float32) / 255.0
        return (images - jnp.array(self.mean)) / jnp.array(self.std)

    def build_encoder(self, layer_loop: vit.LayerLoop = vit.ONE_BY_ONE) -> vit.ViT:
        v, side = self.variant, self.side
        return vit.ViT(
            v.width,
            v.depth,
            v.num_heads,
            v.patch_size,
            dtype=jnp.dtype(self.dtype),
            positions=self.positions,
            grid=(side, side),
            layer_loop=layer_loop,
        )

    def build_mae(self, layer_loop: vit.LayerLoop = vit.ONE_BY_ONE) -> mae.MaskedAutoencoder:
        """`layer_loop` is of the encoder's and the decoder's layers."""
        return mae.MaskedAutoencoder(
            self.build_encoder(layer_loop),
            self.decoder_width,
            self.decoder_depth,
            self.decoder_heads,
            self.mask_ratio,
            self.normalise_target,
            jnp.dtype(self.dtype),
        )

    def build_carb(self) -> carb.CARB:
        projector = carb.Projector(
            self.projection, self.projector_hidden, self.projector_normalise, jnp.dtype(self.dtype)
        )
        return carb.CARB(
            self.build_encoder(),
            projector,
            self.split_layer,
            self.attentive_fraction,
            self.num_clusters,
            self.density,
        )


def bind(module: nn.Module, params: Any) -> nn.Module:
    return module.bind({"params": params})


@functools.partial(jax.jit, static_argnames=("architecture", "stride", "which", "projected_weight"))
def _dense_features(
    params: Any, images: Array, *, architecture: Architecture, stride: int, which: Which, projected_weight: float
) -> Array:
    network = bind(architecture.build_carb(), params)
    patch_size = architecture.variant.patch_size

    def window_features(windows: Array) -> Array:
        if which == "backbone":
            chosen = network.encoder(windows)[:, 1:]
        elif which == "clustered":
            chosen = carb.approximate(network.select(windows))
        else:
            backbone, projected = network.features(windows)
            both = [backbone, projected_weight * projected]
            chosen = projected if which == "projected" else jnp.concatenate(both, axis=-1)
        grid = (architecture.side, architecture.side)
        return chosen.reshape(windows.shape[0], *grid, -1).astype(jnp.float32)

    normalised, window = architecture.normalise(images), architecture.frame.window
    return cover_and_stride(window_features, normalised, window=window, stride=stride, patch_size=patch_size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Head:
    """A trained landmark head, and which features it reads."""

    num_landmarks: int
    heatmaps: int
    """Of each landmark; 0 for a linear head, which has none."""
    kernel_size: int = 1
    gain: float = 1.0
    stride: int
    which: Which
    projected_weight: float = 1.0
    """Factor of the projected features where it reads both."""
    params: Any

    def build(self) -> heads.LandmarkHead | heads.LinearHead:
        if not self.heatmaps:
            return heads.LinearHead(self.num_landmarks)
        return heads.LandmarkHead(self.num_landmarks, self.heatmaps, self.kernel_size, self.gain)

    def sizes(self) -> dict[str, Any]:
        """All fields but the weights; JSON-able."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "params"}


@functools.partial(jax.jit, static_argnames="network")
def _head_points(params: Any, features: Array, *, network: nn.Module) -> Array:
    return cast(Array, network.apply({"params": params}, features))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """A backbone, its projector once refined, its landmark heads, and its MAE decoder where kept."""

    architecture: Architecture
    params: dict[str, Any]
    """`encoder`, `projector` (absent before stage 2) and `decoder` (absent from exported models)."""
    heads: dict[int, Head] = dataclasses.field(default_factory=dict)
    """Detectors by the number of their landmarks."""
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Where it came from: config hash, images seen, data; free-form, for people."""

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
    ) -> Float[Array, "b 96/stride 96/stride c"]:
        """Features of the centre window of the images, one for every `stride` pixels, by cover-and-stride.

        The shapes are those of most models, of images of 136x136 and windows of 96x96: `architecture.frame`.

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
            size, or the model has no projector (it is not refined) and `which` needs it.
        """
        frame = self.architecture.frame
        if which not in get_args(Which):
            raise ValueError(f"which is {which!r}: choose {', '.join(map(repr, get_args(Which)))}")
        if which in ("projected", "both") and not self.refined:
            raise ValueError(f"which={which!r} needs a projector, and this model has none (stage 2 did not run)")
        placement(images, frame)  # raises for images of another form before any are computed
        if not len(images):
            side, v = frame.window // stride, self.architecture.variant
            projection = self.architecture.projection
            width = {"projected": projection, "both": v.width + projection}.get(which, v.width)
            return jnp.zeros((0, side, side, width))
        chunks = []
        for start in range(0, len(images), CHUNK):
            chunk = as_square_images(images[start : start + CHUNK], frame)
            missing = CHUNK - len(chunk) if len(images) > CHUNK else 0
            padded = jnp.pad(chunk, ((0, missing), (0, 0), (0, 0), (0, 0)))
            chunks.append(self.dense_features(padded, stride, which, projected_weight)[: len(chunk)])
        return jnp.concatenate(chunks)

    def dense_features(
        self, images: Num[Array, "b 136 136 3"], stride: int, which: Which, projected_weight: float = 1.0
    ) -> Float[Array, "b 96/stride 96/stride c"]:
        """`features` without its checks and chunks, to be traced into another computation."""
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
        images, frame = np.stack([image, other]), self.architecture.frame
        maps, placed = (
            self.features(images, stride, "projected" if self.refined else "backbone"),
            placement(images, frame),
        )
        queries = frame.to_window(placed.to_square(np.asarray(points)))
        found = np.asarray(predict_matches(maps[0], maps[1], jnp.asarray(queries), frame.window))
        return placed.from_square(frame.from_window(found))

    def with_head(self, head: Head) -> Model:
        """This model with one more detector."""
        return dataclasses.replace(self, heads={**self.heads, head.num_landmarks: head})

    def detect(
        self, images: Num[Array | np.ndarray, "b h w 3"], num_landmarks: int | None = None
    ) -> Float[np.ndarray, "b l 2"]:
        """Landmarks (x, y) in pixels of the images given, (0, 0) the centre of the top left one.

        Args:
          images: faces cut as the training ones, of any size; uint8, or floats in [0, 1].
          num_landmarks: which detector, where the model has several.

        Raises:
          ValueError: the model has no such detector, or several and none was named; or as `features`.
        """
        if num_landmarks is None and len(self.heads) == 1:
            (num_landmarks,) = self.heads
        if num_landmarks not in self.heads:
            raise ValueError(
                f"num_landmarks is {num_landmarks}: this model detects {sorted(self.heads) or 'no landmarks'}; "
                "fit_detector adds a detector"
            )
        frame = self.architecture.frame
        placed, head = placement(images, frame), self.heads[num_landmarks]
        network, points = head.build(), []
        for start in range(0, len(images), CHUNK):
            features = self.features(images[start : start + CHUNK], head.stride, head.which, head.projected_weight)
            points.append(np.asarray(_head_points(head.params, features, network=network)))
        normalised = np.concatenate([np.zeros((0, num_landmarks, 2), np.float32), *points])
        return placed.from_square(frame.denormalise(normalised))


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


match = Model.match
"""`scemae_jax.match(model, image, points, other)`."""
