"""The scripts in launch/: validated by each tool's own schema where it installs here, and run beside stand-ins.

Stand-ins for gcloud, SLURM and an environment's Python record how they are called; the GPU script really trains.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import kubernetes_validate
import numpy as np
import pytest
import yaml
from PIL import Image

import scemae_jax

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
MAIN = ["-m", "scemae_jax.main"]
AWKWARD = [
    "--config.stages=('pretrain', \"refine\")",
    "--config.init=$(HOME)/a b&c;d|'e'",
    "--config.data.root=ü\\n$$5",
]


def run(*command, **environment) -> subprocess.CompletedProcess:
    """Runs it without the variables that the scripts look at, but for those given."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHON", "ZONE", "NFS")}
    kept |= {"JAX_PLATFORMS": "cpu"} | {name: str(value) for name, value in environment.items()}
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT, env=kept)


def stand_in(path: Path, body: str = "") -> Path:
    """An executable that records its arguments in PATH.jsonl before it does what `body` says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    record = f"import json, os, sys\nprint(json.dumps(sys.argv[1:]), file=open({f'{path}.jsonl'!r}, 'a'))"
    path.write_text(f"#!{sys.executable} -S\n{record}\n{body}")
    path.chmod(0o755)
    return path


def calls(path: Path) -> list[list[str]]:
    record = Path(f"{path}.jsonl")
    return [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []


def search_path(folder: Path) -> str:
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def test_shellcheck_finds_nothing():
    shellcheck = Path(sysconfig.get_path("scripts")) / "shellcheck"
    found = run(shellcheck, *sorted(LAUNCH.glob("*.sh")), LAUNCH / "slurm.sbatch")
    assert found.returncode == 0, found.stdout + found.stderr


def test_only_scripts_that_are_there_are_named():
    tracked = run("git", "grep", "-ohE", r"launch/[a-zA-Z_]+(\.[a-z]+)?").stdout.split()
    assert "launch/gpu.sh" in tracked
    assert [name for name in sorted(set(tracked)) if not (ROOT / name).exists()] == []


# --- slurm.sbatch


@pytest.mark.parametrize(
    ("status", "restarts", "queued"), [(0, 0, 0), (1, 0, 0), (75, 0, 0), (85, 99, 1), (85, 100, 0)]
)
def test_a_slurm_job_that_has_saved_is_queued_again(tmp_path, status, restarts, queued):
    srun, scontrol = stand_in(tmp_path / "srun", f"sys.exit({status})"), stand_in(tmp_path / "scontrol")
    ended = run("bash", LAUNCH / "slurm.sbatch", *AWKWARD, PATH=search_path(tmp_path), SLURM_JOB_ID=17,
                SLURM_RESTART_COUNT=restarts, SLURM_CPUS_PER_TASK=4)  # fmt: skip
    assert ended.returncode == status, ended.stderr
    assert calls(scontrol) == [["requeue", "17"]] * queued
    started = ["--kill-on-bad-exit=0", "--cpus-per-task=4", ".venv/bin/python", *MAIN, "--distributed", *AWKWARD]
    assert calls(srun) == [started]
    lines = re.findall(r"^#SBATCH --(.*)", (LAUNCH / "slurm.sbatch").read_text(), re.MULTILINE)
    options = dict(line.partition("=")[::2] for line in lines)
    assert options["ntasks-per-node"] == options["gpus-per-node"]
    assert "requeue" in options
    assert re.fullmatch(r"TERM@\d+", options["signal"])  # to the processes: the script itself has to outlive them


# --- jobset.yaml and skypilot.yaml


def test_the_jobset_is_valid_and_restarts_what_was_cut_off():
    claim, jobset = yaml.safe_load_all((LAUNCH / "jobset.yaml").read_text())
    (rule,), (replicated,) = jobset["spec"]["failurePolicy"]["rules"], jobset["spec"]["replicatedJobs"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "workers"}, **replicated["template"]}
    for resource in (claim, job):
        kubernetes_validate.validate(resource, "1.37", strict=True)
    pod, (container,) = job["spec"]["template"]["spec"], job["spec"]["template"]["spec"]["containers"]
    taken_away, failed = job["spec"]["podFailurePolicy"]["rules"]
    assert (taken_away["action"], failed["action"]) == ("Count", "FailJob")
    assert failed["onExitCodes"] == {"containerName": container["name"], "operator": "In", "values": [1, 75]}
    chips = np.prod([int(side) for side in pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")])
    pods = job["spec"]["completions"]
    assert pods == job["spec"]["parallelism"] == chips // container["resources"]["limits"]["google.com/tpu"]
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    paths = [word.partition("=")[2] for word in container["args"] if "dir=" in word or "root=" in word]
    assert len(paths) == 3
    assert all(path.startswith(f"{container['volumeMounts'][0]['mountPath']}/") for path in paths)
    accepted = run(sys.executable, *MAIN, *container["args"], "--only_check_args")
    assert accepted.returncode == 0, accepted.stderr


def test_the_skypilot_task_is_a_run_that_recovers_what_was_cut_off(tmp_path):
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    assert task["resources"]["job_recovery"] == {"max_restarts_on_errors": 0, "recover_on_exit_codes": [85]}
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\necho "$@"\nexec {sys.executable} "$@" --only_check_args\n')
    python.chmod(0o755)
    accepted = run("bash", "-c", task["run"], HOME=tmp_path, **task["envs"])
    assert accepted.returncode == 0, accepted.stderr
    ((mounted, bucket),) = task["file_mounts"].items()
    assert bucket["mode"] == "MOUNT"
    assert f"--workdir {mounted}/" in accepted.stdout


def test_skypilot_takes_the_task():
    sky = pytest.importorskip("sky", reason="skypilot is not installed, and no requirement")
    task = sky.Task.from_yaml(str(LAUNCH / "skypilot.yaml"))
    assert all(resources.use_spot for resources in task.resources)


def test_the_image_has_every_extra_that_its_header_names():
    """Those of the pinned JAX, as installed here."""
    (named,) = re.findall(r"an extra of the pinned JAX: (.*?)\.", (LAUNCH / "Dockerfile").read_text())
    assert set(re.findall(r"\w+", named)) - {"or"} <= set(metadata.metadata("jax").get_all("Provides-Extra") or [])


# --- tpu_pod.sh


GCLOUD = """
state = os.environ["STATE"]  # a file: that of the slice, where there is one
group, verb = sys.argv[3:5]
if verb == "create":
    open(state, "w").write(os.environ.get("MADE", "WAITING_FOR_RESOURCES"))
