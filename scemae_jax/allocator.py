"""Memory that a step on the CPU frees is kept for the next one, instead of going back to the system page by page."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import sys

KEEP_FREED_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**36), "MALLOC_ARENA_MAX": "1"}
"""Of glibc, which reads them when a program starts. XLA's CPU backend takes the temporary memory of every step anew,
gigabytes of it, and the system clears and maps each page again: a third of the time of a training step and more."""


def computes_on_cpu() -> bool:
    """Whether JAX will find no accelerator here, as far as can be told before it starts."""
    if platforms := os.environ.get("JAX_PLATFORMS"):
        return platforms == "cpu"
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return not plugins and importlib.util.find_spec("libtpu") is None


def restart_keeping_freed_memory() -> None:
    """Starts this program again, as the same process, with `KEEP_FREED_MEMORY`, where that helps: on a CPU, with glibc.

    One of these variables in the environment, with any value, says that it is to be left alone.
    """
    told = KEEP_FREED_MEMORY.keys() & os.environ
    watched = sys.gettrace() is not None  # a debugger would lose the program
    if told or watched or not sys.executable or platform.libc_ver()[0] != "glibc" or not computes_on_cpu():
        return
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | KEEP_FREED_MEMORY)
