"""The command line, all suites at tiny sizes."""

import contextlib
import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.__main__ import SUITES, run
from benchmarks.agreement import relative_error
from benchmarks.suites import SMOKE, Settings, noise_on_devices, stage_task, with_hypercolumns

SETTINGS = Settings(**SMOKE)
SLOW_BUT_SOON_COMPILED = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
ROWS = {
    "pretrain": ["masked autoencoder", "stage 1 as trained"],
    "refine": ["stage 2", "all tokens", "hypercolumns, linear projector", "hypercolumns, two layers",
               "density peaks, 130 x 48"],
    "cluster": ["density peaks, 130 x 192", "density peaks, 130 x 48", "density peaks, 64 x 48"],
    "input": ["constant batch", "device", "host", "none"],
    "parse": ["its passes", "adaptation step", "parse"],
}  # fmt: skip
"""Of each suite that measures speed."""


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """Results of two suites, their file, and what was printed."""
    output, out = tmp_path_factory.mktemp("benchmark") / "smoke.json", io.StringIO()
    with contextlib.redirect_stdout(out):
        run(Settings(**SMOKE, smoke=True, output=str(output), suite="pretrain,cluster"))
    return json.loads(output.read_text())["suites"], output, out.getvalue()


def assert_rows_of_every_suite(suites, out):
    for name in suites.keys() - {"agreement"}:
        assert [row["name"] for row in suites[name]] == ROWS[name]
        for row in suites[name]:
            assert 0 < row["min"] <= row["images/s"] <= row["max"]
    assert all(f"{name}: XXS/8, float32, cpu" in out for name in suites)


@pytest.mark.slow
def test_a_suite_leaves_rows(smoke):
    suites, _, out = smoke
    assert list(suites) == ["pretrain", "cluster"]
    assert_rows_of_every_suite(suites, out)


@pytest.mark.slow
def test_the_command_measures_every_suite(tmp_path):
    environment = {**os.environ, "XLA_FLAGS": SLOW_BUT_SOON_COMPILED}
    command = [sys.executable, "-m", "benchmarks", "--smoke", "--output", tmp_path / "smoke.json"]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ended.returncode == 0, ended.stderr
    suites = json.loads((tmp_path / "smoke.json").read_text())["suites"]
    assert list(suites) == list(SUITES)
    assert_rows_of_every_suite(suites, ended.stdout)
    for row in suites["agreement"]:
        assert row["passed"], row
        assert (row["error"] > 0) == (row["dtype"] == "bfloat16")  # the CPU with itself


@pytest.mark.slow
def test_what_is_done_is_not_done_twice_and_other_settings_are_refused(smoke):
    suites, output, _ = smoke
    same = Settings(**SMOKE, smoke=True, output=str(output), suite="cluster,pretrain")
    assert run(same)["suites"] == suites
    with pytest.raises(ValueError, match=r"holds results of .*'encoder': 'XXS/8'.*: name another file"):
        run(Settings(**SMOKE | {"encoder": "XS/8"}, smoke=True, output=str(output)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"suite": "pretrain,speed"},
            "--suite names speed: choose from pretrain, refine, cluster, input, parse, agreement",
        ),
        ({"suite": "pretrain", "encoder": "M/8"}, r"unknown encoder 'M/8': use SIZE/PATCH"),
        ({"suite": "pretrain", "dtype": "float16"}, "dtype is 'float16': choose 'float32' or 'bfloat16'"),
        ({"suite": "pretrain", "decoder": "512x8"}, "--decoder is '512x8': give width x depth x heads"),
    ],
)
def test_mistakes_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        run(Settings(**settings))


def test_relative_error():
    expected = {"a": np.array([3.0, 4.0]), "b": np.zeros(2)}
    assert relative_error(expected, expected) == 0
    assert relative_error(expected, {"a": np.array([3.0, 4.5]), "b": np.zeros(2)}) == pytest.approx(0.1)
    assert not relative_error(expected, {"a": np.array([np.nan, 4.0]), "b": np.zeros(2)}) <= 1


@pytest.mark.slow
def test_hypercolumns_have_the_tokens_of_every_layer():
    task = stage_task(SETTINGS.config, "refine", noise_on_devices(SETTINGS, 4))
    architecture = SETTINGS.architecture
    columns = architecture.backbone.variant.depth * architecture.backbone.variant.width
    params = with_hypercolumns(task, SETTINGS, hidden=False).params
    assert params["out"]["kernel"].shape == (columns, architecture.projection)
    assert with_hypercolumns(task, SETTINGS, hidden=True).params["hidden"]["kernel"].shape == (columns, columns)
