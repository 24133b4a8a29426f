#!/usr/bin/env bash
# Trains on a folder of real faces on a bare GPU machine without a network, in one call, within a time limit.
#
#   bash launch/gpu.sh --data FOLDER --out DIR [--size s8] [--minutes 55] [--suite] [--wheels DIR]
#     [--config configs/ytf68.py] [--work /tmp/scemae_gpu] [--smoke] [-- ARGUMENTS]
#
#   --data     a folder of faces with a landmarks.csv (see README.md)
#   --out      results: SIZE.results.json, SIZE.metrics.jsonl, SIZE.report.html, and the model in parts of 15 MB,
#              SIZE.msgpack.00, ... (join them with cat)
#   --size     of the config: t8 or s8
#   --minutes  when to stop
#   --suite    first measures agreement with the CPU, and speed: SIZE.benchmark.json
#   --wheels   wheels that the machine lacks, from `pip download -d DIR -c requirements.txt PACKAGE ...` on a machine of
#              the same Python and processor. No jaxlib: a CPU one hides the GPU
#   --work     workdir and prepared data; the same folder again goes on where a run was cut off
#   --smoke    a few steps of everything on a CPU, to see that it works
#   ARGUMENTS  go to the run: -- --config.data.synthetic_share=0
#
# Runs with PYTHON, otherwise with .venv, or with python3 where there are --wheels or no .venv. The first steps say whether
# it trains here, and how many steps of stage 1 fit into half of the time. A run that ends early leaves the model of its
# newest checkpoint. Exit status: 0 done, 75 out of time (the same command goes on), 143 stopped by a signal, 2 wrong
# arguments, otherwise an error.
set -euo pipefail

fail() { echo "$2" >&2; exit "$1"; }
data='' out='' size='' minutes=55 suite='' wheels='' config=configs/ytf68.py work=/tmp/scemae_gpu smoke=''
while [ $# -gt 0 ]; do
  case $1 in
    --data | --out | --size | --minutes | --wheels | --config | --work)
      [ $# -ge 2 ] || fail 2 "$1 needs a value"
      declare "${1#--}=$2" && shift 2 ;;
    --suite | --smoke) declare "${1#--}=yes" && shift ;;
    --) shift && break ;;
    *) fail 2 "not understood: $1 (the first lines of $0 say what is; arguments of the run follow after --)" ;;
  esac
done
[ -d "$data" ] || fail 2 "--data '$data' is not a folder: name one of faces with a landmarks.csv (see README.md)"
[ -n "$out" ] || fail 2 '--out is needed: the folder for the results'
[[ $minutes =~ ^[1-9][0-9]*$ ]] || fail 2 "--minutes $minutes: give a whole number of at least 1"
arguments=("$@")
if [ -n "$smoke" ]; then
  work=$work/smoke size=${size:-tiny} benchmark=(--smoke)
  arguments=(--config.pretrain.{steps=4,batch_size=8,log_every=2} --config.refine.{steps=3,batch_size=8}
    --config.match.max_pairs=2 --config.detect.{steps=3,heatmaps=2,stride=8} --config.report.examples=2
    --config.data.variant=tiny "$@")
else
  size=${size:-s8} && encoder=${size%8} && benchmark=(--seconds=0.5 --dtype=bfloat16 --encoder="${encoder^^}/8")
fi
mkdir -p "$out" "$work"
data=$(realpath "$data") out=$(realpath "$out") work=$(realpath "$work") wheels=${wheels:+$(realpath "$wheels")}
cd "$(dirname "$0")/.."
python=${PYTHON:-python3} workdir=$work/$size
if [ -n "$wheels" ]; then
  "$python" -m pip install --quiet --no-index --no-deps --upgrade --target "$work/site" "$wheels"/*.whl
  export PYTHONPATH=$work/site${PYTHONPATH:+:$PYTHONPATH}
elif [ -z "${PYTHON:-}" ] && [ -x .venv/bin/python ]; then python=.venv/bin/python; fi
devices=$("$python" -c 'import jax; print(jax.default_backend(), jax.devices())') ||
  fail 1 "JAX does not start in $python: carry what the error above misses as --wheels"
[ -n "$smoke" ] || [[ $devices != cpu* ]] ||
  fail 1 "JAX finds no GPU: does nvidia-smi list one, does $python have jax[cuda12], and is JAX_PLATFORMS or
CUDA_VISIBLE_DEVICES set? On a CPU this takes --smoke"
echo "devices: $devices"

child=''
run() { # a command, which a signal to this script ends too
  local ended=0
  "$@" & child=$!
  wait "$child" || ended=$?
  child='' && return "$ended"
}
train() { # when to stop, in seconds since this script started; further arguments
  local left=$(($1 > SECONDS ? $1 - SECONDS : 0)) && shift
  run "$python" -m scemae_jax.main --config "$config:$size" --workdir "$workdir" --config.data.root="$data" \
    --config.data.data_dir="$work/data" --stop_after_minutes "$((left / 60)).$(printf %02d $((left % 60 * 5 / 3)))" \
    --config.pretrain.steps="$(cat "$workdir.steps")" "${arguments[@]}" "$@"
}
collect() { # what there is, to --out
  local name
  for name in results.json metrics.jsonl report/index.html; do
    [ ! -e "$workdir/$name" ] || cp "$workdir/$name" "$out/$size.${name/\/index/}"
  done
  [ ! -e "$workdir/export/scemae.msgpack" ] || {
    rm -f "$out/$size.msgpack."* && split -b 15M -d "$workdir/export/scemae.msgpack" "$out/$size.msgpack."
  }
}
trap '[ -z "$child" ] || { kill "$child" && wait "$child"; } 2>/dev/null; collect; exit 143' TERM INT HUP

status=0 ended=0
[ -z "$suite" ] || run timeout $((minutes * 60)) "$python" -m benchmarks --suite agreement,pretrain,refine,input \
  "${benchmark[@]}" --output "$out/$size.benchmark.json" || { status=$? && echo "the benchmark failed ($status)" >&2; }
if [ ! -e "$workdir/checkpoints" ]; then # a run that goes on keeps its number of steps
  run "$python" -m scemae_jax.first_step --config "$config:$size" --config.data.root="$data" "${arguments[@]}" \
    >"$workdir.first" || fail 1 'not even the first steps of training run'
  cat "$workdir.first"
  awk -v time=$((minutes * 30)) '/ of pretrain / { n = int(time / $(NF - 3)); print (n > 100 ? n : 100) }' \
    "$workdir.first" >"$workdir.steps"
fi
train $((minutes * 54)) || ended=$? # the last tenth of the time is for the export
if [ "$ended" -ne 0 ] && compgen -G "$workdir/checkpoints/*/[0-9]*" >/dev/null; then
  train $((minutes * 60)) --config.stages="('export',)" || echo "the model could not be exported (status $?)" >&2
fi
collect
exit $((ended ? ended : status))