if verb == "delete":
    os.unlink(state)
if verb == "describe" and os.path.exists(state):
    now = open(state).read()
    open(state, "w").write("ACTIVE" if now == "WAITING_FOR_RESOURCES" else now)  # at the next look
    print(now)
if "--distributed" in sys.argv[-1]:
    import time
    time.sleep(float(os.environ.get("TAKES", "0")))
    sys.exit(75)
"""


@pytest.fixture
def pod(tmp_path):
    """`pod(*arguments, **environment)`: the script's command and environment, beside a stand-in for gcloud."""
    stand_in(tmp_path / "gcloud", GCLOUD)
    where = {"PATH": search_path(tmp_path), "STATE": str(tmp_path / "state"), "NFS": "10.0.0.2:/share", "POLL": "0"}

    def call(*arguments, **environment):
        return run("bash", LAUNCH / "tpu_pod.sh", *arguments, **where, **environment)

    return SimpleNamespace(run=call, environment={**os.environ, **where, "ZONE": "z"}, gcloud=tmp_path / "gcloud")


@pytest.mark.parametrize(
    ("state", "made"), [("", ["create"]), ("ACTIVE", []), ("SUSPENDED", ["delete", "create"])]
)  # fmt: skip
def test_a_slice_is_made_unless_it_is_there_and_runs_the_command(pod, tmp_path, state, made):
    if state:
        (tmp_path / "state").write_text(state)
    ended = pod.run(*AWKWARD, ZONE="us-west4-a")
    assert ended.returncode == 75, ended.stderr
    *before, copy, stop, set_up, command = [words for words in calls(pod.gcloud) if words[3] != "describe"]
    assert [words[3] for words in before] == made
    assert copy[3] == "scp"
    assert all({"--worker=all", "us-west4-a"} < set(words) for words in (copy, stop, set_up, command))
    assert run("bash", "-n", "-c", f"{stop[-1]}\n{set_up[-1]}").returncode == 0
    assert "mount -t nfs 10.0.0.2:/share /mnt/scemae" in set_up[-1]
    assert shlex.split(command[-1])[4:] == ["../venv/bin/python", *MAIN, "--distributed", *AWKWARD]


