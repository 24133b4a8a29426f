"""All six stages on synthetic faces, within twelve minutes on 2 CPU cores, installation included.

  bash launch/quickstart.sh

Stage 1 goes on from the small network that comes with the package (trained on real faces, see its card in
scemae_jax/pretrained): from random weights so short a run learns little but where things are. `:scratch` does that.
"""

import ml_collections

from scemae_jax.config import default


def get_config(start: str = "pretrained") -> ml_collections.ConfigDict:
    if start not in ("pretrained", "scratch"):
        raise ValueError(f"unknown start {start!r}: choose pretrained or scratch")
    config = default()
    config.init = "xs8_ytf68" if start == "pretrained" else ""
    config.model.encoder = "XS/8"
    config.model.decoder_width, config.model.decoder_depth, config.model.decoder_heads = 64, 2, 2
    config.pretrain.batch_size = 64
    config.pretrain.learning_rate = 1e-3
    config.pretrain.steps = 700
    config.refine.batch_size = 64
    config.refine.steps = 50
    config.refine.log_every = 5
    config.match.max_pairs = 60
    config.detect.landmarks = (5,)
    config.detect.heatmaps = 10
    config.detect.epochs = 20.0
    return config
