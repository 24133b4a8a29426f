"""A config file whose six stages take seconds together: `--config tests/small_experiment.py:DATA_DIR`."""

from scemae_jax.systems.sce_mae.settings import default


def get_config(data_dir=""):
    """`data_dir`: where prepared datasets are kept."""
    config = default()
    config.data.variant, config.data.data_dir = "tiny", data_dir
    config.model.encoder = "XXS/8"
    config.model.decoder_width, config.model.decoder_depth, config.model.decoder_heads = 32, 1, 2
    config.pretrain.batch_size = config.refine.batch_size = 8
    config.pretrain.steps, config.refine.steps, config.detect.steps = 4, 3, 3
    config.pretrain.log_every = 2
    config.match.stride, config.match.max_pairs = 8, 2
    config.detect.landmarks, config.detect.heatmaps, config.detect.linear.below = (5,), 2, 0
    few = config.few_shot
    few.counts, few.seeds, few.views, few.heatmaps, few.steps = (1, 3), 2, 4, 2, 2
    few.scratch.views, few.scratch.steps, few.scratch.width = 20, 2, 8
    config.report.examples = 2
    return config
