"""The command line, all suites at tiny sizes."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.agreement import relative_error
from benchmarks.hotspots import Event, category, fused_products, idle_time, own_times
from benchmarks.run import SUITES, TIMED, begin, check_suites
from benchmarks.settings import Settings, decoder_sizes

FAST = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
"""Programs that are slow but soon compiled."""


def start(*flags):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": FAST}
    command = [sys.executable, "-m", "benchmarks", *map(str, flags)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process, returncode=0):
    out, errors = process.communicate(timeout=280)
    assert process.returncode == returncode, errors
    return out, errors


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """Results of all suites, the folder they are in, and what was printed."""
    folder = tmp_path_factory.mktemp("benchmark")
    out, _ = finish(start("--smoke", "--output", folder / "smoke.json", "--plot", folder / "clustering.png"))
    return json.loads((folder / "smoke.json").read_text()), folder, out


def test_every_suite_leaves_rows_of_sane_numbers(smoke):
    results, folder, out = smoke
    assert results["finished"]
    assert list(results["suites"]) == list(SUITES)
    assert results["environment"]["cores"] == os.cpu_count()
    assert results["settings"]["encoder"] == "XXS/8"
    for name in TIMED:
        for row in results["suites"][name]["rows"]:
            speed = row["images_per_second"]
            assert len(speed["values"]) == 2
            assert 0 < speed["min"] <= speed["median"] <= speed["max"]
            assert row["utilisation"] is None or 0 < row["utilisation"] < 2
            assert row["compile_seconds"] is None or row["compile_seconds"] >= 0
    rows = {name: [row["name"] for row in suite["rows"]] for name, suite in results["suites"].items()}
    assert rows["pretrain"] == ["stage 1", "masked autoencoder, ours"]
    assert rows["refine"] == [
        "stage 2", "stage 2, all tokens", "stage 2, hypercolumns, linear", "stage 2, hypercolumns, two layers",
        "clustering of stage 2 alone",
    ]  # fmt: skip
    assert rows["features"] == [f"{which}, stride {stride}" for stride in (8, 4) for which in ("backbone", "projected")]
    caches = ("device", "host", "none, no workers")
    assert rows["input"][:4] == ["step, constant batch", *(f"step, {cache}" for cache in caches)]
    assert len(rows["input"]) == 7
    assert [row["tokens"] for row in results["suites"]["cluster"]["rows"] if "scaling" in row] == [16, 32]
    assert (folder / "clustering.png").read_bytes().startswith(b"\x89PNG")
    assert all(f"{name}: XXS/8, float32" in out for name in SUITES)


def test_operations_agree(smoke):
    rows = smoke[0]["suites"]["agreement"]["rows"]
    assert {row["dtype"] for row in rows} == {"float32", "bfloat16"}
    for row in rows:
        assert row["passed"], row
        assert row["device"] == "cpu, with itself"
        assert row["dtype"] == "float32" or row["error"] > 0


def test_a_profile_s_shares_make_up_the_whole(smoke):
    rows = smoke[0]["suites"]["profile"]["rows"]
    for stage in ("stage 1", "stage 2"):
        categories = {row["category"]: row["share"] for row in rows if row["name"] == f"{stage}: all"}
        assert sum(categories.values()) == pytest.approx(1)
        assert categories["matmul"] > 0.05
        assert sum(row["name"].startswith(stage) for row in rows) > len(categories)


def test_what_is_done_is_not_done_twice_and_other_settings_are_refused(smoke):
    results, folder, _ = smoke
    again = start("--smoke", "--suite=pretrain,agreement", "--output", folder / "smoke.json")
    other = start("--smoke", "--encoder=XS/8", "--output", folder / "smoke.json")
    finish(again)
    assert json.loads((folder / "smoke.json").read_text()) == results
    assert "holds results of other settings (encoder: XXS/8 there, XS/8 now)" in finish(other, 1)[1]


def test_results_of_another_device_are_refused(tmp_path):
    settings = Settings.smoke()
    there = {"settings": settings.plain(), "environment": {"device": "NVIDIA H200"}, "suites": {}}
    (tmp_path / "there.json").write_text(json.dumps(there))
    with pytest.raises(ValueError, match="holds results of NVIDIA H200, and this is cpu: name another file"):
        begin(settings, tmp_path / "there.json")


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="names 'speed': choose from pretrain, refine, cluster, features, input, agr"):
        check_suites(["pretrain", "speed"])
    with pytest.raises(ValueError, match=r"unknown encoder 'M/8': use SIZE/PATCH, e\.g\. 'S/8', with SIZE one of"):
        Settings(encoder="M/8").config  # noqa: B018
    with pytest.raises(ValueError, match="dtype is 'float16': choose 'float32' or 'bfloat16'"):
        Settings(dtype="float16").config  # noqa: B018
    for decoder in ("512x8", "512x8x0", "axbxc"):
        with pytest.raises(ValueError, match=f"--decoder is '{decoder}': give width x depth x heads"):
            decoder_sizes(decoder)
    assert "error: --suite names 'speed'" in finish(start("--suite=speed"), 1)[1]


def test_the_peer_asks_for_what_it_needs(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("raise ImportError('No module named torch')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    _, errors = finish(start("--smoke", "--suite=pretrain", "--peer=torch"), 1)
    assert "--peer=torch needs PyTorch and transformers (No module named torch): pip install" in errors


def test_relative_error():
    expected = {"a": np.array([3.0, 4.0]), "b": np.zeros(2)}
    found = {"a": np.array([3.0, 4.5]), "b": np.zeros(2)}
    assert relative_error(expected, expected) == 0
    assert relative_error(expected, found) == pytest.approx(0.1)
    assert relative_error(expected["b"], np.array([0.0, 2.0])) == 2
    assert relative_error(expected["a"], np.array([np.nan, 4.0])) == float("inf")


def test_times_of_nested_and_idle_operations():
    events = [
        Event("while", "other", 0, 10), Event("dot", "matmul", 1, 4), Event("copy", "copy", 5, 6),
        Event("dot", "matmul", 14, 16),
    ]  # fmt: skip
    assert own_times(events) == {("while", "other"): 6, ("dot", "matmul"): 5, ("copy", "copy"): 1}
    assert idle_time(events) == 4


def test_categories():
    assert category("custom-call cublas_gemm") == "matmul"
    assert category("cudnn_flash_attention dot") == "attention"
    assert category("loop_add_fusion") == "fusion"
    assert category("MemcpyD2D") == "copy"
    hlo = """
%fused_a (p: f32[2]) -> f32[2] {
  ROOT %dot.1 = f32[2]{0} dot(%p, %p)
}
%fused_b (p: f32[2]) -> f32[2] {
  ROOT %add.1 = f32[2]{0} add(%p, %p)
}
ENTRY %main (p: f32[2]) -> f32[2] {
  %x.1 = f32[2]{0} fusion(%p), kind=kCustom, calls=%fused_a
  ROOT %y.1 = f32[2]{0} fusion(%x.1), kind=kLoop, calls=%fused_b
}
"""
    assert fused_products(hlo) == {"x.1"}
