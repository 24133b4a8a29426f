"""All six stages on synthetic faces, within twelve minutes on 2 CPU cores, installation included.

  bash launch/quickstart.sh

Stage 1 starts from the packaged small network (trained on real faces, see its card in scemae_jax/pretrained). From
random weights (`:scratch`) so short a run learns little more than positions.
"""

import ml_collections

from scemae_jax.systems.sce_mae.settings import default, small_network


def get_config(start: str = "pretrained") -> ml_collections.ConfigDict:
    if start not in ("pretrained", "scratch"):
        raise ValueError(f"unknown start {start!r}: choose pretrained or scratch")
    config = default()
    config.init = "xs8_ytf68" if start == "pretrained" else ""
    small_network(config)
    config.pretrain.steps = 1000
    config.refine.temperature = 0.3
    config.refine.steps = 50
    config.refine.log_every = 5
    config.match.max_pairs = 60
    config.detect.landmarks = (5,)
    return config
