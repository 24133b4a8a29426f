"""Batches for training: shuffled, repeated, mixed and batched by Grain, with a position that can be saved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import grain
import jax


class ExampleSource(Protocol):
    """A sequence of examples, each a dict of arrays."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...


def training_batches(
    sources: Sequence[ExampleSource], *, weights: Sequence[float], batch_size: int, seed: int
) -> grain.DatasetIterator:
    """Endless batches; each source gives each of its examples once an epoch, in an order of its own every epoch.

    Args:
      sources: what to draw from.
      weights: share of each source in the stream.
      batch_size: over all processes; each gets its part.
      seed: of the order.

    Raises:
      ValueError: a source is empty, or the batch does not divide over the processes.
    """
    if any(len(source) == 0 for source in sources):
        raise ValueError(f"a source to train on is empty: sizes {[len(source) for source in sources]}")
    if batch_size % jax.process_count():
        raise ValueError(f"batch_size {batch_size} does not divide over {jax.process_count()} processes")
    streams = [
        grain.MapDataset.source(source).seed(seed + number).shuffle().repeat() for number, source in enumerate(sources)
    ]
    stream = grain.MapDataset.mix(streams, weights) if len(streams) > 1 else streams[0]
    stream = stream[jax.process_index() :: jax.process_count()]
    local = stream.batch(batch_size // jax.process_count(), drop_remainder=True)
    return iter(local.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)))
