"""Contenders timed in turns, so that what a machine does meanwhile slows all of them alike."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.chips import Peak

Row = dict[str, Any]
"""What is known of one timed thing; plain enough for JSON."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contender:
    """Something to time."""

    name: str
    images: int
    """That one call takes in."""
    run: Callable[[int], None]
    """Makes so many calls, one after the other, and returns once the last is done."""
    flops: float | None = None
    """Floating-point operations of an image that the method needs (see `flops`)."""
    compile_seconds: float | None = None
    memory_bytes: int | None = None
    """At its peak, on the device."""
    devices: int = 1
    about: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Further entries of its row."""


class Program(NamedTuple):
    """A compiled function."""

    call: Any
    """`jax.stages.Compiled`."""
    compile_seconds: float
    """Of tracing, lowering and compiling."""
    memory_bytes: int
    """Of arguments, results and temporaries; what is donated counts once."""
    temporary_bytes: int


def compile_program(function: Any, *arguments: Any) -> Program:
    """Compiles a jitted function for arguments like these."""
    start = time.perf_counter()
    compiled = function.lower(*arguments).compile()
    seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    needed = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    return Program(compiled, seconds, needed - memory.alias_size_in_bytes, memory.temp_size_in_bytes)


def device_peak_bytes() -> int | None:
    """Most that this process has had on the first device so far, all programs together; None where none is kept."""
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def first_call_seconds(run: Callable[[int], None]) -> float:
    """What the first call takes longer than the second: it compiles."""
    start = time.perf_counter()
    run(1)
    first = time.perf_counter() - start
    run(1)
    return max(0.0, 2 * first - (time.perf_counter() - start))


def repeated(function: Callable[..., Any], *arguments: Any) -> Callable[[int], None]:
    """`Contender.run` of a JAX function that is called again and again with the same arguments."""

    def run(count: int) -> None:
        results = None
        for _ in range(count):
            results = function(*arguments)
        jax.block_until_ready(results)

    return run


def alternate(
    contenders: Sequence[Contender],
    *,
    repeats: int,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> list[list[float]]:
    """Images per second of each contender, in each of its blocks: first, second, ..., first, second, ...

    Args:
      contenders: each is called before, until a block of it takes long enough.
      repeats: blocks of each.
      seconds: a block lasts at least so long.
      clock: the time in seconds.
    """
    counts = [_calls_of_a_block(contender, seconds, clock) for contender in contenders]
    speeds: list[list[float]] = [[] for _ in contenders]
    for _ in range(repeats):
        for contender, count, found in zip(contenders, counts, speeds, strict=True):
            calls, elapsed = _block(contender, count, seconds, clock)
            found.append(calls * contender.images / elapsed)
    return speeds


def _calls_of_a_block(contender: Contender, seconds: float, clock: Callable[[], float]) -> int:
    """So many that they take the seconds, or little less."""
    contender.run(1)  # what a first call does once is not of interest
    calls, elapsed = _block(contender, 1, seconds / 4, clock)
    return max(1, int(np.ceil(calls * seconds / elapsed)))


def _block(contender: Contender, count: int, seconds: float, clock: Callable[[], float]) -> tuple[int, float]:
    """Calls made and seconds passed; as few waits for the device as will do, since it stands still for each."""
    start, calls, elapsed = clock(), 0, 0.0
    while not calls or elapsed < seconds:
        contender.run(count)
        calls, elapsed = calls + count, max(clock() - start, 1e-9)
        count = max(1, int(np.ceil(calls * (seconds - elapsed) / elapsed)))  # for what is left
    return calls, elapsed


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Median, interquartile range, least and greatest of the values, and they themselves."""
    low, median, high = np.percentile(values, [25, 50, 75]).tolist()
    return {"median": median, "iqr": high - low, "min": min(values), "max": max(values), "values": list(values)}


def measure(
    contenders: Sequence[Contender], *, repeats: int, seconds: float, peak: Peak, reference: int = 0
) -> list[Row]:
    """Times the contenders in turns; a row of each. The speeds relative to the `reference` are of the same turns."""
    rows, turns = [], alternate(contenders, repeats=repeats, seconds=seconds)
    for contender, speeds in zip(contenders, turns, strict=True):
        speed = summary(speeds)
        utilisation = None
        if contender.flops is not None:
            utilisation = speed["median"] * contender.flops / (peak.flops * contender.devices)
        rows.append(
            {
                "name": contender.name,
                "images_per_second": speed,
                "relative_to": contenders[reference].name,
                "relative": summary([ours / its for ours, its in zip(speeds, turns[reference], strict=True)]),
                "images_per_call": contender.images,
                "milliseconds_per_call": 1000 * contender.images / speed["median"],
                "flops_per_image": contender.flops,
                "utilisation": utilisation,
                "compile_seconds": contender.compile_seconds,
                "memory_bytes": contender.memory_bytes,
                "device_peak_bytes": device_peak_bytes(),
                **contender.about,
            }
        )
    return rows
