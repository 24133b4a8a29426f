# shellcheck shell=bash
# Sourced by the other scripts, in the project's root: makes an environment and installs what is pinned, unless done.

environment() { # requirements.txt or requirements-test.txt, folder
  local requirements=$1 venv=${2:-.venv} python=${PYTHON:-python3} extra
  if [ ! -x "$venv/bin/pip" ]; then
    "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || {
      echo "Python 3.11 or 3.12 is needed; $python is $("$python" --version 2>&1). Name another: PYTHON=python3.11 $0" >&2
      return 1
    }
    "$python" -m venv "$venv" || return 1
  fi
  install_once "$requirements" "$venv" -r "$requirements" || return 1
  install_once project "$venv" --no-deps --editable . || return 1
  for extra in cuda12 tpu; do # what was added before follows JAX to its new version
    [ ! -e "$venv/installed-$extra" ] || accelerator "$extra" "$venv" || return 1
  done
}

accelerator() { # extra of the pinned JAX (cuda12, tpu), folder: adds the GPU's or TPU's part
  install_once "$1" "${2:-.venv}" -c requirements.txt "jax[$1]"
}

install_once() { # name, folder, arguments of pip: installs unless that was done with the same requirements
  local mark=$2/installed-$1 wanted
  wanted=$(cat requirements*.txt | sha256sum)
  if [ "$(cat "$mark" 2>/dev/null)" != "$wanted" ]; then
    echo "Installing $1 into $2 ..."
    "$2/bin/python" -m pip install --quiet --disable-pip-version-check "${@:3}" && echo "$wanted" >"$mark"
  fi
}
