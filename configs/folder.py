"""A folder of your own faces, with or without a landmarks.csv.

  python -m scemae_jax.main --config configs/folder.py --config.data.root=FOLDER --workdir runs/mine

DeiT-S for a GPU: 400 passes over 50,000 faces, 20 million images seen. On a CPU use `configs/folder.py:small`: a small
network that starts from the packaged one (research use only, see its card) and sees 200,000 images. With too few
annotated faces the run skips matching and detection, and says so; annotate some, and the same command runs them.
"""

import ml_collections

from scemae_jax.systems.sce_mae.settings import default, small_network


def get_config(size: str = "full") -> ml_collections.ConfigDict:
    if size not in ("full", "small"):
        raise ValueError(f"unknown size {size!r}: choose full or small")
    config = default()
    config.data.dataset = "landmark_folder"
    config.data.train_splits = ("train", "validation")
    config.data.unlabelled_splits = ("train", "validation", "unlabeled", "unlabeled_validation")
    config.detect.mirror = True
    if size == "small":
        config.init = "xs8_ytf68"
        small_network(config)
        config.pretrain.steps = 3000
        config.pretrain.learning_rate = 5e-4
    return config
