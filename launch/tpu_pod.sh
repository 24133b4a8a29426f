#!/usr/bin/env bash
# One run on a Cloud TPU VM slice, by gcloud: makes the slice, installs, runs, and makes it anew when it is preempted.
#
#   bash launch/tpu_pod.sh --nfs SERVER:/SHARE [--name scemae] [--zone Z] [--project P] [--type v5litepod-16]
#     [--version v2-alpha-tpuv5-lite] [--spot] [--mount /mnt/scemae] [--retries 10] [--poll 30] [--delete] [--dry-run]
#     -- ARGUMENTS
#
#   --nfs      the share that all workers mount, as 10.0.0.2:/share of a Filestore instance in the slice's network
#   --name     of the slice; one that is there is used
#   --zone     where; that of gcloud's configuration
#   --project  whose; that of gcloud's configuration
#   --type     of the slice, as gcloud names it
#   --version  of its software: v2-alpha-tpuv5-lite for v5e, v2-alpha-tpuv6e for v6e, v2-alpha-tpuv5 for v5p
#   --spot     cheaper, and can be taken away
#   --mount    where the share is on the workers; the workdir is to be inside
#   --retries  how often to go on after a preemption, a crash or a lost connection
#   --poll     seconds between looks at a slice that is being made
#   --delete   delete the slice when the run has ended, however it ended
#   --dry-run  print every command, as if no slice were there, and run nothing
#
#   bash launch/tpu_pod.sh --zone us-west4-a --spot --nfs 10.0.0.2:/share --delete -- --config configs/celeba.py:s8 \
#     --workdir /mnt/scemae/celeba --config.data.root=/mnt/scemae/data --config.data.data_dir=/mnt/scemae/prepared
#
# ARGUMENTS are those of scemae_jax.main. All workers write to the workdir, whose checkpoints become valid by renaming a
# folder: NFS does that in one step, a bucket mounted by gcsfuse does not. JAX learns coordinator, number and id from
# the TPU's metadata. The slice is a queued resource: without capacity it waits in line.
# SIGTERM and Ctrl-C are passed on, and the script waits for the save; so does the next start, for what a lost
# connection left running. Exit status: that of the run (0 done, 1 error, 75 out of time, 85 stopped; the last two go
# on with the same command), 2 not understood.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/options.sh
. launch/options.sh

nfs='' name=scemae zone='' project='' type=v5litepod-16 version=v2-alpha-tpuv5-lite mount=/mnt/scemae spot=''
retries=10 poll=30 delete='' dry_run=''
read_options 'nfs name zone project type version mount retries poll' 'spot delete dry_run' "$@"
read_run
whole_number --retries "$retries" 0
whole_number --poll "$poll" 0
[[ $nfs == *:/* ]] || usage "--nfs '$nfs': give the share that all workers mount, as 10.0.0.2:/share"
[[ $workdir/ == "${mount%/}"/* ]] || usage "--workdir $workdir is not on the share: give one inside of $mount (--mount)"
[ -n "$dry_run" ] || command -v gcloud >/dev/null || usage 'gcloud is not here: install it, or try --dry-run'

place=(--quiet)
[ -z "$zone" ] || place+=(--zone "$zone")
[ -z "$project" ] || place+=(--project "$project")

step() { # a command: shown, and run unless it is a dry run
  quoted "$@"
  [ -n "$dry_run" ] || "$@"
}
tpu() { step gcloud compute tpus "$@" "${place[@]}"; }
on_all_workers() { tpu tpu-vm ssh "$name" --worker=all --command "$1"; }
state_of() { # queued-resources or tpu-vm, the field; nothing where there is none
  gcloud compute tpus "$1" describe "$name" "${place[@]}" --format "value($2)" 2>/dev/null || true
}

make_slice() {
  local options=(--node-id "$name" --accelerator-type "$type" --runtime-version "$version")
  [ -z "$spot" ] || options+=(--spot)
  tpu queued-resources create "$name" "${options[@]}" || exit
}
delete_slice() { tpu queued-resources delete "$name" --force || exit; }

ready_slice() { # makes one unless one is there, and waits for it
  local state made=''
  if [ -n "$dry_run" ]; then make_slice && return; fi
  until state=$(state_of queued-resources state.state) &&
    [ "$state" = ACTIVE ] && [ "$(state_of tpu-vm state)" = READY ]; do
    [ -z "$stopping" ] || return 85
    echo "the slice $name is ${state:-not there}"
    case $state:$made in
      : | ACTIVE: | FAILED: | SUSPENDED:) # none, or a preempted one, or one that could not be made
        [ -z "$state" ] || delete_slice
        make_slice
        made=yes ;;
      FAILED:yes | SUSPENDED:yes) return 1 ;;
      *) sleep "$poll" || true ;; # Ctrl-C ends it
    esac
  done
}

# The brackets keep the pattern from finding the shell that looks for it.
stop_run="pkill -TERM -f '[s]cemae_jax.main'"
# The images' own Python is older than 3.11. jax[tpu] comes in the pinned version, with the libtpu that fits.
set_up="$stop_run; while pgrep -f '[s]cemae_jax.main' >/dev/null; do sleep 1; done
set -e
command -v mount.nfs >/dev/null || { sudo apt-get -qq update && sudo apt-get -qq install -y nfs-common; }
sudo mkdir -p $(quoted "$mount")
mountpoint -q $(quoted "$mount") || sudo mount -t nfs $(quoted "$nfs" "$mount")
[ -w $(quoted "$mount") ] || sudo chmod a+rwxt $(quoted "$mount")
rm -rf scemae && mkdir scemae && tar -xzf scemae.tar.gz -C scemae && cd scemae
[ -x ../scemae_venv/bin/python ] || {
  python3 -m pip install --quiet --user uv && ~/.local/bin/uv venv --quiet --seed --python 3.11 ../scemae_venv
}
../scemae_venv/bin/python -m pip install --quiet -r requirements.txt 'jax[tpu]'"
main="cd scemae && exec ../scemae_venv/bin/python -m scemae_jax.main --distributed $(quoted "${run[@]}")"

folder=/tmp stopping=''
if [ -z "$dry_run" ]; then
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
fi
trap 'stopping=yes' TERM INT HUP
step tar -czf "$folder/scemae.tar.gz" --exclude=__pycache__ scemae_jax configs requirements.txt

run_once() { # returns the status of the run: of the first worker that failed
  local ended=0 connection
  ready_slice && tpu tpu-vm scp "$folder/scemae.tar.gz" "$name:" --worker=all && on_all_workers "$set_up" || return
  [ -z "$stopping" ] || return 85
  on_all_workers "$main" &
  connection=$!
  wait "$connection" || ended=$?
  if [ -n "$stopping" ]; then # the signal ended the wait, not the run
    on_all_workers "$stop_run" || true
    ended=0
    wait "$connection" || ended=$?
  fi
  return "$ended"
}

for ((retry = 1; ; retry++)); do
  status=0
  run_once || status=$?
  [ "$status" -ne 0 ] && [ "$status" -ne 75 ] && [ -z "$stopping" ] && [ "$retry" -le "$retries" ] || break
  sleep "$poll" || break # until a preemption shows; Ctrl-C ends it
  # 1 is an error of the run, unless a worker is lost: those that remain may end with it, too.
  [ "$status" -ne 1 ] || [ "$(state_of tpu-vm state)" != READY ] || break
  echo "cut off with status $status: go on, $retry of at most $retries times"
done
[ -z "$delete" ] || delete_slice
exit "$status"
