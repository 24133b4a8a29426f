"""Real faces (ytf68: 4,483 video frames, 68 landmarks) through all stages."""

import ml_collections

from scemae_jax.config import default


def get_config(size: str = "tiny") -> ml_collections.ConfigDict:
    config = default()
    config.data.dataset = "landmark_folder"
    config.data.root = "../shared/data/ytf68"
    if size == "tiny":
        config.model.encoder = "XS/8"
        config.model.decoder_width, config.model.decoder_depth, config.model.decoder_heads = 64, 2, 2
        config.pretrain.batch_size = 64
        config.pretrain.learning_rate = 1e-3
        config.pretrain.epochs = 300.0
        config.pretrain.checkpoint_every = 500
    return config
