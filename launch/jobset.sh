#!/usr/bin/env bash
# One run on Kubernetes, on a TPU slice of GKE or on GPU pods, as a JobSet that starts again when it is preempted.
#
#   bash launch/jobset.sh --image IMAGE (--tpu ACCELERATOR --topology 4x4 [--chips 4] | --gpus 8 [--pods 1]
#     [--accelerator MODEL]) [--name scemae] [--claim scemae] [--storage 1Ti] [--storage-class CLASS]
#     [--mount /mnt/scemae] [--namespace N] [--spot] [--retries 10] [--grace 300] [--dry-run] -- ARGUMENTS
#
#   --image          made from launch/Dockerfile
#   --tpu            the node label cloud.google.com/gke-tpu-accelerator: tpu-v5-lite-podslice, tpu-v6e-slice, ...
#   --topology       of the slice: 4x4 is 16 chips
#   --chips          of each node: a pod takes a node, so that 4x4 makes 4 pods
#   --gpus           of each pod, which is one process
#   --pods           how many
#   --accelerator    the node label cloud.google.com/gke-accelerator: nvidia-h100-80gb, ...; any GPU without it
#   --name           of the JobSet
#   --claim          the PersistentVolumeClaim that holds data and workdir; all pods write to it (ReadWriteMany)
#   --storage        make that claim, of this size; without it, it is there
#   --storage-class  of the claim, as standard-rwx (Filestore); the cluster's default
#   --mount          where the claim is in the pods; the workdir is to be inside
#   --namespace      where; that of kubectl's context
#   --spot           on GKE's Spot nodes, which cost less and can be taken away
#   --retries        how often all pods start again
#   --grace          seconds that a pod has to save when it is stopped (Spot nodes leave it 15)
#   --dry-run        print the manifest, and run nothing
#
#   bash launch/jobset.sh --image REGISTRY/scemae:tpu --tpu tpu-v5-lite-podslice --topology 4x4 --storage 1Ti \
#     --storage-class standard-rwx -- --config configs/celeba.py:s8 --workdir /mnt/scemae/celeba \
#     --config.data.root=/mnt/scemae/data --config.data.data_dir=/mnt/scemae/prepared
#   bash launch/jobset.sh --image REGISTRY/scemae:cuda12 --gpus 8 --pods 2 -- --config ... --workdir /mnt/scemae/celeba
#
# ARGUMENTS are those of scemae_jax.main. Status 1 (error) and 75 (out of time) end the JobSet; whatever else fails, be
# it 85 (preempted, saved) or a crash, starts all pods again, from the last checkpoint. A JobSet of that name that has
# ended is replaced: the same command goes on. Needs kubectl, and JobSet 0.6 or later in the cluster. python3 (or
# PYTHON) writes the arguments as JSON, which is YAML.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/options.sh
. launch/options.sh

image='' tpu='' topology='' chips=4 gpus='' pods=1 accelerator='' name=scemae claim=scemae storage='' storage_class=''
mount=/mnt/scemae namespace='' spot='' retries=10 grace=300 dry_run=''
read_options \
  'image tpu topology chips gpus pods accelerator name claim storage storage_class mount namespace retries grace' \
  'spot dry_run' "$@"
