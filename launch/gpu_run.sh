#!/usr/bin/env bash
# Trains on a folder of real faces on a bare GPU machine without a network, in one call, within a time limit.
#
#   bash launch/gpu_run.sh --data FOLDER --out DIR [--wheels DIR] [--minutes 55] [--sizes "t8 s8"]
#     [--config configs/ytf68.py] [--work /tmp/scemae_gpu] [--smoke] [-- ARGUMENTS]
#
#   --data     a folder of faces with a landmarks.csv (see README.md)
#   --out      results go here, size by size, as soon as they are there: SIZE.results.json, SIZE.metrics.jsonl,
#              SIZE.report.html and the model, SIZE.msgpack, in parts of 15 MB (SIZE.msgpack.00, ...; join with cat)
#   --wheels   wheels of the packages that the machine lacks; installed into a folder of their own
#   --minutes  when to stop; divided over the sizes, most of it for stage 1
#   --sizes    of the config
#   --config   one that takes a size; its path is relative to the project
#   --work     workdirs and prepared data; the same folder again goes on where a run was cut off
#   --smoke    a few minutes on a CPU instead: a few steps of everything, to see that it works
# ARGUMENTS go to every run: -- --config.data.synthetic_share=0
#
# Wheels to carry: those of requirements.txt that the machine lacks; where JAX and Flax are installed, these are
# tensorflow-datasets, array_record, grain, ml-collections, clu, jaxtyping and what they need. Leave jax and jaxlib out:
# a CPU jaxlib would hide the GPU one. Fetch them on a machine of the same Python and processor, in the pinned versions:
#   pip download --no-deps --only-binary=:all: -d DIR --constraint requirements.txt PACKAGE ...
#   pip wheel --no-deps -w DIR --constraint requirements.txt promise     (it comes as source only)
# Runs with python3 where there are --wheels, otherwise with .venv where that is made; PYTHON names another interpreter.
# Before anything long, one real step of each stage is taken: batch, precision and gradients are the config's.
# A size that ends early leaves the model of its newest checkpoint all the same. Exit status: 0 all done, 75 out of time
# (the same command goes on), 143 stopped by a signal, 2 not understood, otherwise an error.
set -euo pipefail
# shellcheck source=launch/bare_gpu.sh
. "$(dirname "$0")/bare_gpu.sh"

tail_share=30 # percent of a size's time that stage 1 leaves to refine, match, detect, report and export
home_share=10 # percent of it, the last, in which nothing trains: to bring home the model of a run that was stopped
data='' out='' wheels='' minutes=55 sizes='t8 s8' config=configs/ytf68.py work=/tmp/scemae_gpu smoke=''
read_options 'data out wheels minutes sizes config work' 'smoke' "$@"
read_sizes
set_up

collect() { # what the current size has so far, to --out
  local from
  for from in "$workdir" "$workdir.home"; do
    [ ! -e "$from/results.json" ] || cp "$from/results.json" "$out/$size.results.json"
    [ ! -e "$from/metrics.jsonl" ] || cp "$from/metrics.jsonl" "$out/$size.metrics.jsonl"
    [ ! -e "$from/report/index.html" ] || cp "$from/report/index.html" "$out/$size.report.html"
    [ -e "$from/export/scemae.msgpack" ] || continue
    rm -f "$out/$size.msgpack."*
    split -b 15M -d "$from/export/scemae.msgpack" "$out/$size.msgpack."
  done
}

train() { # workdir, seconds, further arguments; returns the exit status of the run
  local folder=$1 seconds=$(($2 > 0 ? $2 : 0)) ended=0 limit
  limit=$(printf '%d.%02d' $((seconds / 60)) $((seconds % 60 * 100 / 60))) && shift 2
  "$python" -m scemae_jax.main --config "$config:$size" --workdir "$folder" --stop_after_minutes "$limit" \
    --config.data.root="$data" --config.data.data_dir="$work/data" "$@" &
  running=$!
  while kill -0 "$running" 2>/dev/null; do # not `wait` alone: results are to be seen while it runs
    sleep 2
    collect
  done
  wait "$running" || ended=$?
  running='' && collect
  return "$ended"
}

# One step of stages 1 and 2 as the config has them, on noise: what this GPU cannot run shows itself in a minute.
first_step() {
  "$python" -m scemae_jax.first_step --config "$config:$size" --config.data.root="$data" "$@" &
  running=$! # so that a signal ends it
  local ended=0
  wait "$running" || ended=$?
  running=''
  return "$ended"
}

