"""Contenders timed in turns, so that what else the machine does slows all of them alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.stages import Compiled

Row = dict[str, Any]
"""What was measured of one contender; plain enough for JSON."""


class Contender(NamedTuple):
    """Something to time."""

    name: str
    images: int
    """That one call takes in."""
    run: Callable[[int], None]
    """Makes so many calls, and returns once the last is done."""
    memory_bytes: int | None = None
    """On the device, at most."""


def memory_bytes(program: Compiled) -> int:
    """Of arguments, results and temporaries; what is donated counts once."""
    memory: Any = program.memory_analysis()
    needed = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    return needed - memory.alias_size_in_bytes


def calls_per_second(run: Callable[[int], None], seconds: float) -> float:
    """Calls for so many seconds or more, with few waits for the device."""
    start, calls, count, elapsed = time.perf_counter(), 0, 1, 0.0
    while not calls or elapsed < seconds:
        run(count)
        calls, elapsed = calls + count, time.perf_counter() - start
        count = max(1, math.ceil(calls * (seconds - elapsed) / elapsed))
    return calls / elapsed


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Median, interquartile range, least and greatest of the values, and they themselves."""
    low, median, high = np.percentile(values, [25, 50, 75]).tolist()
    return {"median": median, "iqr": high - low, "min": min(values), "max": max(values), "values": list(values)}


def measure(contenders: Sequence[Contender], *, repeats: int, seconds: float, reference: int = 0) -> list[Row]:
    """Times the contenders in turns; a row for each.

    Args:
      contenders: each is called once before.
      repeats: turns of each.
      seconds: a turn lasts at least so long.
      reference: the contender to which the others' speeds are relative, turn by turn.
    """
    for contender in contenders:
        contender.run(1)
    turns = [[c.images * calls_per_second(c.run, seconds) for c in contenders] for _ in range(repeats)]
    rows = []
    for number, contender in enumerate(contenders):
        rows.append(
            {
                "name": contender.name,
                "images_per_second": summary([speeds[number] for speeds in turns]),
                "relative_to": contenders[reference].name,
                "relative": summary([speeds[number] / speeds[reference] for speeds in turns]),
                "milliseconds_per_call": 1000 * contender.images / float(np.median([s[number] for s in turns])),
                "memory_bytes": contender.memory_bytes,
            }
        )
    return rows


def repeated(function: Callable[..., Any], *arguments: Any) -> Callable[[int], None]:
    """`Contender.run` of a JAX function that is called again and again with the same arguments."""

    def run(count: int) -> None:
        jax.block_until_ready([function(*arguments) for _ in range(count)][-1])

    return run
