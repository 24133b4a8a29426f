"""The configuration that all experiments share, and what identifies an experiment.

A system's settings (`scemae_jax.systems.NAME.settings`) add a section for each of its stages.
"""

from __future__ import annotations

import fnmatch
import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import ml_collections

from scemae_jax.data.formats import SPLITS, UNLABELED_VALIDATION
from scemae_jax.faces.frame import FRAME, Frame
from scemae_jax.models import vit
from scemae_jax.models.architecture import Architecture, Backbone, Carb, Decoder
from scemae_jax.ops.density_peaks import DENSITY, Density

Config = Any
"""An `ml_collections.ConfigDict`, whose fields no type checker knows."""

CACHES = ("auto", "device", "host", "none")
FOLDERS = ("landmark_folder", "mask_folder")
"""Datasets that are a folder of the user's; that of masks is SPCL's alone."""
RUNTIME_FIELDS = (
    "stages", "mesh.*", "data.cache", "data.workers", "*.steps_per_dispatch", "*.scan_layers", "*.remat",
)  # fmt: skip
"""Patterns of fields that change what runs and where, but not its result: a run may go on with other values."""

NORMALISATION = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "faces": ((0.5084, 0.4224, 0.3769), (0.2599, 0.2371, 0.2323)),
}


def base(system: str, stages: tuple[str, ...]) -> Config:
    """The fields that every system's config has.

    Args:
      system: a folder of `scemae_jax.systems`, or the dotted name of a module with a `SYSTEM`.
      stages: those that run unless the user names others.
    """
    config = ml_collections.ConfigDict()
    config.system = system
    config.stages = stages
    config.seed = 0
    config.init = ""  # an exported model, or the name of a packaged one, to start stage 1 from
    config.dtype = "float32"  # of the networks' arithmetic; "bfloat16" is for TPUs and recent GPUs

    config.data = data = ml_collections.ConfigDict()
    data.dataset = "synthetic_faces"  # or another of scemae_jax.data.sources.DATASETS: landmark_folder, mafl, ...
    data.variant = "default"  # of synthetic_faces
    data.root = ""  # the folder of landmark_folder, or the one that an official dataset is prepared from
    # Other folders whose images stages 1 and 2 see too: (("FOLDER", weight), ...). Of weight 2, each image comes twice
    # as often as one of root.
    data.more_roots = ()
    data.data_dir = ""  # where prepared datasets are kept; empty: TFDS_DATA_DIR, or ~/tensorflow_datasets
    # What stages 1 and 2 see; of a folder, "unlabeled_validation" holds the validation people's unannotated images
    data.unlabelled_splits = ("train", "unlabeled")
    data.train_splits = ("train",)  # annotated, what the detector learns from
    data.test_split = "test"  # what matching and detection are measured on; "validation" to choose settings
    data.synthetic_share = 0.0  # of the images of stages 1 and 2, mixed in
    # Where decoded images of stages 1 and 2 are kept: on the accelerators ("device"), in memory ("host"), nowhere
    # ("none": decoded again for every batch), or in the first of these that has room ("auto")
    data.cache = "auto"
    data.workers = 0  # processes that decode for "none"; 0: threads
    data.normalisation = "imagenet"  # or "faces"

    config.mesh = mesh = ml_collections.ConfigDict()  # of all devices
    mesh.data = 0  # devices along the axis that only batches are divided over; 0: what fsdp leaves
    mesh.fsdp = 1  # devices along the axis that parameters and the optimiser's state are divided over too
    mesh.rules = (("kernel$", ("fsdp", "")),)  # pattern of a parameter's name; a mesh axis or "" for each of its axes

    config.model = model = ml_collections.ConfigDict()
    model.encoder = "S/8"
    model.image_size = FRAME.image_size  # of the square faces; the data's, of 136 pixels, are resized to it
    model.window = FRAME.window  # of the part in their centre that networks see, a multiple of the patch size
    model.positions = "sincos"  # position codes; "learned": a trained table, as in ViT and DeiT
    model.decoder_width, model.decoder_depth, model.decoder_heads = 512, 8, 16
    model.mask_ratio = 0.75
    model.normalise_target = True
    model.split_layer = 3
    model.attentive_fraction = 0.1  # eta
    model.num_clusters = 4  # K_c; 0 drops the inattentive tokens
    model.density = DENSITY  # "knn", "scaled" or "log"
    model.projection = 0  # width of the projector's output; 0: the paper's width for the encoder
    model.projector_hidden = False  # a linear projector; True: with a hidden layer (the paper says "light-weight")
    model.projector_normalise = True
    return config


