"""The CUDA compiler's word on what runs on GPUs, for H100s that are only described: no GPU is needed.

Tiny networks, unless SCEMAE_COMPILED_SIZES names others (`xxs8 t8 s8 b8`, as launch/compilers.sh does).
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scemae_jax.models import vit

pytestmark = [
    pytest.mark.cuda_compiler,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        importlib.util.find_spec("jax_cuda12_plugin") is None and "SCEMAE_COMPILERS" not in os.environ,
        reason="jax[cuda12] is not installed: launch/compilers.sh installs it apart, and runs this",
    ),
]

SIZES = os.environ.get("SCEMAE_COMPILED_SIZES", "xxs8").split()
BATCH = 256
"""Images of a GPU: enough for activations to be larger than any weights."""
LANDMARKS = 5

# A process of its own: JAX looks for a driver unless it is told, before it starts, not to.
WORKER = """
import json, sys
import jax, jax.numpy as jnp, numpy as np

from scemae_jax import config as configuration
import gpu_programs
from benchmarks import program, scaling
from scemae_jax.evaluation import detection
from scemae_jax.systems.sce_mae import landmark_heads
from scemae_jax.model import Model
from jax.sharding import NamedSharding
from scemae_jax.systems.sce_mae import pretrain, refine, settings
from scemae_jax.training import loop, sharding

scaling.describe_chips()
sizes, batch, landmarks = json.loads(sys.argv[1])
found = {}


def config_of(size):
    config = settings.default()
    config.dtype = "bfloat16"
    if size == "xxs8":
        config.model.encoder = "XXS/8"
        config.model.decoder_width, config.model.decoder_depth, config.model.decoder_heads = 32, 1, 2
    else:
        settings.paper_network(config, size)
    return config


def report(name, compiled):
    memory, text = compiled.memory_analysis(), compiled.as_text()
    products = [(product.operands, product.source) for product in gpu_programs.matrix_products(text)]
    found[name] = {
        "temporary": memory.temp_size_in_bytes,
        "forward": gpu_programs.cudnn_attention(text, gpu_programs.CUDNN_FORWARD),
        "backward": gpu_programs.cudnn_attention(text, gpu_programs.CUDNN_BACKWARD),
        "products": products,
        "float32": list(gpu_programs.float32_stores(text)),
        "collectives": program.read_program(text)["collectives"],
    }


def training(name, size, stage, chips):
    config = config_of(size)
    config[stage].batch_size = batch * chips
    report(name, scaling.compile_training(config, stage, scaling.described_mesh(f"h100:{chips}", 1)))


class Taken(Exception):
    pass


def take(task, **rest):
    raise Taken(task)


def model_of(size, *, shapes):
    architecture = configuration.architecture(config_of(size))

    def params():
        projector = refine.initial_projector(architecture, 0)
        return {"encoder": pretrain.initial_params(architecture, 0)["encoder"], "projector": projector}

    return Model(architecture=architecture, params=jax.eval_shape(params) if shapes else params())


def detector(name, size, held, chips):
    # The very task that a detector is trained with, which `fit_head` hands to the loop.
    landmark_heads.loop.fit = take
    settings = config_of(size).detect
    settings.memory_gib = held
    settings.batch_size, settings.stride, settings.mirror = 8 * chips, 8, False
    images = np.zeros((8 * chips, 136, 136, 3), np.uint8)
    points = np.random.default_rng(0).uniform(30, 100, (8 * chips, landmarks, 2))
    try:
        landmark_heads.fit_head(model_of(size, shapes=False), images, points, settings, seed=0)
    except Taken as taken:
        (task,) = taken.args
    mesh = scaling.described_mesh(f"h100:{chips}", 1)
    number = jax.ShapeDtypeStruct((8 * chips,), jnp.int32, sharding=NamedSharding(mesh, sharding.BATCH))
    numbers = {"annotated": {"number": number}}
    with jax.default_device(mesh.devices.flat[0]):
        resident = scaling.on_every_chip({"annotated": task.inputs["annotated"].resident}, mesh)
        step, arguments = scaling.step_of(task, mesh, (), resident, numbers)
        report(name, step.lower(*arguments).compile())


def features(name, size):
    model, mesh = model_of(size, shapes=True), scaling.described_mesh("h100:1", 1)

    def compute(params, images):
        return Model(architecture=model.architecture, params=params).dense_features(images, 4, "both")

    images = jax.ShapeDtypeStruct((batch, 136, 136, 3), jnp.uint8)
    with jax.default_device(mesh.devices.flat[0]):
        report(name, jax.jit(compute).lower(*scaling.on_every_chip((model.params, images), mesh)).compile())


for size in sizes:
    for chips in (1, 8):
        training(f"pretrain {size} {chips}", size, "pretrain", chips)
        training(f"refine {size} {chips}", size, "refine", chips)
    features(f"features {size} 1", size)
    for chips in (1, 8):
        detector(f"detect_features {size} {chips}", size, 1.0, chips)
        detector(f"detect_images {size} {chips}", size, 0.0, chips)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def programs() -> dict[str, dict]:
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here.parents[1]), str(here)])}
    command = [sys.executable, "-c", WORKER, json.dumps([SIZES, BATCH, LANDMARKS])]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads(ended.stdout.splitlines()[-1])


def networks(size: str) -> tuple[vit.Variant, int, int, int]:
    """The encoder, and width, depth and heads of the decoder."""
    return vit.variant(f"{size.removesuffix('8').upper()}/8"), *((32, 1, 2) if size == "xxs8" else (512, 8, 16))


