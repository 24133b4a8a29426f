"""Several devices adapt as one does: prototypes are moved by the sums over all of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import scemae_jax

PROTOTYPES = """
import sys
import jax
import numpy as np
from scemae_jax.ops import prototypes
from scemae_jax.training import sharding

rng = np.random.default_rng(0)
batch = {"features": rng.normal(size=(4, 5, 5, 6)).astype(np.float32), "labels": rng.integers(0, 5, (4, 5, 5))}
batch["labels"][:2] = np.where(batch["labels"][:2] == 3, 255, batch["labels"][:2])  # 3: on the second device alone
batch["labels"][batch["labels"] == 4] = 255
start = rng.normal(size=(5, 6)).astype(np.float32)

def move(batch):
    seen = prototypes.pixel_sums(batch["features"], batch["labels"], 5)
    return prototypes.update(start, seen, momentum=0.1, normalise=False)

for count in (1, 2):
    mesh = sharding.make_mesh(jax.devices()[:count])
    moved = jax.jit(move, out_shardings=sharding.replicated(mesh))(sharding.shard_batch(mesh, batch))
    np.save(f"{sys.argv[1]}/{count}.npy", jax.device_get(moved))
np.save(f"{sys.argv[1]}/start.npy", start)
"""

# Stage source with its adversary, then adapt from its parameters: on one device and on eight.
STAGES = """
import sys
from pathlib import Path
import jax
import numpy as np
from scemae_jax import config as configuration
from scemae_jax.data import pipeline
from scemae_jax.faces.parts import DRAWN
from scemae_jax.systems.spcl import adapt, settings, source
from scemae_jax.systems.spcl.networks import ParsingNetwork
from scemae_jax.training import feed, loop, sharding

rng = np.random.default_rng(0)
images = rng.integers(0, 256, (40, 136, 136, 3), np.uint8)
parts = np.repeat(np.repeat(rng.integers(0, 12, (40, 17, 17), np.uint8), 8, axis=1), 8, axis=2)
parts[parts == 11] = 255
config = settings.default()
config.model.encoder, config.head_width = "XXS/8", 16
config.source.adversary = 0.001
for stage in (config.source, config.adapt):
    stage.batch_size, stage.log_every, stage.learning_rate = 8, 1, 1e-3
config.adapt.contrast.weight = 1.0
backbone = configuration.architecture(config).backbone
network = ParsingNetwork(backbone=backbone, parts=DRAWN, width=16)
encoder = backbone.build().init(jax.random.key(0), np.zeros((1, 96, 96, 3), np.float32))["params"]
weights, start = np.ones(11, np.float32), rng.normal(size=(11, 16)).astype(np.float32)

for name, count, fsdp in (("one", 1, 1), ("eight", 8, 2)):
    mesh = sharding.make_mesh(jax.devices()[:count], fsdp=fsdp)
    def inputs(seed, **arrays):
        return feed.keep([pipeline.InMemory(arrays)], cache="device", mesh=mesh).batches([1.0], batch_size=8, seed=seed)
    labelled, target = inputs(0, image=images[:20], parts=parts[:20]), inputs(1, image=images[20:])
    params = network.initial_params(0, encoder)
    rest = {"workdir": Path(sys.argv[1], name), "mesh": mesh, "rules": config.mesh.rules}
    both = {"source": labelled, "target": target}
    loop.fit(source.task(config, network, params, both, weights=weights, steps=3), **rest)
    task = adapt.task(config, network, params, labelled, target, weights=weights, start=start, steps=3)
    state = loop.fit(task, **rest).state
    np.save(f"{sys.argv[1]}/{name}.npy", jax.device_get(state["prototypes"]))
"""


def on_devices(count: int, program: str, folder: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(scemae_jax.__file__).parents[1]),
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}".strip(),
    }
    command = [sys.executable, "-c", program, str(folder)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]


def test_prototypes_of_two_devices_are_those_of_one(tmp_path):
    on_devices(2, PROTOTYPES, tmp_path)
    start, one, two = (np.load(tmp_path / f"{name}.npy") for name in ("start", 1, 2))
    np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-7)
    assert (one[:4] != start[:4]).all()
    np.testing.assert_array_equal(two[4], start[4])  # absent on both


@pytest.mark.slow
def test_eight_devices_adapt_as_one(tmp_path):
    on_devices(8, STAGES, tmp_path)
    curves = []
    for name in ("one", "eight"):
        curves.append([json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()])
    assert [row["stage"] for row in curves[0]] == ["source"] * 3 + ["adapt"] * 3
    assert "adversary" in curves[0][0]
    assert "contrastive" in curves[0][5]
    for one, eight in zip(*curves, strict=True):
        assert one.keys() == eight.keys()
        # Where the discriminator's gradients are all but zero, Adam's first step has the sign of their rounding.
        moved = one["stage"] == "source" and one["step"] > 1
        for key in ("loss",) if moved else one.keys() - {"stage", "images_per_second"}:
            assert eight[key] == pytest.approx(one[key], rel=1e-5), (one["stage"], one["step"], key)
    one, eight = (np.load(tmp_path / f"{name}.npy") for name in ("one", "eight"))
    np.testing.assert_allclose(eight, one, rtol=1e-4, atol=1e-6)
