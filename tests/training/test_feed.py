"""Where images are kept does not matter to training: not for what it sees, nor in which order."""

from collections import Counter
from types import SimpleNamespace
from typing import ClassVar

import jax
import numpy as np
import pytest

from scemae_jax.data.pipeline import InMemory
from scemae_jax.training import feed, sharding

COUNTS, BATCH = (30, 10), 8


def sources():
    """Images whose every pixel says which they are."""
    numbers = np.arange(sum(COUNTS), dtype=np.uint8)
    images = np.broadcast_to(numbers[:, None, None, None], (sum(COUNTS), 4, 4, 3)).copy()
    return [InMemory({"image": part}) for part in np.split(images, [COUNTS[0]])]


def opened(cache, seed=0):
    kept = feed.keep(sources(), cache=cache, mesh=sharding.make_mesh())
    return kept.batches([0.75, 0.25], batch_size=BATCH, seed=seed)


def seen(source, count):
    """Which images a step would see, batch by batch."""
    mesh, read = sharding.make_mesh(), jax.jit(source.read)
    batches = [read(source.resident, source.put(mesh, [next(source.batches)]))["image"] for _ in range(count)]
    assert all((batch == batch[:, :1, :1, :1]).all() and batch.dtype == np.uint8 for batch in batches)
    return [np.asarray(batch[:, 0, 0, 0]).tolist() for batch in batches]


@pytest.mark.parametrize("seed", [0, 1])
def test_images_on_devices_come_in_the_order_of_those_of_the_host(seed):
    there = seen(opened("device", seed), 12)
    assert there == seen(opened("host", seed), 12) == seen(opened("none", seed), 12)
    assert there != seen(opened("device", seed + 1), 12)


def test_every_image_once_an_epoch():
    drawn = [number for batch in seen(opened("device"), 5 * 3) for number in batch]
    assert Counter(drawn) == dict.fromkeys(range(40), 3)


@pytest.mark.parametrize("before", ["device", "none"])
@pytest.mark.parametrize("after", ["device", "none"])
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
    mesh, source = sharding.make_mesh(), opened("none")
    single = opened("none")
    stacked = source.put(mesh, [next(source.batches) for _ in range(3)])["image"]
    for number in range(3):
        np.testing.assert_array_equal(stacked[number], single.put(mesh, [next(single.batches)])["image"])


RNG = np.random.default_rng(0)
ANY = {
    "image": RNG.integers(0, 256, (17, 136, 136, 3), np.uint8),
    "parts": RNG.integers(0, 256, (17, 5, 7), np.uint8),  # 35 bytes: not whole words
    "visible": RNG.random((17, 5)) < 0.5,
    "landmarks": RNG.normal(size=(17, 68, 2)).astype(np.float32),
    "subject": RNG.integers(-(2**31), 2**31, 17).astype(np.int32),
}
ANY["landmarks"][3, 2] = np.nan


class Counted(InMemory):
    """Examples that note who was asked for."""

    asked: ClassVar[Counter] = Counter()

    def __getitem__(self, index):
        self.asked[id(self), index] += 1
        return super().__getitem__(index)


@pytest.mark.parametrize("cache", ["device", "host", "none"])
def test_all_fields_come_as_they_were_wherever_they_are_kept(cache):
    mesh, (first, second) = (
        sharding.make_mesh(),
        ({n: v[part] for n, v in ANY.items()} for part in (np.s_[:5], np.s_[5:])),
    )
    kept = feed.keep([InMemory(first), InMemory(second)], cache=cache, mesh=mesh)
    source = kept.batches([0.5, 0.5], batch_size=8, seed=0)
    numbers = next(feed.keep([InMemory(first), InMemory(second)], cache="device", mesh=mesh).batches(
        [0.5, 0.5], batch_size=8, seed=0).batches)["number"]  # fmt: skip
    found = jax.jit(source.read)(source.resident, source.put(mesh, [next(source.batches)]))
    assert found.keys() == ANY.keys()
    for name, values in ANY.items():
        assert found[name].dtype == values.dtype, name
        np.testing.assert_array_equal(found[name], values[numbers], err_msg=name)


def test_images_take_no_more_memory_on_devices_than_they_have_bytes():
    mesh = sharding.make_mesh()
    held = feed.keep([InMemory({"image": ANY["image"]})], cache="device", mesh=mesh).held["image"]
    assert held.shape == feed.held_shape(mesh, 17, feed.Layout((136, 136, 3), np.uint8))
    assert ANY["image"].nbytes <= held.nbytes < 1.01 * ANY["image"].nbytes


@pytest.mark.parametrize("cache", ["device", "host"])
def test_what_is_kept_is_decoded_once_for_all_inputs(cache):
    Counted.asked.clear()
    source = Counted({"image": ANY["image"][:, :4, :4]})
    kept = feed.keep([source], cache=cache, mesh=sharding.make_mesh())
    before = Counted.asked.copy()
    assert sorted(index for _, index in before) == list(range(17))
    assert sum(before.values()) <= 17 + 2  # the first one tells what examples are like
    for seed in (0, 1):
        seen_there = kept.batches([1.0], batch_size=8, seed=seed)
        for _ in range(5):
            next(seen_there.batches)
        seen_there.batches.close()
    assert Counted.asked == before


@pytest.mark.parametrize("cache", ["device", "none"])
def test_sources_that_differ_are_an_error(cache):
    five, many = ({"image": ANY["image"], "landmarks": ANY["landmarks"][:, :count]} for count in (5, 68))
    with pytest.raises(ValueError, match=r"sources that are mixed differ: .*\(5, 2\).*\(68, 2\)"):
        feed.keep([InMemory(five), InMemory(many)], cache=cache, mesh=sharding.make_mesh())


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
