"""The scripts in launch/ that run on many devices: what they would run, and how they go on when a run is cut off.

Nothing is trained, and no cluster is there: stand-ins for Python, gcloud, SLURM and kubectl record how they are called.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import sysconfig
import time
from importlib import metadata
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
ON_SHARE = ["--", "--config=c", "--workdir=/mnt/scemae/w"]
AWKWARD = [
    "--config.stages=('pretrain', \"refine\")",
    "--config.init=$(HOME)/a b&c;d|'e'",
    "--config.data.root=ü\\n$$5",
]
MAIN = ["-m", "scemae_jax.main"]


def the_run(workdir: object) -> list[str]:
    return ["--config", "configs/quickstart.py", "--workdir", str(workdir), *AWKWARD]


def command(script: str, *options, workdir: object) -> list[str]:
    return ["bash", str(LAUNCH / script), *map(str, options), "--", *the_run(workdir)]


def launch(script: str, *options, workdir: object, **environment) -> subprocess.CompletedProcess:
    call = command(script, *options, workdir=workdir)
    return subprocess.run(call, capture_output=True, text=True, env=settings(**environment), timeout=60)


def settings(**changes) -> dict[str, str]:
    """The environment without what the scripts look at, but for the changes."""
    looked_at = ("PYTHON", "CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS", "XLA_FLAGS")
    kept = {name: value for name, value in os.environ.items() if name not in looked_at}
    return kept | {"PYTHON": sys.executable, "JAX_PLATFORMS": "cpu"} | {k: str(v) for k, v in changes.items()}


def flag(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


def stand_in(path: Path, body: str) -> Path:
    """An executable that records its arguments in PATH.jsonl before it does what `body` says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    record = f"""import json, signal, sys
signal.alarm(60)  # outlives no test
with open({f"{path}.jsonl"!r}, "a") as log:
    print(json.dumps(sys.argv[1:]), file=log)
"""
    path.write_text(f"#!{sys.executable} -S\n{record}{body}")
    path.chmod(0o755)
    return path


