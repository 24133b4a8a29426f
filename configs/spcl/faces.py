"""Parts of real faces, learnt from drawn faces' masks and from real faces without any.

  python -m scemae_jax.main --config configs/spcl/faces.py --config.data.root=FOLDER --workdir runs/parts

FOLDER holds unlabelled faces. `faces.py:METHOD` takes another method: source, self_training, no_prototypes, spcl_paper;
or oracle, for which FOLDER has images/ and masks/, true masks of the images, which are learnt from in the target's
place. docs/parsing.md has the commands of all rows, and how to measure on real faces' masks.
"""

import ml_collections

from scemae_jax.systems.spcl.settings import choose_method, default


def get_config(method: str = "spcl") -> ml_collections.ConfigDict:
    config = default()
    config.data.dataset = "landmark_folder"
    config.data.train_splits = ("train", "validation")
    config.data.unlabelled_splits = ("train", "validation", "unlabeled", "unlabeled_validation")
    config.init = "xs8_ytf68"
    config.adapt.steps = 600  # with the 2,000 of source within an hour on two CPU cores
    config.measure.sets = ("drawn=source:test",)
    config.model.encoder = "XS/8"
    config.model.decoder_width, config.model.decoder_depth, config.model.decoder_heads = 64, 2, 2
    config.model.projection = 96
    choose_method(config, method)
    config.class_weights = True  # also of spcl_paper: without them the small parts of faces are hardly learnt
    if config.adapt.labels == "masks":
        config.data.dataset = "mask_folder"
    return config
