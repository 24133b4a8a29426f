"""A folder of your own faces, with or without a landmarks.csv, on one GPU.

  python -m scemae_jax.main --config configs/folder.py --config.data.root=FOLDER --workdir runs/mine

On a CPU take configs/ytf68.py:tiny instead. Without annotations, matching, detection and the report have nothing to
measure on: add --config.stages="('pretrain','refine','export')".
"""

import ml_collections

from scemae_jax.config import default


def get_config() -> ml_collections.ConfigDict:
    config = default()
    config.data.dataset = "landmark_folder"
    config.model.decoder_width, config.model.decoder_depth, config.model.decoder_heads = 192, 4, 3
    return config
