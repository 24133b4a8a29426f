"""Costs of a compiled program, read from its text."""

import math
import re
from typing import Any, NamedTuple

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
NO_WORK = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while")
_ARRAY = re.compile(r"\b(pred|bf16|[fsu]\d+)\[([\d,]*)\](\{[^}]*\})?")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?(%[\w.-]+) = (.*?) ([a-z][\w-]*)\((.*)$")
_COMPUTATION = re.compile(r"(ENTRY )?(%[\w.-]+) .*\{$")


class Instruction(NamedTuple):
    """A line of a compiled program: `name = type op(rest`."""

    name: str
    type: str
    op: str
    rest: str


def array_bytes(types: str, *, in_hbm: bool = False) -> int:
    """Bytes of all arrays whose types are in a text, or only of those in the chip's memory (HBM)."""
    total = 0
    for dtype, axes, layout in _ARRAY.findall(types):
        if not (in_hbm and "S(" in layout):
            size = 1 if dtype == "pred" else int(re.sub(r"\D", "", dtype)) // 8
            total += size * math.prod(int(axis) for axis in axes.split(",") if axis)
    return total


def computations(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """The instructions of each computation of a compiled program, and the name of its entry computation."""
    found: dict[str, list[Instruction]] = {}
    entry, lines = "", []
    for line in text.splitlines():
        if begins := _COMPUTATION.match(line):
            lines = found.setdefault(begins[2], [])
            entry = begins[2] if begins[1] else entry
        elif instruction := _INSTRUCTION.match(line):
            lines.append(Instruction(*instruction.groups()))
    return found, entry


def operands(line: Instruction, types: dict[str, str]) -> list[str]:
    """Types of what an instruction reads; `types` are those of its computation, by name."""
    return [types.get(name, "") for name in re.findall(r"%[\w.-]+", line.rest.split("), ")[0])]


def read_program(text: str) -> dict[str, Any]:
    """What one chip does in one run of a compiled program; loops count as often as they run.

    Returns:
      hbm_bytes: read from and written to its memory, without what the compiler keeps on the chip.
      cycles: what the compiler expects of its instructions, one after the other, without copies and collectives.
      collectives: for each kind the `count`, and the `bytes` of one chip.
    """
    found, entry = computations(text)
    work: dict[str, Any] = {"hbm_bytes": 0, "cycles": 0, "collectives": {}}
    _count(work, found, found[entry], 1)
    return work


def _count(work: dict[str, Any], found: dict[str, list[Instruction]], lines: list[Instruction], times: int) -> None:
    types, seen = {line.name: line.type for line in lines}, set()
    for line in lines:
        if line.op == "while":
            body, trips = re.search(r"body=(%[\w.-]+)", line.rest), re.search(r'"n":"(\d+)"', line.rest)
            assert body, line.name
            assert trips, line.name
            _count(work, found, found[body[1]], times * int(trips[1]))
        if line.op in NO_WORK or line.op.endswith("-done"):
            continue
        called = re.search(r"calls=(%[\w.-]+)", line.rest)
        inside = found[called[1]] if called else []
        read = " ".join(operands(line, types))
        cycles = re.search(r'"estimated_cycles":"(\d+)"', line.rest)
        if cycles and int(cycles[1]) < 1e12:  # more means unknown
            work["cycles"] += times * int(cycles[1])
        for each in (line, *inside):
            # A collective that overlaps with other instructions is listed in each of them, with one channel id.
            kind, channel = each.op.removesuffix("-start"), re.search(r"channel_id=\d+", each.rest)
            if kind not in COLLECTIVES or (channel and channel[0] in seen):
                continue
            seen |= {channel[0]} if channel else set()
            # A reduce-scatter is an all-reduce in a computation with a name of its own.
            kind = "reduce-scatter" if "calls=%all-reduce-scatter" in line.rest else kind
            counted = work["collectives"].setdefault(kind, {"count": 0, "bytes": 0})
            counted["count"] += times
            both_sides = each.op in ("all-gather-start", "collective-permute-start", "reduce-scatter-start")
            counted["bytes"] += times * (array_bytes(each.type) - (array_bytes(read) if both_sides else 0))
        if line.op in ("copy-start", "slice-start"):  # the type names both sides of the copy
            moved = array_bytes(line.type) - array_bytes(read)
        elif any(each.op in ("gather", "dynamic-slice") for each in (line, *inside)):  # reads as much as it returns
            moved = 2 * array_bytes(line.type, in_hbm=True)
        else:
            moved = array_bytes(line.type + read, in_hbm=True)
        work["hbm_bytes"] += times * moved
