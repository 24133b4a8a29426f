"""Where images are kept does not matter to training: not for what it sees, nor in which order."""

from collections import Counter
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from scemae_jax.data.sources import ImagesInMemory
from scemae_jax.training import feed, sharding

COUNTS, BATCH = (30, 10), 8


def sources():
    """Images whose every pixel says which they are."""
    numbers = np.arange(sum(COUNTS), dtype=np.uint8)
    images = np.broadcast_to(numbers[:, None, None, None], (sum(COUNTS), 4, 4, 3)).copy()
    return [ImagesInMemory(images[: COUNTS[0]]), ImagesInMemory(images[COUNTS[0] :])]


def opened(open_, seed=0):
    return open_(sources(), [0.75, 0.25], batch_size=BATCH, seed=seed, mesh=sharding.make_mesh())


def seen(source, count):
    """Which images a step would see, batch by batch."""
    mesh, read = sharding.make_mesh(), jax.jit(source.read)
    batches = [read(source.resident, source.put(mesh, [next(source.batches)]))["image"] for _ in range(count)]
    assert all((batch == batch[:, :1, :1, :1]).all() and batch.dtype == np.uint8 for batch in batches)
    return [np.asarray(batch[:, 0, 0, 0]).tolist() for batch in batches]


@pytest.mark.parametrize("seed", [0, 1])
def test_images_on_devices_come_in_the_order_of_those_of_the_host(seed):
    there = seen(opened(feed.on_devices, seed), 12)
    assert there == seen(opened(feed.from_host, seed), 12)
    assert there != seen(opened(feed.on_devices, seed + 1), 12)


def test_every_image_once_an_epoch():
    drawn = [number for batch in seen(opened(feed.on_devices), 5 * 3) for number in batch]
    assert Counter(drawn) == dict.fromkeys(range(40), 3)


@pytest.mark.parametrize("before", [feed.on_devices, feed.from_host])
@pytest.mark.parametrize("after", [feed.on_devices, feed.from_host])
def test_a_position_is_gone_on_from_wherever_the_images_are(before, after):
    first = opened(before)
    seen(first, 7)
    state = first.batches.get_state()
    expected = seen(first, 6)
    second = opened(after)
    seen(second, 2)
    second.batches.set_state(state)
    assert seen(second, 6) == expected


def test_several_batches_are_stacked():
    mesh, source = sharding.make_mesh(), opened(feed.from_host)
    single = opened(feed.from_host)
    stacked = source.put(mesh, [next(source.batches) for _ in range(3)])["image"]
    for number in range(3):
        np.testing.assert_array_equal(stacked[number], single.put(mesh, [next(single.batches)])["image"])


def test_images_of_any_values_come_back_from_the_devices_as_they_were():
    images = np.random.default_rng(0).integers(0, 256, (17, 136, 136, 3), np.uint8)
    mesh, parts = sharding.make_mesh(), [ImagesInMemory(part) for part in np.split(images, [5])]
    held = feed.on_devices(parts, [0.5, 0.5], batch_size=8, seed=0, mesh=mesh)
    assert held.resident.shape == feed.held_shape(mesh, len(images), images.shape[1:])
    assert images.nbytes <= held.resident.nbytes < 1.01 * images.nbytes
    batch = held.put(mesh, [next(held.batches)])
    read = jax.jit(held.read)(held.resident, batch)["image"]
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, images[np.asarray(batch["number"])])


GIB = 2**30


def mesh_with(limit_gib, devices=1):
    statistics = {"bytes_limit": limit_gib * GIB} if limit_gib else None
    device = SimpleNamespace(memory_stats=lambda: statistics, platform="gpu")
    return SimpleNamespace(local_devices=[device], devices=np.array([device] * devices), size=devices)


@pytest.mark.parametrize(
    ("gib", "mesh", "free_gib", "expected"),
    [
        (9, mesh_with(141), 100, "device"),
        (9, mesh_with(16), 100, "host"),
        (9, mesh_with(16, devices=16), 100, "device"),  # divided over them
        (90, mesh_with(141), 100, "none"),
        (9, mesh_with(None), 100, "device"),  # a CPU's memory is the host's
        (9, mesh_with(None, devices=8), 20, "host"),
        (9, mesh_with(None), 10, "none"),
    ],
)
def test_the_cache_is_where_there_is_room(monkeypatch, capsys, gib, mesh, free_gib, expected):
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=free_gib * GIB))
    assert feed.choose_cache("auto", gib * GIB, mesh) == expected
    assert f"config.data.cache: {expected} ({gib:.2f} GiB of decoded images" in capsys.readouterr().out
    for asked in ("device", "host", "none"):
        assert feed.choose_cache(asked, gib * GIB, mesh) == asked
