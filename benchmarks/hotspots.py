"""Where a training step's time goes on the device, by operation, from a trace of a few steps."""

from __future__ import annotations

import re
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.profiler import ProfileData

from benchmarks.measure import Row
from benchmarks.settings import Settings
from benchmarks.steps import Trainer, held_on_devices, pretrain_task, refine_task

TOP = 15
"""Operations that are named; the others are summed up by category alone."""
CATEGORIES = (
    ("attention", r"attention|flash|fmha"),
    ("matmul", r"gemm|dot|matmul|cublas|nvjet|cutlass|xmma|convolution"),
    ("communication", r"all-reduce|all-gather|reduce-scatter|all-to-all|permute|nccl"),
    ("sort", r"sort|top-?k"),
    ("copy", r"copy|memcpy|memset|transpose|slice|concatenate|pad|gather|scatter|infeed|outfeed"),
    ("fusion", r"fusion|loop_|input_|wrapped|reduce|rng"),
)
"""The first whose pattern is found in the names of an operation and its kernel counts."""


class Event(NamedTuple):
    """An operation at work, once."""

    operation: str
    category: str
    start: float
    """In nanoseconds, as the end."""
    end: float


def category(text: str) -> str:
    """Of an operation, by its name and perhaps its kernel's."""
    return next((name for name, pattern in CATEGORIES if re.search(pattern, text, re.IGNORECASE)), "other")


def fused_products(hlo: str) -> set[str]:
    """Names of the fusions of a compiled program in which there is a matrix product."""
    holding, computation = set(), ""
    for line in hlo.splitlines():
        if line and not line[0].isspace():
            computation = line.removeprefix("ENTRY ").partition(" ")[0].lstrip("%")
        elif re.search(r" (dot|convolution)\(", line):
            holding.add(computation)
    fusions = re.findall(r"%?([\w.-]+) = .* fusion\(.*calls=%?([\w.-]+)", hlo)
    return {name for name, called in fusions if called in holding}


def device_events(trace: Any, products: set[str]) -> list[list[Event]]:
    """What each stream of each device did (each thread, of a CPU); `products` are fusions that count as matmul.

    The trace is a `ProfileData`.
    """
    planes = list(trace.planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:") and any(plane.lines)]
    lines = [line for plane in devices for line in plane.lines]
    streams = [line for line in lines if line.name.startswith("Stream")]
    streams = streams or [line for line in lines if line.name == "XLA Ops"]
    if streams:
        return [[_event(e, dict(e.stats), products) for e in line.events] for line in streams]
    threads = [line for plane in planes if plane.name == "/host:CPU" for line in plane.lines]
    known = [[(e, dict(e.stats)) for e in line.events] for line in threads]
    return [[_event(e, stats, products) for e, stats in line if "hlo_op" in stats] for line in known]


def _event(event: Any, stats: dict[str, Any], products: set[str]) -> Event:
    kernel, operation = event.name, str(stats.get("hlo_op", event.name)).partition(" = ")[0].lstrip("%")
    shown = kernel if operation.startswith("custom-call") else operation
    kind = "matmul" if operation in products else category(f"{operation} {kernel}")
    return Event(re.sub(r"[.\d]+$", "", shown), kind, event.start_ns, event.start_ns + event.duration_ns)


def own_times(events: Iterable[Event]) -> dict[tuple[str, str], float]:
    """Nanoseconds of each (operation, category) of one stream, without those of the operations inside it."""
    total: dict[tuple[str, str], float] = defaultdict(float)
    around: list[Event] = []
    for event in sorted(events, key=lambda e: (e.start, -e.end)):
        while around and around[-1].end <= event.start:
            around.pop()
        if around:
            total[around[-1].operation, around[-1].category] -= min(event.end, around[-1].end) - event.start
        total[event.operation, event.category] += event.end - event.start
        around.append(event)
    return dict(total)


def idle_time(events: Iterable[Event]) -> float:
    """Nanoseconds from the first event to the last in which there is none."""
    idle, last = 0.0, None
    for event in sorted(events, key=lambda e: e.start):
        if last is not None:
            idle += max(0.0, event.start - last)
        last = event.end if last is None else max(last, event.end)
    return idle


def profile_steps(trainer: Trainer, steps: int) -> tuple[list[list[Event]], float]:
    """What the devices did in so many steps, and the traced nanoseconds from first to last."""
    run = trainer.on_drawn_batches(trainer.task.input)
    run(2)
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            run(steps)
        (path,) = Path(folder).rglob("*.xplane.pb")
        products = fused_products(trainer.program.call.as_text())
        streams = device_events(ProfileData.from_file(str(path)), products)
    events = [event for stream in streams for event in stream]
    if not events:
        raise ValueError("the profiler's trace has no operation of a device: its form must have changed")
    return streams, max(e.end for e in events) - min(e.start for e in events)


def hotspots(settings: Settings) -> list[Row]:
    """Of both stages' steps: categories and the longest operations, as shares of all streams' time and the idle one."""
    rows, steps = [], 2 if settings.small else 10
    stages = (
        ("stage 1", pretrain_task, settings.config.pretrain.batch_size),
        ("stage 2", refine_task, settings.config.refine.batch_size),
    )
    for stage, build, batch_size in stages:
        task = build(settings, held_on_devices(settings, batch_size))
        streams, traced = profile_steps(Trainer(task, settings), steps)
        task.input.batches.close()
        operations: dict[tuple[str, str], float] = defaultdict(float)
        for stream in streams:
            for key, nanoseconds in own_times(stream).items():
                operations[key] += nanoseconds
        by_category: dict[str, float] = defaultdict(float)
        by_category["idle"] = idle_time(event for stream in streams for event in stream)
        for (_, kind), nanoseconds in operations.items():
            by_category[kind] += nanoseconds
        total = sum(by_category.values())
        longest = sorted(operations.items(), key=lambda item: -item[1])[:TOP]
        found = [("all", kind, nanoseconds) for kind, nanoseconds in sorted(by_category.items(), key=lambda i: -i[1])]
        found += [(operation, kind, nanoseconds) for (operation, kind), nanoseconds in longest]
        rows += [
            {
                "name": f"{stage}: {operation}",
                "category": kind,
                "milliseconds_per_step": nanoseconds / steps / 1e6,
                "share": nanoseconds / total,
                "traced_milliseconds_per_step": traced / steps / 1e6,
            }
            for operation, kind, nanoseconds in found
        ]
    return rows
