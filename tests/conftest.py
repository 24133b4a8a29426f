"""What all tests share: JAX on the CPU, hypothesis without deadlines, and the things that several files look at."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before JAX is imported: tolerances are those of float32 on a CPU

import re
from pathlib import Path
from types import SimpleNamespace

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scemae_jax.config import NORMALISATION
from scemae_jax.model import Model
from scemae_jax.models.architecture import Architecture, Backbone, Carb, Decoder

hypothesis.settings.register_profile("scemae", deadline=None, max_examples=40, derandomize=True)
hypothesis.settings.load_profile("scemae")

YTF68 = Path(__file__).parents[2] / "shared" / "data" / "ytf68"


@pytest.fixture(scope="session")
def ytf68() -> Path:
    """The folder of real faces, beside the project on the machines that have it."""
    if not (YTF68 / "landmarks.csv").exists():
        pytest.skip("needs the ytf68 faces in ../shared/data/ytf68")
    return YTF68


@pytest.fixture(scope="session")
def small_architecture() -> Architecture:
    """The smallest named encoder, with a decoder and a projector to match."""
    mean, std = NORMALISATION["imagenet"]
    return Architecture(
        backbone=Backbone(encoder="XXS/8", mean=mean, std=std),
        decoder=Decoder(width=32, depth=1, heads=2, mask_ratio=0.75, normalise_target=True),
        carb=Carb(
            projection=16,
            projector_hidden=True,
            projector_normalise=True,
            split_layer=2,
            attentive_fraction=0.25,
            num_clusters=4,
            density="knn",
        ),
    )


@pytest.fixture(scope="session")
def random_params():
    """Gives a module's parameters, drawn quickly by NumPy: biases and scales too, so that none can be left out unseen.

    `random_params(module, *inputs, seed=0, method=None)`; the inputs need shapes only.
    """

    def draw(module, *inputs, seed=0, method=None):
        shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs, method=method))["params"]
        rng = np.random.default_rng(seed)

        def weight(path, leaf):
            spread = 0.1 if leaf.ndim == 1 else np.prod(leaf.shape[:-1]) ** -0.5
            offset = 1.0 if path[-1].key == "scale" else 0.0
            return jnp.asarray(rng.normal(offset, spread, leaf.shape), leaf.dtype)

        return jax.tree_util.tree_map_with_path(weight, shapes)

    return draw


@pytest.fixture(scope="session")
def small_model(small_architecture: Architecture, random_params) -> Model:
    """Random weights in `small_architecture`: encoder and projector."""
    images = np.zeros((1, 96, 96, 3), np.float32)
    params = random_params(small_architecture.build_carb(), images, method="features")
    return Model(architecture=small_architecture, params=params)


@pytest.fixture
def cudnn_calls(monkeypatch):
    """The calls of cuDNN in a program exported for an H100 that is not there: `cudnn_calls(jitted, *inputs)`.

    Whoever asks JAX which device there is, or what its cuDNN can do, hears of an H100. All else is as in production.
    """
    from jax._src.cudnn import fused_attention_stablehlo  # of JAX's own: where it moves, these tests alone must say so

    real = jax.local_devices
    h100 = [SimpleNamespace(platform="gpu", compute_capability="9.0")]
    monkeypatch.setattr(jax, "local_devices", lambda *, backend=None: real(backend=backend) if backend else h100)
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(fused_attention_stablehlo, "check_compute_capability", lambda least: float(least) <= 9.0)
    monkeypatch.setattr(fused_attention_stablehlo, "is_cuda_compute_capability_equal", lambda asked: asked == "9.0")

    def calls(program, *inputs) -> list[str]:
        allowed = [
            jax.export.DisabledSafetyCheck.custom_call(name)
            for name in ("__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward")
        ]
        exported = jax.export.export(program, platforms=["cuda"], disabled_checks=allowed)(*inputs)
        return re.findall(r"@(__cudnn\$\w+)", exported.mlir_module())

    return calls
