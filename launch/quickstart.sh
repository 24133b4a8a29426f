#!/usr/bin/env bash
# Everything at once, on synthetic faces: installs into .venv, then pretrains, refines, matches, detects, reports and
# exports. Ten minutes on two CPU cores. Further arguments go to the run:
#   bash launch/quickstart.sh --config.seed=1 --workdir runs/seed1
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/environment.sh
. launch/environment.sh
environment requirements.txt
.venv/bin/python -m scemae_jax.main --config configs/quickstart.py --workdir runs/quickstart "$@"
