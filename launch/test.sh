#!/usr/bin/env bash
# Lint, types and all tests, in .venv. Further arguments go to pytest: bash launch/test.sh tests/ops -k lcr
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/environment.sh
. launch/environment.sh
environment requirements-test.txt
.venv/bin/python -m pip check
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/pyright
.venv/bin/python -m pytest "$@"
