"""The CUDA compiler's word on what runs on GPUs, for H100s that are only described: no GPU is needed.

Tiny networks, unless SCEMAE_COMPILED_SIZES names others (`XXS T S B`, as launch/compilers.sh does).
"""

import importlib.util
import os

import pytest

pytestmark = [
    pytest.mark.cuda_compiler,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        importlib.util.find_spec("jax_cuda12_plugin") is None,
        reason="jax[cuda12] is not installed: launch/compilers.sh installs it apart, and runs this",
    ),
]

SIZES = os.environ.get("SCEMAE_COMPILED_SIZES", "XXS").split()
BATCH = 256
"""Images of a GPU: enough for activations to be larger than any weights."""
LANDMARKS = 5

# A process of its own: JAX looks for a driver unless it is told, before it starts, not to.
WORKER = """
import contextlib, json, sys
import jax, jax.numpy as jnp, numpy as np

from scemae_jax import config as configuration
from scemae_jax.benchmark import gpu_compiler, program, scaling
from scemae_jax.evaluation import detection
from scemae_jax.model import Model
from scemae_jax.training import loop, pretrain, refine

scaling.describe_chips()
sizes, batch, landmarks = json.loads(sys.argv[1])
found = {}


def config_of(size):
    config = configuration.default()
    config.dtype = "bfloat16"
    if size == "XXS":
        config.model.encoder = "XXS/8"
        config.model.decoder_width, config.model.decoder_depth, config.model.decoder_heads = 32, 1, 2
    else:
        configuration.paper_network(config, size.lower() + "8")
    return config


def report(name, compiled):
    memory, text = compiled.memory_analysis(), compiled.as_text()
    in_layers = [(product.operands, product.source) for product in gpu_compiler.matrix_products(text)]
    found[name] = {
        "temporary": memory.temp_size_in_bytes,
        "forward": gpu_compiler.cudnn_attention(text, gpu_compiler.CUDNN_FORWARD),
        "backward": gpu_compiler.cudnn_attention(text, gpu_compiler.CUDNN_BACKWARD),
        "products": in_layers,
        "float32": list(gpu_compiler.float32_stores(text)),
        "collectives": program.read_program(text).collectives,
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


def detector(name, size, held):
    # The very task that a detector is trained with, which `fit_head` hands to the loop.
    detection.loop.fit = take
    settings = config_of(size).detect
    settings.memory_gib = held
    settings.batch_size, settings.stride, settings.mirror = 8, 8, False
    images = np.zeros((8, 136, 136, 3), np.uint8)
    points = np.random.default_rng(0).uniform(30, 100, (8, landmarks, 2))
    try:
        detection.fit_head(model_of(size, shapes=False), images, points, settings, seed=0, workdir=None, name="detect")
    except Taken as taken:
        (task,) = taken.args
    mesh = scaling.described_mesh("h100:1", 1)
    numbers = scaling.on_every_chip({"number": jax.ShapeDtypeStruct((8,), jnp.int32)}, mesh)
    with jax.default_device(mesh.devices.flat[0]):
        step, arguments = scaling.step_of(task, mesh, (), (), numbers)
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
    detector(f"detect_features {size} 1", size, 1.0)
    detector(f"detect_images {size} 1", size, 0.0)
print(json.dumps(found))
"""
