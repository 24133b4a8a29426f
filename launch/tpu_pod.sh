#!/usr/bin/env bash
# One run on a Cloud TPU slice: makes the slice unless it is there, copies the project, installs, runs on all workers.
#
#   ZONE=us-west4-a NFS=10.0.0.2:/share bash launch/tpu_pod.sh --config configs/celeba.py:s8 \
#     --workdir /mnt/scemae/celeba --config.data.root=/mnt/scemae/data --config.data.data_dir=/mnt/scemae/prepared
#
# NFS is a Filestore share in the slice's network, with data and workdir; all workers mount it on /mnt/scemae. (No bucket:
# a checkpoint is a folder that is renamed.) VERSION is v2-alpha-tpuv6e for v6e, v2-alpha-tpuv5 for v5p. SPOT= asks for a
# slice that is not taken away. Ctrl-C stops the run on all workers, with everything saved. After that, after a
# preemption or a lost connection, the same command goes on from the checkpoint. Delete the slice at the end, as the last
# line says.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${ZONE:?set it to the zone of the slice, as us-west4-a}" "${NFS:?set it to the share, as 10.0.0.2:/share}"
name=${NAME:-scemae} type=${TYPE:-v5litepod-16} version=${VERSION:-v2-alpha-tpuv5-lite} spot=${SPOT---spot}

queued() { gcloud compute tpus queued-resources "$1" "$name" --zone "$ZONE" --quiet "${@:2}"; }
all() { gcloud compute tpus tpu-vm ssh "$name" --zone "$ZONE" --quiet --worker=all --command "$1"; }
stop() { # has the run end, and waits until it has saved; [s] keeps pkill from finding its own shell
  all "pkill -TERM -f '[s]cemae_jax.main'; while pgrep -f '[s]cemae_jax.main' >/dev/null; do sleep 1; done"
}
state() { queued describe --format 'value(state.state)' 2>/dev/null || true; }

case $(state) in FAILED | SUSPENDED) queued delete --force ;; esac
[ -n "$(state)" ] ||
  queued create --node-id "$name" --accelerator-type "$type" --runtime-version "$version" ${spot:+"$spot"}
until now=$(state) && [ "$now" = ACTIVE ]; do
  case $now in
    '' | FAILED | SUSPEND*) echo "no slice $name ($now): run this again, or with another ZONE" >&2; exit 1 ;;
  esac
  echo "waiting for the slice $name: $now" && sleep "${POLL:-30}"
done

archive=$(mktemp) && trap 'rm "$archive"' EXIT
tar -czf "$archive" --exclude=__pycache__ scemae_jax configs requirements.txt
gcloud compute tpus tpu-vm scp "$archive" "$name:scemae.tar.gz" --zone "$ZONE" --quiet --worker=all
stop # what a lost connection left running
all "set -e
mountpoint -q /mnt/scemae || { sudo apt-get -qq update && sudo apt-get -qq install -y nfs-common &&
  sudo mkdir -p /mnt/scemae && sudo mount -t nfs $NFS /mnt/scemae && sudo chmod a+rwxt /mnt/scemae; }
rm -rf scemae && mkdir scemae && cd scemae && tar -xzf ../scemae.tar.gz && python3 -m pip install --quiet --user uv
[ -x ../venv/bin/python ] || ~/.local/bin/uv venv --quiet --python 3.11 ../venv
~/.local/bin/uv pip install --quiet --python ../venv/bin/python -r requirements.txt 'jax[tpu]'"
status=0
trap stop INT # the processes on the workers do not hear of Ctrl-C by themselves
all "cd scemae && exec ../venv/bin/python -m scemae_jax.main --distributed $(printf '%q ' "$@")" || status=$?
echo "status $status. Delete the slice: gcloud compute tpus queued-resources delete $name --zone $ZONE --force"
exit "$status"
