import jax
import numpy as np
import pytest

from scemae_jax.data.sources import ImagesInMemory
from scemae_jax.training import input, sharding

SIZES = (5, 12)


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (sum(SIZES), 136, 136, 3), np.uint8)


def test_images_come_back_from_the_devices_as_they_were(images):
    mesh, sources = sharding.own_mesh(), [ImagesInMemory(part) for part in np.split(images, SIZES[:1])]
    held = input.on_devices(sources, [1.0, 1.0], batch_size=8, seed=0, mesh=mesh)
    assert held.resident.shape == input.held_shape(mesh, len(images), images.shape[1:])
    assert held.resident.nbytes == images.nbytes
    batch = held.put(mesh, [next(held.batches)])
    read = jax.jit(held.read)(held.resident, batch)["image"]
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, images[np.asarray(batch["number"])])