def test_ctrl_c_stops_the_run_on_all_workers(pod, tmp_path):
    (tmp_path / "state").write_text("ACTIVE")
    command = ["bash", LAUNCH / "tpu_pod.sh", "--config", "a.py"]
    running = subprocess.Popen(command, env={**pod.environment, "TAKES": "60"}, start_new_session=True)
    while not any("--distributed" in words[-1] for words in calls(pod.gcloud)):
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does
    assert running.wait(timeout=30) != 0
    assert "pkill -TERM -f '[s]cemae_jax.main'" in calls(pod.gcloud)[-1][-1]


def test_a_slice_that_cannot_be_made_and_a_zone_that_is_missing_are_said(pod):
    ended = pod.run(ZONE="z", MADE="FAILED")
    assert ended.returncode == 1
    assert "no slice scemae (FAILED): run this again" in ended.stderr
    ended = pod.run()
    assert ended.returncode != 0
    assert "set it to the zone" in ended.stderr


# --- gpu.sh


CONFIG = """
from scemae_jax.systems.sce_mae.settings import default

def get_config(size):
    config = default()
    config.model.encoder, config.dtype = "XXS/8", "float32"
    config.model.decoder_width, config.model.decoder_depth, config.model.decoder_heads = 32, 1, 2
    config.data.dataset = "landmark_folder"
    config.stages = ("pretrain", "export")
    return config
"""


@pytest.fixture
def gpu(tmp_path):
    """`gpu(*arguments, **environment)`: the script on a folder of noise, with a tiny network."""
    (tmp_path / "config.py").write_text(CONFIG)
    (tmp_path / "faces").mkdir()
    for number in range(6):
        noise = np.random.default_rng(number).integers(0, 256, (80, 80, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / "faces" / f"{number}.png")

    def call(*arguments, **environment):
        return run("bash", LAUNCH / "gpu.sh", "--data", tmp_path / "faces", "--out", tmp_path / "out", "--work",
                   tmp_path / "work", "--config", tmp_path / "config.py", "--size", "small", *arguments,
                   **{"PYTHON": sys.executable, **environment})  # fmt: skip

    return call


def trained(folder: Path) -> dict:
    """The results, where the model opens, too."""
    (folder / "joined.msgpack").write_bytes((folder / "small.msgpack.00").read_bytes())  # small enough for one part
    assert scemae_jax.load(folder / "joined.msgpack").architecture.backbone.encoder == "XXS/8"
    return json.loads((folder / "small.results.json").read_text())


@pytest.mark.slow
def test_the_gpu_script_s_smoke_run_leaves_results_and_model(gpu, tmp_path):
    ended = gpu("--smoke", "--", "--config.seed=3")
    assert ended.returncode == 0, ended.stderr
    results = trained(tmp_path / "out")
    assert (results["pretrain"]["images_seen"], results["seed"]) == (32, 3)
    assert (tmp_path / "out" / "small.metrics.jsonl").exists()
    seconds = re.search(r"first step of pretrain .*, then (\S+) s a step", ended.stdout)
    steps = int((tmp_path / "work" / "smoke" / "small.steps").read_text())
    assert steps * float(seconds[1]) == pytest.approx(55 * 60 / 2, rel=0.05)  # half of the time is for stage 1


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_benchmarks_come_first_and_what_the_time_cuts_off_leaves_a_model_and_goes_on(gpu, tmp_path):
    ended = gpu("--smoke", "--suite")
    assert ended.returncode == 0, ended.stderr
    measured = json.loads((tmp_path / "out" / "small.benchmark.json").read_text())["suites"]
    assert set(measured) == {"agreement", "pretrain", "refine", "input"}
    shutil.rmtree(tmp_path / "out")
    shutil.rmtree(tmp_path / "work")
    ended = gpu("--smoke", "--minutes", 1, SECONDS=55)  # where bash begins to count
    assert ended.returncode == 75, ended.stderr
    assert "pretrain" not in trained(tmp_path / "out")
    ended = gpu("--smoke")
    assert ended.returncode == 0, ended.stderr
    assert trained(tmp_path / "out")["pretrain"]["images_seen"] == 32


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--minutes", "0"], 2, "--minutes 0: give a whole number of at least 1"),
        (["--data", "/nowhere"], 2, "--data '/nowhere' is not a folder"),
        (["--fast"], 2, "not understood: --fast"),
        ([], 1, "JAX finds no GPU"),
    ],
)
def test_what_the_gpu_script_lacks_is_said(gpu, arguments, status, message):
    ended = gpu(*arguments)
    assert ended.returncode == status
    assert message in ended.stderr


