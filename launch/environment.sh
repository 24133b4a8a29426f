# shellcheck shell=bash
# Sourced by the other scripts, in the project's root: makes .venv and installs what is pinned, unless that was done.
#   environment requirements.txt        (or requirements-test.txt)

environment() {
  local requirements=$1
  local python=${PYTHON:-python3}
  if [ ! -x .venv/bin/pip ]; then
    "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || {
      echo "Python 3.11 or 3.12 is needed; $python is $("$python" --version 2>&1). Name another: PYTHON=python3.11 $0" >&2
      return 1
    }
    "$python" -m venv .venv || return 1
  fi
  local wanted
  wanted=$(cat requirements*.txt | sha256sum | cut -d' ' -f1)
  local mark=.venv/installed-$requirements
  if [ "$(cat "$mark" 2>/dev/null)" != "$wanted" ]; then
    echo "Installing $requirements into .venv ..."
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$requirements" || return 1
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable . || return 1
    echo "$wanted" >"$mark"
  fi
}
