"""Keeps the memory that a step on the CPU frees for the next step, instead of giving it back to the system."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import sys

KEEP_FREED_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**36), "MALLOC_ARENA_MAX": "1"}
"""Variables that glibc reads when a program starts. XLA's CPU backend allocates gigabytes of temporary memory for every
step, and the system clears and maps each page again: a third of the time of a training step and more."""


def computes_on_cpu() -> bool:
    """Whether JAX will find no accelerator here, as far as is known before it starts."""
    if platforms := os.environ.get("JAX_PLATFORMS"):
        return platforms == "cpu"
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return not plugins and importlib.util.find_spec("libtpu") is None


def restart_keeping_freed_memory() -> None:
    """Restarts this program in the same process with `KEEP_FREED_MEMORY` where that helps: on a CPU, with glibc.

    It does nothing if one of these variables is set already, to whatever value.
    """
    told = KEEP_FREED_MEMORY.keys() & os.environ
    watched = sys.gettrace() is not None  # a debugger would lose the program
    if told or watched or not sys.executable or platform.libc_ver()[0] != "glibc" or not computes_on_cpu():
        return
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | KEEP_FREED_MEMORY)
