"""The processes of a run on several hosts: joining them, waiting for each other, and stopping together."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import jax
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

DAY_S = 24 * 3600
STOPPED = "stopped by SIGTERM; run the same command to go on"


class Interrupted(Exception):
    """SIGTERM came; everything so far is saved."""


def join(coordinator: str = "", num_processes: int = 0, process_id: int = -1) -> None:
    """Joins the other processes of the run; without arguments where a TPU pod, SLURM or the like tells who they are.

    Raises:
      ValueError: the coordinator is given, but not how many processes there are and which this is.
    """
    if not coordinator:
        jax.distributed.initialize()
        return
    if num_processes < 1 or not 0 <= process_id < num_processes:
        raise ValueError(
            f"--coordinator={coordinator} needs --num_processes and --process_id from 0 below it; they are "
            f"{num_processes} and {process_id}"
        )
    jax.distributed.initialize(coordinator, num_processes, process_id)


def is_first() -> bool:
    """Whether this process is the one that writes metrics, results and reports, and evaluates."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Waits until every process has come here, a day if need be; `name` is of this place and moment alone."""
    everyone = set(range(jax.process_count()))  # named, they wait at a barrier, not in a computation that may time out
    multihost.sync_global_processes(name, timeout=DAY_S, processes=everyone)


class Stop:
    """Whether training is to save and stop, on which all processes agree."""

    def __init__(self, at: float | None):
        """`at`: time (`time.monotonic`) after which to stop; None for no limit. The first process's clock counts."""
        self._at = at

    def out_of_time(self, *, synchronised: bool) -> bool:
        """Whether the time is up; several processes ask each other only where they are `synchronised` anyway."""
        if self._at is None or (jax.process_count() > 1 and not synchronised):
            return False
        late = time.monotonic() > self._at
        return bool(multihost_utils.broadcast_one_to_all(late)) if jax.process_count() > 1 else late

    def interrupted(self) -> bool:
        """Whether SIGTERM came, to any process; every process calls this after each step."""
        if jax.process_count() == 1:
            return _Signals.came
        _Signals.asked += 1
        return multihost_utils.reached_preemption_sync_point(_Signals.asked)


class _Signals:
    """What SIGTERM has done to this process."""

    came = False
    held = False
    """Whether something is under way that will look at `came` and save."""
    asked = 0


def handle_sigterm() -> None:
    """From now on SIGTERM raises `Interrupted`, once what is being trained is saved; a second one does not wait.

    Of several processes JAX's coordination service takes the signal and tells the others.
    """
    if jax.process_count() == 1:
        signal.signal(signal.SIGTERM, _on_sigterm)


def _on_sigterm(number: int, frame: FrameType | None) -> None:
    if _Signals.came or not _Signals.held:
        raise Interrupted(STOPPED)
    _Signals.came = True


@contextmanager
def sigterm_waits() -> Iterator[None]:
    """While this is entered, SIGTERM does not interrupt: `Stop.interrupted` tells of it. Afterwards it does."""
    _Signals.held = True
    try:
        yield
        if _Signals.came:
            raise Interrupted(STOPPED)
    finally:
        _Signals.held = _Signals.came = False