def calls(path: Path) -> list[list[str]]:
    record = Path(f"{path}.jsonl")
    return [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []


def search_path(*folders: Path) -> str:
    return os.pathsep.join([*map(str, folders), os.environ["PATH"]])


def test_shellcheck_finds_nothing():
    shellcheck = Path(sysconfig.get_path("scripts")) / "shellcheck"
    found = subprocess.run([shellcheck, *sorted(LAUNCH.glob("*.sh"))], capture_output=True, text=True, cwd=ROOT)
    assert found.returncode == 0, found.stdout + found.stderr


SCRIPTS = {
    "local.sh": [],
    "slurm.sh": [],
    "tpu_pod.sh": ["--nfs", "10.0.0.2:/share"],
    "jobset.sh": ["--image", "i", "--gpus", "1"],
}


@pytest.mark.parametrize("script", [*SCRIPTS, "gpu_run.sh", "gpu_suite.sh", "compilers.sh"])
def test_the_header_has_every_option_and_its_default(script):
    header, code = (LAUNCH / script).read_text().split("set -euo pipefail")
    (names,) = re.findall(r"^read_options\s+'([^']*)'\s+'([^']*)'", code.replace("\\\n", ""), re.MULTILINE)
    defaults = dict(re.findall(r"(\w+)=([^\s']+)", code[: code.index("read_options")]))
    for name in " ".join(names).split():
        option = "--" + name.replace("_", "-")
        assert re.search(rf"^#   {option}  +\w", header, re.MULTILINE), option
        if name in defaults:
            assert f"[{option} {defaults[name]}]" in " ".join(header.split()), option


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        *((script, ["--dry-run", "--fast"], "not understood: --fast") for script in SCRIPTS),
        *((script, ["--retries"], "--retries needs a value") for script in SCRIPTS),
        *((script, ["--retries", "many", *ON_SHARE], "--retries many: give a whole number") for script in SCRIPTS),
        *((script, ["--", "--workdir", "w"], "the run has no --config") for script in SCRIPTS),
        *((script, ["--", "--config", "c", "--workdir"], "the run has no --workdir") for script in SCRIPTS),
        ("local.sh", ["--processes", "0", "--", "--config=c", "--workdir=w"], "--processes 0: give a whole number"),
        ("tpu_pod.sh", ["--nfs", "s:/d", "--", "--config=c", "--workdir=runs"], "--workdir runs is not on the share"),
        ("tpu_pod.sh", ["--nfs", "share", *ON_SHARE], "--nfs 'share': give the share"),
        ("jobset.sh", ["--", "--config=c", "--workdir=runs"], "--image is needed"),
        ("jobset.sh", ["--image", "i", "--", "--config=c", "--workdir=runs"], "--workdir runs is not on the claim"),
        ("jobset.sh", ["--image", "i", *ON_SHARE], "--tpu '' and --gpus '': give one"),
        ("jobset.sh", ["--image", "i", "--tpu", "t", "--topology", "4*4", *ON_SHARE],
         "--topology 4*4: give the slice's"),
        ("jobset.sh", ["--image", "i", "--tpu", "t", "--topology", "3x3", *ON_SHARE],
         "--topology 3x3 does not part into nodes of --chips 4"),
        ("jobset.sh", ["--image", "i", "--name", "A_b", *ON_SHARE], "--name A_b: give"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_said(script, arguments, message):
    ended = subprocess.run(["bash", LAUNCH / script, *arguments], capture_output=True, text=True, env=settings())
    assert (ended.returncode, ended.stdout) == (2, "")
    assert message in ended.stderr


# --- local.sh


TRAINER = """
import os, pathlib, signal, sys, time
if sys.argv[1] == "-c":
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
folder, words = pathlib.Path(os.environ["RECORDS"]), sys.argv
number, count = (int(words[words.index(f"--{name}") + 1]) for name in ("process_id", "num_processes"))
start = len(list(folder.glob(f"start_*_{number}")))
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(True))
print(f"process {number}, start {start}", flush=True)
(folder / f"start_{start}_{number}").write_text(os.environ.get("XLA_FLAGS", ""))
while len(list(folder.glob(f"start_{start}_*"))) < count:  # so that none is told to stop before it can listen
    time.sleep(0.01)
plan = os.environ["PLAN"].split(";")[start].split()[number]
if plan == "crash":
    os.kill(os.getpid(), signal.SIGKILL)
if plan in ("save", "hang"):
    while plan == "hang" or not told:
        time.sleep(0.01)
    time.sleep(0.3)
    (folder / f"saved_{start}_{number}").touch()
    plan = "85"
sys.exit(int(plan))
"""


@pytest.fixture
def trainer(tmp_path) -> dict[str, object]:
    """The environment of a stand-in for Python that does what PLAN says: process by process, and ; start by start."""
    records = tmp_path / "records"
    records.mkdir()
    return {"PYTHON": stand_in(tmp_path / "bin" / "python", TRAINER), "RECORDS": records}


def records(trainer: dict[str, object]) -> set[str]:
    return {path.name for path in Path(str(trainer["RECORDS"])).iterdir()}


def test_a_dry_run_gives_each_process_its_number_and_all_one_coordinator(tmp_path):
    ended = launch("local.sh", "--processes", 3, "--devices", 2, "--dry-run", workdir=tmp_path / "a run")
    assert ended.returncode == 0, ended.stderr
    plan = [shlex.split(line) for line in ended.stdout.splitlines()]
    assert [flag(words, "--process_id") for words in plan] == ["0", "1", "2"]
    assert {flag(words, "--num_processes") for words in plan} == {"3"}
    assert len({flag(words, "--coordinator") for words in plan}) == 1
    for words in plan:
        assert words[:3] == ["env", "JAX_PLATFORMS=cpu", "XLA_FLAGS=--xla_force_host_platform_device_count=2"]
        assert words[3:6] == [sys.executable, *MAIN]
        assert words[-len(the_run("")) :] == the_run(tmp_path / "a run")
    assert not (tmp_path / "a run").exists()


def test_a_port_that_is_given_is_taken_and_xla_flags_are_kept(tmp_path):
    ended = launch("local.sh", "--port", 12345, "--dry-run", workdir=tmp_path, XLA_FLAGS="--xla_a=1")
    first, second = (shlex.split(line) for line in ended.stdout.splitlines())
    assert flag(first, "--coordinator") == flag(second, "--coordinator") == "127.0.0.1:12345"
    assert first[2] == "XLA_FLAGS=--xla_a=1 --xla_force_host_platform_device_count=1"


@pytest.mark.parametrize(
    ("options", "shares"),
    [
        (["--processes", 2], ["0,3", "4,7"]),
        (["--processes", 4], ["0", "3", "4", "7"]),
        (["--processes", 3, "--devices", 1], ["0", "3", "4"]),
    ],
)
def test_gpus_are_shared_out(tmp_path, options, shares):
    visible = {"CUDA_VISIBLE_DEVICES": "0,3,4,7", "JAX_PLATFORMS": ""}
    ended = launch("local.sh", *options, "--dry-run", workdir=tmp_path, **visible)
    assert ended.returncode == 0, ended.stderr
    given = [shlex.split(line)[1] for line in ended.stdout.splitlines()]
    assert given == [f"CUDA_VISIBLE_DEVICES={share}" for share in shares]


def test_gpus_are_those_that_nvidia_smi_lists(tmp_path):
    stand_in(tmp_path / "bin" / "nvidia-smi", "print('0\\n1')")
    ended = launch("local.sh", "--dry-run", workdir=tmp_path, PATH=search_path(tmp_path / "bin"), JAX_PLATFORMS="")
    assert [shlex.split(line)[1] for line in ended.stdout.splitlines()] == [
        "CUDA_VISIBLE_DEVICES=0",
        "CUDA_VISIBLE_DEVICES=1",
    ]


@pytest.mark.parametrize("options", [["--processes", 3], ["--processes", 2, "--devices", 3]])
def test_shares_of_gpus_that_cannot_be_are_refused(tmp_path, options):
    visible = {"CUDA_VISIBLE_DEVICES": "0,1,2,3", "JAX_PLATFORMS": ""}
    ended = launch("local.sh", *options, "--dry-run", workdir=tmp_path, **visible)
    assert ended.returncode == 2
    assert "4 GPUs" in ended.stderr


def test_all_processes_run_and_the_first_is_seen(tmp_path, trainer):
    ended = launch("local.sh", "--devices", 4, workdir=tmp_path / "a run", **trainer, PLAN="0 0")
    assert (ended.returncode, ended.stdout) == (0, "process 0, start 0\n"), ended.stderr
    logs = sorted((tmp_path / "a run" / "logs").iterdir())
    assert [log.read_text() for log in logs] == ["process 0, start 0\n", "process 1, start 0\n"]
    assert [log.name for log in logs] == ["process_0.log", "process_1.log"]
    called = sorted(calls(Path(str(trainer["PYTHON"]))), key=lambda words: flag(words, "--process_id"))
    assert len({flag(words, "--coordinator") for words in called}) == 1
    for number, words in enumerate(called):
        assert (words[:2], flag(words, "--process_id")) == (MAIN, str(number))
        assert words[-len(the_run("")) :] == the_run(tmp_path / "a run")
    flags = (Path(str(trainer["RECORDS"])) / "start_0_1").read_text()
    assert flags == "--xla_force_host_platform_device_count=4"


@pytest.mark.parametrize(
    ("plan", "status", "starts", "saved"),
    [
        ("85 85;0 0", 0, 2, []),  # preempted, all of them
        ("crash save;0 0", 0, 2, ["saved_0_1"]),  # one is lost: the other saves
        ("save crash;crash save;0 0", 0, 3, ["saved_0_0", "saved_1_1"]),
        ("0 crash;85 85;crash crash", 137, 3, []),  # two retries are over
        ("save 1", 1, 1, ["saved_0_0"]),  # a mistake stays one
        ("75 75", 75, 1, []),  # out of time
    ],
)
def test_what_is_cut_off_starts_again(tmp_path, trainer, plan, status, starts, saved):
    ended = launch("local.sh", "--retries", 2, workdir=tmp_path / "run", **trainer, PLAN=plan)
    assert ended.returncode == status, ended.stderr
    assert records(trainer) == {*saved, *(f"start_{start}_{number}" for start in range(starts) for number in (0, 1))}
    assert ended.stderr.count("start again") == starts - 1


def test_a_process_that_does_not_stop_is_killed(tmp_path, trainer):
    ended = launch("local.sh", "--grace", 0, workdir=tmp_path / "run", **trainer, PLAN="hang 1")
    assert ended.returncode == 1
    assert "process 0 ended with status 137" in ended.stderr


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_passed_on_and_the_save_waited_for(tmp_path, trainer, sent):
    call = command("local.sh", workdir=tmp_path / "run")
    running = subprocess.Popen(call, env=settings(**trainer, PLAN="save save"), stderr=subprocess.PIPE, text=True)
    while len(records(trainer)) < 2:
        time.sleep(0.02)
    running.send_signal(sent)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 85, errors
    assert records(trainer) == {"start_0_0", "start_0_1", "saved_0_0", "saved_0_1"}


# --- slurm.sh


JOB = ["--name", "faces", "--nodes", 2, "--gpus", 4, "--retries", 5, "--partition", "a b"]


@pytest.fixture
def job(tmp_path) -> str:
    """The batch script as sbatch gets it."""
    stand_in(tmp_path / "bin" / "sbatch", f"open({str(tmp_path / 'job')!r}, 'w').write(sys.stdin.read())")
    ended = launch("slurm.sh", *JOB, workdir=tmp_path / "a run", PATH=search_path(tmp_path / "bin"))
    assert ended.returncode == 0, ended.stderr
    return (tmp_path / "job").read_text()


def test_sbatch_gets_what_the_dry_run_shows(tmp_path, job):
    shown = launch("slurm.sh", *JOB, "--dry-run", workdir=tmp_path / "a run")
    submitted, script = shown.stdout.split(" <<'BATCH'\n")
    assert script == f"{job}BATCH\n"
    words = shlex.split(submitted)
    assert [words[1:]] == calls(tmp_path / "bin" / "sbatch")
    for option, value in {
        "--job-name": "faces",
        "--nodes": "2",
        "--gpus-per-node": "4",
        "--ntasks-per-node": "4",
        "--signal": "TERM@120",
        "--partition": "a b",
        "--time": "24:00:00",
    }.items():
        assert flag(words, option) == value
    assert "--requeue" in words
    assert "--account" not in words
    assert Path(flag(words, "--output")).parent.is_dir()  # SLURM makes none
    assert subprocess.run(["bash", "-n"], input=job, text=True).returncode == 0


@pytest.mark.parametrize(
    ("status", "restarts", "queued"),
    [(0, "", 0), (1, "", 0), (75, "", 0), (137, "", 0), (85, "", 1), (85, "4", 1), (85, "5", 0)],
)
def test_a_job_that_has_saved_is_queued_again(tmp_path, job, status, restarts, queued):
    folder = tmp_path / "node"
    stand_in(folder / "srun", f"sys.exit({status})")
    stand_in(folder / "scontrol", "")
    variables = {"SLURM_JOB_ID": "17", "PATH": search_path(folder)}
    variables |= {"SLURM_RESTART_COUNT": restarts} if restarts else {}
    ended = subprocess.run(["bash"], input=job, text=True, cwd=tmp_path, env=settings(**variables), capture_output=True)
    assert ended.returncode == status
    assert calls(folder / "scontrol") == [["requeue", "17"]] * queued
    (step,) = calls(folder / "srun")
    assert step == ["--kill-on-bad-exit=0", "--cpus-per-task", "8", sys.executable, *MAIN, "--distributed",
                    *the_run(tmp_path / "a run")]  # fmt: skip


# --- tpu_pod.sh


GCLOUD = """
import os, pathlib, time
store = pathlib.Path(os.environ["CLOUD"])
state = store / "state"
group, verb = sys.argv[3:5]
if verb == "create":
    state.write_text("WAITING_FOR_RESOURCES")
if verb == "delete":
    state.unlink()
if verb == "describe":
    if not state.exists():
        sys.exit("NOT_FOUND")
    now = state.read_text()
    if group == "queued-resources":  # at the next look
        state.write_text({"WAITING_FOR_RESOURCES": "READY", "SUSPENDING": "SUSPENDED"}.get(now, now))
    print({"READY": "ACTIVE", "PREEMPTED": "ACTIVE"}.get(now, now) if group == "queued-resources" else now)
remote = sys.argv[sys.argv.index("--command") + 1] if verb == "ssh" else ""
if remote.startswith("pkill") and "mount" not in remote:
    (store / "told").touch()
if "--distributed" in remote:
    outcomes = (store / "outcomes").read_text().split()
    (store / "outcomes").write_text(" ".join(outcomes[1:]))
    status, *after = outcomes[0].split(":")
    if after:
        state.write_text(after[0])
    while status == "85" and "TOLD" in os.environ and not (store / "told").exists():
        time.sleep(0.01)
    sys.exit(int(status))
"""
MAKE = ["create", *["describe"] * 3, "scp", "ssh set up", "ssh run"]


@pytest.fixture
def cloud(tmp_path) -> Path:
    stand_in(tmp_path / "bin" / "gcloud", GCLOUD)
    return tmp_path


def on_a_pod(cloud: Path, outcomes: str, *options, state: str = "") -> tuple[subprocess.CompletedProcess, list[str]]:
    """The script among stand-ins, with the statuses of the run (and states of the slice after it), and the steps."""
    (cloud / "outcomes").write_text(outcomes)
    if state:
        (cloud / "state").write_text(state)
    ended = launch("tpu_pod.sh", "--nfs", "10.0.0.2:/share", "--poll", 0, *options, workdir="/mnt/scemae/a run",
                   CLOUD=cloud, PATH=search_path(cloud / "bin"))  # fmt: skip
    steps = []
    for words in calls(cloud / "bin" / "gcloud"):
        remote = flag(words, "--command") if "--command" in words else ""
        kind = " run" if "--distributed" in remote else " set up" if "mount" in remote else ""
        steps.append(words[3] + kind)
    return ended, steps


def test_a_slice_is_made_used_and_deleted(cloud):
    ended, steps = on_a_pod(cloud, "0", "--name", "faces", "--spot", "--zone", "z", "--project", "p", "--delete")
    assert ended.returncode == 0, ended.stderr
    assert steps == ["describe", *MAKE, "delete"]
    called = calls(cloud / "bin" / "gcloud")
    assert all((flag(words, "--zone"), flag(words, "--project")) == ("z", "p") for words in called)
    create = called[1]
    assert create[:5] == ["compute", "tpus", "queued-resources", "create", "faces"]
    assert (flag(create, "--accelerator-type"), flag(create, "--node-id")) == ("v5litepod-16", "faces")
    assert (flag(create, "--runtime-version"), "--spot" in create) == ("v2-alpha-tpuv5-lite", True)
    scp, set_up, run = called[5:8]
    assert all("--worker=all" in words for words in (scp, set_up, run))
    assert "jax[tpu]" in flag(set_up, "--command")
    assert "sudo mount -t nfs 10.0.0.2:/share /mnt/scemae" in flag(set_up, "--command")
    assert subprocess.run(["bash", "-n"], input=flag(set_up, "--command"), text=True).returncode == 0
    remote = shlex.split(flag(run, "--command"))
    assert remote[4:] == ["../scemae_venv/bin/python", *MAIN, "--distributed", *the_run("/mnt/scemae/a run")]


def test_the_dry_run_shows_the_commands_without_gcloud(cloud):
    on_a_pod(cloud, "0", "--delete")
    called = [["gcloud", *words] for words in calls(cloud / "bin" / "gcloud") if words[3] != "describe"]
    shown = launch("tpu_pod.sh", "--nfs", "10.0.0.2:/share", "--delete", "--dry-run", workdir="/mnt/scemae/a run")
    assert (shown.returncode, shown.stderr) == (0, "")
    unquoted = subprocess.run(["bash"], input=f"""python() {{ "{sys.executable}" "$@"; }}
tar() {{ :; }}
gcloud() {{ python -c 'import json, sys; print(json.dumps(["gcloud", *sys.argv[1:]]))' "$@"; }}
{shown.stdout}""", capture_output=True, text=True)  # fmt: skip
    plan = [json.loads(line) for line in unquoted.stdout.splitlines()]
    assert len(plan) == 5
    for ours, theirs in zip(plan, called, strict=True):
        assert [word for word in ours if "tar.gz" not in word] == [word for word in theirs if "tar.gz" not in word] or (
            "--command" in ours and ours == theirs
        )


@pytest.mark.parametrize("outcomes", ["255:PREEMPTED 0", "85:PREEMPTED 0", "1:PREEMPTED 0", "255:SUSPENDING 0"])
def test_a_preempted_slice_is_made_anew_and_the_run_goes_on(cloud, outcomes):
    ended, steps = on_a_pod(cloud, outcomes)
    assert ended.returncode == 0, ended.stderr
    assert [step for step in steps if step != "describe"] == [
        "create", "scp", "ssh set up", "ssh run", "delete", "create", "scp", "ssh set up", "ssh run",
    ]  # fmt: skip
    first, second = (flag(words, "--command") for words in calls(cloud / "bin" / "gcloud")
                     if "--distributed" in str(words))  # fmt: skip
    assert first == second


@pytest.mark.parametrize(
    ("outcomes", "retries", "status", "runs"),
    [("255 134 0", 10, 0, 3), ("1", 10, 1, 1), ("75", 10, 75, 1), ("85 85 85 85", 2, 85, 3)],
)
def test_a_slice_that_is_there_is_used_and_only_a_mistake_ends_the_run(cloud, outcomes, retries, status, runs):
    ended, steps = on_a_pod(cloud, outcomes, "--retries", retries, state="READY")
    assert ended.returncode == status, ended.stderr
    assert (steps.count("ssh run"), steps.count("create"), steps.count("delete")) == (runs, 0, 0)


@pytest.mark.parametrize("state", ["FAILED", "SUSPENDED", "PREEMPTED"])
def test_a_slice_of_before_that_is_lost_is_made_anew(cloud, state):
    ended, steps = on_a_pod(cloud, "0", state=state)
    assert ended.returncode == 0, ended.stderr
    assert [step for step in steps if step != "describe"] == ["delete", "create", "scp", "ssh set up", "ssh run"]


def test_a_slice_that_cannot_be_made_ends_the_run(cloud):
    stand_in(cloud / "bin" / "gcloud", "sys.exit(1)")
    ended, steps = on_a_pod(cloud, "")
    assert (ended.returncode, steps) == (1, ["describe", "create"])


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_the_workers_and_their_save_is_waited_for(cloud, sent):
    (cloud / "state").write_text("READY")
    (cloud / "outcomes").write_text("85 0")
    call = command("tpu_pod.sh", "--nfs", "10.0.0.2:/share", "--delete", workdir="/mnt/scemae/a run")
    environment = settings(CLOUD=cloud, TOLD="", PATH=search_path(cloud / "bin"))
    running = subprocess.Popen(call, env=environment, stdout=subprocess.DEVNULL)
    while (cloud / "outcomes").read_text() != "0":  # the run has begun
        time.sleep(0.02)
    running.send_signal(sent)
    assert running.wait(60) == 85
    assert (cloud / "told").exists()
    assert [words[3] for words in calls(cloud / "bin" / "gcloud")][-3:] == ["ssh", "ssh", "delete"]


# --- jobset.sh


TPU = ["--tpu", "tpu-v5-lite-podslice", "--topology", "4x4"]
GPU = ["--gpus", 8, "--pods", 2]


def manifests(*options) -> list[dict]:
    ended = launch("jobset.sh", "--image", "registry/image:tag", *options, "--dry-run", workdir="/mnt/scemae/a run")
    assert ended.returncode == 0, ended.stderr
    return list(yaml.safe_load_all(ended.stdout))


def pod_of(jobset: dict) -> tuple[dict, dict, dict]:
    """The job, its pod and the container of the only replicated job."""
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    return job, pod, container


def as_kubernetes_expands(argument: str) -> str:
    """What a container gets of an argument: $(NAME) replaced where there is such a variable, $$ made $."""
    known = {"JOB_COMPLETION_INDEX": "3", "HOME": "/root"}
    return re.sub(r"\$\$|\$\((\w+)\)", lambda m: "$" if m[0] == "$$" else known.get(m[1], m[0]), argument)


@pytest.mark.parametrize("options", [TPU, [*TPU, "--spot"], GPU, [*GPU, "--accelerator", "nvidia-h100-80gb"]])
def test_the_manifest_is_valid_and_restarts_what_was_cut_off(options):
    (jobset,) = manifests(*options, "--retries", 7, "--grace", 90)
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert set(jobset) == {"apiVersion", "kind", "metadata", "spec"}
    assert set(jobset["spec"]) == {"network", "failurePolicy", "replicatedJobs"}
    assert jobset["spec"]["network"] == {"enableDNSHostnames": True, "subdomain": "scemae"}
    ended = {"name": "ended", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    assert jobset["spec"]["failurePolicy"] == {"maxRestarts": 7, "rules": [ended]}
    (replicated,) = jobset["spec"]["replicatedJobs"]
    assert (set(replicated), replicated["name"], replicated["replicas"]) == (
        {"name", "replicas", "template"}, "workers", 1,
    )  # fmt: skip
    batch_job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "workers"}, **replicated["template"]}
    kubernetes_validate.validate(batch_job, "1.37", strict=True)

    job, pod, container = pod_of(jobset)
    assert (job["completionMode"], job["backoffLimit"]) == ("Indexed", 0)
    taken_away, failed = job["podFailurePolicy"]["rules"]
    assert (taken_away["action"], taken_away["onPodConditions"][0]["type"]) == ("Count", "DisruptionTarget")
    assert (failed["action"], failed["onExitCodes"]["values"]) == ("FailJob", [1, 75])
    assert failed["onExitCodes"]["containerName"] == container["name"]
    assert (pod["restartPolicy"], pod["terminationGracePeriodSeconds"]) == ("Never", 90)
    assert container["image"] == "registry/image:tag"
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["storage"]["persistentVolumeClaim"]["claimName"] == "scemae"
    assert {"name": "storage", "mountPath": "/mnt/scemae"} in container["volumeMounts"]
    arguments = [as_kubernetes_expands(argument) for argument in container["args"]]
    assert arguments[-len(the_run("")) :] == the_run("/mnt/scemae/a run")


def test_a_tpu_slice_has_a_pod_for_each_node(tmp_path):
    (jobset,) = manifests(*TPU, "--spot")
    job, pod, container = pod_of(jobset)
    assert (job["completions"], job["parallelism"]) == (4, 4)
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4",
        "cloud.google.com/gke-spot": "true",
    }
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert container["args"][0] == "--distributed"


