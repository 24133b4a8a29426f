"""Eight devices in every mesh shape, and images kept on them, train as one device does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import scemae_jax
from scemae_jax import config as configuration
from scemae_jax.systems.sce_mae import settings
from scemae_jax.training import sharding

STEPS, SAVED = 8, 4

# Each run goes to a folder of its own: {"devices": 8, "fsdp": 4, "stage": "pretrain", "settings": {}, "goes_on": ""}.
# One that goes on begins with the checkpoint of step SAVED of another.
WORKER = """
import json, shutil, sys
from pathlib import Path
import jax
import numpy as np
from scemae_jax import config as configuration
from scemae_jax.data import pipeline
from scemae_jax.systems.sce_mae import pretrain, refine, settings
from scemae_jax.training import feed, loop, sharding

folder, runs, steps, saved = Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3]), sys.argv[4]

class Noise:
    images = np.random.default_rng(0).integers(0, 256, (45, 136, 136, 3), np.uint8)
    def __len__(self):
        return len(self.images)
    def __getitem__(self, index):
        return {"image": self.images[index]}

config = settings.default()
config.model.encoder = "XXS/8"
config.model.decoder_width, config.model.decoder_depth, config.model.decoder_heads = 16, 1, 2
for stage in (config.pretrain, config.refine):
    stage.batch_size, stage.learning_rate, stage.log_every, stage.checkpoint_every = 16, 1e-3, 1, int(saved)
architecture = configuration.architecture(config)
encoder = pretrain.initial_params(architecture, 0)

for name, run in runs.items():
    mesh = sharding.make_mesh(jax.devices()[:run.get("devices", 8)], fsdp=run.get("fsdp", 1))
    stage = run.get("stage", "pretrain")
    changed = config.copy_and_resolve_references()
    changed[stage].update(run.get("settings", {}))
    source = feed.keep([Noise()], cache="device", mesh=mesh).batches([1.0], batch_size=16, seed=3)
    if stage == "pretrain":
        task = pretrain.task(changed, architecture, encoder, source, steps)
    else:
        projector = refine.initial_projector(architecture, 1)
        task = refine.task(changed, architecture, encoder["encoder"], projector, source, steps)
    if "goes_on" in run:
        there = Path("checkpoints/pretrain", saved)
        shutil.copytree(folder / run["goes_on"] / there, folder / name / there)
    params = loop.fit(task, workdir=folder / name, mesh=mesh, rules=config.mesh.rules).params
    leaves = jax.tree_util.tree_leaves_with_path(params)
    placed = {jax.tree_util.keystr(path): str(leaf.sharding.spec) for path, leaf in leaves}
    (folder / name / "placed.json").write_text(json.dumps(placed))

rng = np.random.default_rng(0)
fields = {"image": Noise.images[:, :16, :16], "parts": Noise.images[:, :5, :7, 0], "visible": rng.random((45, 5)) < 0.5}
fields |= {"landmarks": rng.normal(size=(45, 68, 2)).astype(np.float32), "subject": np.arange(45, dtype=np.int32)}
for count in (1, 8):
    kept = feed.keep([pipeline.InMemory(fields)], cache="device", mesh=sharding.make_mesh(jax.devices()[:count]))
    source = kept.batches([1.0], batch_size=16, seed=0)
    batch = jax.jit(source.read)(source.resident, source.put(kept.mesh, source.draw(1)))
    np.savez(folder / f"fields of {count}.npz", **jax.device_get(batch))
batch = sharding.shard_batch(sharding.make_mesh(), {"image": np.arange(16)})["image"]
print([shard.data.tolist() for shard in batch.addressable_shards])
try:
    sharding.shard_batch(sharding.make_mesh(), {"image": np.arange(12)})
except ValueError as error:
    print(error)
