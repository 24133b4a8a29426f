"""Semantic segmentation carried from labelled images to unlabelled ones: any scenes, any classes.

  python -m scemae_jax.main --config configs/spcl/folder.py --config.source_data.root=SOURCE --config.data.root=TARGET \
    --config.measure.sets="('target=TESTED',)" --workdir runs/scenes

SOURCE has `images/`, for each image a mask `masks/STEM.png` (8-bit values or a palette), and `classes.csv` with the
columns value, name, and merge if classes are measured in groups too. TARGET is any folder of images, or has `images/`.
TESTED is like SOURCE, with the same classes; leave the option out where there is none. SOURCE and TARGET must not be in
one another. Images of any size are fitted into `config.scene_size`, (height, width), with grey around them where the
shape differs; training sees windows of `config.model.window` in them, measurements all of the image by sliding windows.

Street scenes, from the folders as their publishers pack them:

  --config configs/spcl/folder.py:cityscapes19 --config.source_data.root=GTA5 (images/, labels/)
  --config configs/spcl/folder.py:synthia16 --config.source_data.root=RAND_CITYSCAPES (RGB/, GT/LABELS/); or :synthia13
  --config.data.root=CITYSCAPES/leftImg8bit/train --config.measure.sets="('cityscapes=CITYSCAPES:val',)"

Published, of 16 classes the mean over all and over 13 (mIoU on Cityscapes val, DeepLab-v2 with ResNet-101):

                                 GTA5, 19    SYNTHIA, 16 (13)
  AdaptSegNet, ProDA's release   43.3        41.4
  SPCL                           52.1        -
  ProDA                          57.5        55.5 (62.0)
  SePiCo, DistCL                 61.0        58.1
  DAFormer (SegFormer-B5)        68.3        60.9

Nobody has run this file on those datasets yet, and its network is another: a ViT with patches of 16. Start it from
pretrained weights (`--config.init`, `--config.model.encoder=B/16`; docs/guide.md, "Imported weights"): a random encoder
learns little from so few images. Figures here are of masks of 512x1024, the published ones of 1024x2048.

Hours for street scenes, an estimate from the operations that XLA counts and not from a run: a window of 512x512 costs
0.2 teraflop with S/16 and 0.65 with B/16, forward and back. `adapt` sees 16 a step, and 8 by the teacher. On a GPU that
sustains 60 teraflop/s both stages take half an hour with S/16 (107 petaflop), and under two hours with B/16 (350).
Preparing GTA5 decodes 25,000 images of two megapixels: about an hour on two cores, less on more.
"""

import ml_collections

from scemae_jax.systems.spcl.settings import choose_method, default

CLASSES = ("cityscapes19", "synthia16", "synthia13")


def get_config(asked: str = "") -> ml_collections.ConfigDict:
    """`asked`: classes, a method, or both with a comma: "synthia16,spcl_paper"; without, `classes.csv` and "spcl"."""
    words = [word for word in asked.split(",") if word]
    classes = [word for word in words if word in CLASSES]
    methods = [word for word in words if word not in CLASSES] or ["spcl"]
    if len(classes) > 1 or len(methods) > 1:
        raise ValueError(f"{asked!r}: name at most one of {', '.join(CLASSES)} and one method")
    config = default()
    config.classes = classes[0] if classes else ""
    config.source_data.dataset, config.data.dataset = "mask_folder", "image_folder"
    config.source_data.class_balance = True
    config.measure.without = ("wall", "fence", "pole") if classes == ["synthia16"] else ()  # as the mean of 13 classes
    config.model.encoder = "S/16"
    config.scene_size = (512, 1024) if classes else (512, 512)
    config.model.image_size = config.model.window = 512 if classes else 256
    for name, steps in (("source", 20_000), ("adapt", 20_000), ("self_train", 10_000)):
        stage = config[name]
        stage.batch_size, stage.steps = 8, steps
        stage.learning_rate = 5e-4
        stage.augment.crop_scale = (0.2, 0.5)  # 1.6 to 1 times a window of street scenes
    choose_method(config, methods[0])
    if config.adapt.labels == "masks":
        config.data.dataset = "mask_folder"
    return config
