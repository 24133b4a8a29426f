"""The settings of SPCL: the sections of its stages, and the methods that are compared."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import ml_collections

from scemae_jax import config as shared
from scemae_jax.config import Config
from scemae_jax.data import sources
from scemae_jax.models import vit

METHODS = ("source", "self_training", "spcl", "no_prototypes", "spcl_paper", "oracle")

SOURCE = "source"
"""In the place of a folder of `config.measure.sets`: the labelled dataset of the source."""
GROUPINGS = ("all", "merge", "landmarks", "fasseg")
"""Names of classes that count together (`evaluation_sets.groupings`)."""
TRAINED = ("source", "adapt", "self_train")
"""Stages that train, in their order."""
WITH_MASKS = ("synthetic_faces", "mask_folder")
"""Datasets that know the class of every pixel."""


def default() -> Config:
    """Ours: a teacher's soft labels, ClassMix, and contrast with unit prototypes."""
    config = shared.base("spcl", ("source", "adapt", "measure", "report", "export"))
    config.classes = "faces"  # a scheme of scemae_jax.faces.parts or data.class_maps; "": the source's classes.csv
    # (height, width) of scenes: images of folders are brought to it, cropped in training and seen whole, by windows of
    # config.model.window, where they are measured. (): square faces, whose centre window counts
    config.scene_size = ()
    config.mesh.rules = (("encoder/.*kernel$", ("fsdp", "")),)  # the head is small
    config.head_width = 64  # channels of the head's features

    config.source_data = data = ml_collections.ConfigDict()  # labelled images; config.data has the unlabelled target
    data.dataset = "synthetic_faces"  # or "mask_folder"
    data.variant = "default"
    data.root = ""
    data.splits = ("train",)
    data.class_balance = False  # a class is drawn first, rare ones more often, then an image that has it

    config.class_weights = True  # rare classes weigh more in the cross-entropy of source pixels

    config.source = stage = training(steps=2000, learning_rate=2e-3)
    stage.look = look()  # of the source images, beyond `augment.jitter`
    stage.adversary = 0.0  # weight of the domain loss against a discriminator of the output; 0: none

    config.adapt = stage = training(steps=1500, learning_rate=1e-3)
    stage.look = look()
    stage.target_colours = 0.0  # share of the source images that take the colours of a target image
    # The target's: soft, by an average of the weights; "offline": by thresholds, made once; "masks": the true ones
    stage.labels = "teacher"
    stage.teacher_decay = 0.999
    stage.target_weight = 1.0  # of the cross-entropy on the target
    stage.class_mix = True  # half of the source image's classes are pasted on the target
    stage.student = look(jitter=0.4, blur=1.5)  # what the student sees of the target, beyond the teacher's view
    stage.contrast = contrast = ml_collections.ConfigDict()
    contrast.weight = 0.1
    contrast.temperature = 0.1
    contrast.momentum = 0.9
    contrast.unit_prototypes = True
    contrast.class_balanced = True
    contrast.right_only = False  # source pixels that the parser has wrong do not contrast
    contrast.least_confidence = 0.0  # target pixels below it do not contrast

    config.self_train = training(steps=500, learning_rate=1e-3)

    config.pseudo_labels = pseudo = ml_collections.ConfigDict()
    pseudo.most = 0.9  # a class's threshold is the median confidence of its pixels, or this if that is lower

    config.measure = measure = ml_collections.ConfigDict()
    # Images with masks: "NAME=FOLDER" or "NAME=FOLDER:SPLIT" or "NAME=FOLDER:SPLIT:GROUPING+GROUPING"; FOLDER "source"
    # is the source's own dataset
    measure.sets = ()
    measure.without = ("glasses",)  # the mean is also given without these classes

    config.report = report = ml_collections.ConfigDict()
    report.examples = 6  # drawn faces that are shown, if the source is drawn
    report.target_pictures = 0  # images of the target that are shown, with the parts found in them
    report.pixels = 60  # of each class and domain, whose features t-SNE shows; 0: no t-SNE

    config.export = export = ml_collections.ConfigDict()
    export.dtype = "float32"  # of the weights in the file: "float16" halves it
    return config


def look(*, jitter: float = 0.0, tint: float = 0.0, blur: float = 0.0, noise: float = 0.0) -> Config:
    """The fields of `views.change_look`; all zero: images stay as they are."""
    return ml_collections.ConfigDict({"jitter": jitter, "tint": tint, "blur": blur, "noise": noise})


def training(*, steps: int, learning_rate: float) -> Config:
    """The fields of a stage that trains encoder and head."""
    stage = shared.training(batch_size=32, learning_rate=learning_rate, betas=(0.9, 0.999), warmup=0.05)
    stage.steps = steps
    stage.encoder_rate = 0.2  # the encoder's learning rate, as a share of the head's
    stage.logit_temperature = 1.0  # of the source's cross-entropy
    stage.augment.jitter = 0.3
    return stage


def choose_method(config: Config, method: str) -> None:
    """Makes it one of `METHODS`.

    Raises:
      ValueError: there is no such method.
    """
    adapt = config.adapt
    if method == "source":  # the same number of steps, on source images alone
        adapt.target_weight = adapt.contrast.weight = 0.0
    elif method == "self_training":
        adapt.labels, adapt.class_mix, adapt.contrast.weight = "offline", False, 0.0
        adapt.student = look()
    elif method == "no_prototypes":
        adapt.contrast.weight = 0.0
    elif method == "oracle":  # the target's true masks (config.data must have some) instead of a teacher
        adapt.labels, adapt.class_mix, adapt.contrast.weight = "masks", False, 0.0
        adapt.student = look()
    elif method == "spcl_paper":
        config.stages = ("source", "adapt", "self_train", "measure", "report", "export")
        config.source.adversary = 0.001
        config.source.logit_temperature = adapt.logit_temperature = 1.8
        adapt.labels, adapt.class_mix, adapt.target_weight = "offline", False, 0.0
        adapt.student = look()
        contrast = adapt.contrast
        contrast.weight, contrast.temperature, contrast.momentum = 1.0, 100.0, 0.1
        contrast.unit_prototypes = contrast.class_balanced = False
        contrast.right_only = True
        config.class_weights = False
    elif method not in METHODS:
        raise ValueError(f"unknown method {method!r}: choose one of {', '.join(METHODS)}")


