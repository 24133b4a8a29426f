"""The paper's measurements of an exported model: matching (Table 1), detection (2), few annotations (3).

  python -m scemae_jax.main --config configs/evaluation.py:s8,mafl --workdir runs/mafl_s8 --config.data.root=FOLDER \
    --config.init=runs/celeba_s8/export/scemae.msgpack

After the colon: the size of the network, as in configs/celeba.py, and `mafl` (matching and detection), `aflw_m`
(detection, also from few annotations), `aflw_r` or `three_hundred_w` (detection). Only landmark heads are trained, on
the model's frozen features of 48x48, with all training images. As in ContrastLandmark (Cheng et al., ICCV 2021) the
cosine of their rate lies over 200 epochs, and training stops after 120 (MAFL), 45 (AFLW) or 80 (300-W). The gain of the
heads' softmax is this project's; prior work uses 100.

An estimated half hour to 4 hours on a GPU each. Not run yet.
"""

import ml_collections

from scemae_jax.systems.sce_mae.settings import default, paper_network

STAGES = {
    "mafl": ("match", "detect"),
    "aflw_m": ("detect", "few_shot"),
    "aflw_r": ("detect",),
    "three_hundred_w": ("detect",),
}
EPOCHS = {"mafl": 120.0, "aflw_m": 45.0, "aflw_r": 45.0, "three_hundred_w": 80.0}


def get_config(what: str = "s8,mafl") -> ml_collections.ConfigDict:
    size, _, dataset = what.partition(",")
    if dataset not in STAGES:
        raise ValueError(f"unknown dataset {dataset!r} in {what!r}: size,dataset with one of {', '.join(STAGES)}")
    config = default()
    paper_network(config, size)
    config.stages = STAGES[dataset]
    config.data.dataset = dataset
    config.data.unlabelled_splits = config.data.train_splits = ("train", "validation")
    config.match.stride = 2
    config.match.random_pairings = 5
    config.detect.landmarks = config.few_shot.landmarks = (68,) if dataset == "three_hundred_w" else (5,)
    config.detect.stride = config.few_shot.stride = 2
    config.detect.epochs = EPOCHS[dataset]
    config.detect.cosine_epochs = 200.0
    config.detect.linear.below = 0  # always the paper's head
    return config