"""
RUNS = {
    "2x4": {"fsdp": 4},
    "went on on one": {"devices": 1, "goes_on": "2x4"},
}
MORE_RUNS = {
    "one": {"devices": 1},
    "refine one": {"devices": 1, "stage": "refine"},
    "refine 2x4": {"fsdp": 4, "stage": "refine"},
    "8x1": {},
    "4x2": {"fsdp": 2},
    "1x8": {"fsdp": 8},
    "one accumulated": {"devices": 1, "settings": {"accumulate": 2}},
    "2x4 accumulated": {"fsdp": 4, "settings": {"accumulate": 2}},
    "2x4 dispatched": {"fsdp": 4, "settings": {"steps_per_dispatch": 4, "log_every": 4}},
    "went on on 4": {"devices": 4, "fsdp": 2, "goes_on": "1x8"},
    "went on on 8": {"goes_on": "1x8"},
}


def train(folder: Path, runs: dict[str, dict]) -> str:
    """Trains in a process of eight devices, and returns what it printed."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(scemae_jax.__file__).parents[1]),
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip(),
    }
    command = [sys.executable, "-c", WORKER, str(folder), json.dumps(runs), str(STEPS), str(SAVED)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("meshes")
    (folder / "printed.txt").write_text(train(folder, RUNS))
    return folder


@pytest.fixture(scope="module")
def more_runs(runs) -> Path:
    train(runs, MORE_RUNS)
    return runs


def curve(folder: Path) -> dict[int, tuple[float, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: (row["loss"], row["gradient_norm"]) for row in rows}


def assert_same_curve(folder: Path, reference: Path, first: int = 1) -> None:
    there, expected = curve(folder), curve(reference)
    assert list(there) == list(range(first, STEPS + 1))
    np.testing.assert_allclose(list(there.values()), [expected[step] for step in there], rtol=1e-5)


def test_all_fields_come_from_eight_devices_as_from_one(runs):
    one, eight = (np.load(runs / f"fields of {count}.npz") for count in (1, 8))
    assert sorted(one.files) == sorted(eight.files) == ["image", "landmarks", "parts", "subject", "visible"]
    for name in one.files:
        assert one[name].dtype == eight[name].dtype
        np.testing.assert_array_equal(one[name], eight[name])


def test_eight_devices_train_as_one_that_goes_on_from_their_checkpoint(runs):
    assert_same_curve(runs / "went on on one", runs / "2x4", first=SAVED + 1)
    losses = [loss for loss, _ in curve(runs / "2x4").values()]
    assert len(set(losses)) == STEPS  # so that equal curves say something
    assert losses[-1] < losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["2x4", "8x1", "4x2", "1x8"])
def test_every_mesh_shape_trains_as_one_device(more_runs, name):
    assert_same_curve(more_runs / name, more_runs / "one")


def test_parameters_are_divided(runs):
    placed = json.loads((runs / "2x4" / "placed.json").read_text())
    divided = {name for name, spec in placed.items() if "fsdp" in spec}
    assert divided == {name for name in placed if name.endswith("['kernel']")}
    assert len(divided) > 10


def test_a_batch_is_divided_in_its_order(runs):
    printed = (runs / "printed.txt").read_text()
    assert str([[2 * device, 2 * device + 1] for device in range(8)]) in printed
    assert "a batch of 12 does not divide over 8 devices" in printed


@pytest.mark.slow
def test_stage_2_trains_as_on_one_device(more_runs):
    assert_same_curve(more_runs / "refine 2x4", more_runs / "refine one")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["went on on 4", "went on on 8"])
def test_a_checkpoint_of_eight_devices_goes_on_on_others(more_runs, name):
    assert_same_curve(more_runs / name, more_runs / "one", first=SAVED + 1)


@pytest.mark.slow
def test_accumulated_gradients_are_the_same_on_every_mesh(more_runs):
    assert_same_curve(more_runs / "2x4 accumulated", more_runs / "one accumulated")


@pytest.mark.slow
def test_steps_dispatched_together_are_the_same_steps(more_runs):
    one, four = curve(more_runs / "2x4"), curve(more_runs / "2x4 dispatched")
    assert list(four) == [4, 8]
    for step, values in four.items():
        means = np.mean([one[s] for s in range(step - 3, step + 1)], axis=0)
        np.testing.assert_allclose(values, means, rtol=1e-5)


def test_axes_that_do_not_make_up_the_devices():
    for axes in ({"fsdp": 2}, {"data": 3}, {"fsdp": 0}):
        with pytest.raises(ValueError, match="for 1 devices: make data \\* fsdp equal to 1"):
            sharding.make_mesh(**axes)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (("kernel$", ("fsdp",)), "has the shape \\(4, 6\\): give as many axes"),
        (("kernel$", ("model", "")), "\\['model'\\] is no axis of the mesh"),
    ],
)
def test_rules_that_do_not_fit(rule, message):
    with pytest.raises(ValueError, match=message) as error:
        sharding.by_rules(sharding.make_mesh(), {"layer": {"kernel": jnp.zeros((4, 6))}}, [rule])
    assert "config.mesh.rules" in str(error.value)
    assert "layer/kernel" in str(error.value)


def test_the_first_rule_that_is_found_counts():
    rules = [("mlp/kernel$", ("", "fsdp")), ("kernel$", ("fsdp", ""))]
    shapes = {"mlp": {"kernel": jnp.zeros((4, 6))}, "out": {"kernel": jnp.zeros((4, 6)), "bias": jnp.zeros(6)}}
    found = sharding.by_rules(sharding.make_mesh(), shapes, rules)
    specs = jax.tree.map(lambda placed: placed.spec, found)
    assert specs["mlp"]["kernel"] == PartitionSpec(None, "fsdp")
    assert specs["out"]["kernel"] == PartitionSpec("fsdp", None)
    assert specs["out"]["bias"] == PartitionSpec()


def test_default_rules_fit_the_paper_networks():
    """On 16 devices along fsdp, the most that a v5e host or slice of 4x4 gives."""
    for encoder in ("T/8", "S/8", "B/8"):
        config = settings.default()
        config.model.encoder = encoder
        network = configuration.architecture(config).build_mae()
        shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 96, 96, 3)), jnp.zeros((1, 144)))
        for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
            if path[-1].key == "kernel":
                assert leaf.shape[0] % 16 == 0
