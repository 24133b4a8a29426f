"""SCE-MAE: landmarks from unlabelled faces and few annotations.

Runs the stages that the config names: pretrain, refine, match, detect, report, export; on request also few_shot and
represent, before report. All write to the workdir. To go on after an interruption, run the same command again: finished
stages are skipped, and training goes on from its last checkpoint.

  python -m scemae_jax.main --config configs/quickstart.py --workdir runs/quickstart
  python -m scemae_jax.main --config configs/folder.py --config.data.root=FOLDER --workdir runs/mine
  python -m scemae_jax.main --config configs/ytf68.py:t8 --workdir runs/t8 --config.refine.temperature=0.2

Every field of the config can be set like this; scemae_jax/config.py and scemae_jax/systems/sce_mae/settings.py explain
them. Several processes (a TPU pod, GPUs of several machines) run the same command with --distributed, or with
--coordinator, --num_processes and --process_id if JAX cannot find them by itself; launch/ has files that do it.

Exit status: 0 done; 1 error; 75 stopped at --stop_after_minutes, with everything saved; 85 stopped by SIGTERM, with
everything saved, or another process of the run was lost.
"""

from __future__ import annotations

from pathlib import Path

import jax
from absl import flags

from scemae_jax import experiment, run_flags
from scemae_jax.allocator import restart_keeping_freed_memory
from scemae_jax.command_line import exit_status, start, stop_at
from scemae_jax.experiment import Experiment
from scemae_jax.report.table import print_results
from scemae_jax.run_flags import CONFIG, DRY_RUN, STOP_AFTER, WORKDIR
from scemae_jax.systems import system_of
from scemae_jax.training import processes

flags.adopt_module_key_flags(run_flags)
DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Join the other processes of the run, which JAX finds by itself.")
COORDINATOR = flags.DEFINE_string("coordinator", "", "HOST:PORT of the first process, if JAX cannot find it.")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", 0, "How many processes the run has; with --coordinator.")
PROCESS_ID = flags.DEFINE_integer("process_id", -1, "Which of them this is, from 0; with --coordinator.")


def dry_run(run: Experiment) -> None:
    """Prints what the run would do (in the first process)."""
    experiment.check_batches(run)
    if jax.process_count() > 1:
        run.prepare_data()
    if not processes.is_first():
        return
    run.system.describe(run)
    axes = ", ".join(f"{name}={size}" for name, size in run.mesh.shape.items())
    print(f"stages: {', '.join(run.config.stages)}; devices: {jax.device_count()} {jax.default_backend()} ({axes})")


def main() -> None:
    assert WORKDIR.value is not None  # `start` asks for it
    limit = stop_at(STOP_AFTER.value)
    with exit_status():
        if DISTRIBUTED.value or COORDINATOR.value:
            processes.join(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
        processes.handle_sigterm()
        run = system_of(CONFIG.value).open(CONFIG.value, Path(WORKDIR.value), limit)
        run.system.check_config(run.config)
        if DRY_RUN.value:
            dry_run(run)
            return
        results = experiment.run(run)
        if processes.is_first():
            print_results(results, run.system.tables(results))


if __name__ == "__main__":
    restart_keeping_freed_memory()
    start(main, "config", "workdir")
