"""Times contenders in turns, so that other load on the machine slows all of them equally."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from humanize import naturalsize
from jax.stages import Compiled

Row = dict[str, Any]
"""One contender's measurements; plain enough for JSON."""


class Contender(NamedTuple):
    """Something to time."""

    name: str
    images: int
    """Images that one call processes."""
    run: Callable[[int], None]
    """Makes so many calls and returns when the last is done."""
    memory: str = ""


def memory(program: Compiled) -> str:
    """Memory of arguments, results and temporaries; donated buffers count once."""
    found: Any = program.memory_analysis()
    needed = found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes
    return naturalsize(needed - found.alias_size_in_bytes, binary=True)


def calls_per_second(run: Callable[[int], None], seconds: float) -> float:
    """Speed of a function that is called for at least so many seconds, with few waits for the device."""
    start, calls, count, elapsed = time.perf_counter(), 0, 1, 0.0
    while not calls or elapsed < seconds:
        run(count)
        calls, elapsed = calls + count, time.perf_counter() - start
        count = max(1, math.ceil(calls * (seconds - elapsed) / elapsed))
    return calls / elapsed


def measure(contenders: Sequence[Contender], *, repeats: int, seconds: float) -> list[Row]:
    """Times the contenders in turns of at least so many seconds, after one call of each; a row for each.

    Relative speeds are ratios to the first contender's, turn by turn, with their interquartile range.
    """
    for contender in contenders:
        contender.run(1)
    speeds = np.array([[c.images * calls_per_second(c.run, seconds) for c in contenders] for _ in range(repeats)])
    return [
        {
            "name": contender.name,
            "images/s": float(np.median(own)),
            "min": float(own.min()),
            "max": float(own.max()),
            "relative": float(np.median(own / speeds[:, 0])),
            "IQR": float(np.subtract(*np.percentile(own / speeds[:, 0], [75, 25]))),
            "ms a call": float(1000 * contender.images / np.median(own)),
            "memory": contender.memory,
        }
        for contender, own in zip(contenders, speeds.T, strict=True)
    ]
