"""The TPU compiler's word on the steps of training, for a slice that is only described: no TPU is needed."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import scemae_jax

pytestmark = [
    pytest.mark.tpu_compiler,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None and "SCEMAE_COMPILERS" not in os.environ,
        reason="libtpu, with which JAX looks for a TPU, is not installed: launch/compilers.sh installs it apart",
    ),
]

BATCH, HBM = 64, 16e9
STAGES = ("pretrain", "refine")
MESHES = {"1x1": ("v5e:1x1", 1), "16x1": ("v5e:4x4", 1), "4x4": ("v5e:4x4", 4)}
ON_SEVERAL = [f"{stage} {mesh}" for stage in STAGES for mesh in ("16x1", "4x4")]

# A process of its own: libtpu stays loaded, and tells of itself on stderr.
WORKER = """
import json, sys
from scemae_jax.systems.sce_mae import settings
from benchmarks import program, scaling

scaling.describe_chips()
stages, meshes, batch = json.loads(sys.argv[1])
found = {}
for stage in stages:
    config = settings.default()
    config.dtype = "bfloat16"
    config.model.encoder = "XXS/8"
    config.model.decoder_width, config.model.decoder_depth, config.model.decoder_heads = 32, 1, 2
    config[stage].batch_size = batch
    for name, (slice, fsdp) in meshes.items():
        mesh = scaling.described_mesh(slice, fsdp)
        compiled = scaling.compile_training(config, stage, mesh)
        memory = compiled.memory_analysis()
        found[f"{stage} {name}"] = {
            "chips": mesh.size,
            "arguments": memory.argument_size_in_bytes,
            "temporary": memory.temp_size_in_bytes,
            **program.read_program(compiled.as_text()),
        }
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def programs() -> dict[str, dict]:
    environment = {
        **os.environ, "PYTHONPATH": str(Path(scemae_jax.__file__).parents[1]), "JAX_PLATFORMS": "cpu",
    }  # fmt: skip
    command = [sys.executable, "-c", WORKER, json.dumps([STAGES, MESHES, BATCH])]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.fixture(params=[f"{stage} {mesh}" for stage in STAGES for mesh in MESHES])
def program(request, programs) -> dict:
    return programs[request.param]


def test_it_fits(program):
    assert program["arguments"] + program["temporary"] < HBM


def test_the_images_that_stay_on_a_chip_are_neither_copied_nor_read_as_a_whole(program):
    images = 162_770 * 136 * 136 * 3 / program["chips"]
    assert program["arguments"] > images
    assert program["temporary"] < images / 10
    assert program["hbm_bytes"] < images / 2


@pytest.mark.parametrize("name", ON_SEVERAL)
def test_a_batch_goes_round_once_as_bytes(programs, name):
    sent = programs[name]["collectives"]["all-reduce"]["bytes"]
    assert BATCH * 136 * 136 * 3 < sent < 2 * BATCH * 136 * 136 * 3


@pytest.mark.parametrize("stage", STAGES)
def test_fsdp_divides_the_state_and_gathers_it(programs, stage):
    whole, divided = programs[f"{stage} 16x1"], programs[f"{stage} 4x4"]
    assert divided["arguments"] < whole["arguments"]
    assert "all-gather" in divided["collectives"]
    assert "all-gather" not in whole["collectives"]
