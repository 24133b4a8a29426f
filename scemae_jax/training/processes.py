"""The processes of a run on several hosts: joining them, waiting for each other, and stopping together."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

DAY_S = 24 * 3600
MESSAGE_BYTES = 4096
STOPPED = "stopped by SIGTERM; run the same command to go on"


class OutOfTime(TimeoutError):
    """The time limit came before the last step; everything so far is saved."""


class Interrupted(BaseException):
    """SIGTERM came; everything so far is saved. It is no `Exception`, so that `except Exception` does not stop it."""


class PeerLostError(ConnectionError):
    """Another process of the run did not start, or is gone."""


def join(coordinator: str = "", num_processes: int = 0, process_id: int = -1) -> None:
    """Joins the other processes of the run; a TPU pod or SLURM, for example, needs no arguments.

    Raises:
      ValueError: the coordinator is given, but not how many processes there are and which this is.
      PeerLostError: not all of them joined.
    """
    if coordinator and (num_processes < 1 or not 0 <= process_id < num_processes):
        raise ValueError(
            f"--coordinator={coordinator} needs --num_processes and --process_id from 0 below it; they are "
            f"{num_processes} and {process_id}"
        )
    try:
        if coordinator:
            jax.distributed.initialize(coordinator, num_processes, process_id)
        else:
            jax.distributed.initialize()
    except jax.errors.JaxRuntimeError as error:
        raise PeerLostError(f"the processes of the run did not come together: {error}") from error


def lost_peer(error: Exception) -> bool:
    """Whether a computation failed because of another process."""
    signs = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "CANCELLED", "Gloo", "heartbeat", "coordination service")
    return jax.process_count() > 1 and any(sign in str(error) for sign in signs)


def is_first() -> bool:
    """Whether this process is the one that writes metrics, results and reports, and evaluates."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Waits until every process is here, up to a day. Each call needs a `name` of its own."""
    everyone = set(range(jax.process_count()))  # a barrier, as a computation may time out
    multihost.sync_global_processes(name, timeout=DAY_S, processes=everyone)


def broadcast_from_first(number: int) -> int:
    """The first process's number, in all processes."""
    return int(multihost_utils.broadcast_one_to_all(np.int64(number))) if jax.process_count() > 1 else number


def fail_together(error: BaseException | None, name: str) -> None:
    """If the first process has an error, all processes raise it, so that none waits for it in vain.

    Every process calls this, the others with None. Each call needs a `name` of its own.

    Raises:
      Interrupted, OutOfTime or ValueError: in the other processes; ValueError stands for any other error.
    """
    if jax.process_count() == 1:
        if error:
            raise error
        return
    wait_for_all(name)
    kinds = (None, Interrupted, OutOfTime, ValueError)
    kind = next((number for number, k in enumerate(kinds) if k and isinstance(error, k)), 3) if error else 0
    text = np.zeros(MESSAGE_BYTES, np.uint8)
    encoded = str(error).encode()[:MESSAGE_BYTES]
    text[: len(encoded)] = np.frombuffer(encoded, np.uint8)
    kind, text = multihost_utils.broadcast_one_to_all((np.int32(kind), text))
    if error:
        raise error
    if raised := kinds[int(kind)]:
        raise raised(f"the first process: {bytes(text).rstrip(bytes(1)).decode(errors='replace')}")


class Stop:
    """Whether training must save and stop; all processes agree."""

    def __init__(self, at: float | None, *, alone: bool):
        """The first process's clock counts for all that train together.

        Args:
          at: time (`time.monotonic`) after which to stop; None for no limit.
          alone: this process trains without the others.
        """
        self._at = at
        self._alone = alone

    def out_of_time(self, *, synchronised: bool) -> bool:
        """Whether the time is up. Several processes ask each other only when they are `synchronised` anyway."""
        if self._at is None or not (self._alone or synchronised):
            return False
        late = time.monotonic() > self._at
        return late if self._alone else bool(broadcast_from_first(late))

    def interrupted(self) -> bool:
        """Whether SIGTERM came to any of the processes that train. Each calls this after each step."""
        if not self._alone:
            _Signals.asked += 1
            _Signals.came |= multihost_utils.reached_preemption_sync_point(_Signals.asked)
        return _Signals.came


class _Signals:
    """What SIGTERM has done to this process."""

    came = False
    held = False
    """Whether training is running, which looks at `came` and saves."""
    asked = 0


def handle_sigterm() -> None:
    """From now on SIGTERM raises `Interrupted`, after training has saved. A second SIGTERM does not wait for that.

    While several processes train together, JAX's coordination service takes the signal and tells the others. What the
    first process does alone is not interrupted.
    """
    if jax.process_count() == 1:
        signal.signal(signal.SIGTERM, _on_sigterm)


def _on_sigterm(number: int, frame: FrameType | None) -> None:
    if _Signals.came or not _Signals.held:
        raise Interrupted(STOPPED)
    _Signals.came = True


@contextmanager
def sigterm_waits() -> Iterator[None]:
    """Inside this context SIGTERM does not interrupt; `Stop.interrupted` reports it. On leaving, it interrupts."""
    _Signals.held = True
    try:
        yield
        if _Signals.came:
            raise Interrupted(STOPPED)
    finally:
        _Signals.held = _Signals.came = False
