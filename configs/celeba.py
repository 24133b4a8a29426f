"""The paper's training: CelebA without MAFL, 400 epochs; then matching on CelebA's own test part.

  python -m scemae_jax.main --config configs/celeba.py:s8 --workdir runs/celeba_s8 --config.data.root=FOLDER

FOLDER holds CelebA's official files (Img, Anno, Eval and MAFL's two lists). `t8`, `s8` and `b8` are DeiT-T, -S and -B:
65 million images seen or somewhat fewer, for a GPU or a TPU. Not run yet.
"""

import ml_collections

from scemae_jax.config import default


def get_config(size: str = "s8") -> ml_collections.ConfigDict:
    encoders = {"t8": "T/8", "s8": "S/8", "b8": "B/8"}
    if size not in encoders:
        raise ValueError(f"unknown size {size!r}: choose one of {', '.join(encoders)}")
    config = default()
    config.dtype = "bfloat16"
    config.data.dataset = "celeba_landmarks"
    config.data.unlabelled_splits = ("train",)
    config.model.encoder = encoders[size]
    if size == "b8":
        config.model.attentive_fraction = 0.25
    config.match.max_pairs = 500
    config.stages = ("pretrain", "refine", "match", "report", "export")
    return config
