"""The settings of SCE-MAE: the sections of its stages, and the networks that configs begin from."""

from __future__ import annotations

import ml_collections

from scemae_jax import config as shared
from scemae_jax.config import Config
from scemae_jax.evaluation.few_annotations import HEADS, RAW_PATCH
from scemae_jax.evaluation.matching import PATCH
from scemae_jax.models import vit

PAPER_ENCODERS = {"t8": "T/8", "s8": "S/8", "b8": "B/8"}
"""DeiT-T, -S and -B with patches of 8x8, by the names that configs have for them."""


def default() -> Config:
    """The config that the others start from: the paper's method at DeiT-S size, on synthetic faces."""
    config = shared.base("sce_mae", ("pretrain", "refine", "match", "detect", "report", "export"))

    config.pretrain = stage = shared.training(batch_size=512, learning_rate=3e-4, betas=(0.9, 0.95), warmup=0.1)
    stage.scan_layers = False  # layers as one loop, compiled once: many layers compile sooner, but weights are copied
    stage.remat = False  # recompute activations in the backward pass: less memory (on a CPU only with scan_layers)
    stage.average = 0.0  # decay of an average of the weights, which replaces the last ones; 0: none
    stage.epochs = 400.0
    stage.steps = 0  # counts instead of epochs if positive

    config.refine = stage = shared.training(batch_size=256, learning_rate=1e-3, betas=(0.9, 0.99), warmup=0.05)
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


def check(config: Config) -> None:
    """Checks what every stage will need, so that no mistake comes to light after hours of training.

    Raises:
      ValueError: a field has a value that does not exist, or does not fit another.
    """
    shared.check(config)
    described = shared.architecture(config)
    patch_size, frame = described.backbone.variant.patch_size, described.backbone.frame
    if frame.window % patch_size:
        raise ValueError(f"config.model.window is {frame.window}: choose a multiple of the patch size {patch_size}")
    for stage in ("match", "detect", "few_shot", "represent", "export"):
        stride = config[stage].stride
        if stride < 1 or patch_size % stride:
            raise ValueError(f"config.{stage}.stride is {stride}: choose a divisor of the patch size {patch_size}")
        shift = (patch_size - stride + 1) // 2
        if shift > frame.offset:
            raise ValueError(
                f"config.{stage}.stride is {stride}: windows of {frame.window} pixels are shifted by {shift}, and "
                f"images of {frame.image_size} leave {frame.offset}: choose a larger stride, a smaller "
                "config.model.window or a larger config.model.image_size"
            )
    if "match" in config.stages and config.match.baselines and frame.offset < PATCH // 2:
        raise ValueError(
            f"config.match.baselines: the patches of raw pixels reach {PATCH // 2} pixels beyond the window, and "
            f"config.model.window={frame.window} leaves {frame.offset} of image_size={frame.image_size}: choose a "
            "larger image_size, or config.match.baselines=False"
        )
    if "few_shot" in config.stages and config.few_shot.baselines and frame.window % RAW_PATCH:
        raise ValueError(
            f"config.few_shot.baselines: the window is cut into patches of {RAW_PATCH} raw pixels, and "
            f"config.model.window is {frame.window}: choose a multiple of {RAW_PATCH}, or "
            "config.few_shot.baselines=False"
        )
    which = ("backbone", "projected", "both")
    shared.check_choices(
        config,
        {
            "detect.which": which,
            "detect.linear.which": which,
            "few_shot.which": which,
            "represent.landmarks": (5, 68),
            "export.dtype": ("float32", "float16"),
        },
    )
    for stage in ("pretrain", "refine"):
        shared.check_training(config, stage)
    if not 0 <= config.pretrain.average < 1:
        raise ValueError(f"config.pretrain.average is {config.pretrain.average}: choose 0 (none), or less than 1")
    n = described.backbone.side**2
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