read_run
whole_number --chips "$chips" 1
whole_number --pods "$pods" 1
whole_number --retries "$retries" 0
whole_number --grace "$grace" 1
[ -n "$image" ] || usage '--image is needed: one made from launch/Dockerfile'
[[ $name =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ && ${#name} -le 40 ]] ||
  usage "--name $name: give at most 40 lower case letters, digits and -, a letter first"
[[ $workdir/ == "${mount%/}"/* ]] || usage "--workdir $workdir is not on the claim: give one inside of $mount (--mount)"

json() { # each argument as a JSON string, which is YAML too, on a line of its own
  "${PYTHON:-python3}" -c 'import json, sys; print(*map(json.dumps, sys.argv[1:]), sep="\n")' "$@"
}

selector='' annotations=''
if [ -n "$tpu" ] && [ -z "$gpus" ]; then
  [[ $topology =~ ^[1-9][0-9]*(x[1-9][0-9]*)+$ ]] || usage "--topology $topology: give the slice's, as 4x4 or 2x2x4"
  [ $((${topology//x/*} % chips)) -eq 0 ] || usage "--topology $topology does not part into nodes of --chips $chips"
  pods=$((${topology//x/*} / chips)) resource=google.com/tpu amount=$chips
  selector="cloud.google.com/gke-tpu-accelerator: $(json "$tpu")"
  selector+=", cloud.google.com/gke-tpu-topology: $(json "$topology")"
  annotations='alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool' # all pods in one slice
  joining=(--distributed)
elif [ -n "$gpus" ] && [ -z "$tpu" ]; then
  whole_number --gpus "$gpus" 1
  resource=nvidia.com/gpu amount=$gpus
  [ -z "$accelerator" ] || selector="cloud.google.com/gke-accelerator: $(json "$accelerator")"
  # Kubernetes puts the index in; the first pod's name is that of JobSet's headless service.
  joining=(--coordinator "$name-workers-0-0.$name:8476" --num_processes "$pods" --process_id "\$(JOB_COMPLETION_INDEX)")
else
  usage "--tpu '$tpu' and --gpus '$gpus': give one of them"
fi
[ -z "$spot" ] || selector+="${selector:+, }cloud.google.com/gke-spot: \"true\""

manifest() {
  local class=''
  [ -z "$storage_class" ] || class=$'\n  storageClassName: '$(json "$storage_class")
  if [ -n "$storage" ]; then
    cat <<YAML
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: $(json "$claim")
spec:
  accessModes: [ReadWriteMany]$class
  resources:
    requests:
      storage: $(json "$storage")
---
YAML
  fi
  cat <<YAML
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $name
  annotations: {$annotations}
spec:
  network:
    enableDNSHostnames: true
    subdomain: $name
  failurePolicy:
    maxRestarts: $retries
    rules:
      - name: ended
        action: FailJobSet
        onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
    - name: workers
      replicas: 1
      template:
        spec:
          completionMode: Indexed
          completions: $pods
          parallelism: $pods
          backoffLimit: 0
          podFailurePolicy:
            rules:
              - action: Count # taken away: its status says nothing
                onPodConditions:
                  - type: DisruptionTarget
                    status: "True"
              - action: FailJob # an error, or out of time: not to be started again
                onExitCodes:
                  containerName: main
                  operator: In
                  values: [1, 75]
          template:
            spec:
              restartPolicy: Never
              terminationGracePeriodSeconds: $grace
              nodeSelector: {$selector}
              containers:
                - name: main
                  image: $(json "$image")
                  args:
$(json "${joining[@]}" "${run[@]//\$/\$\$}" | sed 's/^/                    - /')
                  resources:
                    limits:
                      $resource: $amount
                  volumeMounts:
                    - name: storage
                      mountPath: $(json "$mount")
                    - name: memory
                      mountPath: /dev/shm
              volumes:
                - name: storage
                  persistentVolumeClaim:
                    claimName: $(json "$claim")
                - name: memory # between processes and GPUs of a pod
                  emptyDir:
                    medium: Memory
YAML
}

if [ -n "$dry_run" ]; then manifest && exit; fi
kubectl=(kubectl)
[ -z "$namespace" ] || kubectl+=(--namespace "$namespace")
state=$("${kubectl[@]}" get jobset "$name" --ignore-not-found -o 'jsonpath={.status.terminalState}')
if [ -n "$state" ]; then
  echo "the JobSet $name of before has ended ($state): deleted, and made again"
  "${kubectl[@]}" delete jobset "$name"
fi
manifest | "${kubectl[@]}" apply -f -
