"""Real faces through all stages: ytf68, 4,483 video frames of 287 people, 68 landmarks (any folder of that form).

  python -m scemae_jax.main --config configs/ytf68.py:tiny --workdir runs/tiny --config.data.root=FOLDER

`tiny` is for 2 CPU cores, `t8` and `s8` are DeiT-T and DeiT-S for a GPU (`launch/gpu.sh` runs one of them there).
"""

import ml_collections

from scemae_jax.systems.sce_mae.settings import default, small_network


def get_config(size: str = "tiny") -> ml_collections.ConfigDict:
    config = default()
    config.data.dataset = "landmark_folder"
    config.data.root = "../shared/data/ytf68"
    config.data.train_splits = ("train", "validation")
    if size == "tiny":
        small_network(config)
        config.pretrain.steps = 6000
        config.pretrain.checkpoint_every = 500
    elif size in ("t8", "s8"):
        config.model.encoder = {"t8": "T/8", "s8": "S/8"}[size]
        config.dtype = "bfloat16"
        config.data.unlabelled_splits = ("train", "validation", "unlabeled", "unlabeled_validation")
        config.data.synthetic_share = 0.3
        config.data.variant = "large"
        config.model.decoder_width, config.model.decoder_depth, config.model.decoder_heads = 192, 4, 3
        config.pretrain.batch_size = 1024
        config.pretrain.learning_rate = 1e-3
        config.pretrain.steps = 20_000
        config.refine.steps = 100
        config.refine.log_every = 100
        config.detect.stride = 4
        config.detect.heatmaps = 10
        config.export.dtype = "float16"
    else:
        raise ValueError(f"unknown size {size!r}: choose tiny, t8 or s8")
    return config
