"""An experiment: a config, its workdir, and the stages that a system declares. Finished stages are skipped."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from scemae_jax import config as configuration
from scemae_jax.config import Config
from scemae_jax.model_file import fingerprint
from scemae_jax.report.table import Table, tables_by_stage
from scemae_jax.training import checkpoints, loop, processes
from scemae_jax.training.metrics import read_metrics
from scemae_jax.training.run_data import RunData


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a system, declared where its function stands. Its settings are the section `config.NAME`."""

    name: str
    run: Callable[[Any], dict[str, Any]]
    """(experiment) -> facts, JSON-able, and under "measurements" a list of `Measurement`.

    {"skipped": why} if there was nothing to do.
    """
    builds_on: tuple[str, ...] = ()
    """Earlier stages. When one of them runs, this stage's old result is outdated."""
    trains: bool = False
    """Its result is weights. An outdated result is then an error: the engine does not train it again by itself.

    Data that change before it has finished are an error too, unless it also `measures`.
    """
    distributed: bool = False
    """All processes take part. Otherwise the first works alone."""
    measures: bool = False
    """Reads annotations; runs again when the data have changed."""
    settings_may_change: bool = False
    """A workdir may go on with other settings of this stage, which then runs again. No other stage may read them."""
    reads_data: bool = True
    progress: tuple[str, ...] = ()
    """What an unfinished run leaves to go on from: patterns below the workdir, of files or numbered folders."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class System:
    """A method: its stages in order, and functions that check and describe its experiments."""

    name: str
    stages: tuple[Stage, ...]
    experiment: type[Experiment]
    check: Callable[[Config], None]
    """Raises ValueError if the config has a mistake; runs before anything else."""
    describe: Callable[[Any], None]
    """Prints what an experiment would do."""
    tables: Callable[[dict[str, Any]], list[Table]] = tables_by_stage
    """(results) -> how its measurements are shown: on the screen, in the report and in sweeps."""

    @functools.cached_property
    def by_name(self) -> dict[str, Stage]:
        return {stage.name: stage for stage in self.stages}

    def open(self, config: Config, workdir: Path, stop_at: float | None = None) -> Experiment:
        """The experiment of a config; nothing is read or written yet."""
        return self.experiment(config, workdir, self, stop_at)

    def check_config(self, config: Config) -> None:
        """Checks the config, `config.stages` included.

        Raises:
          ValueError: a field has a value that does not exist, or does not fit another.
        """
        self.check(config)
        if unknown := [stage for stage in config.stages if stage not in self.by_name]:
            raise ValueError(f"config.stages names {unknown}: choose from {', '.join(self.by_name)}")
        if list(config.stages) != [stage for stage in self.by_name if stage in config.stages]:
            raise ValueError(
                f"config.stages is {tuple(config.stages)}: the order is {', '.join(self.by_name)}, each once"
            )


@dataclasses.dataclass(frozen=True)
class Experiment(RunData):
    """One config, its data and its workdir. A system's subclass adds the networks of its stages."""

    workdir: Path
    system: System
    stop_at: float | None = None
    """Time (`time.monotonic`) after which training saves and stops."""

    def train(self, task: loop.Task) -> dict[str, Any]:
        """Trains a task in the workdir; returns the stage's result (in the first process)."""
        rules = self.config.mesh.rules
        loop.fit(task, workdir=self.workdir, mesh=self.mesh, rules=rules, stop_at=self.stop_at)
        if not processes.is_first():
            return {}
        rows = [row for row in read_metrics(self.workdir) if row["stage"] == task.name]
        if not rows:
            raise ValueError(
                f"{self.workdir}/metrics.jsonl has no row of {task.name}, whose training has finished: put the file "
                "back, or choose another --workdir"
            )
        images = np.diff([0, *(row["step"] for row in rows)]) * task.batch_size
        seconds = sum(n / row["images_per_second"] for n, row in zip(images, rows, strict=True))
        return {
            "steps": task.steps,
            "images": self.num_images,
            "images_left_out": self.left_out,
            "images_seen": task.steps * task.batch_size,
            "seconds": round(seconds, 1),
            **{name: rows[-1][name] for name in ("loss", *task.outputs)},
        }

    def trained(self, task: str, part: str = "params") -> Any | None:
        """The "params", or a part of the "state", of a task's newest checkpoint; None if there is no checkpoint.

        Read once, and without the optimiser's state.
        """
        directory = self.workdir / "checkpoints" / task
        step = checkpoints.newest_step(directory)
        if step is None:
            return None
        if (task, part, step) not in self._restored:
            self._restored[task, part, step] = checkpoints.restore_part(directory, step, part)
        return self._restored[task, part, step]

    @functools.cached_property
    def _restored(self) -> dict[tuple[str, str, int], Any]:
        return {}

    def results(self) -> dict[str, Any]:
        """The results of the stages that have finished in the workdir."""
        return read_results(self.workdir)


