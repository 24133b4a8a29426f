"""The commands restart themselves once, keeping what they were given."""

import subprocess
import sys

import pytest

from scemae_jax import allocator

PROGRAM = """
import os, sys
from scemae_jax.allocator import restart_keeping_freed_memory
print(os.getpid(), sys.argv[1:], os.environ.get("MALLOC_MMAP_MAX_"), flush=True)
restart_keeping_freed_memory()
"""


def run(environment, monkeypatch, *arguments):
    for name in (*allocator.KEEP_FREED_MEMORY, "JAX_PLATFORMS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    ended = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=True)
    return ended.stdout.splitlines()


@pytest.mark.skipif(allocator.platform.libc_ver()[0] != "glibc", reason="the variables are glibc's")
def test_restarts_once_as_the_same_process_with_the_same_arguments(monkeypatch):
    first, second = run({"JAX_PLATFORMS": "cpu"}, monkeypatch, "--a=b c", "'\"")
    assert first.endswith(" None")
    assert second == first.removesuffix("None") + "0"


@pytest.mark.parametrize(
    "environment", [{"JAX_PLATFORMS": "cuda"}, {"JAX_PLATFORMS": "cpu", "MALLOC_TRIM_THRESHOLD_": "1"}]
)
def test_leaves_accelerators_and_settings_alone(monkeypatch, environment):
    assert len(run(environment, monkeypatch)) == 1


@pytest.mark.parametrize(
    ("platforms", "plugins", "expected"),
    [("cpu", ["cuda"], True), ("cuda,cpu", [], False), ("", [], True), ("", ["cuda"], False)],
)
def test_whether_jax_will_find_an_accelerator(monkeypatch, platforms, plugins, expected):
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    monkeypatch.setattr(allocator.importlib.metadata, "entry_points", lambda group: plugins)
    monkeypatch.setattr(allocator.importlib.util, "find_spec", lambda name: None)
    assert allocator.computes_on_cpu() is expected