def test_gpu_pods_find_the_first_of_them():
    (jobset,) = manifests(*GPU, "--name", "faces", "--accelerator", "nvidia-h100-80gb")
    job, pod, container = pod_of(jobset)
    assert (job["completions"], job["parallelism"]) == (2, 2)
    assert pod["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"}
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}
    joining = [as_kubernetes_expands(argument) for argument in container["args"][:6]]
    # JobSet's names: <jobset>-<replicated job>-<job index>-<pod index>.<subdomain>
    assert joining == ["--coordinator", "faces-workers-0-0.faces:8476", "--num_processes", "2", "--process_id", "3"]


def test_the_claim_is_made_when_its_size_is_given():
    claim, jobset = manifests(*TPU, "--storage", "2Ti", "--storage-class", "standard-rwx", "--claim", "faces")
    kubernetes_validate.validate(claim, "1.37", strict=True)
    assert claim["spec"] == {
        "accessModes": ["ReadWriteMany"],
        "storageClassName": "standard-rwx",
        "resources": {"requests": {"storage": "2Ti"}},
    }
    _, pod, _ = pod_of(jobset)
    assert claim["metadata"]["name"] == pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == "faces"


@pytest.mark.parametrize(("state", "deleted"), [("", False), ("Failed", True)])
def test_the_manifest_is_applied_and_one_that_has_ended_replaced(tmp_path, state, deleted):
    body = f"""
if "get" in sys.argv: print({state!r})
if "apply" in sys.argv: open({str(tmp_path / "applied")!r}, "w").write(sys.stdin.read())
"""
    kubectl = stand_in(tmp_path / "bin" / "kubectl", body)
    ended = launch("jobset.sh", "--image", "registry/image:tag", *TPU, "--namespace", "n", workdir="/mnt/scemae/a run",
                   PATH=search_path(tmp_path / "bin"))  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert list(yaml.safe_load_all((tmp_path / "applied").read_text())) == manifests(*TPU)
    called = calls(kubectl)
    assert all(words[:2] == ["--namespace", "n"] for words in called)
    assert [words[2] for words in called] == ["get", *["delete"] * deleted, "apply"]


