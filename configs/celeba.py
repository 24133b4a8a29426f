"""The paper's training: CelebA without MAFL, 400 epochs; then matching on CelebA's own test part.

  python -m scemae_jax.main --config configs/celeba.py:s8 --workdir runs/celeba_s8 --config.data.root=FOLDER

FOLDER holds CelebA's official files (Img, Anno, Eval and MAFL's two lists). `t8`, `s8` and `b8` are DeiT-T, -S and -B:
65 million images seen or somewhat fewer, for a GPU or a TPU. `launch/reproduce.sh` runs it and measures the result as
the paper does (configs/evaluation.py, configs/ablation.py). Not run yet.
"""

import ml_collections

from scemae_jax.systems.sce_mae.settings import default, paper_network


def get_config(size: str = "s8") -> ml_collections.ConfigDict:
    config = default()
    paper_network(config, size)
    config.dtype = "bfloat16"
    config.data.dataset = "celeba_landmarks"
    config.data.unlabelled_splits = ("train",)
    config.match.max_pairs = 500
    config.stages = ("pretrain", "refine", "match", "report", "export")
    return config
