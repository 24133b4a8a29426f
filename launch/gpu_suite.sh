#!/usr/bin/env bash
# Everything that a GPU is needed for, on a bare GPU machine without a network, in one call, within a time limit:
# whether it computes what a CPU does, how fast it is, where the time goes, and training with the time that is left.
#
#   bash launch/gpu_suite.sh --data FOLDER --out DIR [--wheels DIR] [--minutes 10] [--sizes "t8 s8 b8"]
#
#   --data     a folder of faces with a landmarks.csv (see README.md), to train on
#   --out      results go here as soon as they are there: agreement.json, SIZE.benchmark.json, SIZE.clustering.png,
#              SIZE.profile.json, a .log of each, and what gpu_run.sh leaves
#   --wheels   wheels of the packages that the machine lacks (see gpu_run.sh)
#   --minutes  when to stop; training gets what the rest leaves
#   --sizes    networks to measure; the first two are trained
#   --work     workdirs and prepared data; the same folder again goes on where a run was cut off
#   --smoke    a few minutes on a CPU instead: all of it at tiny sizes, to see that it works
# What stands after -- goes to the training: -- --config.data.synthetic_share=0
#
# The same command again skips what is done. PyTorch is measured beside where torch and transformers are installed.
# Exit status: 0 all done, 75 out of time (the same command goes on), 143 stopped by a signal, otherwise an error.
set -euo pipefail

data='' out='' wheels='' minutes=10 sizes='t8 s8 b8' work=/tmp/scemae_gpu smoke=''
while [ $# -gt 0 ]; do
  case $1 in
    --data | --out | --wheels | --work | --minutes | --sizes)
      [ $# -ge 2 ] || { echo "$1 needs a value" >&2; exit 2; }
      declare "${1#--}=$2" && shift 2 ;;
    --smoke) smoke=yes && shift ;;
    --) shift && break ;;
    *) echo "not understood: $1 (the first lines of $0 say what is)" >&2; exit 2 ;;
  esac
done
[ -n "$out" ] || { echo "--data and --out are needed (the first lines of $0 say more)" >&2; exit 2; }
[ -d "$data" ] || { echo "--data $data is not a folder" >&2; exit 2; }
[[ $minutes =~ ^[1-9][0-9]*$ ]] || { echo "--minutes $minutes is not a whole number above 0" >&2; exit 2; }
for size in $sizes; do
  case $size in t8 | s8 | b8) ;; *) echo "--sizes has $size: choose of t8 s8 b8" >&2; exit 2 ;; esac
done
[ -z "$wheels" ] || wheels=$(cd "$wheels" && pwd -P)
mkdir -p "$out" "$work"
data=$(cd "$data" && pwd -P) out=$(cd "$out" && pwd -P) work=$(cd "$work" && pwd -P)
cd "$(dirname "$0")/.."
python=python3
if [ -n "$wheels" ]; then
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target "$work/site" "$wheels"/*.whl
  export PYTHONPATH=$work/site${PYTHONPATH:+:$PYTHONPATH} # gpu_run.sh finds them too
elif [ -x .venv/bin/python ]; then python=.venv/bin/python; fi
export PYTHONUNBUFFERED=1
devices=$("$python" -c 'import jax; print(jax.default_backend(), jax.devices())')
echo "devices: $devices"
if [ -z "$smoke" ] && [[ $devices == cpu* ]]; then
  echo "JAX finds no GPU (a CPU jaxlib among the wheels may hide the GPU one); to try the script on a CPU: --smoke" >&2
  exit 1
fi
peer=()
if "$python" -c 'import torch, transformers' 2>/dev/null; then
  peer=(--peer=torch)
  [ -n "$smoke" ] || peer+=(--compile)
fi

status=0 running=''
failed() { # exit status, what happened; an error counts more than a lack of time
  echo "$2 (status $1)" >&2
  [ "$status" -ne 0 ] && [ "$status" -ne 75 ] || status=$1
}

# shellcheck disable=SC2317,SC2329 # a trap calls it
stop() {
  trap '' TERM INT HUP
  [ -z "$running" ] || { kill "$running"; wait "$running"; } 2>/dev/null || true
  exit 143
}
trap stop TERM INT HUP

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
"${training[@]}" -- "$@" &
running=$!
wait "$running" || ended=$?
[ "$ended" -eq 0 ] || failed "$ended" 'training: ended early'
exit "$status"