def test_the_image_has_every_extra_that_its_header_names():
    """Those of the pinned JAX, as installed here."""
    text = (LAUNCH / "Dockerfile").read_text()
    (named,) = re.findall(r"an extra of the pinned JAX: (.*?)\.", text)
    extras = metadata.metadata("jax").get_all("Provides-Extra")
    assert extras is not None
    assert set(re.findall(r"\w+", named)) - {"or"} <= set(extras)
    assert {"tpu", "cuda12"} <= set(re.findall(r"\w+", named))


# --- quickstart.sh and compilers.sh


@pytest.fixture
def project(tmp_path) -> Path:
    """The launch scripts and requirements apart, with environments whose Python only notes what it is asked to do."""
    body = """
words = " ".join(sys.argv[1:])
if any(part in words for part in os.environ.get("FAILS", "").split(";") if part):
    sys.exit(1)
"""
    for venv in (".venv", ".venv-compilers"):
        stand_in(tmp_path / venv / "bin" / "pip", "")
        stand_in(tmp_path / venv / "bin" / "python", "import os" + body)
    (tmp_path / "launch").mkdir()
    for script in LAUNCH.glob("*.sh"):
        (tmp_path / "launch" / script.name).write_text(script.read_text())
    for name in ("requirements.txt", "requirements-test.txt"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    return tmp_path


def in_project(project: Path, script: str, *options, **environment) -> tuple[subprocess.CompletedProcess, list[str]]:
    """How a script ended, and the commands of its environment's Python."""
    noted = project / (".venv-compilers" if script == "compilers.sh" else ".venv") / "bin" / "python"
    before = len(calls(noted))
    command = ["bash", project / "launch" / script, *options]
    ended = subprocess.run(command, capture_output=True, text=True, env=settings(**environment))
    return ended, [" ".join(words) for words in calls(noted)[before:]]


PIP = "-m pip install --quiet --disable-pip-version-check"


def test_a_gpu_is_installed_for_once_and_looked_for_each_time(project):
    ended, commands = in_project(project, "quickstart.sh", "--gpu", "--config.seed=1")
    assert ended.returncode == 0, ended.stderr
    *installed, looked, run = commands
    assert installed == [
        f"{PIP} -r requirements.txt", f"{PIP} --no-deps --editable .", f"{PIP} -c requirements.txt jax[cuda12]",
    ]  # fmt: skip
    assert "jax.default_backend()" in looked
    assert run == " ".join([*MAIN, "--config configs/quickstart.py --workdir runs/quickstart_gpu --config.seed=1"])
    ended, commands = in_project(project, "quickstart.sh", "--gpu", FAILS="default_backend")
    assert (ended.returncode, [words[:3] for words in commands]) == (1, ["-c "])
    assert "nvidia-smi" in ended.stderr


def test_what_a_gpu_needs_follows_a_new_jax(project):
    in_project(project, "quickstart.sh", "--gpu")
    (project / "requirements.txt").write_text((ROOT / "requirements.txt").read_text() + "# another jax\n")
    ended, commands = in_project(project, "quickstart.sh")
    assert ended.returncode == 0, ended.stderr
    assert f"{PIP} -c requirements.txt jax[cuda12]" in commands
    assert commands[-1].endswith("--workdir runs/quickstart")  # not what the GPU's run has finished


def test_without_gpu_it_runs_on_the_cpu_though_one_be_there(project):
    body = "import os, pathlib\npathlib.Path('platforms').write_text(os.environ.get('JAX_PLATFORMS', 'none'))"
    stand_in(project / ".venv" / "bin" / "python", body)
    in_project(project, "quickstart.sh", JAX_PLATFORMS="")
    assert (project / "platforms").read_text() == "cpu"


@pytest.mark.parametrize("sizes", ["", "t8 S"])
def test_sizes_that_nothing_would_be_compiled_of_are_refused(project, sizes):
    ended, commands = in_project(project, "compilers.sh", "--sizes", sizes)
    assert (ended.returncode, commands) == (2, [])
    assert "xxs8 t8 s8 b8" in ended.stderr


@pytest.mark.parametrize(("there", "told"), [("", True), ("sys.exit(9)", False)])
def test_who_has_a_gpu_is_told_of_it(project, there, told):
    stand_in(project / "bin" / "nvidia-smi", there)
    ended, commands = in_project(project, "quickstart.sh", PATH=search_path(project / "bin"))
    assert ended.returncode == 0, ended.stderr
    assert ("--gpu uses it" in ended.stdout) == told
    assert not any("cuda12" in words for words in commands)


@pytest.mark.parametrize(
    ("fails", "status", "tested"),
    [
        ("", 0, ["tpu", "cuda"]),
        ("jax[tpu]", 0, ["cuda"]),
        ("jax[cuda12]", 0, ["tpu"]),
        ("jax[tpu];jax[cuda12]", 1, []),
        ("tpu_compile", 3, ["tpu", "cuda"]),
        ("cuda_compile", 3, ["tpu", "cuda"]),
        ("tpu_compile;jax[cuda12]", 3, ["tpu"]),
    ],
)
def test_each_compiler_is_asked_though_the_other_be_missing(project, fails, status, tested):
    ended, commands = in_project(project, "compilers.sh", FAILS=fails)
    assert ended.returncode == status, ended.stderr
    assert [re.findall(r"test_(\w+)_compile\.py", words)[0] for words in commands if "-m pytest" in words] == tested
    assert f"{PIP} -c requirements.txt jax[cuda12]" in commands
    assert len(ended.stdout.splitlines()[-2:]) == 2
    assert not any("scaling" in words for words in commands)


def test_tables_are_written_where_the_tests_pass(project):
    _, commands = in_project(project, "compilers.sh", "--tables")
    scaling = [words for words in commands if "benchmarks.scaling" in words]
    assert len(scaling) == 1
    assert scaling[0].endswith("--output docs/scaling.json --page docs/scaling.md")
    ended, commands = in_project(project, "compilers.sh", "--tables", FAILS="tpu_compile")
    assert (ended.returncode, [words for words in commands if "scaling" in words]) == (3, [])
    (project / ".venv-compilers" / "installed-tpu").unlink()
    ended, commands = in_project(project, "compilers.sh", "--tables", FAILS="jax[tpu]")
    assert (ended.returncode, [words for words in commands if "scaling" in words]) == (0, [])