def training(*, batch_size: int, learning_rate: float, betas: tuple[float, float], warmup: float) -> Config:
    """The fields of every stage that trains by `training.loop`."""
    stage = ml_collections.ConfigDict()
    stage.batch_size = batch_size
    stage.learning_rate = learning_rate
    stage.betas = betas
    stage.weight_decay = 0.05
    stage.warmup = warmup  # share of the steps, at the start
    stage.decay = 1.0  # share of the steps, at the end, in which the rate falls to zero; 0: it never does
    stage.clip = 0.0  # of the gradient's norm; 0: none
    stage.accumulate = 1  # parts of a batch that are computed one after the other
    stage.steps_per_dispatch = 1  # steps that the devices take for each call from the host
    stage.log_every = 50
    stage.checkpoint_every = 1000
    stage.augment = augment = ml_collections.ConfigDict()
    augment.crop_scale = (0.3, 0.9)  # area of the crop as a share of the image; the test window's is 0.5
    augment.crop_ratio = (0.8, 1.25)
    augment.flip = True
    augment.jitter = 0.0  # of brightness, contrast and saturation
    return stage


def architecture(config: Config) -> Architecture:
    """The networks that a config describes.

    Raises:
      ValueError: a field has a value that does not exist, or does not fit another.
    """
    data, model = config.data, config.model
    if data.normalisation not in NORMALISATION:
        raise ValueError(f"config.data.normalisation is {data.normalisation!r}: choose one of {list(NORMALISATION)}")
    if config.dtype not in ("float32", "bfloat16"):
        raise ValueError(f"config.dtype is {config.dtype!r}: choose 'float32' or 'bfloat16'")
    mean, std = NORMALISATION[data.normalisation]
    carb = ("projector_hidden", "projector_normalise", "split_layer", "attentive_fraction", "num_clusters", "density")
    return Architecture(
        backbone=Backbone(
            encoder=model.encoder,
            positions=model.positions,
            frame=Frame(model.image_size, model.window),
            mean=mean,
            std=std,
            dtype=config.dtype,
        ),
        decoder=Decoder(
            width=model.decoder_width,
            depth=model.decoder_depth,
            heads=model.decoder_heads,
            mask_ratio=model.mask_ratio,
            normalise_target=model.normalise_target,
        ),
        carb=Carb(
            projection=model.projection or vit.variant(model.encoder).projection,
            **{name: model[name] for name in carb},
        ),
    )


def check(config: Config) -> None:
    """Checks the fields that all experiments share, before anything runs.

    Raises:
      ValueError: a field has a value that does not exist, or does not fit another.
    """
    architecture(config)
    check_choices(
        config,
        {
            "model.density": get_args(Density),
            "model.positions": get_args(vit.Positions),
            "data.cache": CACHES,
        },
    )
    check_more_roots(config.data)
    if not 0 <= config.data.synthetic_share < 1:
        raise ValueError(f"config.data.synthetic_share is {config.data.synthetic_share}: choose a share from 0 up to 1")
    known = (*SPLITS, UNLABELED_VALIDATION)
    for name in ("unlabelled_splits", "train_splits", "test_split"):
        value = config.data[name]
        if unknown := [split for split in ((value,) if isinstance(value, str) else value) if split not in known]:
            raise ValueError(f"config.data.{name} names {unknown}: choose from {', '.join(known)}")


