#!/usr/bin/env bash
# Trains on a folder of real faces on a bare GPU machine without a network, in one call, within a time limit.
#
#   bash launch/gpu.sh --data FOLDER --out DIR [--wheels DIR] [--minutes 55] [--sizes "t8 s8"] [--suite]
#     [--config configs/ytf68.py] [--work /tmp/scemae_gpu] [--smoke] [-- ARGUMENTS]
#
#   --data     a folder of faces with a landmarks.csv (see README.md)
#   --out      results of each size: SIZE.results.json, SIZE.metrics.jsonl, SIZE.report.html and the model in parts of
#              15 MB, SIZE.msgpack.00, ... (join them with cat)
#   --wheels   wheels that the machine lacks, from `pip download -d DIR -c requirements.txt PACKAGE ...` on a machine of
#              the same Python and processor. No jaxlib: a CPU one hides the GPU
#   --minutes  when to stop; the sizes share what is left
#   --sizes    of the config, which takes a size
#   --suite    first measures agreement with the CPU, and speed: SIZE.benchmark.json
#   --work     workdirs and prepared data; the same folder again goes on where a run was cut off
#   --smoke    a few steps of everything on a CPU, to see that it works
#   ARGUMENTS  go to every run: -- --config.data.synthetic_share=0
#
# Runs with PYTHON, otherwise with .venv, or with python3 where there are --wheels or no .venv. The first steps of each
# size say whether it trains here, and how many steps of stage 1 fit into half of its time. A size that ends early leaves
# the model of its newest checkpoint. Exit status: 0 all done, 75 out of time (the same command goes on), 143 stopped by
# a signal, 2 wrong arguments, otherwise an error.
set -euo pipefail

usage() { echo "$1" >&2; exit 2; }
data='' out='' wheels='' minutes=55 sizes='' suite='' config=configs/ytf68.py work=/tmp/scemae_gpu smoke=''
while [ $# -gt 0 ]; do
  case $1 in
    --data | --out | --wheels | --minutes | --sizes | --config | --work)
      [ $# -ge 2 ] || usage "$1 needs a value"
      declare "${1#--}=$2" && shift 2 ;;
    --suite | --smoke) declare "${1#--}=yes" && shift ;;
    --) shift && break ;;
    *) usage "not understood: $1 (the first lines of $0 say what is; arguments of the runs follow after --)" ;;
  esac
done
[ -d "$data" ] || usage "--data '$data' is not a folder: name one of faces with a landmarks.csv (see README.md)"
[ -n "$out" ] || usage '--out is needed: the folder for the results'
[[ $minutes =~ ^[1-9][0-9]*$ ]] || usage "--minutes $minutes: give a whole number of at least 1"
arguments=("$@")
if [ -n "$smoke" ]; then
  work=$work/smoke sizes=${sizes:-tiny}
  arguments=(--config.pretrain.{steps=4,batch_size=8,log_every=2} --config.refine.{steps=3,batch_size=8}
    --config.match.max_pairs=2 --config.detect.{steps=3,heatmaps=2,stride=8} --config.report.examples=2
    --config.data.variant=tiny "$@")
