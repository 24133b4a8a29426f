"""All six stages on synthetic faces, on 2 CPU cores, in minutes.

bash launch/quickstart.sh
"""

import ml_collections

from scemae_jax.config import default


def get_config() -> ml_collections.ConfigDict:
    config = default()
    config.model.encoder = "XS/8"
    config.model.decoder_width, config.model.decoder_depth, config.model.decoder_heads = 64, 2, 2
    config.pretrain.batch_size = 64
    config.pretrain.learning_rate = 1e-3
    config.pretrain.steps = 800
    config.refine.batch_size = 64
    config.refine.steps = 100
    config.match.max_pairs = 100
    config.detect.landmarks = (5,)
    config.detect.heatmaps = 10
    config.detect.epochs = 20.0
    return config
