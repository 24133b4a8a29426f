"""Cover-and-stride (MAESTER, CVPR 2023): a finer feature map from a ViT without smaller patches."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def cover_and_stride(
    feature_fn: Callable[[Float[Array, "b w w c"]], Float[Array, "b g g d"]],
    images: Float[Array, "b height width c"],
    *,
    window: int,
    stride: int,
    patch_size: int,
) -> Float[Array, "b window/stride window/stride d"]:
    """Features of the centre window of each image, one for every `stride` pixels.

    The window is shifted by multiples of the stride into the image's border. Each shift gives a map with one feature a
    patch, and the maps are interleaved. Cell (r, c) holds the feature of the patch whose centre is nearest to the
    cell's centre, ((r + 0.5) * stride, (c + 0.5) * stride) pixels from the window's corner. The centres coincide,
    except with an odd stride and an even patch (stride 1): there the patch's centre lies half a pixel above and left.

    One shift is in memory at a time.

    Args:
      feature_fn: takes a window of each image and gives one feature a patch, g = window / patch_size.
      images: larger than the window by a border of (patch_size - stride) / 2 pixels, rounded up, on every
        side.
      window: size of the centre window in pixels, a multiple of the patch size.
      stride: of the result in pixels, a divisor of the patch size. If it equals the patch size, `feature_fn` sees
        the centre window alone.
      patch_size: of the network behind `feature_fn`, in pixels.

    Raises:
      ValueError: the sizes do not divide, the border is too small, or `feature_fn` gives another grid.
    """
    batch, height, width, channels = images.shape
    if stride < 1 or patch_size % stride:
        raise ValueError(f"stride is {stride}, patch_size {patch_size}: choose a stride that divides the patch size")
    if window % patch_size:
        raise ValueError(f"window is {window}, patch_size {patch_size}: choose a window of whole patches")
    grid, n = window // patch_size, patch_size // stride

    # Cell m of a patch has its centre at (m + 1/2) * stride; the unshifted patch has it at patch_size / 2.
    shifts = (stride * (2 * jnp.arange(n) + 1) - patch_size) // 2
    border = (patch_size - stride + 1) // 2
    if min(height, width) < window + 2 * border:
        raise ValueError(
            f"images are {height}x{width}: window {window} at stride {stride} and patch_size {patch_size} "
            f"needs {window + 2 * border} pixels each way; use larger images or a larger stride"
        )
    corner = jnp.array([(height - window) // 2, (width - window) // 2])
    corners = corner + jnp.stack(jnp.meshgrid(shifts, shifts, indexing="ij"), axis=-1).reshape(-1, 2)

    def shifted(corner):
        view = jax.lax.dynamic_slice(images, (0, corner[0], corner[1], 0), (batch, window, window, channels))
        features = feature_fn(view)
        if features.shape[:3] != (batch, grid, grid):
            raise ValueError(
                f"feature_fn gave {features.shape} for windows {view.shape}: "
                f"patches of {patch_size} make it ({batch}, {grid}, {grid}, channels)"
            )
        return features

    maps = jax.lax.map(shifted, corners)
    maps = maps.reshape(n, n, batch, grid, grid, -1)
    return maps.transpose(2, 3, 0, 4, 1, 5).reshape(batch, grid * n, grid * n, -1)
