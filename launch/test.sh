#!/usr/bin/env bash
# Lint, types and tests, in .venv: all but the slow ones, or with --slow those alone. Further arguments go to pytest:
#   bash launch/test.sh tests/ops -k lcr
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/environment.sh
. launch/environment.sh
environment requirements-test.txt
[ "${1:-}" != --slow ] || set -- -m slow "${@:2}"
.venv/bin/python -m pip check
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/pyright
.venv/bin/lint-imports --no-cache
# A file's tests share what they have set up; tests/conftest.py says which files come first.
.venv/bin/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder "$@"
