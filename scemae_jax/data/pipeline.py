"""The order in which training sees its examples, and batches of them: by Grain, with a position that can be saved.

The order depends on the seed and the sizes alone: not on where the examples are kept, nor on how many processes and
devices share a batch.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import grain
import numpy as np
from jaxtyping import Int

MOST_THREADS = 16
"""That load ahead, a batch each."""


class ExampleSource(Protocol):
    """A sequence of examples, each a dict of arrays."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...


def index_batches(sizes: Sequence[int], *, weights: Sequence[float], batch_size: int, seed: int) -> grain.MapDataset:
    """Endless batches {"number": int32 `[batch_size]`} of example numbers, counted through all sources.

    Each source gives each of its examples once an epoch, in an order of its own every epoch.

    Args:
      sizes: examples in each source.
      weights: share of each source in the stream.
      batch_size: over all processes.
      seed: of the order.

    Raises:
      ValueError: a source is empty.
    """
    if any(size == 0 for size in sizes):
        raise ValueError(f"a source to train on is empty: sizes {list(sizes)}")
    streams, first = [], 0
    for number, size in enumerate(sizes):
        streams.append(grain.MapDataset.range(first, first + size).seed(seed + number).shuffle().repeat())
        first += size
    stream = grain.MapDataset.mix(streams, weights) if len(streams) > 1 else streams[0]
    return stream.batch(batch_size, drop_remainder=True).map(lambda numbers: {"number": numbers.astype(np.int32)})


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


@dataclasses.dataclass(frozen=True)
class LoadExamples:
    """From batches of `index_batches` to the examples; of each batch only one part of `parts`, by its rows."""

    sources: Sequence[ExampleSource]
    part: int = 0
    parts: int = 1

    def __call__(self, batch: dict[str, Int[np.ndarray, "b"]]) -> dict[str, np.ndarray]:
        numbers = batch["number"]
        rows = len(numbers) // self.parts
        ends = np.cumsum([len(source) for source in self.sources])
        examples = []
        for number in numbers[self.part * rows : (self.part + 1) * rows]:
            which = int(np.searchsorted(ends, number, side="right"))
            before = ends[which - 1] if which else 0
            examples.append(self.sources[which][int(number - before)])
        return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


def load_range(sources: Sequence[ExampleSource], first: int, last: int) -> dict[str, np.ndarray]:
    """Examples `first` to `last - 1`, counted through all sources, loaded by as many threads as there are cores."""
    load = LoadExamples(sources)
    one = load({"number": np.arange(first, first + 1)})
    found = {name: np.empty((last - first, *value.shape[1:]), value.dtype) for name, value in one.items()}

    def load_some(start: int) -> None:
        numbers = np.arange(start, min(start + 64, last))
        for name, values in load({"number": numbers}).items():
            found[name][numbers - first] = values

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(load_some, range(first, last, 64)))
    return found


def training_batches(
    sources: Sequence[ExampleSource],
    *,
    weights: Sequence[float],
    batch_size: int,
    seed: int,
    part: int = 0,
    parts: int = 1,
    workers: int = 0,
) -> Batches:
    """Endless batches of examples, in the order of `index_batches`.

    Args:
      sources: what to draw from.
      weights: share of each source in the stream.
      batch_size: over all processes.
      seed: of the order.
      part: of each batch, the rows that this process loads.
      parts: how many processes share a batch.
      workers: processes that load, beside this one; 0: threads.

    Raises:
      ValueError: a source is empty, or the batch does not divide over the processes.
    """
    if batch_size % parts:
        raise ValueError(f"batch_size {batch_size} does not divide over {parts} processes: make it a multiple")
    sizes = [len(source) for source in sources]
    order = index_batches(sizes, weights=weights, batch_size=batch_size, seed=seed)
    return Batches(order.map(LoadExamples(sources, part, parts)), workers=workers)
