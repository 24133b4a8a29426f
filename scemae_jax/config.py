"""The fields of a run's config, with their defaults and meaning; files in `configs/` change some of them."""

from __future__ import annotations

import functools
import hashlib
import json
from typing import Any, get_args

import ml_collections

from scemae_jax.model import Architecture
from scemae_jax.models import vit
from scemae_jax.ops.density_peaks import DENSITY, Density

Config = Any
"""An `ml_collections.ConfigDict`, whose fields no type checker knows."""

SPLITS = ("train", "validation", "test", "unlabeled", "unlabeled_validation")
STAGES = ("pretrain", "refine", "match", "detect", "few_shot", "represent", "report", "export")
ON_REQUEST = ("few_shot", "represent")
"""Stages that run only where `config.stages` names them: they take long, and no other stage needs them."""

CACHES = ("auto", "device", "host", "none")
HOW = (
    "stages", "mesh", "data.cache", "data.workers", "pretrain.steps_per_dispatch", "refine.steps_per_dispatch",
    "pretrain.scan_layers", "pretrain.remat",
)  # fmt: skip
"""Fields that say what to run now and on what, not what is to come of it: a run goes on with others of them."""

HEADS = {"prior_work": "prior work's head", "plain": "plain", "linear": "linear"}
"""Landmark heads that learn from few annotations: their names in `few_shot.heads`, and in results."""

PAPER_ENCODERS = {"t8": "T/8", "s8": "S/8", "b8": "B/8"}
"""DeiT-T, -S and -B with patches of 8x8, by the names that configs have for them."""

NORMALISATION = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "faces": ((0.5084, 0.4224, 0.3769), (0.2599, 0.2371, 0.2323)),
}


