"""Splits that depend on names alone, the same on every machine."""

import hashlib
import os
from collections.abc import Iterable


def draw_held_out(groups: Iterable[str], fraction: float, *, salt: str) -> set[str]:
    """`fraction` of the groups, rounded to the nearest number of them: those whose salted names hash lowest."""

    def draw(group: str) -> bytes:
        return hashlib.sha256(os.fsencode(f"{salt}\0{group}")).digest()

    ordered = sorted(set(groups), key=draw)
    return set(ordered[: round(fraction * len(ordered))])