def test_a_signal_ends_what_the_gpu_script_runs(tmp_path):
    body = f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\nimport time\ntime.sleep(60)"
    python = stand_in(tmp_path / "python", f"if sys.argv[1] != '-c':\n    {body.replace(chr(10), chr(10) + '    ')}")
    command = ["bash", LAUNCH / "gpu.sh", "--smoke", "--data", tmp_path, "--out", tmp_path, "--work", tmp_path]
    running = subprocess.Popen(command, env={**os.environ, "PYTHON": str(python)})
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    assert running.wait(timeout=30) == 143
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert len(calls(python)) == 2  # the look for devices, and the first step: nothing after it


# --- quickstart.sh, compilers.sh and test.sh


@pytest.fixture
def project(tmp_path):
    """`project(script, *options)`: a script among environments whose Python only notes what it is asked to do.

    Gives how it ended, and what was noted.
    """
    fails = "if any(part in ' '.join(sys.argv) for part in os.environ.get('FAILS', '').split()):\n    sys.exit(1)"
    for venv in (".venv", ".venv-compilers"):
        for program in ("pip", "python", "ruff", "pyright", "lint-imports"):
            stand_in(tmp_path / venv / "bin" / program, fails)
    for path in [*LAUNCH.glob("*.sh"), *ROOT.glob("requirements*.txt")]:
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(exist_ok=True)
        copy.write_text(path.read_text())

    def call(script, *options, venv=".venv", **environment):
        before = len(calls(tmp_path / venv / "bin" / "python"))
        ended = run("bash", tmp_path / "launch" / script, *options, **environment)
        return ended, [" ".join(words) for words in calls(tmp_path / venv / "bin" / "python")[before:]]

    return call


PIP = "-m pip install --quiet --disable-pip-version-check"


def test_a_gpu_is_installed_for_once_and_looked_for_each_time(project, tmp_path):
    ended, (*installed, looked, command) = project("quickstart.sh", "--gpu", "--config.seed=1")
    assert ended.returncode == 0, ended.stderr
    gpu_part = f"{PIP} -c requirements.txt jax[cuda12]"
    assert installed == [f"{PIP} -r requirements.txt", f"{PIP} --no-deps --editable .", gpu_part]
    assert "jax.default_backend()" in looked
    assert command.split() == [*MAIN, "--config", "configs/quickstart.py", "--workdir", "runs/quickstart_gpu",
                               "--config.seed=1"]  # fmt: skip
    ended, noted = project("quickstart.sh", "--gpu", FAILS="default_backend")
    assert (ended.returncode, len(noted)) == (1, 1)
    assert "nvidia-smi" in ended.stderr
    with (tmp_path / "requirements.txt").open("a") as file:
        file.write("# another jax\n")
    ended, noted = project("quickstart.sh")
    assert gpu_part in noted  # follows a new JAX
    assert noted[-1].endswith("--workdir runs/quickstart")  # not what the GPU's run has finished


def test_both_compilers_are_asked_and_tables_written_where_their_tests_pass(project):
    ended, noted = project("compilers.sh", "--tables", venv=".venv-compilers")
    assert ended.returncode == 0, ended.stderr
    assert [part for words in noted for part in re.findall(r"test_\w+_compile", words)] == [
        "test_tpu_compile", "test_cuda_compile",
    ]  # fmt: skip
    assert len([words for words in noted if "benchmarks.scaling" in words]) == 1
    ended, noted = project("compilers.sh", "--tables", venv=".venv-compilers", FAILS="cuda_compile")
    assert (ended.returncode, "benchmarks.scaling" in " ".join(noted)) == (1, False)


@pytest.mark.parametrize(
    ("options", "passed"),
    [(["tests/ops", "-k", "lcr"], "tests/ops -k lcr"), (["--slow", "-x"], "-m slow -x")],
)  # fmt: skip
def test_the_tests_take_arguments_of_pytest(project, options, passed):
    ended, noted = project("test.sh", *options)
    assert ended.returncode == 0, ended.stderr
    assert noted[-1].startswith("-m pytest ")
    assert noted[-1].endswith(passed)
