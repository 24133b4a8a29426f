"""The order in which training sees its examples, and batches of them: by Grain, with a position that can be saved.

The order depends on the seed and the sizes alone: not on where the examples are kept, nor on how many processes and
devices share a batch.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import grain
import numpy as np
from jaxtyping import Int

MOST_THREADS = 16
"""That load ahead, a batch each."""
LOADED_AT_ONCE = 64
"""Examples that a thread loads before they are stored."""


class ExampleSource(Protocol):
    """A sequence of examples, each a dict of arrays."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...


# --- order


def index_batches(
    sizes: Sequence[int],
    *,
    weights: Sequence[float],
    batch_size: int,
    seed: int,
    groups: Sequence[Sequence[int]] | None = None,
) -> grain.MapDataset:
    """Endless batches {"number": int32 `[batch_size]`} of example numbers, counted through all sources.

    Each group gives each of its examples once an epoch, in an order of its own every epoch.

    Args:
      sizes: examples in each source.
      weights: share of each group in the stream.
      batch_size: over all processes.
      seed: of the order.
      groups: numbers of examples, which may be in several groups; None: each source is a group.

    Raises:
      ValueError: a source is empty.
    """
    check_sizes(sizes)
    ends = np.cumsum(sizes).tolist()
    ranges = groups or [range(end - size, end) for size, end in zip(sizes, ends, strict=True)]
    streams = [
        grain.MapDataset.source(numbers).seed(seed + number).shuffle().repeat() for number, numbers in enumerate(ranges)
    ]
    stream = grain.MapDataset.mix(streams, weights) if len(streams) > 1 else streams[0]
    return stream.batch(batch_size, drop_remainder=True).map(lambda numbers: {"number": np.asarray(numbers, np.int32)})


def check_sizes(sizes: Sequence[int]) -> None:
    """Raises ValueError where a source is empty."""
    if any(size == 0 for size in sizes):
        raise ValueError(f"a source to train on is empty: sizes {list(sizes)}")


# --- batches


@dataclasses.dataclass(frozen=True)
class LoadExamples:
    """From batches of `index_batches` to the examples; of each batch only one part of `parts`, by its rows."""

    sources: Sequence[ExampleSource]
    part: int = 0
    parts: int = 1

    def __call__(self, batch: Mapping[str, Int[np.ndarray, "b"]]) -> dict[str, np.ndarray]:
        numbers = batch["number"]
        rows = len(numbers) // self.parts
        ends = np.cumsum([len(source) for source in self.sources])
        examples = []
        for number in numbers[self.part * rows : (self.part + 1) * rows]:
            which = int(np.searchsorted(ends, number, side="right"))
            before = ends[which - 1] if which else 0
            examples.append(self.sources[which][int(number - before)])
        return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


class Batches:
    """An endless iterator over batches, loaded ahead; its position is the number of batches that were drawn."""

    def __init__(self, dataset: grain.MapDataset, *, workers: int = 0):
        """`workers` processes load the batches; 0: threads of this one."""
        self._dataset = dataset
        self._workers = workers
        self._drawn = 0
        self._iterator: grain.DatasetIterator | None = None

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> Any:
        if self._iterator is None:
            self._iterator = self._start()
        batch = next(self._iterator)
        self._drawn += 1
        return batch

    def _start(self) -> grain.DatasetIterator:
        threads = 1 if self._workers else min(os.cpu_count() or 1, MOST_THREADS)
        ahead = self._dataset[self._drawn :].to_iter_dataset(
            grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 2)
        )
        if self._workers:
            ahead = ahead.mp_prefetch(grain.MultiprocessingOptions(self._workers, per_worker_buffer_size=2))
        return iter(ahead)

    def get_state(self) -> dict[str, int]:
        """The position, to be saved as JSON."""
        return {"drawn": self._drawn}

    def set_state(self, state: dict[str, int]) -> None:
        """Goes to a position that `get_state` gave, of these batches or of others in the same order."""
        self.close()
        self._drawn = state["drawn"]

    def close(self) -> None:
        """Stops loading ahead."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None


def training_batches(
    sources: Sequence[ExampleSource],
    *,
    weights: Sequence[float],
    batch_size: int,
    seed: int,
    part: int = 0,
    parts: int = 1,
    workers: int = 0,
    groups: Sequence[Sequence[int]] | None = None,
) -> Batches:
    """Endless batches of examples, in the order of `index_batches`.

    Args:
      sources: what to draw from.
      weights: share of each group in the stream.
      batch_size: over all processes.
      seed: of the order.
      part: of each batch, the rows that this process loads.
      parts: how many processes share a batch.
      workers: processes that load, beside this one; 0: threads.
      groups: as `index_batches`.

    Raises:
      ValueError: a source is empty, or the batch does not divide over the processes.
    """
    if batch_size % parts:
        raise ValueError(f"batch_size {batch_size} does not divide over {parts} processes: make it a multiple")
    sizes = [len(source) for source in sources]
    order = index_batches(sizes, weights=weights, batch_size=batch_size, seed=seed, groups=groups)
    return Batches(order.map(LoadExamples(sources, part, parts)), workers=workers)


# --- all at once


def load_range(
    sources: Sequence[ExampleSource], first: int, last: int, store: Callable[[slice, dict[str, np.ndarray]], None]
) -> None:
    """Loads examples `first` to `last - 1`, counted through all sources, by as many threads as there are cores.

    Args:
      store: takes some of them, stacked, and which they are, counted from `first`.
    """
    load = LoadExamples(sources)

    def load_some(start: int) -> None:
        stop = min(start + LOADED_AT_ONCE, last)
        store(slice(start - first, stop - first), load({"number": np.arange(start, stop)}))

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(load_some, range(first, last, LOADED_AT_ONCE)))


@dataclasses.dataclass(frozen=True)
class InMemory:
    """Decoded examples: by name, an array with a row for each."""

    arrays: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: values[index] for name, values in self.arrays.items()}


def in_memory(source: ExampleSource) -> InMemory:
    """The same examples (one or more), decoded once."""
    first = {name: np.asarray(value) for name, value in source[0].items()}
    arrays = {name: np.empty((len(source), *value.shape), value.dtype) for name, value in first.items()}

    def store(rows: slice, examples: dict[str, np.ndarray]) -> None:
        for name, values in examples.items():
            arrays[name][rows] = values

    load_range([source], 0, len(source), store)
    return InMemory(arrays)
