#!/usr/bin/env bash
# Everything that a GPU is needed for, on a bare GPU machine without a network, in one call, within a time limit:
# whether it computes what a CPU does, how fast it is, and training with the time that is left.
#
#   bash launch/gpu_suite.sh --data FOLDER --out DIR [--wheels DIR] [--minutes 10] [--sizes "t8 s8 b8"]
#     [--work /tmp/scemae_gpu] [--smoke] [-- ARGUMENTS]
#
#   --data     a folder of faces with a landmarks.csv (see README.md), to train on
#   --out      results go here as soon as they are there: agreement.json, SIZE.benchmark.json, a .log of each, and
#              what gpu_run.sh leaves; those of --smoke have names of their own
#   --wheels   wheels of the packages that the machine lacks (see gpu_run.sh)
#   --minutes  when to stop; training gets what the rest leaves
#   --sizes    networks to measure; the first two are trained
#   --work     workdirs and prepared data; the same folder again goes on where a run was cut off
#   --smoke    a few minutes on a CPU instead: all of it at tiny sizes, to see that it works
# ARGUMENTS go to the training: -- --config.data.synthetic_share=0
#
# The same command again skips what is done. PyTorch is measured beside where torch and transformers are installed.
# Inputs are measured with half of the cores as processes that decode images. The interpreter is as in gpu_run.sh.
# Exit status: 0 all done, 75 out of time (the same command goes on), 143 stopped by a signal, 2 not understood,
# otherwise an error.
set -euo pipefail
# shellcheck source=launch/bare_gpu.sh
. "$(dirname "$0")/bare_gpu.sh"

data='' out='' wheels='' minutes=10 sizes='t8 s8 b8' work=/tmp/scemae_gpu smoke=''
read_options 'data out wheels minutes sizes work' 'smoke' "$@"
read_sizes
for size in "${networks[@]}"; do
  case $size in t8 | s8 | b8) ;; *) usage "--sizes has $size: choose of t8 s8 b8" ;; esac
done
set_up
trap 'end_running; exit 143' TERM INT HUP
peer=()
if "$python" -c 'import torch, transformers' 2>/dev/null; then
  peer=(--peer=torch)
  [ -n "$smoke" ] || peer+=(--compile)
fi

# Calls the benchmark, which skips the suites that its results have, and prints them all the same.
measure() { # name of the results, flags of the benchmark
  local name=$1 seconds=$((minutes * 60 - SECONDS)) ended=0 && shift
  local limit=(timeout "$seconds")
  if [ -n "$smoke" ]; then
    limit=(env)
  elif [ "$seconds" -le 0 ]; then
    failed 75 "$name: no time is left for it"
    return
  fi
  echo "== $name: $seconds seconds are left"
  "${limit[@]}" "$python" -m benchmarks --output "$out/$name.json" "$@" >"$out/$name.log" 2>&1 &
  running=$!
  wait "$running" || ended=$?
  running=''
  cat "$out/$name.log"
  [ "$ended" -ne 124 ] || ended=75 # out of time
  [ "$ended" -eq 0 ] || failed "$ended" "$name: what it has, and its log, are in $out"
}

workers=0 agreement=agreement
if [ -n "$smoke" ]; then
  networks=(smoke) agreement=smoke.agreement
  for_size() { echo --smoke; }
else
  workers=$(($(nproc) / 2)) && [ "$workers" -le 16 ] || workers=16
  for_size() { echo --encoder="${1^^}" | sed 's|8$|/8|'; }
fi
measure "$agreement" "$(for_size "${networks[0]}")" --suite=agreement
for size in "${networks[@]}"; do
  measure "$size.benchmark" "$(for_size "$size")" --dtype=bfloat16 --seconds=0.5 --workers="$workers" "${peer[@]}" \
    --suite=pretrain,refine,cluster,input
done

seconds=$((minutes * 60 - SECONDS))
training=(bash launch/gpu_run.sh --data "$data" --out "$out" --work "$work")
if [ -n "$smoke" ]; then
  training+=(--smoke --sizes tiny)
elif [ "$seconds" -lt 120 ]; then
  failed 75 'training: less than two minutes are left'
  exit "$status"
else
  training+=(--minutes $((seconds / 60)) --sizes "${networks[*]:0:2}")
fi
ended=0
"${training[@]}" -- "${run[@]}" &
running=$!
wait "$running" || ended=$?
[ "$ended" -eq 0 ] || failed "$ended" 'training: ended early'
exit "$status"
