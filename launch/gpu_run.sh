#!/usr/bin/env bash
# Trains on a folder of real faces on a bare GPU machine without a network, in one call, within a time limit.
#
#   bash launch/gpu_run.sh --data FOLDER --out DIR [--wheels DIR] [--minutes 55] [--sizes "t8 s8"] [--config FILE]
#
#   --data     a folder of faces with a landmarks.csv (see README.md)
#   --out      results go here, size by size, as soon as they are there: SIZE.results.json, SIZE.metrics.jsonl,
#              SIZE.report.html and the model, SIZE.msgpack, in parts of 15 MB (SIZE.msgpack.00, ...; join with cat)
#   --wheels   wheels of the packages that the machine lacks; installed into a folder of their own
#   --minutes  when to stop; divided over the sizes, most of it for stage 1
#   --sizes    of the config
#   --config   configs/ytf68.py, or another that takes a size
#   --work     workdirs and prepared data; the same folder again goes on where a run was cut off
#   --smoke    a minute on a CPU instead: a few steps of everything, to see that it works
# What stands after -- goes to every run: -- --config.data.synthetic_share=0
set -euo pipefail
cd "$(dirname "$0")/.."

data='' out='' wheels='' minutes=55 sizes='t8 s8' config=configs/ytf68.py work=/tmp/scemae_gpu smoke=''
while [ $# -gt 0 ]; do
  case $1 in
    --data | --out | --wheels | --minutes | --sizes | --config | --work)
      [ $# -ge 2 ] || { echo "$1 needs a value" >&2; exit 2; }
      declare "${1#--}=$2"
      shift 2
      ;;
    --smoke) smoke=yes && shift ;;
    --) shift && break ;;
    *) echo "not understood: $1 (the first lines of $0 say what is)" >&2; exit 2 ;;
  esac
done
[ -n "$data" ] && [ -n "$out" ] || { echo "--data and --out are needed (the first lines of $0 say more)" >&2; exit 2; }
[ -d "$data" ] || { echo "--data $data is not a folder" >&2; exit 2; }
mkdir -p "$out" "$work"
deadline=$(($(date +%s) + minutes * 60))

python=python3
if [ -n "$wheels" ]; then
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target "$work/site" "$wheels"/*.whl
  export PYTHONPATH=$work/site${PYTHONPATH:+:$PYTHONPATH}
elif [ -x .venv/bin/python ]; then
  python=.venv/bin/python
fi
export PYTHONUNBUFFERED=1
"$python" -c 'import jax; print("devices:", jax.devices())'

run() { # workdir, minutes, further arguments
  local workdir=$1 limit=$2
  shift 2
  "$python" -m scemae_jax.main --config "$config:$size" --workdir "$workdir" --stop_after_minutes "$limit" \
    --config.data.root="$data" --config.data.data_dir="$work/data" "$@"
}

# Steps of stage 1 that fit into so many seconds, from the last speed of a short run.
steps_for() { # metrics.jsonl, seconds
  "$python" - "$1" "$2" "$config" "$size" <<'PY'
import json, runpy, sys
path, seconds, config, size = sys.argv[1:]
speed = [json.loads(line)["images_per_second"] for line in open(path)][-1]
batch = runpy.run_path(config)["get_config"](size).pretrain.batch_size
print(max(100, int(float(seconds) * speed / batch)))
PY
}

collect() { # workdir
  for file in results.json metrics.jsonl; do
    [ ! -e "$1/$file" ] || cp "$1/$file" "$out/$size.$file"
  done
  [ ! -e "$1/report/index.html" ] || cp "$1/report/index.html" "$out/$size.report.html"
  [ ! -e "$1/export/scemae.msgpack" ] || split -b 15M -d "$1/export/scemae.msgpack" "$out/$size.msgpack."
}

status=0
left_sizes=$(wc -w <<<"$sizes")
for size in $sizes; do
  share=$(((deadline - $(date +%s)) / left_sizes))
  left_sizes=$((left_sizes - 1))
  if [ -n "$smoke" ]; then
    fixed=(--config.pretrain.steps=4 --config.pretrain.batch_size=8 --config.pretrain.log_every=2
      --config.refine.steps=3 --config.refine.batch_size=8 --config.match.max_pairs=2 --config.detect.steps=3
      --config.detect.heatmaps=2 --config.detect.stride=8 --config.report.examples=2 --config.data.variant=tiny)
  else
    if [ ! -e "$work/$size.steps" ]; then
      run "$work/$size.speed" 5 --config.stages="('pretrain',)" --config.pretrain.steps=300 \
        --config.pretrain.log_every=100 "$@"
      steps_for "$work/$size.speed/metrics.jsonl" $((share * 7 / 10)) >"$work/$size.steps"
    fi
    fixed=(--config.pretrain.steps="$(cat "$work/$size.steps")")
  fi
  echo "== $size: $((share / 60)) minutes, ${fixed[0]}"
  run "$work/$size" $((share / 60)) "${fixed[@]}" "$@" &
  training=$!
  while kill -0 "$training" 2>/dev/null; do
    sleep 5
    collect "$work/$size"
  done
  wait "$training" || status=$?
  collect "$work/$size"
done
exit "$status"
