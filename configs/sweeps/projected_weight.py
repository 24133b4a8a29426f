"""Weight of the projected features beside the backbone's, where the detector reads both.

A patch's projected features have unit length; the length of the backbone's is about the square root of their number (10
for XS/8, 28 for B/8). At a weight of 1 the projected features are that much smaller and move the heatmaps that much
less.

  python -m scemae_jax.sweep --config configs/ytf68.py:tiny --sweep configs/sweeps/projected_weight.py \
    --workdir runs/projected_weight --config.data.root=FOLDER --config.init=xs8_ytf68 --config.stages="('detect',)" \
    --config.data.train_splits="('train',)" --config.data.test_split=validation --config.detect.landmarks="(5,)"
"""

SEEDS = (0, 1, 2)


def get_sweep() -> dict[str, dict]:
    return {f"weight {weight:g}": {"detect.projected_weight": weight} for weight in (0.3, 1.0, 3.0, 10.0)}
