#!/usr/bin/env bash
# Everything at once, on synthetic faces: installs into .venv, then pretrains, refines, matches, detects, reports and
# exports. Ten minutes on two CPU cores, into runs/quickstart; with --gpu on an NVIDIA GPU, into runs/quickstart_gpu.
# Further arguments go to the run:
#   bash launch/quickstart.sh [--gpu] --config.seed=1 --workdir runs/seed1
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/environment.sh
. launch/environment.sh
environment requirements.txt
workdir=runs/quickstart
if [ "${1:-}" = --gpu ]; then
  shift
  workdir=runs/quickstart_gpu
  accelerator cuda12
  .venv/bin/python -c 'import jax, sys; sys.exit(jax.default_backend() != "gpu")' || {
    echo "JAX finds no GPU. It needs an NVIDIA one with a driver for CUDA 12 (525 or newer): what does nvidia-smi say," \
      "and is JAX_PLATFORMS or CUDA_VISIBLE_DEVICES set? Without --gpu this runs on the CPU." >&2
    exit 1
  }
else
  export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
  if [ "$JAX_PLATFORMS" = cpu ] && nvidia-smi --list-gpus >/dev/null 2>&1; then
    echo "There is an NVIDIA GPU: bash launch/quickstart.sh --gpu uses it. This goes on with the CPU."
  fi
fi
.venv/bin/python -m scemae_jax.main --config configs/quickstart.py --workdir "$workdir" "$@"
