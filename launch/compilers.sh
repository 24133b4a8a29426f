#!/usr/bin/env bash
# What the compilers for TPUs and for NVIDIA GPUs say of training, without a TPU or a GPU: installs both into
# .venv-compilers (5 GB) and runs their tests, ten minutes or more on two cores. Where one of the two cannot be
# installed, the other's tests run all the same.
#   bash launch/compilers.sh [--sizes "xxs8 t8 s8 b8"] [--tables]
#
#   --sizes    networks that are compiled for GPUs (xxs8 is a tiny one); for TPUs the tiny one
#   --tables   compiles also what docs/scaling.json lacks (hours for TPUs), and writes the table of docs/scaling.md;
#              needs both compilers
# Exit status: 0 where all tests of at least one compiler passed and none failed, 2 not understood, otherwise an error.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/environment.sh
. launch/environment.sh
# shellcheck source=launch/options.sh
. launch/options.sh

sizes='xxs8 t8 s8 b8' tables=''
read_options 'sizes' 'tables' "$@"
read -ra networks <<<"$sizes"
[ "${#networks[@]}" -gt 0 ] || usage "--sizes '$sizes': name one or more of xxs8 t8 s8 b8"
for size in "${networks[@]}"; do
  case $size in xxs8 | t8 | s8 | b8) ;; *) usage "--sizes has $size: choose of xxs8 t8 s8 b8" ;; esac
done
venv=.venv-compilers status=1
environment requirements.txt "$venv"
install_once tests "$venv" -c requirements-test.txt pytest pytest-timeout hypothesis
export SCEMAE_COMPILED_SIZES=$sizes JAX_PLATFORMS=cpu
export SCEMAE_COMPILERS=installed # a compiler that is not found is a failure then, not a reason to skip its tests
summary=()
for compiler in tpu cuda; do
  extra=${compiler/cuda/cuda12}
  if ! accelerator "$extra" "$venv"; then
    summary+=("$compiler: jax[$extra] cannot be installed here, as said above") && tables=''
  elif "$venv/bin/python" -m pytest -v --durations=3 "tests/training/test_${compiler}_compile.py"; then
    summary+=("$compiler: passed") && [ "$status" -ne 1 ] || status=0
  else
    summary+=("$compiler: failed (status $?)") && status=3
  fi
done
printf '%s\n' "${summary[@]}"
if [ -n "$tables" ] && [ "$status" -eq 0 ]; then
  "$venv/bin/python" -m benchmarks.scaling --output docs/scaling.json --page docs/scaling.md
fi
exit "$status"
