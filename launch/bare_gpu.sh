# shellcheck shell=bash
# Sourced by gpu_run.sh and gpu_suite.sh: what both do first on a bare GPU machine, and how they end. All three need
# bash 4.4 or later, which does not take an empty array for unset.
# shellcheck source=launch/options.sh
. "$(dirname "$0")/options.sh"

status=0 running='' # the exit status so far; the process that a signal ends

# shellcheck disable=SC2154 # the script that sources this sets it
read_sizes() { # sets the array `networks` to the words of --sizes
  read -ra networks <<<"$sizes"
  [ "${#networks[@]}" -gt 0 ] || usage "--sizes '$sizes': name one or more (the first lines of $0 say more)"
}

# Checks the options that both have, makes their paths absolute, goes to the project's root, sets `python`, also for
# the scripts that this one starts, installs the wheels for it, and looks for a GPU.
# shellcheck disable=SC2154 # the script that sources this sets them
set_up() {
  [ -n "$data" ] && [ -n "$out" ] ||
    usage "--data '$data' and --out '$out': both are needed (the first lines of $0 say more)"
  [ -d "$data" ] || usage "--data $data is not a folder: name one of faces with a landmarks.csv (see README.md)"
  [ -z "$wheels" ] || ls "$wheels"/*.whl >/dev/null 2>&1 ||
    usage "--wheels $wheels is not a folder with wheels (*.whl): name one (the first lines of gpu_run.sh say of what)"
  whole_number --minutes "$minutes" 1
  mkdir -p "$out" "$work" || usage "--out $out, --work $work: name folders that can be made"
  data=$(cd "$data" && pwd -P)
  out=$(cd "$out" && pwd -P)
  work=$(cd "$work" && pwd -P)
  [ -z "$wheels" ] || wheels=$(cd "$wheels" && pwd -P)
  cd "$(dirname "$0")/.." || exit
  python=${PYTHON:-python3}
  if [ -n "$wheels" ]; then
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target "$work/site" "$wheels"/*.whl
    export PYTHONPATH=$work/site${PYTHONPATH:+:$PYTHONPATH}
  elif [ -z "${PYTHON:-}" ] && [ -x .venv/bin/python ]; then python=.venv/bin/python; fi
  export PYTHON=$python PYTHONUNBUFFERED=1
  local devices
  devices=$("$python" -c 'import jax; print(jax.default_backend(), jax.devices())') || {
    echo "JAX does not start in $python, as the error above says: what is missing can be carried as --wheels" >&2
    exit 1
  }
  echo "devices: $devices"
  if [ -z "$smoke" ] && [[ $devices == cpu* ]]; then
    echo "JAX finds no GPU. Does nvidia-smi list one, does $python have JAX's CUDA part (pip install -c" \
      "requirements.txt 'jax[cuda12]'; a CPU jaxlib among the wheels hides it), and is JAX_PLATFORMS or" \
      "CUDA_VISIBLE_DEVICES set? To try this on a CPU: --smoke" >&2
    exit 1
  fi
}

failed() { # exit status, what happened; an error counts more than a lack of time
  echo "$2 (status $1)" >&2
  [ "$status" -ne 0 ] && [ "$status" -ne 75 ] || status=$1
}

end_running() { # for a trap
  trap '' TERM INT HUP
  [ -z "$running" ] || { kill "$running"; wait "$running"; } 2>/dev/null || true
}
