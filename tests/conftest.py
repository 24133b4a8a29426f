"""What all tests share: JAX on the CPU, one compilation cache, one prepared dataset."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before JAX is imported: tolerances are those of float32 on a CPU

import gc
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_experiment
from filelock import FileLock

from scemae_jax import main
from scemae_jax.config import NORMALISATION
from scemae_jax.data.sources import open_dataset
from scemae_jax.model import Model
from scemae_jax.models.architecture import Architecture, Backbone, Carb, Decoder
from scemae_jax.report import figures

hypothesis.settings.register_profile("scemae", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.load_profile("scemae")

ROOT = Path(__file__).parents[1]
YTF68 = ROOT.parent / "shared" / "data" / "ytf68"


LONGEST = ("test_main.py", "test_processes.py", "test_sweep.py", "test_few_annotations.py", "test_meshes.py")


def pytest_collection_modifyitems(items):
    """Long files first: where one came last, a single worker would end the session alone."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory) -> Path:
    """One folder for all processes of this session of tests: pytest-xdist's workers have a folder each below it."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(shared_folder):
    """What one test has compiled serves all others, in this process and in those that tests start."""
    settings = {"jax_compilation_cache_dir": str(shared_folder / "compiled"),
                "jax_persistent_cache_min_compile_time_secs": 0.0}  # fmt: skip
    for name, value in settings.items():
        os.environ[name.upper()] = str(value)
        jax.config.update(name, value)


@pytest.fixture(scope="session", autouse=True)
def coarse_figures():
    """Reports of this process are drawn with few pixels, which takes a fraction of the time."""
    figures.DPI = 40


@pytest.fixture(scope="session", autouse=True)
def seldom_collected():
    """Tracing makes many objects, of which few are garbage in cycles: looking for those took a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Compiled programs stay in memory otherwise, gigabytes of them in the end."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="session")
def data_dir(shared_folder) -> Path:
    """Prepared datasets; the 180 small synthetic faces (`synthetic_faces/tiny`) are among them."""
    folder = shared_folder / "data"
    with FileLock(shared_folder / "data.lock"):
        open_dataset(small_experiment.get_config(str(folder)).data)
    return folder


@pytest.fixture(scope="session")
def small_config(data_dir):
    """`small_config(section__field=value)`: the config of small_experiment.py, changed."""

    def change(**fields):
        config = small_experiment.get_config(str(data_dir))
        config.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
        return config

    return change


@pytest.fixture(scope="session")
def run():
    """`run(config, workdir)`: what `scemae_jax.main` does and its exit status, in this process."""

    def call(config, workdir, *, dry_run=False, stop_after=None) -> int:
        flags = {"CONFIG": config, "WORKDIR": str(workdir), "DRY_RUN": dry_run, "STOP_AFTER": stop_after}
        flags |= {"DISTRIBUTED": False, "COORDINATOR": ""}
        with pytest.MonkeyPatch.context() as patch:
            for name, value in flags.items():
                patch.setattr(main, name, SimpleNamespace(value=value))
            try:
                main.main()
            except SystemExit as ended:
                return ended.code
        return 0

    return call


@pytest.fixture(scope="session")
def start(data_dir):
    """`start(workdir, *overrides)`: the command as a user types it, on small_experiment.py; the process."""

    def command(workdir, *overrides) -> subprocess.Popen:
        config = f"{ROOT / 'tests' / 'small_experiment.py'}:{data_dir}"
        words = [sys.executable, "-m", "scemae_jax.main", "--config", config, "--workdir", workdir, *overrides]
        return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return command


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
