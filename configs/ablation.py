"""The network of Table 4: what clustering and the LCR loss bring to an exported backbone, matching on MAFL.

  python -m scemae_jax.sweep --config configs/ablation.py:s8 --sweep configs/sweeps/table4.py --workdir runs/table4_s8 \
    --config.data.root=FOLDER --config.init=runs/celeba_s8/export/scemae.msgpack

`t8`, `s8` and `b8` are the sizes of configs/celeba.py; the paper's table is of `b8`. Each point and seed trains stage 2
alone, on MAFL's training images (a part of CelebA's). An estimated hour on a GPU. Not run yet.
"""

import ml_collections

from scemae_jax.systems.sce_mae.settings import default, paper_network


def get_config(size: str = "s8") -> ml_collections.ConfigDict:
    config = default()
    paper_network(config, size)
    config.dtype = "bfloat16"
    config.stages = ("refine", "match")
    config.data.dataset = "mafl"
    config.data.unlabelled_splits = config.data.train_splits = ("train", "validation")
    config.match.stride = 2
    config.match.baselines = False
    return config