def default() -> Config:
    """The config that the others start from: the paper's method at DeiT-S size, on synthetic faces."""
    config = ml_collections.ConfigDict()
    config.stages = tuple(stage for stage in STAGES if stage not in ON_REQUEST)
    config.seed = 0
    config.init = ""  # an exported model, or the name of one that comes with the package, to start stage 1 from
    config.dtype = "float32"  # of the networks' arithmetic: "bfloat16" on TPUs and recent GPUs

    config.data = data = ml_collections.ConfigDict()
    data.dataset = "synthetic_faces"  # or another of scemae_jax.data.sources.DATASETS: landmark_folder, mafl, ...
    data.variant = "default"  # of synthetic_faces
    data.root = ""  # the folder of landmark_folder, or the one that an official dataset is prepared from
    data.data_dir = ""  # where prepared datasets are kept; empty: TFDS_DATA_DIR, or ~/tensorflow_datasets
    # What stages 1 and 2 see; of a folder, "unlabeled_validation" holds the validation people's unannotated images
    data.unlabelled_splits = ("train", "unlabeled")
    data.train_splits = ("train",)  # annotated, what the detector learns from
    data.test_split = "test"  # what matching and detection are measured on; "validation" to choose settings
    data.synthetic_share = 0.0  # of the images of stages 1 and 2, mixed in
    # Where the images of stages 1 and 2 are kept once decoded: on the accelerators ("device"), in memory ("host"),
    # nowhere ("none": read and decoded again for every batch), or, with "auto", the first of these that has room
    data.cache = "auto"
    data.workers = 0  # processes that decode for "none"; 0: threads
    data.normalisation = "imagenet"  # or "faces"

    config.mesh = mesh = ml_collections.ConfigDict()  # of all devices
    mesh.data = 0  # devices along the axis that batches alone are divided over; 0: what fsdp leaves
    mesh.fsdp = 1  # devices along the axis that parameters and the optimiser's state are divided over too
    mesh.rules = (("kernel$", ("fsdp", "")),)  # pattern of the parameter's name, a mesh axis or "" for each of its axes

    config.model = model = ml_collections.ConfigDict()
    model.encoder = "S/8"
    model.positions = "sincos"  # position codes; "learned": a table that is trained, as ViT and DeiT have it
    model.decoder_width, model.decoder_depth, model.decoder_heads = 512, 8, 16
    model.mask_ratio = 0.75
    model.normalise_target = True
    model.split_layer = 3
    model.attentive_fraction = 0.1  # eta
    model.num_clusters = 4  # K_c; 0 drops the inattentive tokens
    model.density = DENSITY  # "knn", "scaled" or "log"
    model.projection = 0  # width of the projector's output; 0: that of the paper's features for the encoder
    model.projector_hidden = False  # a linear projector; True: with a hidden layer (the paper says "light-weight")
    model.projector_normalise = True

    config.pretrain = stage = _training(batch_size=512, learning_rate=3e-4, betas=(0.9, 0.95), warmup=0.1)
    stage.scan_layers = False  # layers as one loop, compiled once: many layers compile sooner, but weights are copied
    stage.remat = False  # layers once more in the backward pass: less memory (on a CPU with scan_layers alone)
    stage.epochs = 400.0
    stage.steps = 0  # counts instead of epochs if positive

    config.refine = stage = _training(batch_size=256, learning_rate=1e-3, betas=(0.9, 0.99), warmup=0.05)
    stage.epochs = 20.0
    stage.steps = 0
    stage.temperature = 0.1
    stage.repellence = (5.0, 5.0, 2.0)  # lambda: att-att, att-inatt, inatt-inatt
    stage.locality = True
    stage.two_crops = False  # the loss across two crops of an image: ours, not the paper's

    config.match = match = ml_collections.ConfigDict()
    match.stride = 4
    match.max_pairs = 0  # 0: every two test images
    match.warp_seed = 0
    match.baselines = True  # raw patches and the untrained network beside the trained ones
    match.random_pairings = 0  # of the same images, measured beside the fixed order; without the baselines above
    match.clustered = False  # also "MAE, clustered": inattentive patches with their cluster centre's features

    config.detect = detect = ml_collections.ConfigDict()
    detect.landmarks = (5, 68)  # as many of these as the data have; others are taken as they are
    detect.stride = 8
    detect.which = "both"
    detect.projected_weight = 1.0  # factor of the projected features beside the backbone's in "both"
    detect.heatmaps = 50
    detect.kernel_size = 3
    detect.gain = 2.0  # of the heatmaps' softmax; prior work has 100, which saturates on these features
    detect.mirror = False  # learn from mirrored images too, where 5 (eyes, nose, mouth corners) or 68 are annotated
    detect.epochs = 200.0
    detect.cosine_epochs = 0.0  # the cosine's length, where training stops before its end; 0: as long as training
    detect.least_steps = 400  # however few images there are
    detect.steps = 0
    detect.batch_size = 32
    detect.learning_rate = 1e-3
    detect.warmup = 0.0
    detect.betas = (0.5, 0.999)
    detect.weight_decay = 5e-4
    detect.clip = 0.0
    detect.log_every = 50
    detect.checkpoint_every = 500
    detect.memory_gib = 32.0  # features that take more are computed anew for every batch instead of being kept
    detect.linear = linear = ml_collections.ConfigDict()  # the head for few annotations: ours, not the paper's
    linear.below = 200  # it takes the place of the one with heatmaps where fewer images are annotated; 0: never
    linear.which = "projected"
    linear.views = 300  # warped views it learns from, drawn from the annotated images
    linear.exponent = 0.25  # how far it trusts the directions in which unlabelled features vary most; 0: not at all
    linear.strength = 0.002  # of its penalty

    config.few_shot = few = ml_collections.ConfigDict()
    few.counts = (1, 5, 10, 20, 50, 100)  # annotated images
    few.seeds = 5  # draws of so many images
    few.landmarks = (5, 68)  # as in detect
    few.which = "projected"
    few.stride = 8
    few.views = 1000  # warped views, drawn from the annotated images
    few.mirror = False
    few.heatmaps = 50
    few.heads = tuple(HEADS)  # the plain one of prior work, ours of the same form, and that of detect.linear
    few.gain = 50.0  # of the heatmaps' softmax, for features of unit length: all kinds are brought to that
    few.epochs = 1000.0  # of the views, mirrored ones among them
    few.steps = 0
    few.batch_size = 32
    few.learning_rate = 1e-2
    few.warmup = 0.0
    few.betas = (0.5, 0.999)
    few.weight_decay = 5e-2  # at five landmarks; it falls with their number
    few.clip = 0.0
    few.baselines = True  # an untrained network's features, raw patches, and a network without pretraining
    few.scratch = scratch = ml_collections.ConfigDict()  # the network without pretraining, on the same images
    scratch.width = 32  # channels of its first convolution
    scratch.views = 1000  # warped views of its own, which it gains from where fixed features do not
    scratch.epochs = 20.0
    scratch.steps = 0
    scratch.batch_size = 4
    scratch.learning_rate = 3e-3
    scratch.warmup = 0.05
    scratch.betas = (0.9, 0.999)
    scratch.weight_decay = 1e-2
    scratch.clip = 0.0

    config.represent = represent = ml_collections.ConfigDict()
    represent.stride = 4
    represent.images = 200  # at most so many test images; 0: all
    represent.landmarks = 5  # of 68, or all 68; other numbers are taken as they are
    represent.perplexity = 30.0
    represent.repeats = 100  # of t-SNE, each from another start

    config.report = report = ml_collections.ConfigDict()
    report.examples = 8  # images in each picture

    config.export = export = ml_collections.ConfigDict()
    export.dtype = "float32"  # of the weights in the file: "float16" halves it
    export.decoder = False  # keep the MAE decoder, for a model that stage 1 is to start from
    export.stride = 8  # of the features that the StableHLO file gives
    return config


