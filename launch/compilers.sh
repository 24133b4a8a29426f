#!/usr/bin/env bash
# Compiles training for TPUs and for NVIDIA GPUs, without either: installs both compilers into .venv-compilers (5 GB) and
# runs their tests, ten minutes or more on two cores.
#   [SCEMAE_COMPILED_SIZES="xxs8 t8"] bash launch/compilers.sh [--tables]
# SCEMAE_COMPILED_SIZES names the networks to compile for GPUs (xxs8, t8, s8, b8; all without it). --tables also compiles
# what docs/scaling.json lacks (hours), and writes the table of docs/scaling.md.
set -euo pipefail
case $* in '' | --tables) ;; *) echo "not understood: $* (there is --tables)" >&2; exit 2 ;; esac
cd "$(dirname "$0")/.."
# shellcheck source=launch/environment.sh
. launch/environment.sh
venv=.venv-compilers
environment requirements.txt "$venv"
install_once tests "$venv" -c requirements-test.txt pytest pytest-timeout hypothesis
accelerator tpu "$venv"
accelerator cuda12 "$venv"
export SCEMAE_COMPILED_SIZES=${SCEMAE_COMPILED_SIZES:-xxs8 t8 s8 b8} JAX_PLATFORMS=cpu
export SCEMAE_COMPILERS=installed # a compiler that is not found is a failure then, not a reason to skip its tests
for compiler in tpu cuda; do # a process each
  "$venv/bin/python" -m pytest -v --durations=3 "tests/training/test_${compiler}_compile.py"
done
if [ "${1:-}" = --tables ]; then
  "$venv/bin/python" -m benchmarks.scaling --output docs/scaling.json --page docs/scaling.md
fi