fi
read -ra sizes <<<"${sizes:-t8 s8}"
mkdir -p "$out" "$work"
data=$(realpath "$data") out=$(realpath "$out") work=$(realpath "$work") wheels=${wheels:+$(realpath "$wheels")}
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
if [ -n "$wheels" ]; then
  "$python" -m pip install --quiet --no-index --no-deps --upgrade --target "$work/site" "$wheels"/*.whl
  export PYTHONPATH=$work/site${PYTHONPATH:+:$PYTHONPATH}
elif [ -z "${PYTHON:-}" ] && [ -x .venv/bin/python ]; then python=.venv/bin/python; fi
devices=$("$python" -c 'import jax; print(jax.default_backend(), jax.devices())') ||
  { echo "JAX does not start in $python: carry what the error above misses as --wheels" >&2; exit 1; }
[ -n "$smoke" ] || [[ $devices != cpu* ]] ||
  { echo "JAX finds no GPU: does nvidia-smi list one, does $python have jax[cuda12], and is JAX_PLATFORMS or" \
    "CUDA_VISIBLE_DEVICES set? On a CPU this takes --smoke" >&2; exit 1; }
echo "devices: $devices"

status=0 child='' size='' workdir=''
run() { # a command, which a signal to this script ends too
  local ended=0
  "$@" & child=$!
  wait "$child" || ended=$?
  child='' && return "$ended"
}
failed() { # what, its status: an error counts more than a lack of time
  echo "$size: $1 (status $2)" >&2
  [ "$status" -ne 0 ] && [ "$status" -ne 75 ] || status=$2
}
train() { # workdir, seconds, further arguments
  local folder=$1 limit && limit=$(printf '%d.%02d' $(($2 / 60)) $(($2 % 60 * 5 / 3))) && shift 2
  run "$python" -m scemae_jax.main --config "$config:$size" --workdir "$folder" --stop_after_minutes "$limit" \
    --config.data.root="$data" --config.data.data_dir="$work/data" "$@"
}
collect() { # what the current size has, to --out
  local name
  for name in results.json metrics.jsonl report/index.html; do
    [ ! -e "$workdir/$name" ] || cp "$workdir/$name" "$out/$size.${name/\/index/}"
  done
  [ ! -e "$workdir/export/scemae.msgpack" ] || {
    rm -f "$out/$size.msgpack."* && split -b 15M -d "$workdir/export/scemae.msgpack" "$out/$size.msgpack."
  }
}
trap '[ -z "$child" ] || { kill "$child" && wait "$child"; } 2>/dev/null; collect; exit 143' TERM INT HUP

if [ -n "$suite" ]; then
  for size in "${sizes[@]}"; do
    encoder=${size%8} && encoder=(--seconds=0.5 --encoder="${encoder^^}/8")
    [ -z "$smoke" ] || encoder=(--smoke)
    run timeout $((minutes * 60 - SECONDS)) "$python" -m benchmarks --suite agreement,pretrain,refine,input \
      --dtype=bfloat16 "${encoder[@]}" --output "$out/$size.benchmark.json" || failed 'the benchmark ended early' $?
  done
fi
left=${#sizes[@]}
for size in "${sizes[@]}"; do
  workdir=$work/$size share=$(((minutes * 60 - SECONDS) / left))
  stop=$((SECONDS + share * 9 / 10)) left=$((left - 1)) # the last tenth is for the export
  [ "$share" -gt 0 ] || { failed 'no time is left for it' 75; continue; }
  if [ ! -e "$workdir/checkpoints" ]; then # a run that goes on keeps its number of steps
    run "$python" -m scemae_jax.first_step --config "$config:$size" --config.data.root="$data" "${arguments[@]}" \
      >"$workdir.first" || { failed 'not even the first steps of training run' $?; continue; }
    cat "$workdir.first"
    awk -v time=$((share / 2)) '/ of pretrain / { n = int(time / $(NF - 3)); print (n > 100 ? n : 100) }' \
      "$workdir.first" >"$workdir.steps"
  fi
  settings=(--config.pretrain.steps="$(cat "$workdir.steps")" "${arguments[@]}") ended=0
  train "$workdir" $((stop > SECONDS ? stop - SECONDS : 0)) "${settings[@]}" || ended=$?
  if [ "$ended" -ne 0 ]; then
    failed 'ended before its last stage' "$ended"
    ! compgen -G "$workdir/checkpoints/*/[0-9]*" >/dev/null ||
      train "$workdir" $((share / 10)) "${settings[@]}" --config.stages="('export',)" ||
      failed 'its model could not be exported' $?
  fi
  collect
done
exit "$status"