has_checkpoint() { compgen -G "$workdir/checkpoints/*/[0-9]*" >/dev/null; }

# Writes how many steps of stage 1 fit into the size's time, from the speed of a short run, to SIZE.steps.
plan_steps() { # seconds for the short run
  local seconds=$1 speed=$work/$size.speed steps
  rm -rf "$speed" "$workdir" "$work/$size.steps" # no checkpoint is there, but perhaps the config of another plan
  # The first prepares the data, so that it is not timed.
  train "$speed" "$seconds" "${run[@]}" --dry_run || [ $? -eq 75 ] || return 1
  train "$speed" "$seconds" "${run[@]}" --config.stages="('pretrain',)" --config.pretrain.steps=300 \
    --config.pretrain.log_every=100 || [ $? -eq 75 ] || return 1 # out of time: its speed is known all the same
  steps=$("$python" - "$speed" $((size_ends - SECONDS - share * tail_share / 100)) <<'PY'
import json, pathlib, sys
workdir, seconds = pathlib.Path(sys.argv[1]), float(sys.argv[2])
speed = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])["images_per_second"]
print(max(100, int(seconds * speed / json.loads((workdir / "config.json").read_text())["pretrain"]["batch_size"])))
PY
  ) || return 1
  echo "$plan" >"$work/$size.plan"
  echo "$steps" >"$work/$size.steps.partial" && mv "$work/$size.steps.partial" "$work/$size.steps"
}

# Measures and exports the newest checkpoint, in a workdir beside the run's, which can go on as if nothing had been.
bring_home() {
  local home=$workdir.home && mkdir "$home"
  ln -s "$workdir/checkpoints" "$workdir/detectors" "$home"
  cp "$workdir/config.json" "$home"
  [ ! -e "$workdir/results.json" ] || cp "$workdir/results.json" "$home"
  train "$home" $((size_ends - SECONDS)) "${fixed[@]}" "${run[@]}" --config.stages="('match','export')" ||
    # without annotated faces, say
    train "$home" $((size_ends - SECONDS)) "${fixed[@]}" "${run[@]}" --config.stages="('export',)"
}

workdir='' left_sizes=${#networks[@]}
trap 'end_running; [ -z "$workdir" ] || collect; exit 143' TERM INT HUP
for size in "${networks[@]}"; do
  share=$(((minutes * 60 - SECONDS) / left_sizes))
  size_ends=$((SECONDS + share)) left_sizes=$((left_sizes - 1))
  [ -n "$smoke" ] || [ "$share" -gt 0 ] || { failed 75 "$size: no time is left for it"; continue; }
  workdir=$work/${smoke:+smoke-}$size fixed=()
  rm -rf "$workdir.home"
  if [ -n "$smoke" ]; then
    rm -rf "$workdir"
    fixed=(--config.pretrain.steps=4 --config.pretrain.batch_size=8 --config.pretrain.log_every=2
      --config.refine.steps=3 --config.refine.batch_size=8 --config.match.max_pairs=2 --config.detect.steps=3
      --config.detect.heatmaps=2 --config.detect.stride=8 --config.report.examples=2 --config.data.variant=tiny)
  fi
  if ! has_checkpoint; then # otherwise it has trained here
    first_step "${fixed[@]}" "${run[@]}" || { failed "$?" "$size: not even one step of training runs"; continue; }
  fi
  if [ -z "$smoke" ]; then
    plan="$minutes ${networks[*]} $config $data ${run[*]}"
    if ! has_checkpoint && { [ ! -e "$work/$size.steps" ] || [ "$(cat "$work/$size.plan")" != "$plan" ]; }; then
      plan_steps $((share < 1500 ? share / 5 : 300)) || { failed 1 "$size: its speed could not be measured"; continue; }
    fi
    fixed=(--config.pretrain.steps="$(cat "$work/$size.steps")")
  fi
  echo "== $size: $(((size_ends - SECONDS) / 60)) minutes, ${fixed[0]}"
  ended=0
  train "$workdir" $((size_ends - SECONDS - share * home_share / 100)) "${fixed[@]}" "${run[@]}" || ended=$?
  if [ "$ended" -ne 0 ]; then
    failed "$ended" "$size: ended before its last stage"
    if has_checkpoint && [ ! -e "$workdir/export" ]; then
      bring_home || failed "$?" "$size: its model could not be exported"
    fi
  fi
done
exit "$status"
