"""What SPCL's tests share: small experiments, drawn faces as a folder of masks, and one finished run."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from scemae_jax import experiment
from scemae_jax.synthetic_faces.drawing import draw_face
from scemae_jax.systems.spcl import settings
from scemae_jax.systems.spcl.stages import SYSTEM


@pytest.fixture(scope="session")
def small(data_dir):
    """`small(method, section__field=value)`: a config whose source and target are drawn faces."""

    def config(method="spcl", **fields):
        config = settings.default()
        config.data.variant = config.source_data.variant = "tiny"
        config.data.data_dir = str(data_dir)
        config.model.encoder = "XXS/8"
        config.head_width = 16
        for stage, steps in {"source": 4, "adapt": 3, "self_train": 2}.items():
            config[stage].batch_size, config[stage].steps, config[stage].log_every = 8, steps, 1
            config[stage].checkpoint_every = 2
        config.report.examples = config.report.pixels = 0
        settings.choose_method(config, method)
        config.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
        return config

    return config


@pytest.fixture(scope="session")
def drawn():
    """Ten drawn faces."""
    return [draw_face(seed=7, subject=subject, frame=0, occluder=False) for subject in range(10)]


@pytest.fixture(scope="session")
def drawn_folder(drawn, tmp_path_factory):
    """Those faces as images/ and masks/, half of them in the split `test`; none has glasses."""
    root = tmp_path_factory.mktemp("drawn")
    for name in ("images", "masks"):
        (root / name).mkdir()
    for number, face in enumerate(drawn):
        mask = face.parts[..., 0]
        Image.fromarray(face.image).save(root / "images" / f"{number}.png")
        Image.fromarray(np.where(mask == 10, 1, mask).astype(np.uint8)).save(root / "masks" / f"{number}.png")
    with (root / "split.csv").open("w", newline="") as file:
        rows = [(number, "test" if number % 2 else "train") for number in range(len(drawn))]
        csv.writer(file).writerows([("file", "split"), *rows])
    return root


@pytest.fixture(scope="session")
def finished(small, drawn_folder, tmp_path_factory):
    """One run of all default stages: config, workdir, results."""
    workdir = tmp_path_factory.mktemp("spcl") / "run"
    fields = {"measure__sets": (f"drawn={drawn_folder}:test:all+landmarks",), "report__examples": 2,
              "report__pixels": 4, "report__target_pictures": 2, "measure__without": ("hair",)}  # fmt: skip
    config = small(**fields)
    results = experiment.run(SYSTEM.open(config, workdir))
    return SimpleNamespace(config=config, workdir=workdir, results=results)
