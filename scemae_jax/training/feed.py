"""What a training step reads: batches from the host, or images that stay on the devices and the host only numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import psutil
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, Int32, UInt8

from scemae_jax.data import pipeline
from scemae_jax.data.pipeline import Batches, ExampleSource
from scemae_jax.data.sources import ImagesOnDisk, in_memory
from scemae_jax.training import processes, sharding

DEVICE_SHARE, HOST_SHARE = 0.4, 0.5
"""Of a device's memory, and of the host's free memory, that a dataset may take where `choose_cache` decides."""

LANES = 128
"""Words in a line of a TPU's memory."""


def _as_it_is(resident: Any, batch: dict[str, Array]) -> dict[str, Array]:
    return batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Input:
    """Where a step's batches come from."""

    batches: Batches
    """What the host hands over for each step."""
    batch_size: int
    """Over all processes."""
    resident: Any = ()
    """Arrays that stay on the devices."""
    read: Callable[[Any, dict[str, Array]], dict[str, Array]] = _as_it_is
    """(resident, what was handed over) -> the batch that the loss sees; traced."""
    replicated: bool = False
    """Whether every process hands over the whole batch (numbers of examples, say) instead of its rows."""

    def draw(self, count: int) -> list[dict[str, np.ndarray]]:
        """The next batches of the host."""
        return [next(self.batches) for _ in range(count)]

    def put(self, mesh: Mesh, batches: Sequence[dict[str, np.ndarray]]) -> dict[str, Array]:
        """Hands one batch over to the devices, or several, stacked."""
        if len(batches) == 1:
            batch = batches[0]
        else:
            batch = {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}
        if self.replicated:
            return sharding.replicate_batch(mesh, batch)
        return sharding.shard_batch(mesh, batch, stacked=len(batches) > 1)


def choose_cache(asked: str, nbytes: int, mesh: Mesh) -> str:
    """Where `nbytes` of decoded images are kept: as asked, or ("auto") where they fit, devices first; says where."""
    if asked != "auto":
        return asked
    statistics = mesh.local_devices[0].memory_stats()
    free = psutil.virtual_memory().available
    # A CPU has no memory of its own: it is the host's, however many devices it makes.
    on_devices = statistics["bytes_limit"] * mesh.size if statistics else free
    places = {
        "device": (nbytes <= on_devices * DEVICE_SHARE, f"over {mesh.size} of {mesh.devices.flat[0].platform}"),
        "host": (nbytes <= free * HOST_SHARE, "too many for the devices"),
        "none": (True, f"too many for the devices and for the {free / 2**30:.0f} GiB of memory that are free"),
    }
    first = next(number for number, (has_room, _) in enumerate(places.values()) if has_room)
    chosen = list(places)[processes.broadcast_from_first(first)]
    if processes.is_first():
        print(f"config.data.cache: {chosen} ({nbytes / 2**30:.2f} GiB of decoded images, {places[chosen][1]})")
    return chosen


def open_input(
    images: Sequence[ImagesOnDisk],
    weights: Sequence[float],
    *,
    cache: str,
    batch_size: int,
    seed: int,
    mesh: Mesh,
    workers: int = 0,
) -> Input:
    """Batches of unlabelled images, kept where `choose_cache` says; their order is the same wherever that is.

    Raises:
      ValueError: a set of images is empty, or the batch does not divide over the processes.
    """
    nbytes = sum(len(source) * source[0]["image"].nbytes for source in images if len(source))
    where = choose_cache(cache, nbytes, mesh)
    if where == "device":
        return on_devices(images, weights, batch_size=batch_size, seed=seed, mesh=mesh)
    sources = [in_memory(source) for source in images] if where == "host" else images
    # What is in memory needs no other process to decode it.
    workers = workers if where == "none" else 0
    return from_host(sources, weights, batch_size=batch_size, seed=seed, mesh=mesh, workers=workers)


def from_host(
    sources: Sequence[ExampleSource],
    weights: Sequence[float],
    *,
    batch_size: int,
    seed: int,
    mesh: Mesh,
    workers: int = 0,
) -> Input:
    """Examples are loaded by the host, each process loading the rows of its devices.

    Raises:
      ValueError: as `pipeline.training_batches`.
    """
    part, parts = sharding.process_part(mesh)
    batches = pipeline.training_batches(
        sources, weights=weights, batch_size=batch_size, seed=seed, part=part, parts=parts, workers=workers
    )
    return Input(batches=batches, batch_size=batch_size)