def small_network(config: Config) -> None:
    """Makes it the small network for CPUs, with what did best for it on a validation part (docs/results.md)."""
    config.model.encoder = "XS/8"
    config.model.decoder_width, config.model.decoder_depth, config.model.decoder_heads = 64, 2, 2
    config.model.projection = 96
    config.pretrain.batch_size = 64
    config.pretrain.learning_rate = 1e-3
    config.refine.batch_size = 64
    config.refine.steps = 100
    config.refine.log_every = 10
    config.refine.temperature = 0.2
    config.detect.heatmaps = 5
    config.detect.learning_rate = 3e-3
    config.detect.epochs = 12.0
    config.detect.mirror = True
    config.few_shot.mirror = True
    config.few_shot.views = 300
    config.few_shot.heatmaps = 5
    config.few_shot.steps = 600
    config.few_shot.scratch.steps = 4800


def paper_network(config: Config, size: str) -> None:
    """Makes it one of the paper's networks, of a size in `PAPER_ENCODERS`.

    Raises:
      ValueError: there is no such size.
    """
    if size not in PAPER_ENCODERS:
        raise ValueError(f"unknown size {size!r}: choose one of {', '.join(PAPER_ENCODERS)}")
    config.model.encoder = PAPER_ENCODERS[size]
    config.model.attentive_fraction = 0.25 if size == "b8" else 0.1


def _training(*, batch_size: int, learning_rate: float, betas: tuple[float, float], warmup: float) -> Config:
    stage = ml_collections.ConfigDict()
    stage.batch_size = batch_size
    stage.learning_rate = learning_rate
    stage.betas = betas
    stage.weight_decay = 0.05
    stage.warmup = warmup  # share of the steps
    stage.clip = 0.0  # of the gradient's norm; 0: none
    stage.accumulate = 1  # parts of a batch that are computed one after the other
    stage.steps_per_dispatch = 1  # steps the devices take for each word of the host
    stage.log_every = 50
    stage.checkpoint_every = 1000
    stage.augment = augment = ml_collections.ConfigDict()
    augment.crop_scale = (
        0.3,
        0.9,
    )  # area of the crop as a share of the 136x136 image; the test window's is 0.5
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
    return Architecture(
        **{name: value for name, value in model.items() if name != "projection"},
        projection=model.projection or vit.variant(model.encoder).projection,
        mean=mean,
        std=std,
        dtype=config.dtype,
    )