def read_results(workdir: Path) -> dict[str, Any]:
    """What results.json has: facts by stage, and all rows in one list, "measurements"; empty where nothing has run.

    Raises:
      ValueError: it is of an earlier version.
    """
    path = workdir / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    if results and "measurements" not in results:
        raise ValueError(
            f"{path} is of an earlier version and has no list of measurements: choose another --workdir, and start "
            f"from what was trained with --config.init={workdir}/export/scemae.msgpack"
        )
    return results


def was_skipped(result: Any) -> bool:
    """Whether a stage had nothing to do; its result then says why under "skipped"."""
    return isinstance(result, dict) and "skipped" in result


def write_json(path: Path, content: Any) -> None:
    """Writes all or nothing: a run that is cut off leaves the old file."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    partial.replace(path)


def run(experiment: Experiment) -> dict[str, Any]:
    """Runs the stages of the config that have not finished, in order, and returns all results.

    A finished stage is outdated, and runs again, if a stage that it builds on runs now. If the data have changed (a
    folder was annotated), stages that measure run again too.

    All processes take part in distributed stages. The first process alone does the rest, and writes the results.

    Raises:
      ValueError: the workdir is of another config, a stage that trains finished before one it builds on, or the data
        changed in the middle of training, or a batch does not divide over the devices.
    """
    check_batches(experiment)
    if jax.process_count() > 1:
        experiment.prepare_data()
    failed = None
    if processes.is_first():
        try:
            results = begin(experiment)
            if results != experiment.results():  # a finished run is left untouched
                write_json(experiment.workdir / "results.json", results)
        except Exception as error:
            failed = error
    processes.fail_together(failed, "stages begin")
    results, alone = experiment.results(), False
    for name in experiment.config.stages:
        distributed = experiment.system.by_name[name].distributed
        if distributed and alone:  # the others know neither what the first process found nor whether it failed
            processes.fail_together(failed, f"{name} begins")
            results, alone = experiment.results(), False
        if failed:
            continue
        if not distributed:
            experiment.forget_training_images()
        if name in results:
            before = results[name]
            outcome = f"skipped before, {before['skipped']}" if was_skipped(before) else "finished before"
            if processes.is_first():
                print(f"{name}: {outcome}")
        elif distributed:
            run_stage(experiment, name, results)
        else:
            alone = True
            try:
                if processes.is_first():
                    run_stage(experiment, name, results)
            except (Exception, processes.Interrupted) as error:
                failed = error
    processes.fail_together(failed, "stages end")
    return results


def run_stage(experiment: Experiment, name: str, results: dict[str, Any]) -> None:
    """Runs one stage; the first process writes its result beside the others."""
    stage = experiment.system.by_name[name]
    if stage.reads_data:
        results["data"][name] = experiment.data_version
    if processes.is_first():
        write_json(experiment.workdir / "results.json", results)
    started = time.monotonic()
    results[name] = stage.run(experiment)
    if not processes.is_first():
        return
    config = experiment.config
    about = {"stage": name, "system": config.system, "dataset": config.data.dataset, "seed": config.seed}
    rows = [measurement.row(**about) for measurement in results[name].pop("measurements", ())]
    results["measurements"] = results.pop("measurements") + rows  # behind the facts
    write_json(experiment.workdir / "results.json", results)
    outcome = f"finished in {time.monotonic() - started:.0f} s"
    if was_skipped(results[name]):
        outcome = f"skipped, {results[name]['skipped']}"
    print(f"{name}: {outcome}", flush=True)


def check_batches(experiment: Experiment) -> None:
    """Raises ValueError if the batch of a stage that has yet to train does not divide over the devices."""
    finished, config = experiment.results(), experiment.config
    for stage in experiment.system.stages:
        if stage.distributed and stage.name in config.stages and stage.name not in finished:
            settings = config.get(stage.name, {})
            if "batch_size" in settings:
                accumulate = settings.get("accumulate", 1)
                loop.check_batch(stage.name, settings["batch_size"], accumulate, experiment.mesh)


def begin(experiment: Experiment) -> dict[str, Any]:
    """Claims the workdir and returns its results, without those that the coming stages make outdated."""
    claim_workdir(experiment)
    config, results, stages = experiment.config, experiment.results(), experiment.system.stages
    results |= {
        "config_hash": configuration.config_hash(config),
        "seed": config.seed,
        "dataset": config.data.dataset,
        "encoder": config.model.encoder,
    }
    check_init(experiment, results)
    data, rows = results.setdefault("data", {}), results.setdefault("measurements", [])

    def asked(stage: Stage) -> bool:
        return stage.name in config.stages

    def changed(stage: Stage) -> bool:
        return data.get(stage.name, experiment.data_version) != experiment.data_version

    for stage in stages:
        if stage.measures and asked(stage) and changed(stage):
            results.pop(stage.name, None)
            forget_progress(experiment, stage)
    for stage in outdated(stages, results, config.stages):
        if stage.trains and not was_skipped(results[stage.name]):
            raise ValueError(
                f"{experiment.workdir}: {stage.name} had finished, and now config.stages has a stage before it that "
                "had not run, so its weights would belong to another network: use another --workdir"
            )
        del results[stage.name]
        forget_progress(experiment, stage)
    pending = [stage for stage in stages if asked(stage) and stage.name not in results]
    training = [stage for stage in pending if stage.trains and not stage.measures]
    for stage in training:
        if has_progress(experiment, stage) and changed(stage):
            raise ValueError(
                f"{experiment.workdir}: {stage.name} began on {data[stage.name]}, and the data are "
                f"{experiment.data_version} now. If landmarks.csv was added or changed, put the old state back until "
                "training has finished; otherwise use another --workdir"
            )
    if training:
        for stage in stages:  # a measurement that was cut off used another network
            if stage.measures and stage.name not in results:
                forget_progress(experiment, stage)
    results["measurements"] = [row for row in rows if row["stage"] in results]
    return results


def outdated(stages: Sequence[Stage], finished: Collection[str], asked: Sequence[str]) -> list[Stage]:
    """Finished stages that build, directly or by others, on a stage which is `asked` for and has yet to run."""
    pending, found = {name for name in asked if name not in finished}, []
    for stage in stages:
        if stage.name in finished and pending & set(stage.builds_on):
            found.append(stage)
            pending.add(stage.name)
    return found


def claim_workdir(experiment: Experiment) -> None:
    """Writes config.json, or checks that the existing one is of the same experiment.

    Results of stages whose settings may change, and have changed, are forgotten.

    Raises:
      ValueError: it is of another experiment; the message lists the differences.
    """
    data = experiment.config.data
    of_folders = data.dataset in ("landmark_folder", "image_folder")
    roots = (data.root, *(root for root, _ in data.more_roots)) if of_folders else ()
    for root in filter(None, roots):
        if experiment.workdir.resolve().is_relative_to(Path(root).expanduser().resolve()):
            raise ValueError(
                f"--workdir {experiment.workdir} is inside {root}, and its pictures would be trained on: choose "
                "one outside"
            )
    experiment.workdir.mkdir(parents=True, exist_ok=True)
    path, fields = experiment.workdir / "config.json", configuration.plain(experiment.config)
    if path.exists() and has_begun(experiment):
        lines = configuration.differences(json.loads(path.read_text()), fields)
        free = {stage.name for stage in experiment.system.stages if stage.settings_may_change}
        changed = {field.partition(".")[0] for field in lines}
        if changed - free:
            there = [line for field, line in lines.items() if field.partition(".")[0] not in free]
            raise ValueError(
                f"{experiment.workdir} holds a run of another config:\n  " + "\n  ".join(there) + "\n"
                "Choose another --workdir, or the config of that run. To go on from its network with other settings: "
                f"another --workdir, --config.init=MODEL with the model in {experiment.workdir}/export, and "
                "config.stages without those that are not to be done again."
            )
        forget_results(experiment, changed)
    write_json(path, fields)


def forget_results(experiment: Experiment, changed: Collection[str]) -> None:
    """Of the stages whose settings have changed, and of those that build on them."""
    results, gone = experiment.results(), set(changed)
    for stage in experiment.system.stages:
        if stage.name in gone or gone & set(stage.builds_on):
            gone.add(stage.name)
            if results.pop(stage.name, None) is not None:
                forget_progress(experiment, stage)
                write_json(experiment.workdir / "results.json", results)


def check_init(experiment: Experiment, results: dict[str, Any]) -> None:
    """Notes which network `config.init` holds, or checks that the workdir began from the same one.

    A missing file is no error here: finished stages do not need it.

    Raises:
      ValueError: another network is there now.
    """
    init = experiment.config.init
    try:
        now = fingerprint(init) if init else ""
    except FileNotFoundError:
        return
    before = results.get("init_fingerprint", now)
    results["init_fingerprint"] = now
    if before != now and has_begun(experiment):
        raise ValueError(
            f"{experiment.workdir} began from another network than {init} now holds (fingerprints {before} and {now}): "
            "choose another --workdir, or put the old file back"
        )


def has_begun(experiment: Experiment) -> bool:
    """Whether a stage has finished in the workdir, or has left something to go on from."""
    finished = experiment.results()
    return any(stage.name in finished or has_progress(experiment, stage) for stage in experiment.system.stages)


def has_progress(experiment: Experiment, stage: Stage) -> bool:
    """Whether this stage has left something to go on from."""
    found = (path for pattern in stage.progress for path in experiment.workdir.glob(pattern))
    return any(path.is_file() or any(path.glob("[0-9]*")) for path in found)


def forget_progress(experiment: Experiment, stage: Stage) -> None:
    """Removes what a stage left to go on from, as it belongs to other data or another network."""
    for pattern in stage.progress:
        for path in experiment.workdir.glob(pattern):
            path.unlink() if path.is_file() else shutil.rmtree(path, ignore_errors=True)