def on_devices(
    sources: Sequence[ExampleSource], weights: Sequence[float], *, batch_size: int, seed: int, mesh: Mesh
) -> Input:
    """Images stay on the devices, divided over them; the host hands over their numbers, and steps read them.

    The order is that of `from_host`: training is the same. The bytes of an image are a multiple of four.

    Raises:
      ValueError: a source is empty.
    """
    order = pipeline.index_batches([len(s) for s in sources], weights=weights, batch_size=batch_size, seed=seed)
    return Input(
        batches=Batches(order),
        batch_size=batch_size,
        resident=_hold(mesh, sources),
        read=partial(read_images, mesh, np.shape(sources[0][0]["image"])),
        replicated=True,
    )


def _hold(mesh: Mesh, sources: Sequence[ExampleSource]) -> Int32[Array, "n w"]:
    """All images of the sources, divided over the devices; each process loads those of its own."""
    count = sum(len(source) for source in sources)
    image = np.shape(sources[0][0]["image"])
    shape = held_shape(mesh, count, image)

    def load_rows(index: tuple[slice, ...] | None) -> Int32[np.ndarray, "r w"]:
        assert index is not None
        first, last, _ = index[0].indices(shape[0])
        if last <= count:
            return _pack(pipeline.load_range(sources, first, last)["image"])
        images = np.zeros((last - first, *image), np.uint8)  # padded, so that every device holds as many
        if first < count:
            images[: count - first] = pipeline.load_range(sources, first, count)["image"]
        return _pack(images)

    return jax.make_array_from_callback(shape, NamedSharding(mesh, sharding.BATCH), load_rows)


def held_shape(mesh: Mesh, count: int, image: Sequence[int]) -> tuple[int, int]:
    """Shape of the int32 array that holds `count` images: a row for each, and as many rows on every device.

    To take a few images out by their numbers, a TPU lays out all of them anew, at every step, unless each is one row of
    words, and the rows are whole lines of its memory.
    """
    return -(-count // mesh.size) * mesh.size, -(-math.prod(image) // 4 // LANES) * LANES


def _pack(images: UInt8[np.ndarray, "n h w c"]) -> Int32[np.ndarray, "n words"]:
    """Words whose bytes, lowest first, are of the image's four quarters: a TPU unpacks neighbours slowly.

    Zeros fill the last line.
    """
    quarters = images.reshape(len(images), 4, -1)
    words = quarters.shape[2]
    packed = np.zeros((len(images), -(-words // LANES) * LANES, 4), np.uint8)
    packed[:, :words] = quarters.transpose(0, 2, 1)
    return packed.view(np.int32)[..., 0]


def _unpack(words: Int32[Array, "b words"], image: Sequence[int]) -> UInt8[Array, "b h w c"]:
    quarters = (words[:, None, : math.prod(image) // 4] >> jnp.arange(0, 32, 8)[:, None]) & 0xFF
    return quarters.astype(jnp.uint8).reshape(-1, *image)


def read_images(
    mesh: Mesh, image: Sequence[int], held: Int32[Array, "n w"], batch: dict[str, Array]
) -> dict[str, Array]:
    """The images (of the shape `image`) of the numbers in a batch, divided over the devices like any batch.

    Each device takes out those it holds, and a sum over all, of which each keeps its own rows, brings them together.
    """
    numbers = batch["number"]
    if mesh.size == 1:
        return {"image": _unpack(held[numbers], image)}
    if numbers.shape[0] % mesh.size:
        raise ValueError(
            f"batch_size {numbers.shape[0]} does not divide over {mesh.size} devices: make it a multiple of {mesh.size}"
        )

    def of_one_device(held: Int32[Array, "m w"], numbers: Int[Array, "b"]) -> UInt8[Array, "b/d h w c"]:
        rows = numbers - jax.lax.axis_index(mesh.axis_names) * len(held)
        here = (rows >= 0) & (rows < len(held))
        found = jnp.where(here[:, None], held[jnp.where(here, rows, 0)], 0)
        return _unpack(cast(Array, jax.lax.psum_scatter(found, mesh.axis_names, tiled=True)), image)

    exchange = jax.shard_map(
        of_one_device, mesh=mesh, in_specs=(sharding.BATCH, PartitionSpec()), out_specs=sharding.BATCH
    )
    return {"image": exchange(held, numbers)}
