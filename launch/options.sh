# shellcheck shell=bash
# Sourced by the scripts that launch a run on many devices or a bare GPU machine: how they read their options and show
# commands.

usage() { # what is wrong, with which value, and what to do
  echo "$1" >&2
  exit 2
}

# Sets the variable of each option given (--dry-run sets dry_run), and `run` to the arguments after --.
read_options() { # names of options that take a value, names of those that take none, arguments
  local _valued=" $1 " _switches=" $2 " _variable && shift 2 # names that no option has
  while [ $# -gt 0 ] && [ "$1" != -- ]; do
    _variable=${1#--} && _variable=${_variable//-/_}
    if [[ $1 == --* && $_valued == *" $_variable "* ]]; then
      [ $# -ge 2 ] || usage "$1 needs a value"
      printf -v "$_variable" %s "$2" && shift 2
    elif [[ $1 == --* && $_switches == *" $_variable "* ]]; then
      printf -v "$_variable" yes && shift
    else
      usage "not understood: $1 (the first lines of $0 say what is; arguments of the run follow after --)"
    fi
  done
  [ $# -eq 0 ] || shift
  run=("$@")
}

read_run() { # sets `workdir` to the one in `run`, which is to have a config, too
  set -- ${run[@]+"${run[@]}"} # bash before 4.4, macOS's, takes an empty one for unset
  argument --config "$@" >/dev/null || usage "the run has no --config: $0 -- --config FILE --workdir DIR"
  # shellcheck disable=SC2034 # for the script that sources this
  workdir=$(argument --workdir "$@") || usage "the run has no --workdir: $0 -- --config FILE --workdir DIR"
}

argument() { # the value of a flag, as `flag value` or `flag=value`, among the arguments that follow
  local flag=$1 && shift
  while [ $# -gt 0 ]; do
    case $1 in
      "$flag"=*) echo "${1#*=}" && return ;;
      "$flag") [ $# -ge 2 ] && echo "$2" && return ;;
    esac
    shift
  done
  return 1
}

whole_number() { # an option, its value, the least it may be
  [[ $2 =~ ^(0|[1-9][0-9]{0,8})$ ]] && [ "$2" -ge "$3" ] || usage "$1 $2: give a whole number of at least $3"
}

quoted() { # a command as one line that can be pasted
  local line
  printf -v line '%q ' "$@"
  echo "${line% }"
}
