"""Random thin-plate-spline warps of images and landmarks, as DVE (Thewlis et al., ICCV 2019) draws them."""

import math
from typing import Self

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

_HIGHEST = jax.lax.Precision.HIGHEST


@flax.struct.dataclass
class ThinPlateWarp:
    """A warp w of the plane; the warped image shows at p what the source has at w(p).

        w(p) = scale * R(rotation) p + translation + sum_k weights_k U(|p - c_k|),  U(d) = d^2 log(d^2 + 1e-5)

    All coordinates are (x, y), normalised by 2x / (width - 1) - 1; the control points c_k are a regular
    square grid on [-1, 1]^2. A pytree: `jax.vmap` over keys, warps and images alike.

    Warps compose by use: `second.image(first.image(x))` is the source at first(second(p)), and its landmarks
    are `second.landmarks(first.landmarks(points, h, w), h, w)`.

    Attributes:
      weights: of the control points, row by row (y outer, x inner).
      translation: (x, y).
      scale: of both axes.
      rotation: radians.
    """

    weights: Float[Array, "k 2"]
    translation: Float[Array, " 2"]
    scale: Float[Array, ""]
    rotation: Float[Array, ""]

    @classmethod
    def sample(
        cls,
        key: PRNGKeyArray,
        *,
        weight_sd: float = 0.0005,
        subset_weight_sd: float = 0.005,
        subset_fraction: float = 0.5,
        translation_sd: float = 0.05,
        scale_sd: float = 0.05,
        rotation_sd_degrees: float = 2.5,
        grid: int = 10,
    ) -> Self:
        """Draws a warp from normal distributions; the defaults are those of the matching protocol.

        Args:
          key: random key.
          weight_sd: standard deviation of the weights.
          subset_weight_sd: standard deviation of the weights that replace a part of them; 0 makes these 0.
          subset_fraction: probability of each single weight (x and y apart) to be replaced.
          translation_sd: standard deviation of the translation, per axis.
          scale_sd: standard deviation of the scale around 1.
          rotation_sd_degrees: standard deviation of the rotation.
          grid: control points along one side.

        Raises:
          ValueError: `grid` is below 2.
        """
        if grid < 2:
            raise ValueError(f"grid is {grid}: a thin-plate spline needs 2 control points a side or more")
        k_weights, k_where, k_subset, k_translation, k_scale, k_rotation = jax.random.split(key, 6)
        shape = (grid**2, 2)
        weights = weight_sd * jax.random.normal(k_weights, shape)
        replaced = jax.random.bernoulli(k_where, subset_fraction, shape)
        weights = jnp.where(replaced, subset_weight_sd * jax.random.normal(k_subset, shape), weights)
        return cls(
            weights=weights,
            translation=translation_sd * jax.random.normal(k_translation, (2,)),
            scale=1 + scale_sd * jax.random.normal(k_scale),
            rotation=math.radians(rotation_sd_degrees) * jax.random.normal(k_rotation),
        )

    def sampling_grid(self, height: int, width: int) -> Float[Array, "height width 2"]:
        """Normalised (x, y) at which the source is read for each pixel of the result."""
        side = math.isqrt(len(self.weights))
        pixels = _lattice(height, width)
        squared = jnp.sum((pixels[:, None] - _lattice(side, side)) ** 2, axis=-1)
        bending = jnp.matmul(squared * jnp.log(squared + 1e-5), self.weights, precision=_HIGHEST)
        cos, sin = self.scale * jnp.cos(self.rotation), self.scale * jnp.sin(self.rotation)
        x, y = pixels.T
        affine = jnp.stack([cos * x - sin * y, sin * x + cos * y], axis=-1) + self.translation
        return (affine + bending).reshape(height, width, 2)

    def image(self, image: Float[Array, "height width c"]) -> Float[Array, "height width c"]:
        """The warped image, resampled bilinearly, zeros where it reaches beyond the source."""
        height, width, _ = image.shape
        return sample_bilinear(image, _to_pixels(self.sampling_grid(height, width), height, width))

    def landmarks(self, points: Float[Array, "l 2"], height: int, width: int) -> Float[Array, "l 2"]:
        """Where landmarks of the source are in the warped image: the pixel that reads nearest to each of
        them.

        Args:
          points: (x, y) in pixels of the source; NaN stays NaN.
          height: of the image.
          width: of the image.

        Returns:
          Whole pixels (x, y). A landmark that has left the image is put on the pixel that comes nearest, at
          the edge.
        """
        reads = _to_pixels(self.sampling_grid(height, width), height, width).reshape(-1, 2)
        squared = (reads[:, 0] - points[:, :1]) ** 2 + (reads[:, 1] - points[:, 1:]) ** 2
        nearest = jnp.argmin(squared, axis=1)
        moved = jnp.stack([nearest % width, nearest // width], axis=-1).astype(points.dtype)
        return jnp.where(jnp.isnan(points).any(axis=1, keepdims=True), jnp.nan, moved)


def sample_bilinear(
    image: Float[Array, "height width c"], positions: Float[Array, "*points 2"]
) -> Float[Array, "*points c"]:
    """Reads an image between its pixels, bilinearly; beyond the outer pixels it fades to 0 within one pixel.

    Args:
      image: real or integer; the result is real.
      positions: (x, y) in pixels, (0, 0) being the centre of the upper left one.
    """
    height, width, _ = image.shape
    padded = jnp.pad(image, ((1, 1), (1, 1), (0, 0)))  # a rim of zeros, so that every position has four pixels
    positions = jnp.clip(positions + 1, 0, jnp.array([width + 1, height + 1], positions.dtype))
    corner = jnp.minimum(jnp.floor(positions), jnp.array([width, height], positions.dtype))
    x, y = jnp.moveaxis(positions - corner, -1, 0)[..., None]
    left, top = jnp.moveaxis(corner.astype(jnp.int32), -1, 0)
    upper = (1 - x) * padded[top, left] + x * padded[top, left + 1]
    lower = (1 - x) * padded[top + 1, left] + x * padded[top + 1, left + 1]
    return (1 - y) * upper + y * lower


def _lattice(height: int, width: int) -> Float[Array, "height*width 2"]:
    """Normalised (x, y) of all pixels, row by row."""
    y, x = jnp.meshgrid(jnp.linspace(-1, 1, height), jnp.linspace(-1, 1, width), indexing="ij")
    return jnp.stack([x, y], axis=-1).reshape(-1, 2)


def _to_pixels(normalised: Float[Array, "*points 2"], height: int, width: int) -> Float[Array, "*points 2"]:
    return (normalised + 1) / 2 * jnp.array([width - 1, height - 1], normalised.dtype)