def check_more_roots(data: Config) -> None:
    """Raises ValueError where `config.data.more_roots` are not folders with weights, or hold the same images twice."""
    if data.more_roots and data.dataset not in FOLDERS:
        raise ValueError(
            f"config.data.more_roots adds to {' or '.join(FOLDERS)}, and config.data.dataset is {data.dataset!r}"
        )
    roots = [data.root] if data.root else []
    for entry in data.more_roots:
        if not isinstance(entry, Sequence) or [type(part) for part in entry] not in ([str, int], [str, float]):
            raise ValueError(f"config.data.more_roots holds {entry!r}: write (('FOLDER', weight), ...)")
        root, weight = entry
        if not 0 < weight < math.inf:
            raise ValueError(f"config.data.more_roots gives {root!r} the weight {weight}: choose one above 0")
        roots.append(root)
    folders = [Path(root).expanduser().resolve() for root in roots]
    for first, second in itertools.permutations(range(len(folders)), 2):
        if folders[first].is_relative_to(folders[second]):
            raise ValueError(
                f"config.data.root and more_roots: {roots[first]!r} is, or is inside, {roots[second]!r}, so its images "
                "would be there twice: name one of the two"
            )


def check_choices(config: Config, choices: Mapping[str, tuple[Any, ...]]) -> None:
    """Raises ValueError if a field, named by its path, has a value that is not among its choices."""
    values = dict(leaves(config.to_dict()))
    for path, known in choices.items():
        if values[path] not in known:
            raise ValueError(f"config.{path} is {values[path]!r}: choose one of {', '.join(map(str, known))}")


def check_training(config: Config, stage: str) -> None:
    """Raises ValueError if a field of a stage that trains (`training`) does not fit."""
    for name in ("warmup", "decay"):
        if not 0 <= config[stage][name] <= 1:
            raise ValueError(f"config.{stage}.{name} is {config[stage][name]}: choose a share from 0 to 1")
    for name in ("accumulate", "steps_per_dispatch"):
        if config[stage][name] < 1:
            raise ValueError(f"config.{stage}.{name} is {config[stage][name]}: choose 1 or more")
    most = min(config[stage].log_every, config[stage].checkpoint_every)
    if config[stage].steps_per_dispatch > most:
        raise ValueError(
            f"config.{stage}.steps_per_dispatch is {config[stage].steps_per_dispatch}, more than log_every or "
            f"checkpoint_every: choose at most {most}, or raise those"
        )


def leaves(nested: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested dicts with their paths: `("pretrain.steps", 0)`."""
    for name, value in nested.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def is_runtime_field(path: str) -> bool:
    return any(fnmatch.fnmatch(path, pattern) for pattern in RUNTIME_FIELDS)


def plain(config: Config) -> dict[str, Any]:
    """The config as JSON would hold it."""
    return json.loads(json.dumps(config.to_dict()))


def config_hash(config: Config) -> str:
    """Twelve hex digits that change with every field except the `RUNTIME_FIELDS`."""
    fields = {path: value for path, value in leaves(plain(config)) if not is_runtime_field(path)}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:12]


ADDED = {
    "system": "sce_mae",
    "pretrain.average": 0.0,
    "pretrain.decay": 1.0,
    "refine.decay": 1.0,
    "data.more_roots": [],
    "export.dtype": "float32",
    "model.image_size": FRAME.image_size,
    "model.window": FRAME.window,
}
"""Fields that runs of earlier versions lack, with the values that those runs had in effect."""


def differences(old: dict[str, Any], new: dict[str, Any]) -> dict[str, str]:
    """A line for each field in which two plain configs differ, without the `RUNTIME_FIELDS`."""
    there, here = ADDED | dict(leaves(old)), ADDED | dict(leaves(new))
    return {
        path: f"config.{path}: {there.get(path)!r} there, {here.get(path)!r} now"
        for path in sorted(there.keys() | here.keys())
        if not is_runtime_field(path) and there.get(path) != here.get(path)
    }


def num_steps(stage: Config, num_examples: int) -> int:
    """Steps of a training stage: `stage.steps`, or as many as its epochs need."""
    return stage.steps or max(1, round(stage.epochs * num_examples / stage.batch_size))
