"""How every program starts and ends: logging, required flags, and the exit status."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import jax
from absl import app, flags, logging

from scemae_jax.data.images import DatasetError
from scemae_jax.training import loop, processes

DONE, FAILED, STOPPED_EARLY, PREEMPTED = 0, 1, 75, 85
"""Exit statuses. 75: time limit; 85: SIGTERM or a lost process. After these two the same command goes on."""


def start(main: Callable[..., None], *needed: str, words: str = "") -> None:
    """Runs a program that takes flags, of which those `needed` must be given.

    With `words`, what they are called, it also takes at least one word that is no flag: `main(words)`.
    """

    def run(argv: Sequence[str]) -> None:
        given = list(argv[1:])
        if given and not words:
            raise app.UsageError(
                f"not understood: {' '.join(given)}; flags are --NAME=VALUE, fields of a config --config.a.b=VALUE"
            )
        if words and not given:
            raise app.UsageError(f"no {words} was given")
        main(given) if words else main()

    flags.mark_flags_as_required(needed)
    logging.set_verbosity(logging.WARNING)
    app.run(run)


def stop_at(minutes: float | None) -> float | None:
    """The time (`time.monotonic`) that is so many minutes away."""
    return None if minutes is None else time.monotonic() + 60 * minutes


@contextmanager
def exit_status() -> Iterator[None]:
    """Prints an error in one line, and ends the program with the status that belongs to it."""
    try:
        yield
    except processes.OutOfTime as stopped:
        print(stopped)
        sys.exit(STOPPED_EARLY)
    except (processes.Interrupted, processes.PeerLostError) as interrupted:
        print(interrupted)
        sys.exit(PREEMPTED)
    except jax.errors.JaxRuntimeError as error:
        if not processes.lost_peer(error):
            raise
        print(f"{error}\nanother process is lost; run the same command to go on", file=sys.stderr)
        sys.exit(PREEMPTED)
    except (DatasetError, ValueError, OSError, ImportError, loop.NonFiniteLossError) as error:
        logging.debug("where it happened", exc_info=True)
        print(f"error: {error}", file=sys.stderr)
        sys.exit(FAILED)
