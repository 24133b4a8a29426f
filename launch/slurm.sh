#!/usr/bin/env bash
# One run on the GPUs of a SLURM cluster, one process a GPU; queued again when its time is up or it is preempted.
#
#   bash launch/slurm.sh [--name scemae] [--nodes 1] [--gpus 8] [--cpus 8] [--time 24:00:00] [--partition P]
#     [--account A] [--save 120] [--retries 100] [--dry-run] -- ARGUMENTS
#
#   --name       of the job
#   --nodes      how many
#   --gpus       of each node
#   --cpus       cores of each process
#   --time       limit of the job, as SLURM writes it; a longer run goes on in the next one
#   --partition  where to queue; the cluster's default
#   --account    whose share to use; yours
#   --save       seconds before the limit at which the run is told to save
#   --retries    how often the job is queued again
#   --dry-run    print the sbatch command and the script that it submits, and run nothing
#
#   bash launch/slurm.sh --nodes 2 --gpus 4 --time 8:00:00 -- --config configs/celeba.py:s8 --workdir /shared/celeba \
#     --config.data.root=/shared/data
#
# ARGUMENTS are those of scemae_jax.main. The project, its .venv, data and workdir are on a file system that all nodes
# see, and .venv has JAX for GPUs: .venv/bin/pip install -r requirements.txt 'jax[cuda12]'. PYTHON names another
# interpreter. Output goes to WORKDIR/logs/slurm_JOB.log.
#
# JAX learns coordinator, number and id from SLURM, and takes the GPU of its number on the node; so every process must
# see all GPUs of its node (--gpus-per-node, no --gpus-per-task). The warning goes to the processes and not to the batch
# script (no B:), which then finds status 85 and queues the job again; scancel ends the script first, so that a
# cancelled job stays so. Preempted jobs and those of lost nodes SLURM queues again by itself (--requeue). Any other
# status ends the job, also 75: a run that is given --stop_after_minutes is to stop then; the same command goes on.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/options.sh
. launch/options.sh

name=scemae nodes=1 gpus=8 cpus=8 time=24:00:00 partition='' account='' save=120 retries=100 dry_run=''
read_options 'name nodes gpus cpus time partition account save retries' 'dry_run' "$@"
read_run
whole_number --nodes "$nodes" 1
whole_number --gpus "$gpus" 1
whole_number --cpus "$cpus" 1
whole_number --save "$save" 1
whole_number --retries "$retries" 0

submit=(sbatch --job-name "$name" --nodes "$nodes" --gpus-per-node "$gpus" --ntasks-per-node "$gpus"
  --cpus-per-task "$cpus" --time "$time" --signal "TERM@$save" --requeue --open-mode append
  --output "$workdir/logs/slurm_%j.log")
[ -z "$partition" ] || submit+=(--partition "$partition")
[ -z "$account" ] || submit+=(--account "$account")

# A process that has saved must not have the others killed that are about to: no --kill-on-bad-exit, whatever the
# cluster's default. After a crash JAX ends the others.
script="#!/usr/bin/env bash
set -uo pipefail
cd $(quoted "$PWD") || exit
status=0
$(quoted srun --kill-on-bad-exit=0 --cpus-per-task "$cpus" "${PYTHON:-.venv/bin/python}" -m scemae_jax.main \
  --distributed "${run[@]}") || status=\$?
if [ \"\$status\" -eq 85 ] && [ \"\${SLURM_RESTART_COUNT:-0}\" -lt $retries ]; then
  echo 'stopped with everything saved: the job is queued again, and goes on'
  scontrol requeue \"\$SLURM_JOB_ID\"
fi
exit \"\$status\""

if [ -n "$dry_run" ]; then
  printf "%s <<'BATCH'\n%s\nBATCH\n" "$(quoted "${submit[@]}")" "$script"
else
  command -v sbatch >/dev/null || usage 'sbatch is not here: run this on a login node of the cluster, or with --dry-run'
  mkdir -p "$workdir/logs"
  "${submit[@]}" <<<"$script"
fi
