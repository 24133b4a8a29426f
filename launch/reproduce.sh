#!/usr/bin/env bash
# From raw CelebA to Tables 1 to 4 of the paper, in order, with the paper's numbers beside ours at the end.
#
#   bash launch/reproduce.sh [--backbone s8] [--data data] [--runs runs/paper] [--dry-run] [--smoke]
#
#   --backbone  t8, s8 or b8: DeiT-T, -S or -B
#   --data      the datasets' archives or trees; `python -m scemae_jax.prepare` says which they are, and fetches them
#               with --download. The rows of an absent dataset say so; without CelebA nothing is trained
#   --runs      prepared datasets, runs and tables; the same folder again goes on where it was cut off
#   --dry-run   print every command and the hours it may take (estimates for one GPU), and run nothing
#   --smoke     a tiny network through everything, minutes on a CPU, to see that it works; give it other --runs
#
# Installs into .venv. A step that fails leaves "not run" in its row, and the next one begins. Ends with RUNS/tables.md
# and RUNS/tables.csv. Exit status: 0 all done, 1 a step failed (the same command tries it again), 2 wrong arguments.
# MAFL's features take 45 GB with t8, four times that with b8: beyond config.detect.memory_gib (32) they are computed
# anew for every batch.
set -euo pipefail

usage() { echo "$1" >&2; exit 2; }
backbone=s8 data=data runs=runs/paper dry_run='' smoke=''
while [ $# -gt 0 ]; do
  case $1 in
    --backbone | --data | --runs)
      [ $# -ge 2 ] || usage "$1 needs a value"
      declare "${1#--}=$2" && shift 2 ;;
    --dry-run) dry_run=yes && shift ;;
    --smoke) smoke=yes && shift ;;
    *) usage "not understood: $1 (the first lines of $0 say what is)" ;;
  esac
done
case $backbone in # hours of stages 1 and 2, of matching and detection, of few annotations
  t8) train=4 detect=0.5 few=3 ;;
  s8) train=5 detect=1 few=3 ;;
  b8) train=7 detect=2 few=4 ;;
  *) usage "--backbone $backbone: choose t8, s8 or b8" ;;
esac
[ -n "$dry_run" ] || [ -d "$data" ] || usage "--data $data is not a folder: name the one that holds the datasets"
absolute() { # one spelling a folder: paths are part of what a run goes on from
  if [ -d "$1" ]; then (cd "$1" && pwd -P); elif [[ $1 == /* ]]; then echo "$1"; else echo "$PWD/$1"; fi
}
[ -n "$dry_run" ] || mkdir -p "$runs"
data=$(absolute "$data") runs=$(absolute "$runs")
cd "$(dirname "$0")/.."
python=.venv/bin/python
if [ -z "$dry_run" ] && { [ -z "$smoke" ] || [ ! -x "$python" ]; }; then # a smoke run takes .venv as it is
  # shellcheck source=launch/environment.sh
  . launch/environment.sh
  environment requirements.txt
fi
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$runs/compiled} # what one step compiles serves the next
[ -z "$smoke" ] || export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.1
datasets='celeba_landmarks mafl aflw_m aflw_r three_hundred_w' present=$datasets
[ ! -x "$python" ] || present=$("$python" -c 'import sys, pathlib; from scemae_jax.systems.sce_mae import paper
print(*paper.present(*map(pathlib.Path, sys.argv[1:])))' "$data" "$runs/prepared") # before .venv is made: not looked for

status=0
step() { # hours, the datasets it needs, what it does, the command
  local absent='' dataset
  for dataset in $2; do [[ " $present " == *" $dataset "* ]] || absent=$dataset; done
  printf '\n== %s (%s)\n' "$3" "${smoke:+smoke; }estimate: $1 h"
  [ -z "$absent" ] || echo "skipped: $absent was not found in $data"
  if [ -z "$absent" ] || [ -n "$dry_run" ]; then printf '%q ' "${@:4}" && echo; fi
  [ -n "$absent$dry_run" ] || "${@:4}" || { echo "$0: '$3' ended with status $?" >&2 && status=1; }
}
from=(--config.data.root="$data" --config.data.data_dir="$runs/prepared")
training=("${from[@]}") sweep=("${from[@]}") evaluation=("${from[@]}") # never empty: macOS's bash takes that for unset
if [ -n "$smoke" ]; then
  network=(--config.dtype=float32 --config.model.{encoder=XXS/8,decoder_width=32,decoder_depth=1,decoder_heads=2}
    --config.match.stride=8)
  sweep+=("${network[@]}" --config.refine.{steps=3,batch_size=8})
  training=("${sweep[@]}" --config.pretrain.{steps=4,batch_size=8,log_every=2})
  evaluation+=("${network[@]}" --config.match.random_pairings=2 --config.detect.{stride=8,heatmaps=2,steps=3}
    '--config.few_shot.counts=(1,5)' --config.few_shot.{seeds=2,stride=8,heatmaps=2,views=8,steps=3}
    --config.few_shot.scratch.{views=8,steps=3})
fi
model=$runs/celeba_$backbone/export/scemae.msgpack celeba=celeba_landmarks
[ ! -e "$model" ] || celeba='' # what came of it is all that the others need

for dataset in $datasets; do
  step 0.5 "$dataset" "prepare $dataset, and verify it" "$python" -m scemae_jax.prepare --dataset "$dataset" \
    --manual_dir "$data" --data_dir "$runs/prepared"
done
step $train celeba_landmarks 'stages 1 and 2 on CelebA' "$python" -m scemae_jax.main \
  --config "configs/celeba.py:$backbone" --workdir "$runs/celeba_$backbone" \
  "--config.stages=('pretrain','refine','export')" "${training[@]}"
measure() { # hours, dataset, the tables, further arguments
  step "$1" "$2 $celeba" "$3" "$python" -m scemae_jax.main --config "configs/evaluation.py:$backbone,$2" \
    --workdir "$runs/$2_$backbone" --config.init="$model" "${evaluation[@]}" "${@:4}"
}
measure "$detect" mafl 'Tables 1 and 2, matching and detection on MAFL'
measure "$few" aflw_m 'Table 3, detection on AFLW_M from few annotations' "--config.stages=('few_shot',)"
measure "$detect" aflw_m 'Table 2, detection on AFLW_M' # in the same workdir
measure "$detect" aflw_r 'Table 2, detection on AFLW_R'
measure "$detect" three_hundred_w 'Table 2, detection on 300-W'
step 1 "mafl $celeba" 'Table 4, the ablation on MAFL' "$python" -m scemae_jax.sweep \
  --config "configs/ablation.py:$backbone" --sweep configs/sweeps/table4.py --workdir "$runs/table4_$backbone" \
  --config.init="$model" "${sweep[@]}"
step 0.01 '' 'the tables' "$python" -m scemae_jax.systems.sce_mae.paper --runs "$runs" --backbone "$backbone" --data "$data"
exit "$status"