def check(config: Config) -> None:
    """Checks what every stage will need, so that no mistake comes to light after hours of training.

    Raises:
      ValueError: a field has a value that does not exist, or does not fit another.
    """
    described = architecture(config)
    patch_size = described.variant.patch_size
    for stage in ("match", "detect", "few_shot", "represent", "export"):
        stride = config[stage].stride
        if stride < 1 or patch_size % stride:
            raise ValueError(f"config.{stage}.stride is {stride}: choose a divisor of the patch size {patch_size}")
    choices = {
        ("model", "density"): get_args(Density),
        ("model", "positions"): get_args(vit.Positions),
        ("detect", "which"): ("backbone", "projected", "both"),
        ("few_shot", "which"): ("backbone", "projected", "both"),
        ("represent", "landmarks"): (5, 68),
        ("export", "dtype"): ("float32", "float16"),
        ("data", "cache"): CACHES,
    }
    if config.detect.linear.which not in ("backbone", "projected", "both"):
        raise ValueError(
            f"config.detect.linear.which is {config.detect.linear.which!r}: choose one of backbone, projected, both"
        )
    for (section, name), known in choices.items():
        if config[section][name] not in known:
            raise ValueError(
                f"config.{section}.{name} is {config[section][name]!r}: choose one of {', '.join(map(str, known))}"
            )
    for stage in ("pretrain", "refine"):
        for name in ("accumulate", "steps_per_dispatch"):
            if config[stage][name] < 1:
                raise ValueError(f"config.{stage}.{name} is {config[stage][name]}: choose 1 or more")
        most = min(config[stage].log_every, config[stage].checkpoint_every)
        if config[stage].steps_per_dispatch > most:
            raise ValueError(
                f"config.{stage}.steps_per_dispatch is {config[stage].steps_per_dispatch}, more than log_every or "
                f"checkpoint_every: choose at most {most}, or raise those"
            )
    for name in ("unlabelled_splits", "train_splits", "test_split"):
        value = config.data[name]
        if unknown := [split for split in ((value,) if isinstance(value, str) else value) if split not in SPLITS]:
            raise ValueError(f"config.data.{name} names {unknown}: choose from {', '.join(SPLITS)}")
    n = described.side**2
    attentive = round(config.model.attentive_fraction * n)
    if not 0 < attentive < n or not 0 <= config.model.num_clusters <= n - attentive:
        raise ValueError(
            f"config.model.attentive_fraction {config.model.attentive_fraction} and num_clusters "
            f"{config.model.num_clusters} do not fit {n} patches: {attentive} would be attentive"
        )
    depth = vit.variant(config.model.encoder).depth
    if not 1 <= config.model.split_layer < depth:
        raise ValueError(f"config.model.split_layer is {config.model.split_layer}: choose one from 1 to {depth - 1}")
    if config.refine.temperature <= 0:
        raise ValueError(f"config.refine.temperature is {config.refine.temperature}: it must be positive")
    if min((config.few_shot.seeds, *config.few_shot.counts), default=0) < 1:
        raise ValueError(
            f"config.few_shot.seeds is {config.few_shot.seeds} and counts {tuple(config.few_shot.counts)}: at least 1"
        )
    if not config.few_shot.heads or not HEADS.keys() >= set(config.few_shot.heads):
        raise ValueError(f"config.few_shot.heads is {tuple(config.few_shot.heads)}: choose from {', '.join(HEADS)}")
    if config.detect.projected_weight <= 0:
        raise ValueError(f"config.detect.projected_weight is {config.detect.projected_weight}: it must be positive")
    if config.detect.cosine_epochs and not 0 < config.detect.epochs <= config.detect.cosine_epochs:
        raise ValueError(
            f"config.detect.cosine_epochs is {config.detect.cosine_epochs:g} and epochs {config.detect.epochs:g}: the "
            "rate cannot fall to zero before training ends; choose 0, or at least as many as epochs, which are positive"
        )
    if config.represent.repeats < 1 or config.represent.perplexity <= 0:
        raise ValueError(
            f"config.represent.repeats is {config.represent.repeats} and perplexity {config.represent.perplexity}: "
            "both must be positive"
        )
    check_stages(config)


def check_stages(config: Config) -> None:
    unknown = [stage for stage in config.stages if stage not in STAGES]
    if unknown:
        raise ValueError(f"config.stages names {unknown}: choose from {', '.join(STAGES)}")
    if list(config.stages) != [stage for stage in STAGES if stage in config.stages]:
        raise ValueError(f"config.stages is {tuple(config.stages)}: the order is {', '.join(STAGES)}, each once")


def plain(config: Config) -> dict[str, Any]:
    """The config as JSON would hold it."""
    return json.loads(json.dumps(config.to_dict()))


def config_hash(config: Config) -> str:
    """Twelve hex digits that change with any field but those of `HOW`."""
    fields = plain(config)
    for path in HOW:
        *sections, name = path.split(".")
        section = functools.reduce(dict.__getitem__, sections, fields)
        del section[name]
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:12]


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """One line for each field in which two plain configs differ, those of `HOW` apart."""
    lines = []
    for name in sorted(old.keys() | new.keys()):
        path, a, b = f"{prefix}{name}", old.get(name), new.get(name)
        if path in HOW or a == b:
            continue
        if isinstance(a, dict) and isinstance(b, dict):
            lines += differences(a, b, f"{path}.")
        else:
            lines.append(f"config.{path}: {a!r} there, {b!r} now")
    return lines


def num_steps(stage: Config, num_examples: int) -> int:
    """Steps of a training stage: `stage.steps`, or as many as its epochs need."""
    return stage.steps or max(1, round(stage.epochs * num_examples / stage.batch_size))
