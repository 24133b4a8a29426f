#!/usr/bin/env bash
# Everything that a GPU is needed for, on a bare GPU machine without a network, in one call, within a time limit:
# whether it computes what a CPU does, how fast it is, where the time goes, and training with the time that is left.
#
#   bash launch/gpu_suite.sh --data FOLDER --out DIR [--wheels DIR] [--minutes 10] [--sizes "t8 s8 b8"]
#     [--work /tmp/scemae_gpu] [--smoke] [-- ARGUMENTS]
#
#   --data     a folder of faces with a landmarks.csv (see README.md), to train on
#   --out      results go here as soon as they are there: agreement.json, SIZE.benchmark.json, SIZE.clustering.png,
#              SIZE.profile.json, a .log of each, and what gpu_run.sh leaves
#   --wheels   wheels of the packages that the machine lacks (see gpu_run.sh)
#   --minutes  when to stop; training gets what the rest leaves
#   --sizes    networks to measure; the first two are trained
#   --work     workdirs and prepared data; the same folder again goes on where a run was cut off
#   --smoke    a few minutes on a CPU instead: all of it at tiny sizes, to see that it works
# ARGUMENTS go to the training: -- --config.data.synthetic_share=0
#
# The same command again skips what is done. PyTorch is measured beside where torch and transformers are installed.
# Exit status: 0 all done, 75 out of time (the same command goes on), 143 stopped by a signal, 2 not understood,
# otherwise an error.
set -euo pipefail
# shellcheck source=launch/bare_gpu.sh
. "$(dirname "$0")/bare_gpu.sh"

data='' out='' wheels='' minutes=10 sizes='t8 s8 b8' work=/tmp/scemae_gpu smoke=''
read_options 'data out wheels minutes sizes work' 'smoke' "$@"
for size in $sizes; do
  case $size in t8 | s8 | b8) ;; *) usage "--sizes has $size: choose of t8 s8 b8" ;; esac
done
set_up
trap 'end_running; exit 143' TERM INT HUP
peer=()
if "$python" -c 'import torch, transformers' 2>/dev/null; then
  peer=(--peer=torch)
  [ -n "$smoke" ] || peer+=(--compile)
fi

left() { echo $((minutes * 60 - SECONDS)); }

measure() { # name of the results, flags of the benchmark
  local name=$1 ended=0 && shift
  if grep -q '"finished": true' "$out/$name.json" 2>/dev/null; then
    echo "== $name: done before"
    ! grep -q '"passed": false' "$out/$name.json" || failed 1 "$name: it found a disagreement"
    return
  fi
  [ -n "$smoke" ] || [ "$(left)" -gt 0 ] || { failed 75 "$name: no time is left for it"; return; }
  echo "== $name: $(left) seconds are left"
  local limit=(timeout "$(left)")
  [ -z "$smoke" ] || limit=(env)
  "${limit[@]}" "$python" -m scemae_jax.benchmark --output "$out/$name.json" "$@" >"$out/$name.log" 2>&1 &
  running=$!
  wait "$running" || ended=$?
  running=''
  cat "$out/$name.log"
  [ "$ended" -ne 124 ] || ended=75 # out of time
  [ "$ended" -eq 0 ] || failed "$ended" "$name: ended early; what it has is in $out"
}

if [ -n "$smoke" ]; then
  sizes=smoke
  for_size() { echo --smoke; }
else
  for_size() { echo --encoder="${1^^}" | sed 's|8$|/8|'; }
fi
measure agreement "$(for_size "${sizes%% *}")" --suite=agreement
for size in $sizes; do
  measure "$size.benchmark" "$(for_size "$size")" --dtype=bfloat16 --seconds=0.5 "${peer[@]}" \
    --suite=pretrain,refine,features,cluster,input --plot="$out/$size.clustering.png"
done
for size in $sizes; do
  measure "$size.profile" "$(for_size "$size")" --dtype=bfloat16 --suite=profile
done

training=(bash launch/gpu_run.sh --data "$data" --out "$out" --work "$work")
if [ -n "$smoke" ]; then
  training+=(--smoke --sizes tiny)
elif [ "$(left)" -lt 120 ]; then
  failed 75 "training: $(left) seconds are left, less than two minutes"
  exit "$status"
else
  training+=(--minutes $(($(left) / 60)) --sizes "$(cut -d' ' -f1,2 <<<"$sizes")")
fi
ended=0
"${training[@]}" -- "${run[@]}" &
running=$!
wait "$running" || ended=$?
[ "$ended" -eq 0 ] || failed "$ended" 'training: ended early'
exit "$status"