def check(config: Config) -> None:
    """Checks what every stage will need.

    Raises:
      ValueError: a field has a value that does not exist, or does not fit another.
    """
    shared.check(config)
    shared.check_choices(
        config,
        {
            "source_data.dataset": WITH_MASKS,
            "data.dataset": (*sources.DATASETS, "mask_folder", "image_folder"),
            "adapt.labels": ("teacher", "offline", "masks"),
            "export.dtype": ("float32", "float16"),
        },
    )
    for stage in TRAINED:
        shared.check_training(config, stage)
        if config[stage].steps < 1:
            raise ValueError(f"config.{stage}.steps is {config[stage].steps}: choose 1 or more")
    contrast = config.adapt.contrast
    if contrast.temperature <= 0:
        raise ValueError(f"config.adapt.contrast.temperature is {contrast.temperature}: it must be positive")
    for name in ("momentum", "least_confidence"):
        if not 0 <= contrast[name] <= 1:
            raise ValueError(f"config.adapt.contrast.{name} is {contrast[name]}: choose one from 0 to 1")
    patch_size = vit.variant(config.model.encoder).patch_size
    if config.model.window % patch_size:
        raise ValueError(
            f"config.model.window is {config.model.window}: choose a multiple of the patch size {patch_size}"
        )
    for name in ("examples", "target_pictures", "pixels"):
        if config.report[name] < 0:
            raise ValueError(f"config.report.{name} is {config.report[name]}: choose 0 or more")
    if config.adapt.labels == "masks" and config.data.dataset not in WITH_MASKS:
        raise ValueError(
            f"config.adapt.labels is 'masks', and config.data.dataset {config.data.dataset!r}, which has none: choose "
            "'mask_folder', with a folder of images/ and masks/ as config.data.root"
        )
    for description in config.measure.sets:
        folder = described(description).folder
        if folder != SOURCE and not Path(folder).expanduser().is_dir():
            raise ValueError(f"config.measure.sets has {description!r}: there is no folder {folder}")
    check_folders(config)


class Described(NamedTuple):
    """What an entry of `config.measure.sets` says."""

    name: str
    folder: str
    """Or `SOURCE`."""
    split: str
    """Empty: all of them."""
    groupings: tuple[str, ...]
    """Empty: "all", or of a set with landmarks "landmarks"."""


def described(description: str) -> Described:
    """Reads "NAME=FOLDER", "NAME=FOLDER:SPLIT" or "NAME=FOLDER:SPLIT:GROUPING+GROUPING".

    Raises:
      ValueError: it has another form.
    """
    name, separator, rest = description.partition("=")
    folder, _, rest = rest.partition(":")
    split, _, asked = rest.partition(":")
    if not separator or not name or not folder:
        raise ValueError(f"config.measure.sets has {description!r}: write NAME=FOLDER:SPLIT:GROUPING")
    groupings = tuple(asked.split("+")) if asked else ()
    if unknown := [grouping for grouping in groupings if grouping not in GROUPINGS]:
        raise ValueError(f"config.measure.sets: no grouping is called {unknown[0]!r}: choose {', '.join(GROUPINGS)}")
    return Described(name, folder, split, groupings)


def check_folders(config: Config) -> None:
    """Checks the folders of source and target, and the size that their images are brought to.

    Raises:
      ValueError: a folder is not named, or source and target share images, or the size does not fit.
    """
    source, target = config.source_data, config.data
    if target.dataset == "mask_folder" and not target.root:
        raise ValueError("config.data.root is empty: name the folder with images/ and masks/")
    if source.dataset == "mask_folder" and not source.root:
        raise ValueError("config.source_data.root is empty: name the folder with images/ and masks/")
    if target.dataset == "image_folder" and not target.root:
        raise ValueError("config.data.root is empty: name the folder of the target's images")
    for root in (target.root, *(root for root, _ in target.more_roots)) if source.root else ():
        first, second = (Path(folder).expanduser().resolve() for folder in (source.root, root))
        if root and (first.is_relative_to(second) or second.is_relative_to(first)):
            raise ValueError(
                f"config.source_data.root {source.root} and the target's folder {root} are one folder, or one is "
                "in the other, so that images of one could count as the other's: put them into two folders side by side"
            )
    size = tuple(config.scene_size)
    if not size:
        return
    if len(size) != 2 or min(size) < config.model.window:
        raise ValueError(
            f"config.scene_size is {size}: choose (height, width), neither below config.model.window, which is "
            f"{config.model.window}"
        )
    if source.dataset != "mask_folder" or target.dataset not in ("image_folder", "mask_folder"):
        raise ValueError(
            f"config.scene_size is {size}, and the datasets are {source.dataset} and {target.dataset}, whose images "
            "are faces: choose mask_folder and image_folder, or leave scene_size empty"
        )
    if target.synthetic_share:
        raise ValueError(
            f"config.data.synthetic_share is {target.synthetic_share}, and config.scene_size {size}: drawn faces are "
            "no scenes, so choose 0"
        )