N = 144
"""Patches of an image, of which stage 1 shows its encoder a quarter."""


def even(tokens: int) -> int:
    return tokens + tokens % 2


def calls(size: str, kind: str, batch: int) -> list[list[int]]:
    """Shapes of the attention that a program is to compute, in order of the network's layers."""
    v, width, depth, heads = networks(size)
    whole = [batch, v.num_heads, even(1 + N), v.width // v.num_heads]
    if kind == "pretrain":
        visible = [batch, v.num_heads, even(1 + N // 4), v.width // v.num_heads]
        return [visible] * v.depth + [[batch, heads, even(1 + N), width // heads]] * depth
    return [whole] * v.depth


ALL = [
    f"{kind} {size} {chips}"
    for size in SIZES
    for kind, chips in (("pretrain", 1), ("pretrain", 8), ("refine", 1), ("refine", 8), ("features", 1))
]


@pytest.mark.parametrize("name", ALL)
def test_every_layer_s_attention_is_cudnn_s_on_each_gpu_s_own_images(programs, name):
    kind, size, _ = name.split()
    program = programs[name]
    if kind == "refine":  # after the split the tokens are fewer
        assert len(program["forward"]) == networks(size)[0].depth
        assert {(shape[0], shape[2] % 2) for shape in program["forward"]} == {(BATCH, 0)}
    else:
        assert sorted(program["forward"]) == sorted(calls(size, kind, BATCH))
    assert len(program["backward"]) == (len(program["forward"]) if kind == "pretrain" else 0)


@pytest.mark.parametrize("chips", [1, 8])
@pytest.mark.parametrize("size", SIZES)
def test_a_detector_reads_features_or_computes_them_with_cudnn(programs, size, chips):
    assert programs[f"detect_features {size} {chips}"]["forward"] == []
    assert programs[f"detect_images {size} {chips}"]["forward"] == calls(size, "features", 8)
    assert programs[f"detect_images {size} {chips}"]["backward"] == []


@pytest.mark.parametrize("name", [*ALL, *(f"detect_images {size} {chips}" for size in SIZES for chips in (1, 8))])
def test_layers_compute_in_bfloat16(programs, name):
    """Every matrix product of a layer reads bfloat16, and no layer leaves activations in memory as float32.

    Softmax's and norms' statistics, a number for each token (and head), are float32, as are augmentation, clustering,
    losses and heads, which are no layers.
    """
    kind, size, _ = name.split()
    layers = [(operands, source) for operands, source in programs[name]["products"] if "blocks_" in source]
    assert [source for operands, source in layers if set(operands) != {"bf16"}] == []
    assert len(layers) >= 4 * networks(size)[0].depth
    batch = 8 if kind == "detect_images" else BATCH
    activations = batch * (1 + N // 4) * min(networks(size)[0].width, networks(size)[1])
    assert [(count, source) for count, source in programs[name]["float32"]
            if "blocks_" in source and count >= activations] == []  # fmt: skip


@pytest.mark.parametrize("name", [name for name in ALL if name.startswith("pretrain")])
def test_in_stage_1_the_networks_compute_in_bfloat16_and_only_augmentation_in_float32(programs, name):
    exact = [source for operands, source in programs[name]["products"] if set(operands) != {"bf16"}]
    assert [source for source in exact if "MaskedAutoencoder" in source] == []
    assert len(exact) == 2  # rows, then columns, of the crops that are resized


def activations(size: str, kind: str) -> int:
    """Bytes that an image leaves behind for the backward pass, or that one layer has at a time without one.

    Of each token and layer, in units of the width: what comes in, its norm, queries, keys and values (3), what
    attention gives, the sum after it, its norm, the MLP's hidden layer before and after GELU (8): 16, in bfloat16.
    """
    v, width, depth, _ = networks(size)
    if kind == "pretrain":
        return 2 * 16 * (v.depth * (1 + N // 4) * v.width + depth * (1 + N) * width)
    return 2 * 16 * (1 + N) * v.width


@pytest.mark.parametrize("name", ALL)
def test_memory_is_what_activations_need(programs, name):
    """A quarter more, four float32 copies of an image, and (`features`) twice the result. XLA's attention, which keeps
    a number for each pair of tokens, would not fit into that with the paper's decoder.
    """  # fmt: skip
    kind, size, _ = name.split()
    v, images = networks(size)[0], 4 * 136 * 136 * 3 * 4
    result = 2 * 24 * 24 * (v.width + v.projection) * 4 if kind == "features" else 0
    assert programs[name]["temporary"] < BATCH * (1.25 * activations(size, kind) + images + result)


@pytest.mark.parametrize("size", SIZES)
def test_eight_gpus_sum_gradients_and_exchange_images_once_as_bytes(programs, size):
    one, eight = programs[f"pretrain {size} 1"], programs[f"pretrain {size} 8"]
    assert one["collectives"] == {}
    assert set(eight["collectives"]) == {"reduce-scatter", "all-reduce"}
    v, width, depth, _ = networks(size)
    weights = 12 * (v.depth * v.width**2 + depth * width**2)
    assert eight["collectives"]["all-reduce"]["bytes"] >= 2 * weights  # gradients, at least as bfloat16
    own = BATCH * 136 * 136 * 3
    assert own <= eight["collectives"]["reduce-scatter"]["bytes"] <= 1.01 * own
