"""SCE-MAE: landmarks from unlabelled faces and few annotations.

Runs the stages that the config names, each into the workdir: pretrain, refine, match, detect, report, export; on
request also few_shot and represent, which come before report. A stage that has finished is skipped, one that was cut
off goes on from its last checkpoint: run the same command again.

  python -m scemae_jax.main --config configs/quickstart.py --workdir runs/quickstart
  python -m scemae_jax.main --config configs/folder.py --config.data.root=FOLDER --workdir runs/mine
  python -m scemae_jax.main --config configs/ytf68.py:t8 --workdir runs/t8 --config.refine.temperature=0.2

Every field of the config can be set so; scemae_jax/config.py says what each means. Several processes (a TPU pod, GPUs
of several machines) run the same command with --distributed, or with --coordinator, --num_processes and --process_id
where nothing else tells them; launch/ has scripts that do it.

Exit status: 0 done, 1 error, 75 stopped at --stop_after_minutes and 85 stopped by SIGTERM, both with everything saved;
85 also where another process of the run was lost.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from scemae_jax import experiment
from scemae_jax.allocator import restart_keeping_freed_memory
from scemae_jax.data.images import DatasetError
from scemae_jax.experiment import Experiment
from scemae_jax.report.table import print_results
from scemae_jax.systems import system_of
from scemae_jax.training import loop, processes

STOPPED_EARLY, PREEMPTED = 75, 85

CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment: a file in configs/.", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder for everything the run writes; made if it is not there.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Show parameters, a batch and the steps, and train nothing.")
STOP_AFTER = flags.DEFINE_float(
    "stop_after_minutes",
    None,
    "Save and stop after so many minutes; the same command goes on later.",
    lower_bound=0,
)
DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Join the other processes of the run, found by themselves.")
COORDINATOR = flags.DEFINE_string("coordinator", "", "HOST:PORT of the first process, where they are not.")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", 0, "How many processes the run has; with --coordinator.")
PROCESS_ID = flags.DEFINE_integer("process_id", -1, "Which of them this is, from 0; with --coordinator.")


def dry_run(run: Experiment) -> None:
    """Prints what the run would do; of several processes the first does."""
    experiment.check_batches(run)
    if jax.process_count() > 1:
        run.prepare_data()
    if not processes.is_first():
        return
    run.system.describe(run)
    axes = ", ".join(f"{name}={size}" for name, size in run.mesh.shape.items())
    print(f"stages: {', '.join(run.config.stages)}; devices: {jax.device_count()} {jax.default_backend()} ({axes})")


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"not understood: {' '.join(argv[1:])}; fields of the config are set with --config.a.b=v")
    stop_at = None if STOP_AFTER.value is None else time.monotonic() + 60 * STOP_AFTER.value
    assert WORKDIR.value is not None  # `run` marks it as required
    try:
        run = system_of(CONFIG.value).open(CONFIG.value, Path(WORKDIR.value), stop_at)
        if DISTRIBUTED.value or COORDINATOR.value:
            processes.join(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
        processes.handle_sigterm()
        run.system.check_config(run.config)
        if DRY_RUN.value:
            dry_run(run)
        else:
            results = experiment.run(run)
            if processes.is_first():
                print_results(results)
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
    except (DatasetError, ValueError, FileNotFoundError, loop.NonFiniteLossError) as error:
        logging.debug("where it happened", exc_info=True)
        print(f"error: {error}\n(--verbosity=1 shows where)", file=sys.stderr)
        sys.exit(1)


def run() -> None:
    flags.mark_flags_as_required(["config", "workdir"])
    logging.set_verbosity(logging.WARNING)
    app.run(main)


if __name__ == "__main__":
    restart_keeping_freed_memory()
    run()
