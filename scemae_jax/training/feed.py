"""What a training step reads: batches from the host, or examples that stay on the devices and the host only numbers.

`keep` decides where decoded examples are kept; `Kept.batches` gives an input of them, in an order that is the same
wherever that is. Several inputs may read what was kept once.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import psutil
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, Int32

from scemae_jax.data import pipeline
from scemae_jax.data.pipeline import Batches, ExampleSource, in_memory
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


class Layout(NamedTuple):
    """How values of one kind, one of each example, lie on devices: each value is a row of words."""

    shape: tuple[int, ...]
    """Of a value."""
    dtype: Any
    """Of one byte, or else the numbers are held in 32 bits."""

    @property
    def words(self) -> int:
        """Words that a value fills."""
        size = math.prod(self.shape)
        return -(-size // 4) if np.dtype(self.dtype).itemsize == 1 else size

    @property
    def row(self) -> int:
        """Words of its row: whole lines of a TPU's memory."""
        return -(-self.words // LANES) * LANES

    @property
    def _held(self) -> Any:
        """The type of 32 bits, of numbers that are not bytes."""
        return np.float32 if np.issubdtype(self.dtype, np.floating) else np.int32

    def pack(self, values: np.ndarray, rows: Int32[np.ndarray, "n row"]) -> None:
        """Writes values to rows that hold zeros.

        The bytes of a word, lowest first, are of the four quarters of a value: a TPU unpacks neighbours slowly.
        """
        flat = values.reshape(len(values), -1)
        if np.dtype(self.dtype).itemsize > 1:
            rows[:, : self.words] = flat.astype(self._held).view(np.int32)
            return
        flat = flat.view(np.uint8)
        if missing := 4 * self.words - flat.shape[1]:
            flat = np.pad(flat, ((0, 0), (0, missing)))
        quarters = flat.reshape(len(flat), 4, self.words)
        rows.view(np.uint8).reshape(len(rows), -1, 4)[:, : self.words] = quarters.transpose(0, 2, 1)

    def unpack(self, rows: Int32[Array, "n row"]) -> Array:
        """The values of rows; traced."""
        words = rows[:, : self.words]
        if np.dtype(self.dtype).itemsize > 1:
            return jax.lax.bitcast_convert_type(words, self._held).reshape(-1, *self.shape)
        quarters = (words[:, None] >> jnp.arange(0, 32, 8)[:, None]) & 0xFF
        flat = quarters.astype(jnp.uint8).reshape(len(rows), -1)[:, : math.prod(self.shape)]
        return flat.reshape(-1, *self.shape).astype(self.dtype)


def choose_cache(asked: str, nbytes: int, mesh: Mesh) -> str:
    """Where `nbytes` of decoded examples are kept: as asked, or ("auto") where they fit, devices first; says where."""
    if asked != "auto":
        return asked
    statistics = mesh.local_devices[0].memory_stats()
    free = psutil.virtual_memory().available
    # A CPU has no memory of its own: it is the host's, however many devices it makes.
    on_devices = (statistics["bytes_limit"] - statistics.get("bytes_in_use", 0)) * mesh.size if statistics else free
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


@dataclasses.dataclass(frozen=True)
class Kept:
    """Examples where training reads them."""

    mesh: Mesh
    sources: Sequence[ExampleSource]
    layouts: Mapping[str, Layout]
    held: dict[str, Int32[Array, "n row"]] | None = None
    """The examples, where they are on the devices."""

    def batches(
        self,
        weights: Sequence[float],
        *,
        batch_size: int,
        seed: int,
        workers: int = 0,
        groups: Sequence[Sequence[int]] | None = None,
    ) -> Input:
        """An input of them.

        Args:
          weights: share of each group in the stream.
          batch_size: over all processes.
          seed: of the order.
          workers: processes that decode what is kept nowhere; 0: threads.
          groups: numbers of examples, counted through all sources, that are drawn together; None: each source's.

        Raises:
          ValueError: the batch does not divide over the processes.
        """
        if self.held is None:
            part, parts = sharding.process_part(self.mesh)
            in_order = pipeline.training_batches(
                self.sources, weights=weights, batch_size=batch_size, seed=seed, part=part, parts=parts,
                workers=workers, groups=groups,
            )  # fmt: skip
            return Input(batches=in_order, batch_size=batch_size)
        sizes = [len(source) for source in self.sources]
        return Input(
            batches=Batches(
                pipeline.index_batches(sizes, weights=weights, batch_size=batch_size, seed=seed, groups=groups)
            ),
            batch_size=batch_size,
            resident=self.held,
            read=partial(read_held, self.mesh, self.layouts),
            replicated=True,
        )


def keep(sources: Sequence[ExampleSource], *, cache: str, mesh: Mesh) -> Kept:
    """Decodes examples once and keeps them where `choose_cache` says, or leaves them where they are ("none").

    Raises:
      ValueError: a source is empty, or their examples differ in kind or shape.
    """
    pipeline.check_sizes([len(source) for source in sources])
    layouts, *others = (
        {name: Layout(np.shape(value), np.asarray(value).dtype) for name, value in source[0].items()}
        for source in sources
    )
    for other in others:
        if other != layouts:
            raise ValueError(f"sources that are mixed differ: {layouts} and {other}; leave out the fields that do")
    example = sum(math.prod(layout.shape) * np.dtype(layout.dtype).itemsize for layout in layouts.values())
    where = choose_cache(cache, sum(map(len, sources)) * example, mesh)
    if where == "host":
        sources = [in_memory(source) for source in sources]
    return Kept(mesh, sources, layouts, _hold(mesh, sources, layouts) if where == "device" else None)


def held_shape(mesh: Mesh, count: int, layout: Layout) -> tuple[int, int]:
    """Shape of the int32 array that holds `count` values: a row for each, and as many rows on every device.

    To take a few images out by their numbers, a TPU lays out all of them anew, at every step, unless each is one row of
    words, and the rows are whole lines of its memory.
    """
    return -(-count // mesh.size) * mesh.size, layout.row


def _hold(mesh: Mesh, sources: Sequence[ExampleSource], layouts: Mapping[str, Layout]) -> dict[str, Array]:
    """All examples, divided over the devices; each process loads those of its own devices, one device's at a time."""
    count = sum(len(source) for source in sources)
    shapes = {name: held_shape(mesh, count, layout) for name, layout in layouts.items()}
    divided, rows = NamedSharding(mesh, sharding.BATCH), next(iter(shapes.values()))[0]
    shards: dict[str, list[Array]] = {name: [] for name in layouts}
    for device, index in divided.addressable_devices_indices_map((rows,)).items():
        assert index is not None
        first, last, _ = index[0].indices(rows)
        own = {name: np.zeros((last - first, layout.row), np.int32) for name, layout in layouts.items()}

        def store(part: slice, examples: dict[str, np.ndarray], own: dict[str, np.ndarray] = own) -> None:
            for name, layout in layouts.items():
                layout.pack(examples[name], own[name][part])

        pipeline.load_range(sources, first, min(last, count), store)  # zeros fill what the last devices have left
        for name, values in own.items():
            shards[name].append(jax.device_put(values, device))
    return {
        name: jax.make_array_from_single_device_arrays(shapes[name], divided, shards[name]) for name in layouts
    }  # fmt: skip


def read_held(
    mesh: Mesh, layouts: Mapping[str, Layout], held: dict[str, Int32[Array, "n row"]], batch: dict[str, Array]
) -> dict[str, Array]:
    """The examples of the numbers in a batch, divided over the devices like any batch; traced.

    Each device takes out those it holds, and a sum over all, of which each keeps its own rows, brings them together.
    """
    numbers = batch["number"]
    if mesh.size == 1:
        return {name: layout.unpack(held[name][numbers]) for name, layout in layouts.items()}
    if numbers.shape[0] % mesh.size:
        raise ValueError(
            f"batch_size {numbers.shape[0]} does not divide over {mesh.size} devices: make it a multiple of {mesh.size}"
        )

    def of_one_device(held: dict[str, Int32[Array, "m row"]], numbers: Int[Array, "b"]) -> dict[str, Array]:
        taken = {}
        for name, layout in layouts.items():
            rows = numbers - jax.lax.axis_index(mesh.axis_names) * len(held[name])
            here = (rows >= 0) & (rows < len(held[name]))
            found = jnp.where(here[:, None], held[name][jnp.where(here, rows, 0)], 0)
            taken[name] = layout.unpack(cast(Array, jax.lax.psum_scatter(found, mesh.axis_names, tiled=True)))
        return taken

    exchange = jax.shard_map(
        of_one_device, mesh=mesh, in_specs=(sharding.BATCH, PartitionSpec()), out_specs=sharding.BATCH
    )
    return exchange(held, numbers)
