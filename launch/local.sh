#!/usr/bin/env bash
# One run in several processes on this machine, each with its own devices; started again when it is cut off.
#
#   bash launch/local.sh [--processes 2] [--devices D] [--port P] [--retries 3] [--grace 300] [--dry-run] -- ARGUMENTS
#
#   --processes  how many
#   --devices    of each process: GPUs, by default all there are in equal shares; without GPUs, or with
#                JAX_PLATFORMS=cpu, so many devices that share the CPU, by default 1
#   --port       of the coordinator, which is process 0; by default a free one, chosen anew at each start
#   --retries    how often to start again after a preemption or a crash
#   --grace      seconds that the processes have to save and end, before they are killed
#   --dry-run    print the command of each process, and run nothing
#
#   bash launch/local.sh --processes 2 --devices 2 -- --config configs/quickstart.py --workdir runs/two \
#     --config.mesh.fsdp=2
#
# ARGUMENTS are those of scemae_jax.main. Process 0 writes to the screen, each to WORKDIR/logs/process_ID.log. When one
# fails the others are stopped. All start again, and go on from the last checkpoint, after status 85 (preempted, saved)
# or a signal. The processes of a lost one abort: of those that end at once, the highest status counts. SIGTERM and
# Ctrl-C are passed on, and the script waits for the save.
# Installs into .venv as launch/quickstart.sh does; PYTHON names an interpreter that has everything instead.
# Exit status: that of the run (0 done, 1 error, 75 out of time, 85 stopped; the last two go on with the same command),
# above 128 a crash, 2 not understood.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/options.sh
. launch/options.sh
# shellcheck source=launch/environment.sh
. launch/environment.sh

processes=2 devices='' port='' retries=3 grace=300 dry_run=''
read_options 'processes devices port retries grace' 'dry_run' "$@"
read_run
whole_number --processes "$processes" 1
whole_number --retries "$retries" 0
whole_number --grace "$grace" 0
[ -z "$devices" ] || whole_number --devices "$devices" 1
[ -z "$port" ] || whole_number --port "$port" 1

gpus=()
if [ "${JAX_PLATFORMS:-}" != cpu ]; then
  if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
    IFS=, read -r -a gpus <<<"$CUDA_VISIBLE_DEVICES"
  elif command -v nvidia-smi >/dev/null; then
    IFS=, read -r -a gpus <<<"$(nvidia-smi --query-gpu=index --format=csv,noheader | paste -sd, -)"
  fi
fi
if [ "${#gpus[@]}" -gt 0 ]; then
  [ -n "$devices" ] || [ $((${#gpus[@]} % processes)) -eq 0 ] ||
    usage "--processes $processes: ${#gpus[@]} GPUs are no equal shares for so many; give each a number with --devices"
  devices=${devices:-$((${#gpus[@]} / processes))}
  [ $((processes * devices)) -le "${#gpus[@]}" ] ||
    usage "--processes $processes, --devices $devices: there are ${#gpus[@]} GPUs; take fewer, or set JAX_PLATFORMS=cpu"
fi
devices=${devices:-1}

python=${PYTHON:-.venv/bin/python}
[ -n "${PYTHON:-}$dry_run" ] || environment requirements.txt

free_port() { # below those that systems give to outgoing connections
  local port=$((10000 + RANDOM % 20000))
  while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
  echo "$port"
}

compose() { # sets `command` to that of a process: its number, the port
  local settings
  if [ "${#gpus[@]}" -gt 0 ]; then
    settings=("CUDA_VISIBLE_DEVICES=$(IFS=, && echo "${gpus[*]:$1 * devices:devices}")")
  else
    settings=(JAX_PLATFORMS=cpu "XLA_FLAGS=${XLA_FLAGS:+$XLA_FLAGS }--xla_force_host_platform_device_count=$devices")
  fi
  command=(env "${settings[@]}" "$python" -m scemae_jax.main --coordinator "127.0.0.1:$2"
    --num_processes "$processes" --process_id "$1" "${run[@]}")
}

start() { # sets `pids`
  local id at=${port:-$(free_port)}
  pids=()
  for ((id = 0; id < processes; id++)); do
    compose "$id" "$at"
    if [ -n "$dry_run" ]; then
      quoted "${command[@]}"
    elif [ "$id" -eq 0 ]; then
      "${command[@]}" > >(tee -ia "$workdir/logs/process_0.log") 2>&1 &
      pids[id]=$!
    else
      "${command[@]}" >>"$workdir/logs/process_$id.log" 2>&1 &
      pids[id]=$!
    fi
  done
}

finish() { # waits for all processes; sets `status`: 0, or the highest of those that failed first
  local id ended failed='' deadline=''
  status=0
  while [ "${#pids[@]}" -gt 0 ]; do
    for id in "${!pids[@]}"; do
      if kill -0 "${pids[id]}" 2>/dev/null; then continue; fi
      ended=0
      wait "${pids[id]}" || ended=$?
      unset "pids[id]"
      [ "$ended" -eq 0 ] || echo "process $id ended with status $ended" >&2
      [ -n "$failed" ] || [ "$ended" -le "$status" ] || status=$ended
    done
    [ "$status" -eq 0 ] || failed=yes
    if [ "${#pids[@]}" -gt 0 ]; then
      if [ -z "$deadline" ] && [ -n "$stopping$failed" ]; then
        deadline=$((SECONDS + grace))
        # After 75 and 85 all are about to end, together.
        [ "$status" -eq 75 ] || [ "$status" -eq 85 ] || kill -TERM "${pids[@]}" 2>/dev/null || true
      elif [ -n "$deadline" ] && [ "$SECONDS" -ge "$deadline" ]; then
        kill -KILL "${pids[@]}" 2>/dev/null || true
      fi
      sleep 0.2 || true # Ctrl-C ends it
    fi
  done
}

if [ -n "$dry_run" ]; then start && exit; fi
mkdir -p "$workdir/logs"
stopping=''
trap 'stopping=yes' TERM INT HUP
for ((restart = 1; ; restart++)); do
  start
  finish
  [ "$status" -eq 85 ] || [ "$status" -gt 128 ] || exit "$status"
  [ -z "$stopping" ] && [ "$restart" -le "$retries" ] || exit "$status"
  echo "cut off with status $status: start again, $restart of at most $retries times" >&2
done
